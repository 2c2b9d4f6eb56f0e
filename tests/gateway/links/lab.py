"""A link's loops between two clusters of fakes, with what they report kept for the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.links import (
    appender,
    attach,
    board,
    fetcher,
    leaders,
    log_check,
    log_starts,
    open_transactions,
    replicator,
)
from gateway.links.board import Board
from gateway.links.lease import Unlimited
from gateway.links.mirror_notes import Note
from gateway.links.partition import MirrorPartition, Phase
from gateway.links.replicator import Replicator
from gateway.links.work_plan import EVERYTHING
from gateway.state.records import MirrorRecord, MirrorTopicError
from gateway.tasks import Tasks
from gateway.upstreams import parked
from gateway.upstreams.cluster import Cluster, DialConnector
from gateway.upstreams.dialer import Security
from protocol.record_batches import BatchView
from protocol.records import Record, iterate_records
from tests.fakes.kafka import FakeKafka, Log

KEY = bytes(range(16))
PID = 4711


def record(name: str = "t", partitions: int = 1, **changes: Any) -> MirrorRecord:
    """A mirror topic's record that says that it is at work."""
    base = MirrorRecord(
        link_name="l",
        cluster_link_id="x",
        filler_key=KEY,
        mirror_topic_name=name,
        source_topic_name=name,
        num_partitions=partitions,
        producer_id=PID,
        state_time_ms=0,
    )
    return base.model_copy(update=changes)


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Returns when the condition holds; TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


def cluster_of(*brokers: FakeKafka, **settings: Any) -> Cluster:
    """A client of these brokers."""
    return Cluster(DialConnector([b.bootstrap for b in brokers], Security(), connect_timeout_s=5, **settings))


class Events:
    """What a replicator reports, as the state would have it; `failures` are raised first."""

    def __init__(self) -> None:
        self.records: dict[str, MirrorRecord] = {}
        self.failures: list[Exception] = []
        self.told: list[tuple[str, Any]] = []
        self.changed: Callable[[], None] = lambda: None

    def _take(self, name: str, what: str, value: Any, **update: Any) -> None:
        if self.failures:
            raise self.failures.pop(0)
        if what != "noted":
            self.told.append((what, value))
        self.records[name] = self.records[name].model_copy(update=update)
        self.changed()

    async def failed(self, record: MirrorRecord, error: MirrorTopicError, message: str) -> None:
        self._take(record.mirror_topic_name, "failed", (error, message), status="FAILED")

    async def stopping_at(self, record: MirrorRecord, stop_offsets: Mapping[int, int]) -> None:
        self._take(record.mirror_topic_name, "stopping", stop_offsets, stop_offsets=dict(stop_offsets))

    async def stopped(self, record: MirrorRecord, stop_offsets: Mapping[int, int]) -> None:
        self._take(
            record.mirror_topic_name,
            "stopped",
            stop_offsets,
            status="STOPPED",
            stop_offsets=dict(stop_offsets),
        )

    async def noted(self, notes: Sequence[Note]) -> None:
        for note in notes:
            name = note.mirror.mirror_topic_name
            if note.log_starts:
                self.told.append(("starts", note.log_starts))
            self._take(name, "noted", note, **dict(note.applied_to(self.records[name])))

    async def grown(self, record: MirrorRecord, count: int) -> None:
        self._take(record.mirror_topic_name, "grown", count, num_partitions=count)

    async def compact(self, record: MirrorRecord, source: Cluster) -> None:
        self._take(record.mirror_topic_name, "compact", source.cluster_id, compacted=True)

    async def keep(self, record: MirrorRecord) -> None:
        self._take(record.mirror_topic_name, "keep", None, compacted=False)


@dataclass
class LinkLab:
    """Two brokers, a board and what works on it."""

    source: FakeKafka
    destination: FakeKafka
    from_source: Cluster
    to_destination: Cluster
    board: Board
    tasks: Tasks
    events: Events
    replicator: Replicator

    def mirror(self, name: str = "t", partitions: int = 1, **changes: Any) -> list[Log]:
        """Makes a topic on both sides and has the link mirror it; the source's logs."""
        here = self.source.topics.get(name) or self.source.create(name, partitions)
        there = self.destination.topics.get(name) or self.destination.create(name, partitions)
        ids = {"source_topic_id": here.topic_id, "topic_id": there.topic_id}
        self.events.records[name] = record(name, partitions, **{**ids, **changes})
        self.update()
        return here.logs

    def alter(self, name: str = "t", **changes: Any) -> None:
        """Changes a mirror's record."""
        self.events.records[name] = self.events.records[name].model_copy(update=changes)
        self.update()

    def update(self) -> None:
        """The state has changed."""
        records = list(self.events.records.values())
        self.board.update(records)
        self.replicator.update(records)

    def run(self) -> None:
        """Starts the whole replicator."""
        self.tasks.spawn(self.replicator.run(), name="replicator")

    def partition(self, name: str = "t", index: int = 0) -> MirrorPartition:
        """A partition of the replicator."""
        return self.replicator.mirrors[name].partitions[index]

    def on_board(self, name: str = "t", index: int = 0) -> MirrorPartition:
        """A partition on the board of single loops, led by broker 1 on both sides."""
        p = self.board.mirrors[name].partitions[index]
        if p.source_leader is None:
            p.source_leader = p.destination_leader = 1
            self.board.index()
        return p

    def log(self, name: str = "t", index: int = 0) -> Log:
        """The destination's log."""
        return self.destination.topics[name].logs[index]

    async def mirrored(self, name: str = "t") -> None:
        """Returns when the mirror's logs end where the source's do."""
        pairs = list(zip(self.source.topics[name].logs, self.destination.topics[name].logs, strict=True))
        await until(lambda: all(there.end == here.end for here, there in pairs))

    async def failure(self) -> tuple[MirrorTopicError, str]:
        """What the mirror failed for, on the board of single loops."""
        mirror = next(iter(self.board.mirrors.values()))
        await until(lambda: mirror.failure is not None)
        assert mirror.failure is not None
        assert all(p.phase is Phase.FAILED for p in mirror.partitions)
        return mirror.failure


def contents(log: Log) -> list[Record]:
    """Every record of a log."""
    return [each for batch in log.views() for each in iterate_records(batch)]


def view(data: bytes | bytearray | memoryview) -> BatchView:
    """The only batch in some bytes."""
    return BatchView(memoryview(data), 0)


@asynccontextmanager
async def link_lab(
    *, source: FakeKafka | None = None, destination: FakeKafka | None = None
) -> AsyncIterator[LinkLab]:
    """A lab that ends with everything closed."""
    here = source or FakeKafka(cluster_id="here")
    there = destination or FakeKafka(cluster_id="there")
    await here.start()
    await there.start()
    from_source, to_destination = cluster_of(here), cluster_of(there)
    events = Events()
    lab = LinkLab(
        here,
        there,
        from_source,
        to_destination,
        Board("l"),
        Tasks("lab"),
        events,
        Replicator("l", from_source, to_destination, KEY, events, Unlimited()),
    )
    await lab.replicator.hold(EVERYTHING.of("l"))
    events.changed = lab.update
    async with AsyncExitStack() as ending:
        for broker in (here, there):
            ending.push_async_callback(broker.close)
        for cluster in (from_source, to_destination):
            ending.push_async_callback(cluster.close)
        ending.push_async_callback(lab.tasks.close)
        yield lab


def hurry(monkeypatch: pytest.MonkeyPatch, **constants: float | tuple[float, ...]) -> None:
    """Gives waiting times of the link's modules other values."""
    for name, value in constants.items():
        modules = (
            appender,
            attach,
            board,
            fetcher,
            leaders,
            log_check,
            log_starts,
            open_transactions,
            parked,
            replicator,
        )
        having = [module for module in modules if hasattr(module, name)]
        assert having, name
        for module in having:
            monkeypatch.setattr(module, name, value)
