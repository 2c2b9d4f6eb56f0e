"""Has the logs of mirror partitions begin where their sources' logs begin.

What the source no longer has is deleted from the mirror with DeleteRecords, the runway of a new mirror first
of all. Where a log begins is recorded before anything is deleted, for two reasons: what is below is not shown
to clients, also after a broker was killed and forgot it (it keeps that on disk once a minute), and a log that
was deleted to its end is recognised as this mirror's.
"""

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from gateway.links.board import TRANSPORT_ERRORS, Board, wait_for
from gateway.links.errors import LinkError
from gateway.links.mirror_notes import Note, payloads_of
from gateway.links.partition import MirrorPartition, Phase
from gateway.state.records import FillerPayload
from gateway.upstreams.admin import EARLIEST, delete_records, list_offsets
from gateway.upstreams.cluster import Cluster

INTERVAL_S: Final = 1.0
# How often brokers are asked whether they still know where logs begin.
REPAIR_INTERVAL_S: Final = 20.0


class LogStarts:
    """Follows the beginnings of a link's source logs."""

    def __init__(
        self, board: Board, destination: Cluster, note: Callable[[Sequence[Note]], Awaitable[None]]
    ) -> None:
        self._board = board
        self._destination = destination
        self._note = note
        self._asked = time.monotonic()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self._record()
                if time.monotonic() - self._asked > REPAIR_INTERVAL_S:
                    self._asked = time.monotonic()
                    await self._ask()
                await self._delete()
            except (LinkError, *TRANSPORT_ERRORS) as error:
                self._board.log.warning("log_starts_not_followed", error=str(error))
            await wait_for(self._board.wake_notes, INTERVAL_S)

    def _partitions(self) -> list[MirrorPartition]:
        """Those whose log was looked at, and may be changed."""
        if not self._board.lease.valid:
            return []
        mirrors = [m for m in self._board.mirrors.values() if m.running and m.failure is None]
        return [p for m in mirrors for p in m.partitions if p.held and p.phase is Phase.READY]

    async def _record(self) -> None:
        starts: dict[str, dict[int, int]] = defaultdict(dict)
        epochs: dict[str, dict[int, list[tuple[int, int]]]] = defaultdict(dict)
        payloads: dict[str, tuple[FillerPayload, ...]] = {}
        for p in self._partitions():
            # Never ahead of the mirror: what is not copied yet is filled up to there first.
            if p.log_start < p.source_start <= p.position and not p.mirror.stopping:
                starts[p.name[0]][p.index] = p.source_start
            if p.new_epochs:
                epochs[p.name[0]][p.index] = p.epochs_to_note()
            if p.wants_payloads:
                payloads[p.name[0]] = payloads_of(p.mirror.record.filler_key)
        notes = [
            Note(
                self._board.mirrors[name].record,
                starts.get(name, {}),
                epochs.get(name, {}),
                payloads.get(name, ()),
            )
            for name in starts.keys() | epochs.keys() | payloads.keys()
        ]
        if notes:
            await self._note(notes)

    async def _ask(self) -> None:
        by_leader: dict[int, dict[tuple[str, int], MirrorPartition]] = defaultdict(dict)
        for p in self._partitions():
            if p.log_start > 0 and p.destination_leader is not None:
                by_leader[p.destination_leader][p.name] = p
        for leader, partitions in by_leader.items():
            found = await list_offsets(self._destination, leader, dict.fromkeys(partitions, EARLIEST))
            for name, p in partitions.items():
                p.destination_start = found[name]

    async def _delete(self) -> None:
        by_leader: dict[int, dict[tuple[str, int], int]] = defaultdict(dict)
        for p in self._partitions():
            if p.destination_start < p.log_start <= p.position and p.destination_leader is not None:
                by_leader[p.destination_leader][p.name] = p.log_start
        for leader, offsets in by_leader.items():
            try:
                starts = await delete_records(self._destination, leader, offsets)
            except TRANSPORT_ERRORS as error:
                # What one broker or partition refuses, for a moment, does not hold up the others.
                self._board.log.warning("records_not_deleted", node_id=leader, error=str(error))
                continue
            for (name, index), start in starts.items():
                mirror = self._board.mirrors.get(name)
                if mirror is not None and index < len(mirror.partitions):
                    mirror.partitions[index].destination_start = start
