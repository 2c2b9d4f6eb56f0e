"""Prints the records of partition 0 of each topic, until it is killed.

Arguments: LIBRARY BOOTSTRAP ISOLATION TOPIC:OFFSET…
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Mapping

import aiokafka
import confluent_kafka

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka


def show(topic: str | None, offset: int | None, key: bytes | None, value: bytes | None) -> None:
    """One line per record; null is a dash."""
    text = ["-" if each is None else "x" + each.hex() for each in (key, value)]
    print(topic, offset, *text, flush=True)


def read_librdkafka(bootstrap: str, isolation: str, starts: Mapping[str, int]) -> None:
    """By way of confluent-kafka."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "none",
            "isolation.level": isolation,
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "check.crcs": True,
        }
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, offset) for topic, offset in starts.items()])
    while True:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            raise RuntimeError(message.error())
        show(message.topic(), message.offset(), message.key(), message.value())


def read_kafka_python(bootstrap: str, isolation: str, starts: Mapping[str, int]) -> None:
    """kafka-python."""
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level=isolation, auto_offset_reset="none", check_crcs=True
    )
    consumer.assign([kafka.TopicPartition(topic, 0) for topic in starts])
    for topic, offset in starts.items():
        consumer.seek(kafka.TopicPartition(topic, 0), offset)
    for message in consumer:
        show(message.topic, message.offset, message.key, message.value)


def read_aiokafka(bootstrap: str, isolation: str, starts: Mapping[str, int]) -> None:
    """aiokafka."""

    async def read() -> None:
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=bootstrap, isolation_level=isolation, auto_offset_reset="none", check_crcs=True
        )
        await consumer.start()
        consumer.assign([aiokafka.TopicPartition(topic, 0) for topic in starts])
        for topic, offset in starts.items():
            consumer.seek(aiokafka.TopicPartition(topic, 0), offset)
        async for message in consumer:
            show(message.topic, message.offset, message.key, message.value)

    asyncio.run(read())


READERS = {"librdkafka": read_librdkafka, "kafka-python": read_kafka_python, "aiokafka": read_aiokafka}

if __name__ == "__main__":
    wanted = {topic: int(offset) for topic, _, offset in (each.partition(":") for each in sys.argv[4:])}
    READERS[sys.argv[1]](sys.argv[2], sys.argv[3], wanted)
