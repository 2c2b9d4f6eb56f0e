"""The delay of a copy under a steady flow: from when a record can be read at the source to when at the copy.

`python -m bench.lag SOURCE TOPIC DESTINATION COPY PARTITIONS RATE WARM_UP_S SECONDS` produces to the topic,
reads it at both ends with the same kind of consumer and prints the delays' percentiles as JSON. What producer
and consumers take is the same at both ends, and so is left out.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any, Final

from confluent_kafka import Consumer, Producer, TopicPartition

from bench.load import percentile

RECORD_BYTES: Final = 1024
_CONSUMER: Final[dict[str, Any]] = {
    "group.id": "bench-lag",
    "enable.auto.commit": False,
    "fetch.wait.max.ms": 100,
    "fetch.min.bytes": 1,
    "allow.auto.create.topics": False,
    "topic.metadata.refresh.interval.ms": 1000,
}
_TICK_S: Final = 0.002
_NUMBER_BYTES: Final = 8


class Arrivals(threading.Thread):
    """Notes when each record can be read."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        super().__init__(daemon=True)
        self.seen: dict[bytes, float] = {}
        self._ended = threading.Event()
        self._consumer = Consumer({**_CONSUMER, "bootstrap.servers": bootstrap})
        self._consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])

    def run(self) -> None:
        """Reads until `finish`."""
        while not self._ended.is_set():
            for message in self._consumer.consume(200, timeout=0.1):
                if message.error() is None:
                    # The first reading counts.
                    self.seen.setdefault((message.value() or b"")[:_NUMBER_BYTES], time.perf_counter())

    def finish(self) -> None:
        """Ends the reading."""
        self._ended.set()
        self.join()
        self._consumer.close()


def measure(
    source: str,
    topic: str,
    destination: str,
    copy: str,
    partitions: int,
    rate: int,
    warm_up_s: float,
    seconds: float,
) -> dict[str, Any]:
    """Produces and reads; how many arrived, and the delays in ms."""
    here, there = Arrivals(source, topic, partitions), Arrivals(destination, copy, partitions)
    here.start()
    there.start()
    producer = Producer({"bootstrap.servers": source, "acks": "all", "linger.ms": 1})
    padding = bytes(RECORD_BYTES - _NUMBER_BYTES)
    began = time.perf_counter()
    counted: list[bytes] = []
    number = 0
    while (elapsed := time.perf_counter() - began) < warm_up_s + seconds:
        while number < elapsed * rate:
            key = number.to_bytes(_NUMBER_BYTES)
            producer.produce(topic, key + padding, partition=number % partitions)
            if elapsed >= warm_up_s:
                counted.append(key)
            number += 1
        producer.poll(0)
        time.sleep(_TICK_S)
    producer.flush(30)
    deadline = time.monotonic() + 30
    while len(there.seen) < number and time.monotonic() < deadline:
        time.sleep(0.1)
    here.finish()
    there.finish()
    delays = [
        max(0.0, there.seen[key] - here.seen[key]) * 1000
        for key in counted
        if key in there.seen and key in here.seen
    ]
    if len(delays) < len(counted):
        raise RuntimeError(f"{len(delays)} of {len(counted)} records were read at both ends")
    return {
        "records": len(delays),
        "p50_ms": round(percentile(delays, 0.5), 2),
        "p99_ms": round(percentile(delays, 0.99), 2),
    }


def main() -> None:
    """Measures as the command line says."""
    source, topic, destination, copy, partitions, rate, warm_up_s, seconds = sys.argv[1:]
    found = measure(
        source, topic, destination, copy, int(partitions), int(rate), float(warm_up_s), float(seconds)
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
