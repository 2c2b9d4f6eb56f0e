"""The opponent: a plain copy of a topic with librdkafka, in a process of its own.

`python -m bench.copy SOURCE DESTINATION TOPIC COPY PARTITIONS RECORDS` copies until it has that many records,
to the same partitions with the same keys and timestamps, and prints how it went as JSON. The settings are the
fastest that were found, among them those of fetches and batches of a quarter to four times the size. It does
less than a link: offsets are not kept equal, headers are left out.
"""

import json
import sys
import time
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.cimpl import OFFSET_BEGINNING

_CONSUMER: Final[dict[str, Any]] = {
    "group.id": "bench-copy",
    "enable.auto.commit": False,
    "check.crcs": False,
    "fetch.max.bytes": 10 << 20,
    "max.partition.fetch.bytes": 1 << 20,
    "queued.min.messages": 100_000,
    "queued.max.messages.kbytes": 128 << 10,
    "fetch.wait.max.ms": 100,
}
_PRODUCER: Final[dict[str, Any]] = {
    "acks": "all",
    "linger.ms": 20,
    "batch.size": 512 << 10,
    "batch.num.messages": 100_000,
    "queue.buffering.max.kbytes": 256 << 10,
    "queue.buffering.max.messages": 1_000_000,
    "delivery.report.only.error": True,
}
# Of 300 to 20,000 the best, with batches of 128 KiB to 1 MiB.
_CHUNK: Final = 500
_GIVE_UP_S: Final = 60.0


class CopyFailed(Exception):
    """Something was not copied."""


def copy(source: str, destination: str, topic: str, copied_topic: str, partitions: int, records: int) -> None:
    """Copies `records` records; CopyFailed."""
    failures: list[KafkaError] = []

    def failed(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error)

    consumer = Consumer({**_CONSUMER, "bootstrap.servers": source})
    producer = Producer({**_PRODUCER, "bootstrap.servers": destination, "on_delivery": failed})
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(partitions)])
    copied = 0
    deadline = time.monotonic() + _GIVE_UP_S
    while copied < records:
        messages = consumer.consume(min(_CHUNK, records - copied), timeout=1)
        for message in messages:
            if message.error() is not None:
                raise CopyFailed(str(message.error()))
            while True:
                try:
                    producer.produce(
                        copied_topic,
                        message.value(),
                        message.key(),
                        message.partition() or 0,
                        timestamp=message.timestamp()[1],
                    )
                    break
                except BufferError:
                    producer.poll(0.005)
        producer.poll(0)
        copied += len(messages)
        if messages:
            deadline = time.monotonic() + _GIVE_UP_S
        elif time.monotonic() > deadline:
            raise CopyFailed(f"{copied} of {records} records after {_GIVE_UP_S} s without any")
    if producer.flush(_GIVE_UP_S) or failures:
        raise CopyFailed(f"not delivered: {failures[:3]}")
    consumer.close()


def main() -> None:
    """Copies as the command line says."""
    source, destination, topic, copied_topic, partitions, records = sys.argv[1:]
    began = time.monotonic()
    copy(source, destination, topic, copied_topic, int(partitions), int(records))
    print(json.dumps({"seconds": time.monotonic() - began, "cpu_s": time.process_time()}))


if __name__ == "__main__":
    main()
