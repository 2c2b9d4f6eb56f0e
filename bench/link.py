"""Measures links on this machine: `make bench-link`, `python -m bench.link --help`.

How fast a topic is mirrored, beside MirrorMaker 2, a plain copy by librdkafka and a Kafka follower that
catches up with the same data, in the same rounds and by the same yardstick; then the delay under a steady
flow, and what partitions cost where nothing happens. Everything shares this machine's cores, so ratios say
more than rates. Ends with 1 if a promise was missed.
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
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaError, Message, Producer

from bench.follower import Follower
from bench.mirrormaker import EXACTLY_ONCE, TUNED, WARM_UP_SHARE, mirrormaker
from bench.processes import cpu_seconds
from bench.rig import BROKER_CONFIG, DIALLED, PATHS, Rig, wait_until
from bench.watch import LogEnds, Sample, watch_topic
from compose.kafka import ROOT, KafkaCluster

PARTITIONS: Final = 8
PLAIN_COPY: Final = "librdkafka-copy"
FOLLOWER: Final = "kafka-follower"
RESULTS_FILE: Final = ROOT / "build" / "bench" / "link.json"
_STALLED_AFTER_S: Final = 60.0
_MEGABYTE: Final = 1_000_000
# Values are taken from one pool at changing places: random bytes where nothing is to be gained from
# compressing them, else hexadecimal digits, which shrink by half.
_POOL: Final = os.urandom(1 << 20)
_SOFT_POOL: Final = os.urandom(1 << 19).hex().encode()


@dataclass(frozen=True)
class Case:
    """A topic, and who copies it."""

    name: str
    value_bytes: int
    records: int
    paths: tuple[str, ...]
    codec: str = "none"
    # How it is produced.
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Size:
    """How much is measured. Warm-up rounds do not count: a broker's compilers need gigabytes to be done."""

    rounds: int = 3
    warm_up: int = 1
    megabytes: int = 500
    small_records: int = 1_000_000
    single_records: int = 200_000
    lag_rate: int = 5_000
    lag_warm_up_s: float = 15.0
    lag_s: float = 15.0
    idle_partitions: int = 2_000
    idle_s: float = 20.0
    opponents: bool = True

    @property
    def numbers(self) -> range:
        """Of all rounds; those below 0 do not count."""
        return range(-self.warm_up, self.rounds)

    def cases(self) -> tuple[Case, ...]:
        """The topics to be copied."""
        bulk = self.megabytes * _MEGABYTE // 1024
        links, mm2 = PATHS, (TUNED,)
        single = {"batch.num.messages": 1, "linger.ms": 0}
        cases = (
            Case("1KiB-none", 1024, bulk, (*links, PLAIN_COPY, *mm2, EXACTLY_ONCE, FOLLOWER)),
            Case("1KiB-zstd", 1024, bulk, (*links, *mm2), "zstd"),
            Case("100B-none", 100, self.small_records, (*links, *mm2)),
            Case("100B-zstd", 100, self.small_records, (*links, *mm2), "zstd"),
            Case("100B-none-single", 100, self.single_records, (*links, PLAIN_COPY, *mm2), settings=single),
        )
        if self.opponents:
            return cases
        own = {*links, PLAIN_COPY}
        return tuple(
            Case(c.name, c.value_bytes, c.records, tuple(p for p in c.paths if p in own), c.codec, c.settings)
            for c in cases
        )


@dataclass(frozen=True)
class Measured:
    """One case on one path: medians over the rounds."""

    path: str
    case: str
    mb_per_s: float | None = None
    records_per_s: float | None = None
    cpu_s_per_gb: float | None = None
    lag_p50_ms: float | None = None
    lag_p99_ms: float | None = None
    # Of one core, where nothing happens.
    idle_cpu_percent: float | None = None
    # Of the rates: lowest and highest round, in MB/s.
    spread: tuple[float, float] | None = None
    rounds: int = 1


# --- records ---------------------------------------------------------------------------------------------


def produce(cluster: KafkaCluster, topic: str, case: Case) -> None:
    """Produces a case's records, with keys, over the partitions in turn; RuntimeError."""
    failures: list[KafkaError] = []

    def failed(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error)

    producer = Producer(
        {
            "bootstrap.servers": cluster.bootstrap,
            "acks": "all",
            "linger.ms": 20,
            "batch.size": 128 << 10,
            "compression.type": case.codec,
            "delivery.report.only.error": True,
            "queue.buffering.max.kbytes": 256 << 10,
            "queue.buffering.max.messages": 1_000_000,
            "on_delivery": failed,
            **case.settings,
        }
    )
    pool = _POOL if case.codec == "none" else _SOFT_POOL
    span = len(pool) - case.value_bytes
    for number in range(case.records):
        start = number * 8_191 % span
        value = pool[start : start + case.value_bytes]
        while True:
            try:
                producer.produce(topic, value, b"%d" % number, number % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.005)
    if producer.flush(_STALLED_AFTER_S) or failures:
        raise RuntimeError(f"not produced: {failures[:3]}")


# --- copying ---------------------------------------------------------------------------------------------


def _by_link(rig: Rig, path: str, case: Case) -> Sample:
    os.sync()
    pids = rig.pids(path)
    name = rig.create_mirror(path, case.name)
    sample = watch_topic(rig.destination, name, PARTITIONS, case.records, lambda: cpu_seconds(*pids))
    rig.delete_mirror(path, name)
    return sample


def _by_plain_copy(rig: Rig, case: Case) -> Sample:
    os.sync()
    name = f"copy-{case.name}"
    rig.destination.create_topic(name, PARTITIONS)
    command = [sys.executable, "-m", "bench.plain_copy", rig.source.bootstrap, rig.destination.bootstrap]
    command += [case.name, name, str(PARTITIONS), str(case.records)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            sample = watch_topic(rig.destination, name, PARTITIONS, case.records)
            output, _ = process.communicate(timeout=_STALLED_AFTER_S)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise RuntimeError(f"the copy ended with {process.returncode}")
    _delete(rig.destination, name)
    return Sample(sample.seconds, sample.records, float(json.loads(output)["cpu_s"]))


def _by_mirrormaker(rig: Rig, path: str, case: Case) -> Sample:
    os.sync()
    skip = int(case.records * WARM_UP_SHARE)
    with mirrormaker(path, rig.source, rig.destination, case.name, codec=case.codec, low_latency=False) as (
        copied,
        process,
    ):
        # In transactions each poll ends with a marker, which takes an offset too: a little too many, for it.
        sample = watch_topic(
            rig.destination,
            copied,
            PARTITIONS,
            case.records,
            lambda: cpu_seconds(process.pid),
            skip=skip,
        )
    _delete(rig.destination, copied)
    return sample


def _delete(cluster: KafkaCluster, topic: str) -> None:
    cluster.admin.delete_topics([topic])[topic].result(30)


def measure_copies(rig: Rig, follower: Follower | None, case: Case, size: Size) -> Iterator[Measured]:
    """All paths of a case in turn, each round beginning with another."""
    works: list[tuple[str, Callable[[], Sample]]] = []
    for path in case.paths:
        if path in PATHS:
            works.append((path, partial(_by_link, rig, path, case)))
        elif path == PLAIN_COPY:
            works.append((path, partial(_by_plain_copy, rig, case)))
        elif path == FOLLOWER and follower is not None:
            follower.create_topic(case.name)
            produce(follower.cluster, case.name, case)
            works.append((path, partial(follower.catch_up, case.name, case.records)))
        elif path in {TUNED, EXACTLY_ONCE}:
            works.append((path, partial(_by_mirrormaker, rig, path, case)))
    rig.source.create_topic(case.name, PARTITIONS)
    produce(rig.source, case.name, case)
    samples: dict[str, list[Sample]] = {path: [] for path, _ in works}
    for number in size.numbers:
        first = number % len(works)
        for path, work in works[first:] + works[:first]:
            sample = work()
            if number >= 0:
                samples[path].append(sample)
        print(f"{case.name}: round {number + 1} of {size.rounds} done", file=sys.stderr, flush=True)
    _delete(rig.source, case.name)
    for path, own in samples.items():
        rates = [sample.records / sample.seconds for sample in own]
        cpu = [s.cpu_s / (s.records * case.value_bytes) * 1e9 for s in own if s.cpu_s is not None]
        megabytes = [rate * case.value_bytes / _MEGABYTE for rate in rates]
        yield Measured(
            path,
            case.name,
            mb_per_s=round(statistics.median(megabytes), 1),
            records_per_s=round(statistics.median(rates)),
            cpu_s_per_gb=round(statistics.median(cpu), 2) if cpu else None,
            spread=(round(min(megabytes), 1), round(max(megabytes), 1)),
            rounds=len(own),
        )


# --- delay, and rest -------------------------------------------------------------------------------------


def measure_lag(rig: Rig, size: Size) -> Iterator[Measured]:
    """The delay of a steady flow of records of 1 KiB."""
    case = f"lag-{size.lag_rate}-per-s"
    for path in (*PATHS, *((TUNED,) if size.opponents else ())):
        topic = f"lag-{path}"
        rig.source.create_topic(topic, PARTITIONS)
        _wait_for_topic(rig.source, topic, PARTITIONS)
        with ExitStack() as stack:
            if path in PATHS:
                copied = rig.create_mirror(path, topic)
            else:
                copied, _ = stack.enter_context(
                    mirrormaker(path, rig.source, rig.destination, topic, codec="none", low_latency=True)
                )
            _wait_for_topic(rig.destination, copied, PARTITIONS)
            command = [sys.executable, "-m", "bench.lag", rig.source.bootstrap, topic]
            command += [rig.destination.bootstrap, copied, str(PARTITIONS), str(size.lag_rate)]
            command += [str(size.lag_warm_up_s), str(size.lag_s)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
        found = json.loads(done.stdout)
        yield Measured(path, case, lag_p50_ms=found["p50_ms"], lag_p99_ms=found["p99_ms"])
        if path in PATHS:
            rig.delete_mirror(path, copied)
        _delete(rig.source, topic)


def _wait_for_topic(cluster: KafkaCluster, topic: str, partitions: int) -> None:
    def is_there() -> bool:
        found = cluster.admin.list_topics(timeout=10).topics.get(topic)
        return found is not None and len(found.partitions) == partitions

    wait_until(is_there, f"{topic} is there")


def measure_idle(rig: Rig, size: Size) -> Measured:
    """What a link costs whose partitions get nothing."""
    topic = "quiet"
    rig.source.create_topic(topic, size.idle_partitions)
    producer = Producer({"bootstrap.servers": rig.source.bootstrap})
    for partition in range(size.idle_partitions):
        producer.produce(topic, b"one", partition=partition)
    if producer.flush(_STALLED_AFTER_S):
        raise RuntimeError("not produced")
    name = rig.create_mirror(DIALLED, topic)
    ends = LogEnds(rig.destination, name, size.idle_partitions)
    wait_until(lambda: ends.total() == size.idle_partitions, f"{name} is mirrored", 120)
    ends.close()
    time.sleep(size.idle_s / 4)
    pids = rig.pids(DIALLED)
    before = cpu_seconds(*pids)
    time.sleep(size.idle_s)
    share = (cpu_seconds(*pids) - before) / size.idle_s
    rig.delete_mirror(DIALLED, name)
    return Measured(DIALLED, f"idle-{size.idle_partitions}", idle_cpu_percent=round(share * 100, 1))


# --- results ---------------------------------------------------------------------------------------------


_COLUMNS: Final = (
    ("MB/s", "mb_per_s", 1),
    ("records/s", "records_per_s", 0),
    ("CPU s/GB", "cpu_s_per_gb", 2),
    ("p50 ms", "lag_p50_ms", 2),
    ("p99 ms", "lag_p99_ms", 2),
    ("idle CPU %", "idle_cpu_percent", 1),
)


def table(results: Sequence[Measured]) -> str:
    """The results as text."""
    lines = [
        f"{'case':<20}{'path':<26}" + "".join(f"{head:>12}" for head, _, _ in _COLUMNS) + f"{'MB/s of':>16}"
    ]
    for row in results:
        cells = [f"{row.case:<20}{row.path:<26}"]
        for _, name, digits in _COLUMNS:
            value = getattr(row, name)
            cells.append(f"{'' if value is None else format(value, f',.{digits}f'):>12}")
        cells.append(f"{'' if row.spread is None else f'{row.spread[0]:.0f}–{row.spread[1]:.0f}':>16}")
        lines.append("".join(cells).rstrip())
    return "\n".join(
        (
            *lines,
            "",
            "Medians of the rounds, with the slowest and the fastest. CPU: of the gateways, or of the",
            "process that copies; a follower's is a broker's own. p50, p99: from readable at the source",
            "to readable at the copy.",
        )
    )


def verdicts(results: Sequence[Measured]) -> list[str]:
    """Each promise with what was measured in this run, as far as it was."""
    rows = {(row.path, row.case): row for row in results}
    bulk, single = "1KiB-none", "100B-none-single"
    promises = (
        ("catch-up", DIALLED, TUNED, bulk, "mb_per_s", ">=", 2.0),
        ("catch-up", DIALLED, EXACTLY_ONCE, bulk, "mb_per_s", ">=", 6.0),
        ("catch-up", DIALLED, FOLLOWER, bulk, "mb_per_s", ">=", 0.8),
        ("catch-up", DIALLED, PLAIN_COPY, bulk, "mb_per_s", ">=", 1.5),
        ("CPU s/GB", DIALLED, TUNED, bulk, "cpu_s_per_gb", "<=", 0.25),
    )
    lines = []
    for what, own, other, case, name, sign, bound in promises:
        ours, theirs = rows.get((own, case)), rows.get((other, case))
        if ours is not None and theirs is not None:
            share = getattr(ours, name) / getattr(theirs, name)
            lines.append(_line(f"{what}, {case}", share, f" of {other}'s", sign, bound))
    for row in results:
        if row.path == DIALLED and row.case == single and row.records_per_s is not None:
            lines.append(_line("one-record batches", row.records_per_s, " a second", ">=", 100_000))
        if row.path == DIALLED and row.idle_cpu_percent is not None:
            lines.append(_line(row.case, row.idle_cpu_percent, " % of a core", "<=", 10))
        theirs = rows.get((TUNED, row.case))
        if row.path == DIALLED and row.lag_p50_ms is not None and theirs is not None:
            lines += [
                _line(name, getattr(row, name), f" against {TUNED}", "<=", getattr(theirs, name))
                for name in ("lag_p50_ms", "lag_p99_ms")
            ]
    return lines


def _line(what: str, found: float, of: str, sign: str, bound: float) -> str:
    kept = found >= bound if sign == ">=" else found <= bound
    return f"{what}: {found:,.2f}{of}, wanted {sign} {bound:,g}{'' if kept else '  MISSED'}"


def write(results: Sequence[Measured], file: Path) -> None:
    """Writes the results as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([asdict(row) for row in results], indent=2) + "\n")


def run(size: Size, only: Sequence[str] = ()) -> list[Measured]:
    """Measures everything, or the cases whose names begin with one of `only`."""
    # Only brokers of our own can be given their JVM's options.
    os.environ["CAUSEWAY_KAFKA"] = "local"

    def wanted(name: str) -> bool:
        return not only or name.startswith(tuple(only))

    results: list[Measured] = []
    with ExitStack() as stack:
        rig = stack.enter_context(Rig())
        follower = None
        if size.opponents and any(wanted(c.name) and FOLLOWER in c.paths for c in size.cases()):
            two = KafkaCluster.start(brokers=2, heap="1g", config=BROKER_CONFIG, jvm_options=())
            follower = Follower(stack.enter_context(two), PARTITIONS)
        print(f"1-minute load before the first round: {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        for case in size.cases():
            if wanted(case.name):
                results += measure_copies(rig, follower, case, size)
                if follower is not None:
                    # The other cases have these cores for themselves.
                    follower.cluster.close()
                    follower = None
        if wanted("lag"):
            results += measure_lag(rig, size)
        if wanted("idle"):
            results.append(measure_idle(rig, size))
    return results


def main() -> int:
    """Measures, prints, writes the results."""
    parser = argparse.ArgumentParser(description="Measures links on this machine.")
    parser.add_argument(
        "--megabytes", type=int, default=Size.megabytes, help="size of the topics of 1 KiB records"
    )
    parser.add_argument("--rounds", type=int, default=Size.rounds, help="how many count")
    parser.add_argument("--only", nargs="*", default=(), help="cases, by the beginning of their names")
    parser.add_argument("--alone", action="store_true", help="without MirrorMaker 2 and Kafka's follower")
    wanted = parser.parse_args()
    size = Size(rounds=wanted.rounds, megabytes=wanted.megabytes, opponents=not wanted.alone)
    results = run(size, wanted.only)
    write(results, RESULTS_FILE)
    promises = verdicts(results)
    print(f"\n{table(results)}\n")
    print("\n".join(promises))
    return 1 if any("MISSED" in line for line in promises) else 0


if __name__ == "__main__":
    sys.exit(main())
