from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from gateway import observe


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def lines_of(capture: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in capture.getvalue().splitlines()]


def configured() -> io.StringIO:
    observe.configure_logging("INFO", "json")
    capture = io.StringIO()
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(capture)
    return capture


def test_an_event_is_one_json_line_with_its_fields() -> None:
    capture = configured()
    structlog.get_logger("gateway.test").info("session.opened", peer="10.0.0.1:1", listener="public")
    (line,) = lines_of(capture)
    assert (line["event"], line["peer"], line["level"]) == ("session.opened", "10.0.0.1:1", "info")


@pytest.mark.parametrize(
    "field", ["password", "ssl_key_password", "sasl_jaas_config", "token", "client_secret"]
)
def test_a_field_that_speaks_of_a_secret_is_hidden(field: str) -> None:
    capture = configured()
    structlog.get_logger("gateway.test").error("oops", **{field: "hunter2"})
    assert "hunter2" not in capture.getvalue()
    assert lines_of(capture)[0][field] == observe.MASK


def test_the_standard_library_is_logged_alike_and_the_level_holds() -> None:
    capture = configured()
    logging.getLogger("a.library").warning("broker %s away", 3)
    logging.getLogger("a.library").debug("noise")
    (line,) = lines_of(capture)
    assert (line["event"], line["logger"]) == ("broker 3 away", "a.library")


def test_the_console_style_is_readable_text() -> None:
    observe.configure_logging("INFO", "console")
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    capture = io.StringIO()
    handler.setStream(capture)
    structlog.get_logger("gateway.test").info("gateway.ready", listeners=2)
    assert "gateway.ready" in capture.getvalue()
    assert "listeners" in capture.getvalue()


def test_traffic_is_in_the_series_when_somebody_asks() -> None:
    def value(name: str, **labels: str) -> float | None:
        return observe.registry.get_sample_value(f"causeway_{name}_total", labels)

    traffic = observe.traffic_of("test traffic")
    assert observe.traffic_of("test traffic") is traffic
    before = value("requests", api="FETCH", version="16") or 0
    for _ in range(3):
        traffic.add_request(1, 16, 100)
    traffic.response_bytes += 5000
    for _ in range(2):
        assert value("requests", api="FETCH", version="16") == before + 3
        assert value("request_bytes", listener="test traffic") == 300
        assert value("response_bytes", listener="test traffic") == 5000
    traffic.add_request(1, 16, 1)
    assert value("request_bytes", listener="test traffic") == 301


def test_what_clients_make_up_is_one_series_and_no_memory() -> None:
    def value(api: str) -> float:
        labels = {"api": api, "version": "other"}
        return observe.registry.get_sample_value("causeway_requests_total", labels) or 0

    before = value("FETCH"), value("UNKNOWN")
    traffic = observe.Traffic("made up")
    for version in range(5000):
        traffic.add_request(1, 1000 + version, 1)
        traffic.add_request(12345, version, 1)
    assert len(traffic._requests) <= 1024
    traffic.flush()
    assert (value("FETCH"), value("UNKNOWN")) == (before[0] + 5000, before[1] + 5000)


def test_the_metrics_page_has_the_series_in_text_form() -> None:
    observe.requests.labels("METADATA", "12").inc()
    page = observe.metrics_page().decode()
    assert 'causeway_requests_total{api="METADATA",version="12"}' in page
