"""Where mirrors start, and what is refused for its cost."""

import pytest

from gateway.links import start_offsets as module
from gateway.links.errors import LinkError
from gateway.links.start_offsets import check_runway, parse_spec, start_offsets
from gateway.upstreams.errors import KafkaError
from tests.fakes.kafka import FakeKafka
from tests.gateway.links.lab import cluster_of


@pytest.mark.parametrize(
    ("spec", "timestamp"),
    [
        ("earliest", -2),
        (" LATEST ", -1),
        ("1970-01-01T00:00:01", 1_000),
        ("1970-01-01T01:00:01.500+01:00", 1_500),
        ("2026-01-31T12:00:00Z", 1_769_860_800_000),
        ("2026-01-31", 1_769_817_600_000),
    ],
)
def test_specs(spec: str, timestamp: int) -> None:
    assert parse_spec(spec) == timestamp


@pytest.mark.parametrize("spec", ["", "now", "17", "1969-12-31T23:59:59Z", "2026-13-01"])
def test_other_specs(spec: str) -> None:
    with pytest.raises(ValueError, match="must be earliest, latest or a time as"):
        parse_spec(spec)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("earliest", {1: 4}),
        ("latest", {0: 10, 1: 9, 2: 3}),
        ("1970-01-01T00:00:01.005", {0: 5, 1: 5, 2: 3}),
    ],
)
async def test_start_offsets(spec: str, expected: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(module, "_RETRY_DELAY_S", 0.01)
    broker = FakeKafka()
    await broker.start()
    logs = broker.create("t", 3).logs
    logs[0].write(5, 5)
    logs[1].write(4, 1, 4)
    logs[1].start = 4
    logs[2].write(3)
    cluster = cluster_of(broker)
    try:
        topic = (await cluster.metadata(["t"])).topics["t"]
        if spec.startswith("1970"):
            expected = {**expected, 1: 5}
        logs[0].offset_errors.append(6)
        assert await start_offsets(cluster, "t", topic, spec) == expected, "a leader that is not ready yet"
        logs[2].leader = -1
        topic = (await cluster.metadata(["t"])).topics["t"]
        with pytest.raises(KafkaError, match="partition 2 of source topic 't'"):
            await start_offsets(cluster, "t", topic, spec)
    finally:
        await cluster.close()
        await broker.close()


def test_a_runway_that_costs_too_much() -> None:
    check_runway("t", {}, 0)
    check_runway("t", {0: 100}, 100)
    with pytest.raises(LinkError) as refused:
        check_runway("t", {0: 1_000_000_000, 3: 5_000_000_000}, 2_000_000_000)
    assert refused.value.error_code == 40002
    assert refused.value.message == (
        "Partition 3 of source topic 't' starts at offset 5,000,000,000, above 'mirror.runway.max.records' "
        "of the link, 2,000,000,000. To give its records the same offsets, all 6,000,000,000 offsets before "
        "the topic's first records are filled once and deleted again: about 3,600 MB written to every "
        "replica, at least 1,000 s. Raise that config to agree to it."
    )
