"""Looks at mirror partitions that other gateways work on: for the lags, and for the end of a promote.

Nothing is written here. A barrier at the end of a log says, as to whoever takes a partition over, that the
partition has ended.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from gateway.links.board import REQUEST_TIMEOUT_S, TRANSPORT_ERRORS, Board, drop
from gateway.links.partition import MirrorPartition, Phase
from gateway.links.sink import BARRIER_EPOCH, EARLIEST, LATEST, foreign_tail, log_end_offset, tail_batch
from gateway.upstreams.admin import list_offsets
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.connection import BrokerConnection
from protocol.replication import READ_COMMITTED, FetchTopic

INTERVAL_S: Final = 3.0
# While somebody waits for the end of a mirror.
STOPPING_INTERVAL_S: Final = 0.3

Wanted = dict[tuple[str, int], MirrorPartition]
ByLeader = dict[int, Wanted]


class Elsewhere:
    """Keeps what is known of partitions that are not held."""

    def __init__(self, board: Board, source: Cluster, destination: Cluster) -> None:
        self._board = board
        self._source = source
        self._destination = destination

    async def run(self) -> None:
        """Look until cancelled."""
        looked = float("-inf")
        while True:
            mirrors = [m for m in self._board.mirrors.values() if m.running]
            ending = [m for m in mirrors if m.kept and m.stopping]
            if time.monotonic() - looked >= INTERVAL_S:
                looked = time.monotonic()
                await self._look([p for m in mirrors if m not in ending for p in _others(m.partitions)])
            await self._look_for_ends([p for m in ending for p in _others(m.partitions)])
            await asyncio.sleep(STOPPING_INTERVAL_S)

    async def _look(self, partitions: list[MirrorPartition]) -> None:
        here: ByLeader = defaultdict(dict)
        there: ByLeader = defaultdict(dict)
        for p in partitions:
            if p.destination_leader is not None:
                here[p.destination_leader][p.name] = p
            if p.source_leader is not None:
                there[p.source_leader][p.mirror.record.source_topic_name, p.index] = p
        # What one broker does not say, for a moment, does not keep us from asking the others.
        for leader, wanted in here.items():
            with self._patience(leader):
                await self._look_here(leader, wanted)
        for leader, wanted in there.items():
            with self._patience(leader):
                await self._look_there(leader, wanted)

    @contextmanager
    def _patience(self, leader: int) -> Iterator[None]:
        try:
            yield
        except TRANSPORT_ERRORS as error:
            self._board.log.info("others_not_seen", node_id=leader, error=str(error))

    async def _look_here(self, leader: int, wanted: Wanted) -> None:
        ends = await list_offsets(self._destination, leader, dict.fromkeys(wanted, LATEST))
        for name, p in _still_others(wanted):
            p.position = p.fetch_offset = ends[name]
            p.seen = True
        begun = {name: p for name, p in wanted.items() if p.log_start > 0}
        if begun:
            starts = await list_offsets(self._destination, leader, dict.fromkeys(begun, EARLIEST))
            for name, p in _still_others(begun):
                p.destination_start = starts[name]

    async def _look_there(self, leader: int, wanted: Wanted) -> None:
        ends = await list_offsets(
            self._source, leader, dict.fromkeys(wanted, LATEST), isolation=READ_COMMITTED
        )
        for name, p in _still_others(wanted):
            p.source_ends_at(ends[name], ends[name], time.monotonic())

    async def _look_for_ends(self, partitions: list[MirrorPartition]) -> None:
        by_leader: ByLeader = defaultdict(dict)
        for p in partitions:
            if p.destination_leader is not None and p.phase is not Phase.DONE:
                by_leader[p.destination_leader][p.name] = p
        for leader, wanted in by_leader.items():
            with self._patience(leader):
                await self._look_for_ends_at(leader, wanted)
        if partitions and all(p.phase is Phase.DONE for p in partitions):
            self._board.wake_metadata.set()

    async def _look_for_ends_at(self, leader: int, wanted: Wanted) -> None:
        connection = await self._destination.connect(leader)
        try:
            for p in wanted.values():
                await self._look_for_end(connection, leader, p)
        finally:
            drop(connection)

    async def _look_for_end(self, connection: BrokerConnection, leader: int, p: MirrorPartition) -> None:
        record = p.mirror.record
        end, watermark = await log_end_offset(self._destination, leader, *p.name)
        if end != watermark:
            return
        batch = None
        if end > 0:
            topic = FetchTopic(record.mirror_topic_name, record.topic_id, [])
            batch = await tail_batch(connection, topic, p.index, end, timeout_s=REQUEST_TIMEOUT_S)
        if p.held:
            return
        p.position, p.seen = end, True
        ours = batch is not None and foreign_tail(batch, record.producer_id, end) is None
        if batch is not None and ours and batch.producer_epoch == BARRIER_EPOCH:
            p.position = end - 1
            p.phase = Phase.DONE


def _others(partitions: Iterable[MirrorPartition]) -> list[MirrorPartition]:
    return [p for p in partitions if not p.held]


def _still_others(wanted: Wanted) -> Iterable[tuple[tuple[str, int], MirrorPartition]]:
    """Those that this gateway has not got meanwhile."""
    return [(name, p) for name, p in wanted.items() if not p.held]
