"""Consumers of groups that stop on one cluster and go on at another: stock clients, one function for each.

Each reads `count` records, commits them, reads `extra` more without committing, and leaves its group.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import aiokafka
from confluent_kafka import Consumer

from compose.java_tools import run_tool
from compose.kafka import KafkaCluster
from tests.e2e.link_lab import LINK_PASSWORD, LINK_USER, LinkLab

WITHIN_S: Final = 60.0


@dataclass(frozen=True)
class Place:
    """A cluster, or the gateway in front of it: all that a consumer is told."""

    bootstrap: str
    login: bool = False

    def librdkafka(self) -> dict[str, Any]:
        """Settings of confluent-kafka."""
        if not self.login:
            return {"bootstrap.servers": self.bootstrap}
        return {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": LINK_USER,
            "sasl.password": LINK_PASSWORD,
        }

    def java(self) -> dict[str, str]:
        """Settings of Java clients."""
        if not self.login:
            return {}
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        return {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.jaas.config": f'{module} required username="{LINK_USER}" password="{LINK_PASSWORD}";',
        }

    def python(self) -> dict[str, Any]:
        """Settings of aiokafka."""
        if not self.login:
            return {"bootstrap_servers": self.bootstrap}
        return {
            "bootstrap_servers": self.bootstrap,
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": LINK_USER,
            "sasl_plain_password": LINK_PASSWORD,
        }


def at_source(lab: LinkLab) -> Place:
    """The source's brokers."""
    return _brokers(lab.source)


def at_destination(lab: LinkLab) -> Place:
    """The destination's gateway."""
    return Place(lab.client_config["bootstrap.servers"], login=True)


def _brokers(cluster: KafkaCluster) -> Place:
    return Place(cluster.internal_bootstrap)


def librdkafka(place: Place, topic: str, group: str, count: int, extra: int) -> list[bytes]:
    """Commits by hand."""
    return _librdkafka(place, topic, group, count, extra)


def librdkafka_auto(place: Place, topic: str, group: str, count: int, extra: int) -> list[bytes]:
    """Commits by itself, at the latest when it leaves: all that it has read."""
    assert not extra
    return _librdkafka(place, topic, group, count, 0, **{"enable.auto.commit": True})


def librdkafka_newer(place: Place, topic: str, group: str, count: int, extra: int) -> list[bytes]:
    """In a group of KIP-848."""
    return _librdkafka(place, topic, group, count, extra, **{"group.protocol": "consumer"})


def _librdkafka(place: Place, topic: str, group: str, count: int, extra: int, **settings: Any) -> list[bytes]:
    consumer = Consumer(
        place.librdkafka()
        | {"group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
        | settings
    )
    values: list[bytes] = []
    deadline = time.monotonic() + WITHIN_S
    committed = False
    try:
        consumer.subscribe([topic])
        while len(values) < count + extra and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None:
                values.append(message.value() or b"")
            if len(values) == count and not committed:
                committed = True
                consumer.commit(asynchronous=False)
    finally:
        consumer.close()
    return values


def aio(place: Place, topic: str, group: str, count: int, extra: int) -> list[bytes]:
    """aiokafka, which commits by hand."""

    async def work() -> list[bytes]:
        consumer = aiokafka.AIOKafkaConsumer(
            topic,
            **place.python(),
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        values: list[bytes] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WITHIN_S):
                await consumer.start()
                while len(values) < count + extra:
                    values.append((await consumer.getone()).value or b"")
                    if len(values) == count:
                        await consumer.commit()
        await consumer.stop()
        return values

    return asyncio.run(work())


def java(place: Place, topic: str, group: str, count: int, extra: int) -> list[bytes]:
    """Kafka's console consumer, which commits what it has shown when it ends."""
    assert not extra
    done = run_tool(
        "kafka-console-consumer",
        place.bootstrap,
        *("--topic", topic, "--group", group, "--from-beginning"),
        *("--max-messages", str(count), "--timeout-ms", str(int(WITHIN_S * 1000))),
        properties=place.java(),
    )
    return [line.encode() for line in done.stdout.splitlines()]


Mover = Callable[[Place, str, str, int, int], list[bytes]]
# By name, with whether it can read on without committing.
MOVERS: Final[dict[str, tuple[Mover, bool]]] = {
    "librdkafka": (librdkafka, True),
    "librdkafka-auto": (librdkafka_auto, False),
    "librdkafka-kip848": (librdkafka_newer, True),
    "aiokafka": (aio, True),
    "java": (java, False),
}
