"""Stock clients through the gateway, each through TLS with SASL PLAIN and through mTLS.

The two ways are tried at the same time: a JVM spends most of its short life on one core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import confluent_kafka
import pytest

from compose.kafka import KafkaCluster
from tests.conftest import Clusters
from tests.e2e.clients import Acks, Aiokafka, Client, KafkaPython, Kcat, Librdkafka
from tests.e2e.conftest import Fronts
from tests.e2e.front import Front, Way
from tests.e2e.java_clients import Java
from tests.e2e.raw_log import RawBroker

Names = Callable[[], str]
ACKS: tuple[Acks, ...] = ("0", "1", "all")
CLIENTS: tuple[type[Client], ...] = (Java, Librdkafka, Aiokafka, KafkaPython, Kcat)
SECURE_WAYS: tuple[Way, ...] = ("sasl", "mtls")

every_client = pytest.mark.parametrize("kind", CLIENTS, ids=lambda kind: kind.name)


def by_each_way(check: Callable[[Way], None], ways: Sequence[Way] = SECURE_WAYS) -> None:
    """Runs the check for each way at once; every failure says which it was."""
    failures = []
    with ThreadPoolExecutor(len(ways)) as pool:
        for way, running in [(way, pool.submit(check, way)) for way in ways]:
            if (failure := running.exception()) is not None:
                failure.add_note(f"through {way}")
                failures.append(failure)
    if failures:
        raise failures[0] if len(failures) == 1 else BaseExceptionGroup("every way", failures)


def values(count: int, word: str) -> list[bytes]:
    return [b"%s-%d" % (word.encode(), number) for number in range(count)]


def until(true: Callable[[], Any], timeout_s: float = 20) -> Any:
    """Asks again until the answer is true; the last answer."""
    deadline = time.monotonic() + timeout_s
    while not (answer := true()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


@contextmanager
def broker_of(kafka: KafkaCluster) -> Iterator[RawBroker]:
    with RawBroker(kafka.internal_bootstrap) as broker:
        yield broker


def stored(kafka: KafkaCluster, topic: str) -> list[bytes | None]:
    """What the broker has in partition 0."""
    with broker_of(kafka) as broker:
        return [record.value for record in broker.records(topic, 0)]


@every_client
def test_produce_and_consume(kind: type[Client], front: Front, unique_name: Names) -> None:
    def check(way: Way) -> None:
        client = kind(front.access(way))
        topic, group = unique_name(), unique_name()
        front.kafka.create_topic(topic)
        sent: list[bytes] = []

        def all_stored() -> bool:
            return stored(front.kafka, topic) == sent

        for acks in ACKS:
            sent += values(10, f"acks-{acks}")
            client.produce(topic, sent[-10:], acks=acks)
            # A producer without acknowledgements does not know when its records have arrived.
            assert until(all_stored), acks
        sent += values(10, "idempotent")
        client.produce(topic, sent[-10:], idempotent=True)
        assert all_stored()
        with broker_of(front.kafka) as broker:
            assert [batch.producer_id >= 0 for batch in broker.batches(topic, 0)][-1]

        assert client.consume(topic, group, 15) == sent[:15]
        assert client.consume(topic, group, 25) == sent[15:]

    by_each_way(check)


@every_client
def test_transactions(kind: type[Client], front: Front, unique_name: Names) -> None:
    transactions = [(values(3, "first"), True)]
    if kind.can_abort:
        transactions += [(values(3, "aborted"), False), (values(3, "last"), True)]
    committed = [value for some, commits in transactions for value in some if commits]

    def check(way: Way) -> None:
        client = kind(front.access(way))
        topic = unique_name()
        front.kafka.create_topic(topic)
        client.transact(topic, unique_name(), transactions)
        assert client.consume(topic, unique_name(), len(committed)) == committed
        with broker_of(front.kafka) as broker:
            batches = list(broker.batches(topic, 0))
        assert all(batch.is_transactional for batch in batches)
        assert sum(batch.is_control for batch in batches) == len(transactions)

    by_each_way(check)


def partitions_of(client: Client, topic: str) -> int:
    """None as long as the broker has not heard of a new topic, whatever the client makes of that."""
    try:
        return client.count_partitions(topic)
    except Exception:
        return 0


@pytest.mark.parametrize(
    "kind", [kind for kind in CLIENTS if kind.can_administer], ids=lambda kind: kind.name
)
def test_administration(kind: type[Client], front: Front, unique_name: Names) -> None:
    def check(way: Way) -> None:
        client, other = kind(front.access(way)), Librdkafka(front.access(way))
        topic, group = unique_name(), unique_name()
        client.create_topic(topic, 3)
        assert until(lambda: partitions_of(client, topic)) == 3
        client.alter_config(topic, "retention.ms", "7654321")
        assert until(lambda: client.describe_config(topic, "retention.ms") == "7654321")
        other.produce(topic, [b"value"])
        assert other.consume(topic, group, 1) == [b"value"]
        assert group in client.list_groups()
        client.delete_topic(topic)
        assert until(lambda: topic not in front.kafka.admin.list_topics(timeout=10).topics)

    by_each_way(check)


def test_java_performance_tools(front: Front, unique_name: Names) -> None:
    java = Java(front.access("sasl"))
    topic = unique_name()
    front.kafka.create_topic(topic, 3)
    sizes = ("--num-records", "50000", "--record-size", "500", "--throughput", "-1")
    done = java.tool("kafka-producer-perf-test", "--topic", topic, *sizes, compression_type="lz4")
    assert "50000 records sent" in done.stdout
    done = java.tool("kafka-consumer-perf-test", "--topic", topic, "--num-records", "50000")
    assert ", 50000, " in done.stdout
    with broker_of(front.kafka) as broker:
        counts = [sum(batch.count for batch in broker.batches(topic, index)) for index in range(3)]
    assert sum(counts) == 50_000


def test_groups_of_the_new_protocol(front: Front, unique_name: Names) -> None:
    # KIP-848: ConsumerGroupHeartbeat, which the classic consumers above never send.
    topic, group = unique_name(), unique_name()
    front.kafka.create_topic(topic)
    sent = values(30, "new")
    librdkafka, java = Librdkafka(front.access("sasl")), Java(front.access("mtls"))
    librdkafka.produce(topic, sent)
    assert librdkafka.consume(topic, group, 10, **{"group.protocol": "consumer"}) == sent[:10]
    assert java.consume(topic, group, 20, group_protocol="consumer") == sent[10:]
    # A pattern that brokers would resolve, past whatever the gateway hides.
    pattern = confluent_kafka.Consumer(
        librdkafka.access.librdkafka() | {"group.id": unique_name(), "group.protocol": "consumer"}
    )
    pattern.subscribe(["^.*"])
    errors = (message.error() for message in iter(partial(pattern.poll, 10), None))
    refused = next(error for error in errors if error is not None)
    assert "regular expression" in refused.str()
    pattern.close()


@every_client
def test_kafka_3_9(kind: type[Client], kafka_391: KafkaCluster, fronts: Fronts, unique_name: Names) -> None:
    smoke(kind(fronts(kafka_391).access("sasl")), kafka_391, unique_name)


@pytest.mark.parametrize("kind", [Librdkafka, Aiokafka, KafkaPython], ids=lambda kind: kind.name)
def test_kafka_2_4(kind: type[Client], clusters: Clusters, fronts: Fronts, unique_name: Names) -> None:
    kafka = clusters("2.4.1")
    smoke(kind(fronts(kafka).access("sasl")), kafka, unique_name)


def smoke(client: Client, kafka: KafkaCluster, unique_name: Names) -> None:
    topic, group = unique_name(), unique_name()
    kafka.create_topic(topic)
    sent = values(20, "smoke")
    client.produce(topic, sent, idempotent=True)
    assert client.consume(topic, group, 10) == sent[:10]
    assert client.consume(topic, group, 10) == sent[10:]
