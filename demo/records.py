"""The demo's records and its stock clients (librdkafka): produce, read, compare."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from demo.screen import DemoFailed, Span

CODECS: Final = ("none", "gzip", "snappy", "lz4", "zstd")
VISITORS: Final = 5_000
# The records are the clicks of the last hour.
PERIOD_MS: Final = 3_600_000
_CHUNK: Final = 500
_PAGES: Final = ("/", "/products", "/products/causeway", "/search?q=bridges", "/basket", "/checkout")
_AGENT: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
_READ_TIMEOUT_S: Final = 60.0
_LOOK_TIMEOUT_S: Final = 5.0

Headers = tuple[tuple[str, bytes | None], ...]
ClientConfig = Mapping[str, Any]


class Record(NamedTuple):
    """What must be equal on both sides."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: tuple[int, int]


FIELDS: Final = Record._fields
Log = dict[int, list[Record]]


@dataclass(frozen=True)
class Click:
    """A record to produce."""

    key: str
    value: bytes | None
    headers: Headers
    timestamp_ms: int


def clicks(count: int, codec_of: Callable[[int], str]) -> Iterator[Click]:
    """Keyed records with headers, deterministic but for their timestamps; some values are null or empty."""
    began_ms = time.time_ns() // 1_000_000 - PERIOD_MS
    for number in range(count):
        visitor = number * 7_919 % VISITORS
        page = _PAGES[number % len(_PAGES)]
        click = {"visit": number, "visitor": visitor, "page": page, "agent": _AGENT}
        value: bytes | None = json.dumps(click).encode()
        if number % 1_000 == 999:
            value = None if number % 2_000 == 999 else b""
        headers: Headers = (("codec", codec_of(number).encode()), ("session", f"{visitor:032x}".encode()))
        if number % 3 == 0:
            headers += (("referrer", None),)
        yield Click(f"visitor-{visitor}", value, headers, began_ms + number * PERIOD_MS // count)


def produce_clicks(config: ClientConfig, topic: str, count: int) -> int:
    """Produces with every codec in turn; returns the bytes of keys, values and headers. DemoFailed."""
    producers = [Producer({**config, "compression.type": codec, "linger.ms": 20}) for codec in CODECS]
    refused: list[str] = []

    def delivered(error: object, _message: Message) -> None:
        if error is not None:
            refused.append(str(error))

    size = 0
    for number, click in enumerate(clicks(count, lambda number: CODECS[number // _CHUNK % len(CODECS)])):
        producer = producers[number // _CHUNK % len(CODECS)]
        producer.produce(
            topic,
            click.value,
            click.key,
            headers=list(click.headers),
            timestamp=click.timestamp_ms,
            on_delivery=delivered,
        )
        size += len(click.key) + len(click.value or b"")
        size += sum(len(name) + len(value or b"") for name, value in click.headers)
        if number % _CHUNK == 0:
            producer.poll(0)
    left = sum(producer.flush(30) for producer in producers)
    if left or refused:
        raise DemoFailed(f"{left + len(refused)} records could not be produced: {refused[:1]}")
    return size


def produce_one(config: ClientConfig, topic: str, partition: int, value: bytes) -> Message:
    """Produces one record and returns its delivery report, which may hold an error. DemoFailed."""
    reports: list[Message] = []
    producer = Producer(dict(config))
    producer.produce(
        topic,
        value,
        f"partition-{partition}",
        partition=partition,
        on_delivery=lambda _, m: reports.append(m),
    )
    producer.flush(20)
    if not reports:
        raise DemoFailed("a record was neither accepted nor refused within 20 s")
    return reports[0]


class Watcher:
    """Looks where the logs of a topic's partitions start and end."""

    def __init__(self, config: ClientConfig, topic: str, partitions: int) -> None:
        self._consumer = Consumer({**config, "group.id": "demo-watcher"})
        self._partitions = [TopicPartition(topic, index) for index in range(partitions)]

    def spans(self) -> list[Span] | None:
        """One per partition; None while the topic does not exist."""
        try:
            bounds = [
                self._consumer.get_watermark_offsets(each, timeout=_LOOK_TIMEOUT_S)
                for each in self._partitions
            ]
        except KafkaException:
            return None
        return [Span(*pair) for pair in bounds]

    def close(self) -> None:
        """Ends its connections."""
        self._consumer.close()


def read_log(config: ClientConfig, topic: str, partitions: Sequence[Span]) -> Log:
    """Every record of the topic, by partition, read with a consumer without a group. DemoFailed."""
    consumer = Consumer({**config, "group.id": "demo-reader", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, index, span.start) for index, span in enumerate(partitions)])
        return _collect(consumer, len(partitions), sum(span.count for span in partitions))
    finally:
        consumer.close()


class GroupConsumer:
    """A consumer group of one stock client; goes on where it was with every `read`."""

    def __init__(self, config: ClientConfig, topic: str, group: str) -> None:
        self._consumer = Consumer(
            {**config, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
        )
        self._consumer.subscribe([topic])

    def read(self, partitions: int, count: int) -> Log:
        """The next `count` records, by partition, which are committed then. DemoFailed."""
        log = _collect(self._consumer, partitions, count)
        self._consumer.commit(asynchronous=False)
        return log

    def close(self) -> None:
        """Leaves the group."""
        self._consumer.close()


def _collect(consumer: Consumer, partitions: int, count: int) -> Log:
    log: Log = {index: [] for index in range(partitions)}
    left = count
    deadline = time.monotonic() + _READ_TIMEOUT_S
    while left:
        for message in consumer.consume(min(left, 5_000), timeout=0.5):
            error = message.error()
            if error is not None:
                raise DemoFailed(f"a consumer was refused: {error.str()}")
            partition, record = _record(message)
            log[partition].append(record)
            left -= 1
        if time.monotonic() > deadline:
            raise DemoFailed(f"{left} of {count} records did not arrive within {_READ_TIMEOUT_S:.0f} s")
    return log


def _record(message: Message) -> tuple[int, Record]:
    partition, offset = message.partition(), message.offset()
    # The library's types allow for messages that were not delivered.
    assert partition is not None
    assert offset is not None
    headers = cast("Headers", tuple(message.headers() or ()))
    return partition, Record(offset, message.key(), message.value(), headers, message.timestamp())


def equal_fields(source: Sequence[Record], mirror: Sequence[Record]) -> list[int]:
    """For each of FIELDS in how many records, taken in order, source and mirror agree."""
    equal = [0] * len(FIELDS)
    for theirs, ours in zip(source, mirror, strict=False):
        for index, (a, b) in enumerate(zip(theirs, ours, strict=True)):
            equal[index] += a == b
    return equal
