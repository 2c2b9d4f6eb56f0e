"""Measures links on this machine: `make bench-link`, `python -m bench.run --help`.

How fast a topic is mirrored, compared with a plain copy by librdkafka in the same rounds, both by the same
yardstick: the time from the first record at the destination to the last. Everything shares this machine's
cores, so ratios say more than rates. Ends with 1 if the dialled link is not as much faster as it must.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaError, Message, Producer

from bench.processes import cpu_seconds
from bench.rig import PATHS, LogEnds, Path_, Rig
from compose.kafka import ROOT, KafkaCluster

PARTITIONS: Final = 8
RECORD_BYTES: Final = 1024
SMALL_RECORD_BYTES: Final = 100
WANTED_RATIO: Final = 1.5
RESULTS_FILE: Final = ROOT / "build" / "bench" / "link.json"
_POLL_S: Final = 0.01
_STALLED_AFTER_S: Final = 60.0
# Values are random, so that nothing gains from compressing them, and taken from one pool at changing places.
_POOL: Final = os.urandom(1 << 20)
_MEGABYTE: Final = 1_000_000


@dataclass(frozen=True)
class Measured:
    """One case on one path: medians over the rounds. `ratio` is to the same case on the plain path."""

    path: str
    case: str
    mb_per_s: float
    records_per_s: float
    cpu_s_per_gb: float | None
    ratio: float | None


@dataclass(frozen=True)
class Rounds:
    """How many count, and how many do not: a broker's compilers need gigabytes until they are done."""

    counted: int = 3
    warm_up: int = 2

    @property
    def numbers(self) -> range:
        """Of all rounds; those below 0 do not count."""
        return range(-self.warm_up, self.counted)


@dataclass(frozen=True)
class Sample:
    """One round."""

    seconds: float
    cpu_s: float


# --- links -----------------------------------------------------------------------------------------------


def produce(settings: dict[str, str], topic: str, records: int, value_bytes: int, **more: Any) -> Sample:
    """Produces records with keys over the partitions in turn."""
    failures: list[KafkaError] = []

    def failed(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error)

    producer = Producer(
        {
            "acks": "all",
            "linger.ms": 20,
            "batch.size": 128 << 10,
            "delivery.report.only.error": True,
            "queue.buffering.max.kbytes": 256 << 10,
            "queue.buffering.max.messages": 1_000_000,
            "on_delivery": failed,
            **more,
            **settings,
        }
    )
    began, cpu = time.monotonic(), time.process_time()
    span = len(_POOL) - value_bytes
    for number in range(records):
        start = number * 8_191 % span
        while True:
            try:
                producer.produce(
                    topic, _POOL[start : start + value_bytes], b"%d" % number, number % PARTITIONS
                )
                break
            except BufferError:
                producer.poll(0.005)
    if producer.flush(_STALLED_AFTER_S) or failures:
        raise RuntimeError(f"not produced: {failures[:3]}")
    return Sample(time.monotonic() - began, time.process_time() - cpu)


class Watch:
    """Times a topic's way from its first record to its last."""

    def __init__(self, cluster: KafkaCluster, topic: str, records: int) -> None:
        self._ends = LogEnds(cluster, topic, PARTITIONS)
        self._records = records
        self._topic = topic

    def run(self) -> float:
        """Seconds from the last look at which nothing was there; RuntimeError when it does not go on."""
        with closing(self._ends):
            began = progressed = time.monotonic()
            last = 0
            while last < self._records:
                looked = time.monotonic()
                found = self._ends.total()
                if found > last:
                    last, progressed = found, looked
                elif found == 0:
                    began = looked
                if looked - progressed > _STALLED_AFTER_S:
                    raise RuntimeError(f"{self._topic}: {last} of {self._records} records arrived")
                time.sleep(_POLL_S)
            return time.monotonic() - began


def mirror(rig: Rig, path: Path_, topic: str, records: int) -> Sample:
    """Mirrors the topic over a link, once."""
    os.sync()
    pids = rig.gateway_pids if path == "reversed" else rig.gateway_pids[:1]
    cpu = cpu_seconds(*pids)
    name = rig.create_mirror(path, topic)
    sample = Sample(Watch(rig.destination, name, records).run(), cpu_seconds(*pids) - cpu)
    rig.delete_mirror(path, name)
    return sample


def plain_copy(rig: Rig, topic: str, records: int) -> Sample:
    """Copies the topic with librdkafka, once."""
    os.sync()
    name = f"copy-{topic}"
    rig.destination.create_topic(name, PARTITIONS)
    command = [sys.executable, "-m", "bench.copy", rig.source.bootstrap, rig.destination.bootstrap]
    command += [topic, name, str(PARTITIONS), str(records)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            seconds = Watch(rig.destination, name, records).run()
            output, _ = process.communicate(timeout=_STALLED_AFTER_S)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise RuntimeError(f"the copy ended with {process.returncode}")
    rig.destination.admin.delete_topics([name])[name].result(30)
    return Sample(seconds, float(json.loads(output)["cpu_s"]))


def measure_links(
    rig: Rig, case: str, topic: str, rounds: Rounds, records: int, size: int
) -> Iterator[Measured]:
    """The copy and the links in turn, each round beginning with another."""
    works: list[tuple[str, Callable[[], Sample]]] = [
        ("librdkafka copy", lambda: plain_copy(rig, topic, records))
    ]
    works += [(path, partial(mirror, rig, path, topic, records)) for path in PATHS]
    samples: dict[str, list[Sample]] = {path: [] for path, _ in works}
    for number in rounds.numbers:
        first = number % len(works)
        for path, work in works[first:] + works[:first]:
            sample = work()
            if number >= 0:
                samples[path].append(sample)
    yield from _table(case, samples, records, size)


# --- results ---------------------------------------------------------------------------------------------


def _table(case: str, samples: dict[str, list[Sample]], records: int, size: int) -> Iterator[Measured]:
    """The first path is what the others are compared with, round by round."""
    plain = next(iter(samples.values()))
    for path, own in samples.items():
        seconds = statistics.median(sample.seconds for sample in own)
        cpu_s = statistics.median(sample.cpu_s for sample in own)
        ratio = statistics.median(a.seconds / b.seconds for a, b in zip(plain, own, strict=True))
        yield Measured(
            path,
            case,
            round(records * size / seconds / _MEGABYTE, 1),
            round(records / seconds),
            None if path == "direct" else round(cpu_s / (records * size) * 1e9, 2),
            None if own is plain else round(ratio, 2),
        )


def show(results: Sequence[Measured]) -> None:
    """Prints the table."""
    head = f"{'case':<26}{'path':<18}{'MB/s':>8}{'records/s':>12}{'CPU s/GB':>10}{'ratio':>8}"
    print(f"\n{head}\n{'-' * len(head)}")
    for row in results:
        cpu = "" if row.cpu_s_per_gb is None else f"{row.cpu_s_per_gb:.2f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        print(
            f"{row.case:<26}{row.path:<18}{row.mb_per_s:>8.1f}{row.records_per_s:>12,.0f}{cpu:>10}{ratio:>8}"
        )
    print("\nCPU: of the gateways, or of the copying process. Ratio: to the first line of the case.")


def run(megabytes: int, small_records: int, rounds: Rounds) -> list[Measured]:
    """Measures everything."""
    # Only brokers of our own can be given their JVM's options.
    os.environ["CAUSEWAY_KAFKA"] = "local"
    results: list[Measured] = []
    records = megabytes * _MEGABYTE // RECORD_BYTES
    with Rig() as rig:
        source = {"bootstrap.servers": rig.source.bootstrap}
        for topic, count, size, more in (
            ("bulk", records, RECORD_BYTES, {}),
            ("singles", small_records, SMALL_RECORD_BYTES, {"batch.num.messages": 1, "linger.ms": 0}),
        ):
            rig.source.create_topic(topic, PARTITIONS)
            produce(source, topic, count, size, **more)
        print(f"1-minute load before the first round: {os.getloadavg()[0]:.1f}", flush=True)
        results += measure_links(rig, "mirror, 1 KiB records", "bulk", rounds, records, RECORD_BYTES)
        results += measure_links(
            rig, "mirror, 1-record batches", "singles", rounds, small_records, SMALL_RECORD_BYTES
        )
    return results


def judge(results: Sequence[Measured], file: Path) -> int:
    """Writes the results as JSON; the exit code: 1 if the dialled link is too slow."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([asdict(row) for row in results], indent=2) + "\n")
    ratio = next(row.ratio or 0.0 for row in results if row.path == "dialled")
    passed = ratio >= WANTED_RATIO
    verdict = "" if passed else ": FAILED"
    print(f"Dialled link against the plain copy: {ratio:.2f}, wanted {WANTED_RATIO}{verdict}")
    return 0 if passed else 1


def main() -> int:
    """Measures, prints, writes the results."""
    parser = argparse.ArgumentParser(description="Measures links on this machine.")
    parser.add_argument("--megabytes", type=int, default=600, help="size of the mirrored topic")
    parser.add_argument("--small-records", type=int, default=200_000, help="how many one-record batches")
    parser.add_argument("--rounds", type=int, default=Rounds.counted, help="how many count")
    wanted = parser.parse_args()
    results = run(wanted.megabytes, wanted.small_records, Rounds(wanted.rounds))
    show(results)
    return judge(results, RESULTS_FILE)


if __name__ == "__main__":
    sys.exit(main())
