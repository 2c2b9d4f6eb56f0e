"""Measures the client path on this machine: `make bench-client`, `python -m bench.client --help`.

Straight to the broker (twice in a row, so that the noise is in the table), through the gateway with SASL
PLAIN, through haproxy (which asks nobody who he is) and through whatever else a file names, in the clear and
with TLS on the client's side, in alternating rounds. Everything shares this machine's cores and its noise, so
what counts is the ratio to the direct way in the same round, and the processor time of the proxy's process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench.client_rig import CAUSEWAY, CAUSEWAY_ACLS, DIRECT, ClientRig, Way
from bench.load import PARTITIONS, RECORD_BYTES, RequestClient, consume, hold_connections, percentile, produce
from bench.processes import cpu_seconds, rss_bytes
from bench.proxies import HAPROXY, Proxy, ProxyUnavailable, haproxy, read_proxies
from compose.kafka import ROOT

RESULTS_FILE: Final = ROOT / "build" / "bench" / "client.json"
PROXIES_VARIABLE: Final = "CAUSEWAY_BENCH_PROXIES"
_MEGABYTE: Final = 1_000_000
_MICROSECONDS: Final = 1_000_000
# Before memory is looked at: what a process keeps for its first connections is not for each of them.
_FIRST_CONNECTIONS: Final = 20


@dataclass(frozen=True)
class Size:
    """How much is measured. Warm-up rounds do not count: a broker's compilers need gigabytes to be done."""

    rounds: int = 5
    warm_up: int = 1
    megabytes: int = 200
    rpc_s: float = 2.0
    connections: int = 1000


@dataclass(frozen=True)
class Sample:
    """One round on one way; processor times are the proxy's, None where there is none."""

    produce_mb_per_s: float
    consume_mb_per_s: float
    rpc_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_s_per_gb_produce: float | None
    cpu_s_per_gb_consume: float | None
    cpu_us_per_rpc: float | None


@dataclass(frozen=True)
class Result:
    """One way: medians over the rounds; ratios to the direct way of the same round, with extremes."""

    path: str
    tls: bool
    authentication: str
    produce_ratio: float
    consume_ratio: float
    rpc_ratio: float
    produce_spread: tuple[float, float]
    consume_spread: tuple[float, float]
    rpc_spread: tuple[float, float]
    produce_mb_per_s: float
    consume_mb_per_s: float
    rpc_per_s: float
    p50_ms: float
    p99_ms: float
    added_p99_ms: float
    cpu_s_per_gb_produce: float | None
    cpu_s_per_gb_consume: float | None
    cpu_us_per_rpc: float | None
    rss_kib_per_connection: float | None
    rounds: int


# --- measuring -------------------------------------------------------------------------------------------


def measure(rig: ClientRig, size: Size) -> list[Result]:
    """Measures every way of the rig; prints where it is."""
    memory = {(way.path, way.tls): _idle_kib(rig, way, size.connections) for way in rig.ways}
    samples: dict[tuple[str, bool], list[Sample]] = {(way.path, way.tls): [] for way in rig.ways}
    # The two direct ones stay neighbours.
    direct, proxied = rig.ways[:2], rig.ways[2:]
    for number in range(-size.warm_up, size.rounds):
        first = number % len(proxied)
        for way in (*direct, *proxied[first:], *proxied[:first]):
            sample = _sample(rig, way, f"bench-{number}-{way.path.replace(' ', '-')}-{way.tls}", size)
            if number >= 0:
                samples[way.path, way.tls].append(sample)
        print(f"round {number + 1} of {size.rounds} done", file=sys.stderr, flush=True)
    base = samples[DIRECT, False]
    return [_result(way, samples[way.path, way.tls], base, memory[way.path, way.tls]) for way in rig.ways]


def _sample(rig: ClientRig, way: Way, topic: str, size: Size) -> Sample:
    records = max(PARTITIONS, size.megabytes * _MEGABYTE // RECORD_BYTES)
    gigabytes = records * RECORD_BYTES / 1e9
    rig.cluster.create_topic(topic, PARTITIONS)
    os.sync()
    started = _cpu(way)
    produced_s = produce(way, topic, records)
    produced = _cpu(way)
    consumed_s = consume(way, topic, records)
    consumed = _cpu(way)
    with RequestClient(way, topic, way.ssl_context()) as client:
        client.call()
        before_rpc = _cpu(way)
        seconds, took = client.time(size.rpc_s)
        after_rpc = _cpu(way)
    rig.cluster.admin.delete_topics([topic])[topic].result(30)
    has_proxy = way.pid is not None
    return Sample(
        produce_mb_per_s=gigabytes * 1000 / produced_s,
        consume_mb_per_s=gigabytes * 1000 / consumed_s,
        rpc_per_s=len(took) / seconds,
        p50_ms=percentile(took, 0.5) * 1000,
        p99_ms=percentile(took, 0.99) * 1000,
        cpu_s_per_gb_produce=(produced - started) / gigabytes if has_proxy else None,
        cpu_s_per_gb_consume=(consumed - produced) / gigabytes if has_proxy else None,
        cpu_us_per_rpc=(after_rpc - before_rpc) / len(took) * _MICROSECONDS if has_proxy else None,
    )


def _cpu(way: Way) -> float:
    return 0.0 if way.pid is None else cpu_seconds(way.pid)


def _idle_kib(rig: ClientRig, way: Way, connections: int) -> float | None:
    """KiB of the proxy's memory per connection that is there, has had an answer, and is silent."""
    if way.pid is None:
        return None
    topic = f"idle-{way.path.replace(' ', '-')}-{way.tls}"
    rig.cluster.create_topic(topic)
    with ExitStack() as stack:
        hold_connections(way, topic, _FIRST_CONNECTIONS, stack)
        before = rss_bytes(way.pid)
        hold_connections(way, topic, connections, stack)
        grown = rss_bytes(way.pid) - before
    rig.cluster.admin.delete_topics([topic])[topic].result(30)
    return grown / connections / 1024


def _result(way: Way, own: Sequence[Sample], base: Sequence[Sample], rss_kib: float | None) -> Result:
    produce_ratios = [a.produce_mb_per_s / b.produce_mb_per_s for a, b in zip(own, base, strict=True)]
    consume_ratios = [a.consume_mb_per_s / b.consume_mb_per_s for a, b in zip(own, base, strict=True)]
    rpc_ratios = [a.rpc_per_s / b.rpc_per_s for a, b in zip(own, base, strict=True)]
    return Result(
        path=way.path,
        tls=way.tls,
        authentication="SASL PLAIN" if way.user is not None else "none",
        produce_ratio=_median(produce_ratios),
        consume_ratio=_median(consume_ratios),
        rpc_ratio=_median(rpc_ratios),
        produce_spread=_spread(produce_ratios),
        consume_spread=_spread(consume_ratios),
        rpc_spread=_spread(rpc_ratios),
        produce_mb_per_s=_median(sample.produce_mb_per_s for sample in own),
        consume_mb_per_s=_median(sample.consume_mb_per_s for sample in own),
        rpc_per_s=_median(sample.rpc_per_s for sample in own),
        p50_ms=_median(sample.p50_ms for sample in own),
        p99_ms=_median(sample.p99_ms for sample in own),
        added_p99_ms=_median(a.p99_ms - b.p99_ms for a, b in zip(own, base, strict=True)),
        cpu_s_per_gb_produce=_known_median(sample.cpu_s_per_gb_produce for sample in own),
        cpu_s_per_gb_consume=_known_median(sample.cpu_s_per_gb_consume for sample in own),
        cpu_us_per_rpc=_known_median(sample.cpu_us_per_rpc for sample in own),
        rss_kib_per_connection=None if rss_kib is None else round(rss_kib, 1),
        rounds=len(own),
    )


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 3)


def _known_median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _median(known) if known else None


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return round(min(values), 2), round(max(values), 2)


# --- results ---------------------------------------------------------------------------------------------


_LEGEND: Final = """\
Medians of {rounds} rounds of {bytes}-byte records. produce, consume, RPC: ratio to the first line in the same
round (lowest-highest). MB/s: produced / consumed. RPC: ListOffsets, one after the other; p50, p99, and what
is added to the first line's p99, in ms. CPU: of the proxy's process, produce / consume. KiB: memory per idle
connection. causeway asks for SASL PLAIN, the others for nothing; causeway
ACLs judges every request by a thousand of them."""


def table(results: Sequence[Result]) -> str:
    """All results, a line each, and what the columns are."""
    head = (
        f"{'path':<18}{'produce':>18}{'consume':>18}{'RPC':>18}{'MB/s':>12}{'RPC/s':>7}"
        f"{'p50':>6}{'p99':>6}{'+p99':>7}{'CPU s/GB':>12}{'µs/RPC':>8}{'KiB':>6}"
    )
    lines = [head, "-" * len(head)]
    for row in results:
        cells = [f"{row.path}{' TLS' if row.tls else ''}".ljust(18)]
        for ratio, (low, high) in (
            (row.produce_ratio, row.produce_spread),
            (row.consume_ratio, row.consume_spread),
            (row.rpc_ratio, row.rpc_spread),
        ):
            cells.append(f"{ratio:.2f} ({low:.2f}-{high:.2f})".rjust(18))
        cells.append(f"{row.produce_mb_per_s:.0f} / {row.consume_mb_per_s:.0f}".rjust(12))
        cells.append(f"{row.rpc_per_s:>7.0f}{row.p50_ms:>6.2f}{row.p99_ms:>6.2f}{row.added_p99_ms:>7.2f}")
        cells.append(f"{_number(row.cpu_s_per_gb_produce)} / {_number(row.cpu_s_per_gb_consume)}".rjust(12))
        cells.append(f"{_number(row.cpu_us_per_rpc, 0):>8}{_number(row.rss_kib_per_connection, 0):>6}")
        lines.append("".join(cells))
    return "\n".join((*lines, "", _LEGEND.format(rounds=results[0].rounds, bytes=RECORD_BYTES)))


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


# What is promised: of haproxy's figure at most, or at least, that much.
_AT_MOST: Final = {"cpu_s_per_gb_produce": 1.8, "cpu_s_per_gb_consume": 1.8, "cpu_us_per_rpc": 2.0}
_AT_LEAST: Final = {"rpc_per_s": 0.8, "produce_mb_per_s": 0.9, "consume_mb_per_s": 0.9}
_MOST_ADDED_P99_MS: Final = 1.0
_MOST_IDLE_TLS_KIB: Final = 64.0


def verdicts(results: Sequence[Result]) -> list[str]:
    """Each promise with what was measured, in the same run; empty without haproxy."""
    lines = []
    for tls in (False, True):
        rows = {row.path: row for row in results if row.tls == tls}
        ours, theirs = rows.get(CAUSEWAY), rows.get(HAPROXY)
        if ours is None or theirs is None:
            continue
        side = "TLS" if tls else "plaintext"
        for name, bound, is_kept in (
            *((name, bound, float.__le__) for name, bound in _AT_MOST.items()),
            *((name, bound, float.__ge__) for name, bound in _AT_LEAST.items()),
        ):
            own, other = getattr(ours, name), getattr(theirs, name)
            share = own / other if other else float("inf")
            sign = "<=" if name in _AT_MOST else ">="
            missed = _missed(is_kept(share, bound))
            lines.append(f"{side} {name}: {share:.2f} of haproxy's, wanted {sign} {bound}{missed}")
        lines.append(
            f"{side} added p99: {ours.added_p99_ms:.2f} ms, wanted <= {_MOST_ADDED_P99_MS}"
            f"{_missed(ours.added_p99_ms <= _MOST_ADDED_P99_MS)}"
        )
        idle = ours.rss_kib_per_connection
        if tls and idle is not None:
            lines.append(
                f"{side} idle connection: {idle:.0f} KiB, wanted <= {_MOST_IDLE_TLS_KIB:.0f}"
                f"{_missed(idle <= _MOST_IDLE_TLS_KIB)}"
            )
    return lines


# Of what the same gateway does without ACLs, at least.
_WITH_ACLS: Final = {"produce_mb_per_s": 0.97, "consume_mb_per_s": 0.97, "rpc_per_s": 0.95}


def acl_verdicts(results: Sequence[Result]) -> list[str]:
    """What a thousand ACLs cost, in the same run."""
    rows = {row.path: row for row in results if not row.tls}
    without, with_acls = rows[CAUSEWAY], rows[CAUSEWAY_ACLS]
    lines = []
    for name, bound in _WITH_ACLS.items():
        share = getattr(with_acls, name) / getattr(without, name)
        lines.append(f"ACLs {name}: {share:.3f} of without, wanted >= {bound}{_missed(share >= bound)}")
    cost = (with_acls.cpu_us_per_rpc or 0) - (without.cpu_us_per_rpc or 0)
    return [*lines, f"ACLs processor time per request: {cost:+.1f} µs"]


def _missed(kept: bool) -> str:
    return "" if kept else "  MISSED"


def write(results: Sequence[Result], file: Path) -> None:
    """Writes the results as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([asdict(row) for row in results], indent=2) + "\n")


def opponents(file: str | None) -> tuple[Proxy, ...]:
    """haproxy, and the proxies of a file; ProxyUnavailable, ValueError, OSError."""
    return (haproxy(), *(read_proxies(Path(file)) if file else ()))


def run(size: Size, proxies: Sequence[Proxy]) -> list[Result]:
    """Measures everything."""
    # Only brokers of our own can be given their JVM's options.
    os.environ["CAUSEWAY_KAFKA"] = "local"
    with ClientRig(proxies) as rig:
        print(f"1-minute load before the first round: {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        return measure(rig, size)


def main() -> int:
    """Measures, prints, writes the results."""
    parser = argparse.ArgumentParser(description="Measures the client path on this machine.")
    parser.add_argument("--rounds", type=int, default=Size.rounds, help="how many count")
    parser.add_argument("--megabytes", type=int, default=Size.megabytes, help="per round and case")
    parser.add_argument("--rpc-seconds", type=float, default=Size.rpc_s, help="of single requests per round")
    parser.add_argument("--connections", type=int, default=Size.connections, help="idle ones")
    parser.add_argument(
        "--proxies",
        default=os.environ.get(PROXIES_VARIABLE),
        help=f"a YAML file that names further proxies, see bench/proxies.py (default: ${PROXIES_VARIABLE})",
    )
    wanted = parser.parse_args()
    try:
        proxies = opponents(wanted.proxies)
    except (ProxyUnavailable, ValueError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    size = Size(
        rounds=wanted.rounds,
        megabytes=wanted.megabytes,
        rpc_s=wanted.rpc_seconds,
        connections=wanted.connections,
    )
    results = run(size, proxies)
    write(results, RESULTS_FILE)
    print(f"\n{table(results)}\n")
    print("\n".join((*verdicts(results), *acl_verdicts(results))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
