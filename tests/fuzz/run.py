"""Fuzzes a gateway that runs as a process of its own, from both sides: `make fuzz`.

    FRAMES=1000000 SEED=1 SECONDS=0 python -m tests.fuzz.run

ends after so many mutated frames or, if SECONDS is given, that time, whichever comes first. Clients send
mutated requests; the broker behind the gateway answers with mutated responses. A find is an end of the
process, a batch that is not settled within a second, an error in the gateway's log, memory that grows, or a
healthy client beside it that is not served. Every find is written to `build/fuzz`, as a file that
`tests/fuzz/finds` takes as it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from compose.gateway_process import GatewayFailed, GatewayProcess
from compose.kafka import ROOT, KafkaCluster
from compose.ports import lease_ports
from tests.fuzz.attack import Attack, Tally
from tests.fuzz.cases import Case
from tests.fuzz.corpus import Corpus
from tests.fuzz.healthy import HealthyClient
from tests.fuzz.hostile_broker import Answers, HostileBroker

USER, PASSWORD = "alice", "alice-secret"
_OPEN_WORKERS: Final = 12
_SASL_WORKERS: Final = 4
_WATCH_S: Final = 0.25
_MOST_ABORTS: Final = 10
_WARM_UP_S: Final = 5.0
_WARM_UP_SHARE: Final = 0.2
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PLACE: Final = re.compile(r'File "[^"]*?((?:gateway|protocol)/[^"]*)", line (\d+)')
_PEER: Final = re.compile(r"127\.0\.0\.1:(\d+)")


@dataclass
class Result:
    """What a fuzz has done and found."""

    requests: int = 0
    responses: int = 0
    aborts: int = 0
    hangs: int = 0
    rss_growth_bytes: int = 0
    healthy_requests: int = 0
    healthy_failures: int = 0
    healthy_p99_ms: float = 0.0
    healthy_worst_ms: float = 0.0
    findings: int = 0
    seconds: float = 0.0
    slow_once: int = 0
    connections: int = 0

    @property
    def frames(self) -> int:
        """Mutated frames in both directions."""
        return self.requests + self.responses

    def line(self) -> str:
        """The last line of the output."""
        names = ("frames", "aborts", "hangs", "rss_growth_bytes", "healthy_requests", "findings")
        return " ".join(f"{name}={getattr(self, name)}" for name in names)

    def details(self) -> str:
        """The line before it."""
        return (
            f"{self.requests} requests on {self.connections} connections and {self.responses} responses "
            f"in {self.seconds:.0f} s ({self.frames / max(self.seconds, 1e-9):.0f}/s); the healthy client: "
            f"p99 {self.healthy_p99_ms:.0f} ms, worst {self.healthy_worst_ms:.0f} ms, "
            f"{self.healthy_failures} failures; {self.slow_once} batches were slow once"
        )


class Fuzz:
    """One run against a gateway in front of `kafka`."""

    def __init__(self, kafka: KafkaCluster, *, frames: int, seed: int, seconds: float = 0) -> None:
        self._kafka = kafka
        self._wanted_frames = frames
        self._seed = seed
        self._seconds = seconds
        self._until = float("inf")
        self._corpus = Corpus(seed)
        self._answers = Answers(self._corpus, seed)
        self._tally = Tally()
        self._result = Result()
        self._known: set[str] = set()
        self._log_at = 0
        self._rss: deque[tuple[float, int]] = deque()
        self._stopped = False
        self._attacks: list[Attack] = []

    async def run(self) -> Result:
        """Runs to its end."""
        topic = f"fuzz-{os.getpid()}-{time.monotonic_ns()}"
        await asyncio.to_thread(self._kafka.create_topic, topic)
        node = self._kafka.nodes[0]
        broker = HostileBroker((node.host, node.port), self._answers)
        await broker.start()
        # Each listener has a bootstrap port and one for the broker.
        lease = lease_ports(4)
        config = _config(broker.port, lease.ports)
        gateway = await asyncio.to_thread(GatewayProcess, config, name="fuzzed")
        began = time.monotonic()
        if self._seconds:
            self._until = began + self._seconds
        healthy = HealthyClient(("127.0.0.1", lease[3]), topic, user=USER, password=PASSWORD)
        try:
            healthy.start()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(gateway))
                for worker in range(_OPEN_WORKERS + _SASL_WORKERS):
                    sasl = worker >= _OPEN_WORKERS
                    port = lease[(2 if sasl else 0) + worker % 2]
                    attack = Attack(
                        self._corpus, self._seed, self._tally, self._found, self._going_on, port=port
                    )
                    self._attacks.append(attack)
                    group.create_task(attack.run(worker, (USER, PASSWORD) if sasl else None))
            await asyncio.to_thread(healthy.stop)
            self._read_log(gateway)
            if not gateway.is_ready():
                self._found("the gateway is not ready at the end", [])
        finally:
            await asyncio.to_thread(healthy.stop)
            gateway.close()
            await broker.close()
            lease.release()
        self._result.seconds = time.monotonic() - began
        return self._sum_up(healthy)

    def _going_on(self) -> bool:
        done = self._tally.requests + self._answers.made
        return not self._stopped and done < self._wanted_frames and time.monotonic() < self._until

    def _sum_up(self, healthy: HealthyClient) -> Result:
        result = self._result
        result.requests, result.responses = self._tally.requests, self._answers.made
        result.connections = self._tally.connections
        result.hangs, result.slow_once = self._tally.hangs, self._tally.slow_once
        result.rss_growth_bytes = self._growth()
        result.healthy_requests = len(healthy.latencies_s)
        result.healthy_failures = len(healthy.failures)
        result.healthy_p99_ms = healthy.percentile_ms(0.99)
        result.healthy_worst_ms = healthy.percentile_ms(1)
        for failure in healthy.failures[:5]:
            print(f"the healthy client: {failure}", flush=True)
        return result

    # --- watching ----------------------------------------------------------------------------------------

    async def _watch(self, gateway: GatewayProcess) -> None:
        began = time.monotonic()
        while self._going_on():
            await asyncio.sleep(_WATCH_S)
            if not gateway.running:
                self._result.aborts += 1
                batches = [frame for attack in self._attacks for frame in attack.under_way()]
                self._found(f"abort {self._result.aborts}", batches)
                print(gateway.log()[-2000:], flush=True)
                if self._result.aborts >= _MOST_ABORTS:
                    self._stopped = True
                    return
                try:
                    await asyncio.to_thread(gateway.start)
                except GatewayFailed as error:
                    print(error, flush=True)
                    self._stopped = True
                    return
            else:
                self._rss.append((time.monotonic() - began, _resident_bytes(gateway.pid)))
                self._read_log(gateway)

    def _growth(self) -> int:
        """Of the medians of the first and the last tenth after the time in which caches fill."""
        if not self._rss:
            return 0
        # Of a short run as long as it can spare, of a long one a tenth: rare messages are seen late.
        taken_s = self._rss[-1][0]
        warm_s = max(min(_WARM_UP_S, taken_s * _WARM_UP_SHARE), taken_s / 10)
        sizes = [size for at, size in self._rss if at >= warm_s]
        tenth = max(len(sizes) // 10, 1)
        return int(statistics.median(sizes[-tenth:]) - statistics.median(sizes[:tenth]))

    def _read_log(self, gateway: GatewayProcess) -> None:
        with gateway.log_file.open("rb") as file:
            file.seek(self._log_at)
            lines = file.read()
        complete = lines.rfind(b"\n") + 1
        self._log_at += complete
        for line in lines[:complete].splitlines():
            self._judge(line.decode(errors="replace"))

    def _judge(self, line: str) -> None:
        try:
            event: dict[str, Any] = json.loads(line)
        except ValueError:
            event = {"event": line}
        trace = str(event.get("exception", ""))
        what = trace.splitlines()[-1:] or [str(event.get("event"))]
        # Where it was raised, without what differs from one time to the next.
        places = _PLACE.findall(trace)
        kind = f"{re.sub(r'[0-9]+', 'n', what[0])[:100]} {places[-1:]}"
        if kind in self._known:
            return
        peer = _PEER.search(f"{event.get('peer')} {event.get('task')}")
        frames = [] if peer is None else self._frames_of(int(peer[1]))
        self._known.add(kind)
        self._found(f"error in the log: {kind}", frames)
        print(line.replace("\\n", "\n")[:4000], flush=True)

    def _frames_of(self, local_port: int) -> list[bytes]:
        for attack in self._attacks:
            if local_port in attack.recent:
                return attack.recent[local_port]
        return []

    def _found(self, what: str, frames: list[bytes]) -> None:
        self._result.findings += 1
        directory = ROOT / "build" / "fuzz"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self._seed}-{self._result.findings}.case"
        answers = [self._answers.to(frame[4:])[0] for frame in frames]
        path.write_text(Case(what, frames, answers).text())
        print(f"found: {what}; kept in {path}", flush=True)


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def _config(broker_port: int, ports: range) -> dict[str, Any]:
    common = {"bind": "127.0.0.1", "advertised_host": "localhost", "node_ids": "1", "insecure": True}
    return {
        "cluster": {"bootstrap_servers": [f"127.0.0.1:{broker_port}"]},
        "authorization": "none",
        "super_users": ["User:ANONYMOUS"],
        "users": [{"name": USER, "password": PASSWORD}],
        "listeners": [
            {"name": "open", "port": ports[0], "authentication": "none", **common},
            {"name": "sasl", "port": ports[2], "authentication": "sasl_plain", **common},
        ],
        "limits": {"authentication_failure_delay_ms": 1},
        "logging": {"level": "ERROR"},
    }


def fuzz(kafka: KafkaCluster, *, frames: int, seed: int, seconds: float = 0) -> Result:
    """Runs one fuzz in an event loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Fuzz(kafka, frames=frames, seed=seed, seconds=seconds).run())


def main() -> int:
    """Reads FRAMES, SEED and SECONDS from the environment; the exit code is 1 if anything was found."""
    frames = int(os.environ.get("FRAMES", "1000000"))
    seed = int(os.environ.get("SEED", "1"))
    seconds = float(os.environ.get("SECONDS", "0"))
    with KafkaCluster.start() as kafka:
        result = fuzz(kafka, frames=frames, seed=seed, seconds=seconds)
    print(result.details())
    print(result.line())
    return 1 if result.findings or result.aborts or result.hangs or result.healthy_failures else 0


if __name__ == "__main__":
    sys.exit(main())
