"""Mirror topics hold what their sources hold, record for record at the same offsets."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from tests.conftest import Clusters, has_failed
from tests.e2e.link_lab import CODECS, LinkLab, Refused, Shape, produce, two_clusters, until
from tests.e2e.raw_log import identical_sections

StartLab = Callable[..., LinkLab]
Name = Callable[[], str]


@pytest.fixture
def start_lab(request: pytest.FixtureRequest) -> Iterator[StartLab]:
    """Starts labs that end with the test."""
    labs: list[LinkLab] = []

    def start(*arguments: object, **settings: object) -> LinkLab:
        labs.append(LinkLab(*arguments, **settings))  # type: ignore[arg-type]  # LinkLab's own
        return labs[-1]

    yield start
    for lab in labs:
        lab.close(failed=has_failed(request))


@pytest.fixture(scope="module")
def lab(clusters: Clusters) -> Iterator[LinkLab]:
    """A reversed link between two clusters of 4.3.0 that the tests of this module share."""
    lab = LinkLab(*two_clusters(clusters))
    yield lab
    lab.save_logs()
    lab.close()


@pytest.mark.parametrize(
    ("source", "destination", "shape"),
    [
        ("4.3.0", "4.3.0", "reversed"),
        ("4.3.0", "4.3.0", "dialled"),
        ("3.9.1", "4.3.0", "reversed"),
        ("2.4.1", "4.3.0", "reversed"),
        ("2.4.1", "3.9.1", "dialled"),
        ("4.3.0", "3.9.1", "reversed"),
    ],
)
def test_every_record_at_its_offset(
    clusters: Clusters, start_lab: StartLab, unique_name: Name, source: str, destination: str, shape: Shape
) -> None:
    origin = clusters(source, config={"log.retention.hours": "168"})
    target = clusters(destination, config={"log.retention.hours": "169"})
    lab = start_lab(origin, target, shape=shape)
    topic = unique_name()
    origin.create_topic(topic, 6)
    whole = (source, destination) == ("4.3.0", "4.3.0") and shape == "reversed"
    codecs = CODECS if source != "2.4.1" else CODECS[:4]
    count = 200_000 if whole else 20_000
    # Batches of one record, of a few, and of up to a thousand.
    produce(origin, topic, count // 10, 6, codecs=codecs, linger_ms=0, batch_records=1)
    lab.create_mirror(topic)
    produce(origin, topic, count // 10, 6, codecs=codecs, linger_ms=1, batch_records=7)
    produce(origin, topic, count * 8 // 10, 6, codecs=codecs, linger_ms=20, batch_records=1_000)
    produce(origin, topic, 100, 6, value_bytes=200_000)
    lab.wait_mirrored(topic, 6)
    assert lab.compare(topic, 6) == count + 100
    verbatim = 0
    for p in range(6):
        same, different = identical_sections(lab.raw(origin, topic, p), lab.raw(target, topic, p), topic, p)
        assert different == 0
        verbatim += same
    assert verbatim > 0
    assert {entry["lag"] for entry in lab.mirror(topic)["mirror_lags"]} == {0}


def consume(lab: LinkLab, topic: str, group: str, count: int, **more: str) -> list[tuple[int, int]]:
    """Read with a stock consumer group until `count` records or 20 s; partitions and offsets."""
    consumer = Consumer({**lab.client_config, "group.id": group, "auto.offset.reset": "earliest", **more})
    consumer.subscribe([topic])
    found: list[tuple[int, int]] = []
    deadline = time.monotonic() + 20
    while len(found) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            found.append((message.partition() or 0, message.offset() or 0))
    # One more look: nothing may follow.
    message = consumer.poll(0.5)
    if message is not None and message.error() is None:
        found.append((message.partition() or 0, message.offset() or 0))
    consumer.commit(asynchronous=False)
    consumer.close()
    return found


def write(lab: LinkLab, topic: str, partition: int = 0) -> tuple[KafkaError | None, int]:
    """Produce one record through the destination gateway; the error, or the offset."""
    results: list[tuple[KafkaError | None, int]] = []
    producer = Producer({**lab.client_config, "message.timeout.ms": 20_000, "retries": 0})
    producer.produce(
        topic,
        b"mine",
        key=b"k",
        partition=partition,
        on_delivery=lambda e, m: results.append((e, m.offset() or 0)),
    )
    producer.flush(30)
    return results[0]


def test_promote_makes_it_an_ordinary_topic(lab: LinkLab, unique_name: Name) -> None:
    topic = unique_name()
    lab.source.create_topic(topic, 2, config={"retention.ms": "86400000", "cleanup.policy": "compact"})
    produce(lab.source, topic, 1_000, 2, null_keys=False)
    lab.create_mirror(topic)
    lab.wait_mirrored(topic, 2)
    error, _ = write(lab, topic)
    assert error is not None
    assert error.code() == KafkaError.INVALID_REQUEST
    assert lab.alter("promote", topic)["error_code"] is None
    until(lambda: lab.status(topic) == "STOPPED", 20, "promoted")
    ends = dict.fromkeys(range(2), 500)
    assert lab.compare(topic, 2, ends=ends) == 1_000
    error, offset = write(lab, topic)
    assert error is None
    assert offset == 501, "behind the barrier"
    for isolation in ("read_uncommitted", "read_committed"):
        found = consume(lab, topic, unique_name(), 1_001, **{"isolation.level": isolation})
        assert sorted(found) == sorted([(p, o) for p in range(2) for o in range(500)] + [(0, 501)]), (
            "the barrier is not shown"
        )
    again = lab.alter("promote", topic)
    assert (again["error_code"], again["error_message"]) == (
        400,
        f"Topic '{topic}' has already stopped its mirror from '{lab.link}'",
    )
    resource = ConfigResource(ResourceType.TOPIC, topic)
    configs = lab.destination.admin.describe_configs([resource])[resource].result(20)
    assert [configs[name].value for name in ("retention.ms", "cleanup.policy")] == ["86400000", "compact"]


def test_a_promote_while_records_flow_ends_at_one_point(lab: LinkLab, unique_name: Name) -> None:
    topic = unique_name()
    lab.source.create_topic(topic, 3)
    lab.create_mirror(topic)
    stop = threading.Event()

    def flow() -> None:
        while not stop.is_set():
            produce(lab.source, topic, 300, 3)

    thread = threading.Thread(target=flow)
    thread.start()
    try:
        time.sleep(1.5)
        lab.alter("promote", topic)
        until(lambda: lab.status(topic) == "STOPPED", 30, "promoted")
    finally:
        stop.set()
        thread.join()
    ends = {p: lab.raw(lab.destination, topic, p).high_watermark(topic, p) - 1 for p in range(3)}
    for p, end in ends.items():
        raw = lab.raw(lab.destination, topic, p)
        mirrored = list(raw.records(topic, p))
        source = [r for r in lab.raw(lab.source, topic, p).records(topic, p) if r.offset < end]
        assert mirrored[:-1] == source
        assert mirrored[-1].offset == end
        assert mirrored[-1].value is None


def test_pause_and_resume(lab: LinkLab, unique_name: Name) -> None:
    topic = unique_name()
    lab.source.create_topic(topic, 1)
    produce(lab.source, topic, 500, 1)
    lab.create_mirror(topic)
    lab.wait_mirrored(topic, 1)
    assert lab.alter("pause", topic)["error_code"] is None
    assert lab.status(topic) == "PAUSED"
    produce(lab.source, topic, 500, 1)
    time.sleep(1)
    assert lab.end_of(lab.destination, topic, 1) == 500
    assert lab.alter("pause", topic)["error_code"] == 400
    assert lab.alter("resume", topic)["error_code"] is None
    lab.wait_mirrored(topic, 1)
    assert lab.compare(topic, 1) == 1_000


def test_failover_needs_no_source(own_cluster: Clusters, clusters: Clusters, start_lab: StartLab) -> None:
    source = own_cluster("4.3.0")
    lab = start_lab(source, two_clusters(clusters, apart=True)[1], shape="dialled")
    source.create_topic("failing-over", 2)
    produce(source, "failing-over", 2_000, 2)
    lab.create_mirror("failing-over")
    lab.wait_mirrored("failing-over", 2)
    for node in source.nodes:
        node.kill()
    assert lab.alter("failover", "failing-over")["error_code"] is None
    until(lambda: lab.status("failing-over") == "STOPPED", 20, "failed over")
    error, offset = write(lab, "failing-over")
    assert (error, offset) == (None, 1_001)


def test_a_recreated_source_topic_is_noticed(lab: LinkLab, unique_name: Name) -> None:
    topic = unique_name()
    lab.source.create_topic(topic, 1)
    produce(lab.source, topic, 100, 1)
    lab.create_mirror(topic)
    lab.wait_mirrored(topic, 1)
    lab.source.admin.delete_topics([topic])[topic].result(20)
    until(lambda: topic not in lab.source.admin.list_topics(timeout=10).topics, 10, "deleted")
    lab.source.create_topic(topic, 1)
    produce(lab.source, topic, 300, 1)
    until(lambda: lab.status(topic) == "FAILED", 30, "noticed")
    assert lab.mirror(topic)["mirror_topic_error"] == "SOURCE_TOPIC_ID_CHANGED"
    assert lab.end_of(lab.destination, topic, 1) == 100


def test_names_that_are_refused(lab: LinkLab, unique_name: Name) -> None:
    taken = unique_name()
    lab.source.create_topic(taken, 1)
    lab.destination.create_topic(taken, 1)
    for topic, text in {
        taken: f"Topic '{taken}' already exists.",
        "no-such-topic": "does not exist at the source",
        "_causeway-state": "internal",
        "__consumer_offsets": "internal",
        "x" * 250: "longer than the max allowed length 249",
    }.items():
        with pytest.raises(Refused) as refused:
            lab.create_mirror(topic)
        assert refused.value.status == 400
        assert refused.value.body["error_code"] == 40002
        assert text in refused.value.body["message"]
