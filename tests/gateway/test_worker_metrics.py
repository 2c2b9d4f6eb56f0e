"""One page of metrics out of several."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.worker_metrics import merged_page


def page(requests: int, *, open_connections: int | None = None) -> str:
    registry = CollectorRegistry()
    Counter("requests", 'Requests, "all".', ["api"], registry=registry).labels("FETCH").inc(requests)
    Histogram("dial_seconds", "Times.", buckets=[1], registry=registry).observe(requests)
    if open_connections is not None:
        Gauge("open", "Now.", registry=registry).set(open_connections)
    return generate_latest(registry).decode()


def test_each_series_has_its_worker_and_each_family_is_there_once() -> None:
    merged = merged_page({0: page(1), 1: page(2, open_connections=7)}, expected=2).decode()
    lines = merged.splitlines()
    assert 'requests_total{api="FETCH",worker="0"} 1.0' in lines
    assert 'requests_total{api="FETCH",worker="1"} 2.0' in lines
    assert 'open{worker="1"} 7.0' in lines
    assert 'dial_seconds_bucket{le="1.0",worker="0"} 1.0' in lines
    assert 'dial_seconds_bucket{le="1.0",worker="1"} 0.0' in lines
    assert 'dial_seconds_sum{worker="1"} 2.0' in lines
    assert lines.count("# TYPE requests_total counter") == 1
    assert lines.count("# TYPE dial_seconds histogram") == 1
    assert lines.count('# HELP requests_total Requests, "all".') == 1


def test_who_does_not_answer_is_down() -> None:
    lines = merged_page({0: page(1), 2: page(1)}, expected=3).decode().splitlines()
    assert [line for line in lines if line.startswith("causeway_worker_up")] == [
        'causeway_worker_up{worker="0"} 1.0',
        'causeway_worker_up{worker="1"} 0.0',
        'causeway_worker_up{worker="2"} 1.0',
    ]
