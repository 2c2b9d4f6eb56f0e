"""Whatever a source partition holds, its mirror has the same records at the same offsets."""

import random
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewPartitions

from compose.kafka import KafkaCluster
from tests.conftest import Clusters
from tests.e2e.link_lab import CODECS, LinkLab, delete_records, produce, two_clusters, until

Name = Callable[[], str]


@pytest.fixture(scope="module")
def lab(clusters: Clusters) -> Iterator[LinkLab]:
    """A reversed link between two clusters of 4.3.0 that the tests of this module share."""
    lab = LinkLab(*two_clusters(clusters))
    yield lab
    lab.save_logs()
    lab.close()


def transactional(cluster: KafkaCluster, name: str, codec: str = "none") -> Producer:
    """A transactional producer, ready to begin."""
    producer = Producer(
        {
            "bootstrap.servers": cluster.internal_bootstrap,
            "transactional.id": name,
            "compression.type": codec,
            "linger.ms": 2,
            "transaction.timeout.ms": 600_000,
        }
    )
    producer.init_transactions(30)
    return producer


def fill(producer: Producer, topic: str, partitions: int, count: int, word: bytes = b"v") -> None:
    """Produces so many records, over the partitions at random."""
    for i in range(count):
        while True:
            try:
                producer.produce(
                    topic, word * 20 + b"%d" % i, key=b"k%d" % i, partition=random.randrange(partitions)
                )
                break
            except BufferError:
                producer.poll(0.05)


def test_transactions(lab: LinkLab, unique_name: Name) -> None:
    topic = unique_name()
    lab.source.create_topic(topic, 3)
    producers = [transactional(lab.source, f"{topic}-{i}", codec) for i, codec in enumerate(CODECS)]
    plain = Producer({"bootstrap.servers": lab.source.internal_bootstrap})
    lab.create_mirror(topic)
    # Interleaved, over partitions, of all sizes, every third one aborted.
    for turn in range(6):
        for producer in producers:
            producer.begin_transaction()
            fill(producer, topic, 3, random.choice([1, 2, 50, 400]), b"t%d" % turn)
            producer.flush()
            fill(plain, topic, 3, 5, b"p")
        random.shuffle(producers)
        for i, producer in enumerate(producers):
            if (turn + i) % 3:
                producer.commit_transaction(30)
            else:
                producer.abort_transaction(30)
    plain.flush()
    lab.wait_mirrored(topic, 3)
    assert lab.compare(topic, 3) > 500
    assert lab.status(topic) == "ACTIVE"


def test_one_record_transactions_and_a_large_aborted_one(lab: LinkLab, unique_name: Name) -> None:
    topic = unique_name()
    lab.source.create_topic(topic, 1)
    producer = transactional(lab.source, topic)
    for i in range(300):
        producer.begin_transaction()
        fill(producer, topic, 1, 1)
        if i % 5:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    producer.begin_transaction()
    fill(producer, topic, 1, 100_000, b"aborted")
    producer.flush()
    producer.abort_transaction(30)
    produce(lab.source, topic, 100, 1)
    lab.create_mirror(topic)
    lab.wait_mirrored(topic, 1)
    assert lab.compare(topic, 1) == 240 + 100


def test_nothing_beyond_an_open_transaction(lab: LinkLab, unique_name: Name) -> None:
    topic = unique_name()
    lab.source.create_topic(topic, 1)
    produce(lab.source, topic, 50, 1)
    producer = transactional(lab.source, topic)
    producer.begin_transaction()
    fill(producer, topic, 1, 10)
    producer.flush()
    produce(lab.source, topic, 50, 1)
    lab.create_mirror(topic)
    lab.wait_mirrored(topic, 1)
    time.sleep(1)
    raw = lab.raw(lab.destination, topic, 0)
    assert raw.high_watermark(topic, 0) == 50
    assert lab.mirror(topic)["mirror_lags"][0]["lag"] == 0, "against the last stable offset"
    until(lambda: lab.mirror(topic)["open_transactions"], 30, "the producer is named")
    (found,) = lab.mirror(topic)["open_transactions"]
    assert (found["partition"], found["start_offset"]) == (0, 50)
    assert found["producer_id"] >= 0
    assert found["waiting_ms"] >= 10_000
    producer.commit_transaction(30)
    lab.wait_mirrored(topic, 1)
    assert raw.high_watermark(topic, 0) == 111
    assert lab.compare(topic, 1) == 110


def test_append_time(lab: LinkLab, unique_name: Name) -> None:
    topic = unique_name()
    lab.source.create_topic(topic, 2, config={"message.timestamp.type": "LogAppendTime"})
    produce(lab.source, topic, 3_000, 2, codecs=CODECS)
    lab.create_mirror(topic)
    produce(lab.source, topic, 3_000, 2, codecs=CODECS, batch_records=1)
    lab.wait_mirrored(topic, 2)
    assert lab.compare(topic, 2) == 6_000


def alter_configs(cluster: KafkaCluster, topic: str, configs: dict[str, str]) -> None:
    """Set configs of a topic."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    for name, value in configs.items():
        resource.add_incremental_config(ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET))
    cluster.admin.incremental_alter_configs([resource])[resource].result(20)


def test_a_log_that_starts_above_zero(lab: LinkLab, unique_name: Name) -> None:
    topic = unique_name()
    lab.source.create_topic(topic, 2)
    produce(lab.source, topic, 60_000, 2)
    delete_records(lab.source, topic, 25_001)
    lab.create_mirror(topic)
    lab.wait_mirrored(topic, 2)
    starts_at(lab, topic, 0, 25_001)
    assert lab.compare(topic, 2) == 30_000 + 4_999
    # While it is copied, and to its end.
    produce(lab.source, topic, 5_000, 2)
    delete_records(lab.source, topic, 31_000)
    delete_records(lab.source, topic, 10_000, partition=1)
    lab.wait_mirrored(topic, 2)
    starts_at(lab, topic, 0, 31_000)
    delete_records(lab.source, topic, 32_500)
    starts_at(lab, topic, 0, 32_500)
    lab.destination_gateway.kill()
    lab.destination_gateway.start()
    produce(lab.source, topic, 500, 2)
    lab.wait_mirrored(topic, 2)
    assert lab.compare(topic, 2) == 250 + 22_750
    assert lab.status(topic) == "ACTIVE"


def starts_at(lab: LinkLab, topic: str, partition: int, offset: int) -> None:
    """Return when the mirror's log begins there."""
    raw = lab.raw(lab.destination, topic, partition)
    until(lambda: raw.log_start(topic, partition) == offset, 20, f"the mirror starts at {offset}")


def test_what_vanishes_before_it_is_copied(lab: LinkLab, unique_name: Name) -> None:
    topic = unique_name()
    lab.source.create_topic(topic, 1)
    produce(lab.source, topic, 1_000, 1)
    lab.create_mirror(topic)
    lab.wait_mirrored(topic, 1)
    assert lab.alter("pause", topic)["error_code"] is None
    time.sleep(0.5)
    produce(lab.source, topic, 20_000, 1)
    delete_records(lab.source, topic, 15_000)
    assert lab.alter("resume", topic)["error_code"] is None
    lab.wait_mirrored(topic, 1)
    starts_at(lab, topic, 0, 15_000)
    assert lab.compare(topic, 1) == 6_000


@pytest.mark.parametrize("shrink", ["compact,delete", pytest.param("compact", marks=pytest.mark.soak)])
def test_a_compacted_log(lab: LinkLab, unique_name: Name, shrink: str) -> None:
    """Holes in batches and between them, and next to nothing left."""
    topic = unique_name()
    lab.source.create_topic(topic, 1, config={"cleanup.policy": shrink, "segment.ms": "500"})
    for codec in CODECS:
        rewrite(lab.source, topic, 4_000, keys=40, codec=codec)
    rewrite(lab.source, topic, 500, keys=500, codec="zstd", integers=True)
    before = len(lab.raw(lab.source, topic, 0).data(topic, 0).records)
    alter_configs(
        lab.source,
        topic,
        {"min.cleanable.dirty.ratio": "0.001", "delete.retention.ms": "0"},
    )

    def cleaned() -> bool:
        rewrite(lab.source, topic, 1, keys=1)
        time.sleep(0.5)
        return len(lab.raw(lab.source, topic, 0).data(topic, 0).records) < before / 4

    until(cleaned, 60, "the source's cleaner ran")
    lab.create_mirror(topic)
    lab.wait_mirrored(topic, 1)
    assert lab.compare(topic, 1, compacted=True) > 100
    assert lab.status(topic) == "ACTIVE"


def rewrite(
    cluster: KafkaCluster, topic: str, count: int, *, keys: int, codec: str = "none", integers: bool = False
) -> None:
    """Write records of few keys, some of them to say that the key is gone."""
    producer = Producer({"bootstrap.servers": cluster.internal_bootstrap, "compression.type": codec})
    for i in range(count):
        number = random.randrange(keys)
        key = number.to_bytes(4) if integers else b"k%d" % number
        producer.produce(topic, None if i % 17 == 0 else b"%d" % i * 20, key=key, partition=0)
        if i % 50 == 0:
            producer.flush(20)
    assert producer.flush(20) == 0


def test_a_compacted_mirror_is_compacted_by_its_own_brokers(lab: LinkLab, unique_name: Name) -> None:
    """Both sides' cleaners run over transactions of few keys: the newest of each key is the same."""
    topic = unique_name()
    quick = {"segment.ms": "500", "min.cleanable.dirty.ratio": "0.001", "delete.retention.ms": "0"}
    lab.source.create_topic(topic, 1, config={"cleanup.policy": "delete", **quick})
    produce(lab.source, topic, 200, 1)
    alter_configs(lab.source, topic, {"cleanup.policy": "compact"})
    lab.create_mirror(topic)
    until(lambda: lab.state_of(topic)["compacted"], 30, "compacted")
    producer = transactional(lab.source, topic)
    raw = lab.raw(lab.destination, topic, 0)

    def cleaned() -> bool:
        producer.begin_transaction()
        for i in range(30):
            producer.produce(topic, None if i == 7 else b"%d" % i, key=i.to_bytes(4), partition=0)
        producer.commit_transaction(30)
        time.sleep(0.3)
        stored = sum(batch.count for batch in raw.batches(topic, 0))
        return stored < raw.high_watermark(topic, 0) / 3

    until(cleaned, 60, "the destination's cleaner ran")
    lab.wait_mirrored(topic, 1)
    assert lab.compare(topic, 1, compacted=True) >= 29
    lab.destination_gateway.kill()
    lab.destination_gateway.start()
    rewrite(lab.source, topic, 50, keys=5)
    lab.wait_mirrored(topic, 1)
    assert lab.status(topic) == "ACTIVE"
    assert lab.compare(topic, 1, compacted=True) >= 29


def test_sizes_and_times(lab: LinkLab, unique_name: Name) -> None:
    topic = unique_name()
    most = 12_000_000
    lab.source.create_topic(topic, 1, config={"max.message.bytes": str(most)})
    producer = Producer({"bootstrap.servers": lab.source.internal_bootstrap, "message.max.bytes": most})
    now_ms = int(time.time() * 1000)
    for timestamp in (1, now_ms - 20 * 365 * 86_400_000, now_ms + 3_000_000, now_ms):
        producer.produce(topic, b"when", key=b"k", timestamp=timestamp, partition=0)
        producer.flush(20)
    producer.produce(topic, random.randbytes(10_000_000), partition=0)
    producer.produce(topic, b"", key=b"", headers=[("h", None), ("h", b""), ("", b"x")], partition=0)
    assert producer.flush(60) == 0
    lab.create_mirror(topic)
    lab.wait_mirrored(topic, 1)
    assert lab.compare(topic, 1) == 6
    for timestamp in (0, 2, now_ms - 1_000, now_ms + 1):
        found = [offset_at(cluster, topic, timestamp) for cluster in (lab.source, lab.destination)]
        assert found[0] == found[1]


def offset_at(cluster: KafkaCluster, topic: str, timestamp: int) -> int:
    """The first offset of partition 0 that is not older."""
    where = TopicPartition(topic, 0)
    spec = OffsetSpec.for_timestamp(timestamp)
    return int(cluster.admin.list_offsets({where: spec})[where].result(20).offset)


def test_old_message_formats(clusters: Clusters, unique_name: Name) -> None:
    source = clusters("2.4.1", config={"log.message.format.version": "0.10.2"})
    lab = LinkLab(source, clusters("4.3.0", config={"log.retention.hours": "167"}), shape="dialled")
    try:
        topic = unique_name()
        source.create_topic(topic, 2)
        for codec in CODECS[:4]:
            producer = Producer({"bootstrap.servers": source.internal_bootstrap, "compression.type": codec})
            for i in range(500):
                producer.produce(topic, b"%s %d" % (codec.encode(), i), key=b"k%d" % i, partition=i % 2)
            assert producer.flush(20) == 0
        assert lab.raw(source, topic, 0).first_magic(topic, 0) == 1
        lab.create_mirror(topic)
        lab.wait_mirrored(topic, 2)
        assert read(source, topic) == read(lab.destination, topic)
    finally:
        lab.save_logs()
        lab.close()


def read(cluster: KafkaCluster, topic: str) -> list[tuple[object, ...]]:
    """Every record of two partitions as a stock consumer gives it."""
    consumer = Consumer({"bootstrap.servers": cluster.internal_bootstrap, "group.id": "x"})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(2)])
    found: list[tuple[object, ...]] = []
    deadline = time.monotonic() + 20
    while len(found) < 2_000 and time.monotonic() < deadline:
        for message in consumer.consume(500, 0.5):
            assert message.error() is None
            where = message.partition(), message.offset()
            found.append((*where, message.key(), message.value(), message.timestamp()))
    consumer.close()
    assert len(found) == 2_000
    return sorted(found, key=lambda each: each[:2])


def test_partitions_are_added(lab: LinkLab, unique_name: Name) -> None:
    topic = unique_name()
    lab.source.create_topic(topic, 2)
    produce(lab.source, topic, 100, 2)
    lab.create_mirror(topic)
    lab.wait_mirrored(topic, 2)
    lab.source.admin.create_partitions([NewPartitions(topic, 5)])[topic].result(20)
    until(lambda: lab.mirror(topic)["num_partitions"] == 5, 20, "partitions were added")
    produce(lab.source, topic, 1_000, 5)
    lab.wait_mirrored(topic, 5)
    assert lab.compare(topic, 5) == 1_100
