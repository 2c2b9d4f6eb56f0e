"""Times a topic's way to its copy: the one yardstick for links and for what they are compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.cimpl import KafkaException

from compose.kafka import KafkaCluster

_POLL_S: Final = 0.01
_STALLED_AFTER_S: Final = 60.0
# A JVM may have to start first.
_BEGUN_AFTER_S: Final = 180.0


@dataclass(frozen=True)
class Sample:
    """One round: so many records in so many seconds, and what that took of the copying processes."""

    seconds: float
    records: int
    cpu_s: float | None


class LogEnds:
    """Looks at where a topic's partitions end; one connection, kept."""

    def __init__(self, cluster: KafkaCluster, topic: str, partitions: int) -> None:
        self._consumer = Consumer({"bootstrap.servers": cluster.internal_bootstrap, "group.id": "bench-ends"})
        self._partitions = [TopicPartition(topic, p) for p in range(partitions)]

    def total(self) -> int:
        """Sum of the high watermarks; 0 while a leader is not ready."""
        try:
            return sum(self._consumer.get_watermark_offsets(p, timeout=5)[1] for p in self._partitions)
        except KafkaException:
            return 0

    def close(self) -> None:
        """Closes the connection."""
        self._consumer.close()


def watch(
    look: Callable[[], int], wanted: int, cpu: Callable[[], float] | None, *, skip: int = 0
) -> tuple[float, int, float | None]:
    """Seconds, amount and processor time from when `skip` is there (0: the first) until `wanted` is.

    RuntimeError when it does not go on for a minute.
    """
    began = progressed = time.monotonic()
    began_cpu = cpu() if cpu is not None else 0.0
    first = last = 0
    while last < wanted:
        looked = time.monotonic()
        found = look()
        if found > last:
            if last <= skip < found and skip:
                began, first = looked, found
                began_cpu = cpu() if cpu is not None else 0.0
            last, progressed = found, looked
        elif found == 0:
            began = looked
        if looked - progressed > (_STALLED_AFTER_S if last else _BEGUN_AFTER_S):
            raise RuntimeError(f"{last} of {wanted} arrived, then nothing for {looked - progressed:.0f} s")
        time.sleep(_POLL_S)
    spent = cpu() - began_cpu if cpu is not None else None
    return time.monotonic() - began, last - first, spent


def watch_topic(
    cluster: KafkaCluster,
    topic: str,
    partitions: int,
    records: int,
    cpu: Callable[[], float] | None = None,
    *,
    skip: int = 0,
) -> Sample:
    """Watches a topic until it has `records` records; the first `skip` of them do not count."""
    with closing(LogEnds(cluster, topic, partitions)) as ends:
        return Sample(*watch(ends.total, records, cpu, skip=skip))
