"""Clients that go on while something breaks: an idempotent producer and a consumer group, of librdkafka."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

import confluent_kafka

from compose.kafka import KafkaCluster
from tests.e2e.front import Access

_PATIENCE = {
    "log_level": 0,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 500,
    "retry.backoff.max.ms": 500,
    "topic.metadata.refresh.interval.ms": 2000,
    "socket.timeout.ms": 10_000,
}


def eventually(true: Callable[[], Any], within_s: float = 30) -> Any:
    """Asks again until the answer is true, and returns it; AssertionError."""
    deadline = time.monotonic() + within_s
    while not (answer := true()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return answer


class Producing:
    """Produces the numbers from 0 on, with acks=all and idempotence, until left; then all are delivered."""

    def __init__(self, access: Access, topic: str, *, per_s: int = 500, **settings: Any) -> None:
        self.delivered: set[int] = set()
        self.failed: list[str] = []
        self._topic = topic
        self._pause_s = 1 / per_s
        self._stop = threading.Event()
        settings = {"enable.idempotence": True, "linger.ms": 5, "message.timeout.ms": 60_000} | settings
        self._producer = confluent_kafka.Producer(access.librdkafka() | _PATIENCE | settings)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Produces no more; returns when all that was produced is delivered or has failed. Idempotent."""
        self._stop.set()
        self._thread.join(90)
        assert not self._thread.is_alive()

    def more(self, count: int = 200, within_s: float = 40) -> None:
        """Returns when so many more are delivered than now; AssertionError."""
        wanted = len(self.delivered) + count
        eventually(lambda: len(self.delivered) >= wanted, within_s)

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            self._producer.produce(self._topic, str(number).encode(), on_delivery=self._note)
            number += 1
            self._producer.poll(self._pause_s)
        self._producer.flush(60)

    def _note(self, error: Any, message: Any) -> None:
        if error is None:
            self.delivered.add(int(message.value()))
        else:
            self.failed.append(str(error))


class Consuming:
    """A member of a consumer group that reads numbers and commits, until left."""

    def __init__(self, access: Access, topic: str, group: str, **settings: Any) -> None:
        self.numbers: list[int] = []
        self._stop = threading.Event()
        group_settings = {
            "group.id": group,
            "auto.offset.reset": "earliest",
            "auto.commit.interval.ms": 500,
            "session.timeout.ms": 10_000,
        }
        self._consumer = confluent_kafka.Consumer(access.librdkafka() | _PATIENCE | group_settings | settings)
        self._consumer.subscribe([topic])
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def has(self, numbers: set[int], within_s: float = 40) -> None:
        """Returns when all of the numbers were read; AssertionError."""
        eventually(lambda: numbers <= set(self.numbers), within_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.2)
            if message is not None and message.error() is None:
                self.numbers.append(int(message.value() or b""))
        self._consumer.close()


def in_log(kafka: KafkaCluster, topic: str) -> list[bytes]:
    """Every value that the brokers have, asked of them directly."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": kafka.internal_bootstrap, "group.id": "-", "enable.partition.eof": True}
    )
    partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
    consumer.assign([confluent_kafka.TopicPartition(topic, index, 0) for index in partitions])
    values: list[bytes] = []
    ended: set[int] = set()
    while len(ended) < len(partitions):
        message = consumer.poll(20)
        assert message is not None
        if message.error() is None:
            values.append(message.value() or b"")
        else:
            ended.add(message.partition() or 0)
    consumer.close()
    return values


def check(kafka: KafkaCluster, topic: str, producing: Producing) -> None:
    """All that was acknowledged is there, once; and what was not reported failed was acknowledged."""
    assert not producing.failed
    counts = Counter(int(value) for value in in_log(kafka, topic))
    assert set(counts) == producing.delivered
    assert set(counts.values()) == {1}


def in_sync(kafka: KafkaCluster, topic: str) -> bool:
    """Whether every broker has caught up with every partition."""
    partitions = kafka.admin.list_topics(topic, timeout=5).topics[topic].partitions.values()
    return all(len(partition.isrs) == len(kafka.nodes) for partition in partitions)
