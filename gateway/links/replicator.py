"""Copies a link's mirror topics from source to destination, byte for byte and offset for offset.

Per source broker one loop fetches for all partitions that it leads (`fetcher`), per destination broker one
appends (`appender`) and one looks at the logs of partitions that are in doubt (`log_check`). One for all
deletes what the source has deleted (`log_starts`), and one looks at what other gateways copy (`elsewhere`).
Of a mirror topic as a whole it is the holder of partition 0 that takes care. What they share is on the
`board`. The only checkpoint is the destination's log.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from gateway.links.appender import Appender
from gateway.links.board import METADATA_INTERVAL_S, RETRY_DELAY_S, Board, wait_for
from gateway.links.elsewhere import Elsewhere
from gateway.links.fetcher import Fetcher
from gateway.links.leaders import Leaders
from gateway.links.lease import Lease
from gateway.links.log_check import LogCheck
from gateway.links.log_starts import LogStarts
from gateway.links.mirror_notes import Note
from gateway.links.open_transactions import OpenTransactions
from gateway.links.partition import Mirror, MirrorPartition, Phase
from gateway.links.requests import LinkErrorKind
from gateway.links.settings import LinkSettings
from gateway.links.sink import LATEST
from gateway.links.work_plan import Slots
from gateway.state.records import MirrorRecord, MirrorTopicError
from gateway.tasks import Tasks
from gateway.upstreams.admin import list_offsets
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.errors import ConnectFailed
from protocol.replication import READ_COMMITTED

LOOP_RETRY_S: Final = 1.0
# For how long what is under way to partitions that are not held any more may still be answered.
HANDOVER_PATIENCE_S: Final = 0.8
HANDOVER_POLL_S: Final = 0.01
SETTLE_RETRY_S: Final = 1.0
# A source may have become one that is not compacted.
COMPACT_RETRY_S: Final = 60.0


class MirrorEvents(Protocol):
    """What the owner of the state is told; each call returns when it was written, or raises.

    What is told of a record that has changed in what matters meanwhile is not written.
    """

    async def failed(self, mirror: MirrorRecord, error: MirrorTopicError, message: str) -> None: ...

    async def stopping_at(self, mirror: MirrorRecord, stop_offsets: Mapping[int, int]) -> None: ...

    async def stopped(self, mirror: MirrorRecord, stop_offsets: Mapping[int, int]) -> None: ...

    async def noted(self, notes: Sequence[Note]) -> None: ...

    async def grown(self, mirror: MirrorRecord, count: int) -> None: ...

    async def compact(self, mirror: MirrorRecord, source: Cluster) -> None: ...

    async def keep(self, mirror: MirrorRecord) -> None: ...


class Replicator:
    """The data path of one link on its destination. `update` says what to copy, `run` copies for ever."""

    def __init__(
        self,
        link_name: str,
        source: Cluster,
        destination: Cluster,
        filler_key: bytes,
        events: MirrorEvents,
        lease: Lease,
    ) -> None:
        self._source = source
        self._events = events
        self._board = Board(link_name, lease)
        self._board.hold(frozenset())
        self._fetcher = Fetcher(self._board, source)
        self._appender = Appender(self._board, destination, filler_key)
        self._log_check = LogCheck(self._board, destination)
        self._transactions = OpenTransactions(self._board, source)
        self._log_starts = LogStarts(self._board, destination, events.noted)
        self._tasks = Tasks(f"replicator of {link_name}")
        self._elsewhere = Elsewhere(self._board, source, destination)
        self._leaders = Leaders(self._board, source, destination, self._tasks)
        self._fetching: set[int] = set()
        self._appending: set[int] = set()

    @property
    def mirrors(self) -> Mapping[str, Mirror]:
        """The mirror topics of this link, by name."""
        return self._board.mirrors

    @property
    def source_down_since(self) -> float | None:
        """When the source stopped to answer, by `time.monotonic`; None while it answers."""
        return self._board.source_down_since

    @property
    def source_error(self) -> str | None:
        """Why the source does not answer."""
        return self._board.source_error

    @property
    def source_error_kind(self) -> LinkErrorKind:
        """The same in the contract's words."""
        return self._board.source_error_kind

    def update(self, records: Iterable[MirrorRecord], settings: LinkSettings | None = None) -> None:
        """Take over the mirror topics, and what the link's configs say, as they now stand in the state."""
        self._board.update(records, settings)

    async def hold(self, slots: Slots) -> None:
        """Work on the partitions in these slots; returns when nothing is sent to others any more."""
        board = self._board
        board.hold(slots)
        if not board.lease.valid:
            self._appender.abandon()
            return
        if not await self._is_let_go(HANDOVER_PATIENCE_S):
            self._appender.abandon()
            await self._is_let_go(HANDOVER_PATIENCE_S)

    async def _is_let_go(self, patience_s: float) -> bool:
        for _ in range(round(patience_s / HANDOVER_POLL_S)):
            if not self._board.letting_go:
                return True
            await asyncio.sleep(HANDOVER_POLL_S)
        return False

    async def run(self) -> None:
        """Copy until cancelled."""
        try:
            self._tasks.spawn(self._for_ever(self._log_starts.run), name="follow the logs' beginnings")
            self._tasks.spawn(self._for_ever(self._transactions.run), name="look for open transactions")
            self._tasks.spawn(self._for_ever(self._elsewhere.run), name="look at what others copy")
            await self._for_ever(self._direct)
        finally:
            await self._tasks.close()

    async def _direct(self) -> None:
        board = self._board
        while True:
            board.wake_metadata.clear()
            if any(mirror.running for mirror in board.mirrors.values()):
                await self._leaders.refresh()
                self._give_up()
                self._spawn_loops()
                self._settle()
                await asyncio.sleep(RETRY_DELAY_S)
            else:
                # Nobody asks it, so nobody knows.
                board.source_is_up()
            interval_s = min(METADATA_INTERVAL_S, board.settings.metadata_max_age_s)
            await wait_for(board.wake_metadata, interval_s)

    async def _for_ever(self, loop: Callable[[], Awaitable[None]]) -> None:
        # A loop that died of what nobody had thought of would stop its partitions without a word.
        while True:
            try:
                await loop()
            except Exception:
                self._board.log.exception("loop_failed")
            await asyncio.sleep(LOOP_RETRY_S)

    def _spawn_loops(self) -> None:
        for node_id in self._board.by_source.keys() - self._fetching:
            self._fetching.add(node_id)
            self._spawn(self._fetcher.run, node_id, "fetch from source broker")
        for node_id in self._board.by_destination.keys() - self._appending:
            self._appending.add(node_id)
            self._spawn(self._appender.run, node_id, "append at broker")
            self._spawn(self._appender.run_slow, node_id, "append slowly at broker")
            self._spawn(self._log_check.run, node_id, "look at logs of broker")

    def _spawn(self, loop: Callable[[int], Awaitable[None]], node_id: int, what: str) -> None:
        self._tasks.spawn(self._for_ever(lambda: loop(node_id)), name=f"{what} {node_id}")

    def _give_up(self) -> None:
        """Fail what the source has not given for longer than its link is to try (for ever if not said)."""
        timeout_s = self._board.settings.retry_timeout_s
        if timeout_s is None:
            return
        board, now = self._board, time.monotonic()
        for mirror in board.mirrors.values():
            down_since = board.source_down_since
            trouble = (
                mirror.source_trouble
                if down_since is None
                else (down_since, board.source_error or "no answer")
            )
            tried = mirror.running and not mirror.record.failover and mirror.failure is None
            if tried and trouble is not None and now - trouble[0] > timeout_s:
                text = (
                    f"the source was tried for {timeout_s:g} s (cluster.link.retry.timeout.ms), in vain: "
                    f"{trouble[1]}; delete and recreate the mirror topic, or fail it over with force"
                )
                board.fail(mirror, MirrorTopicError.UNKNOWN, text)

    # What is written to the state: where a mirror ends, when it has ended, how it changed.

    def _settle(self) -> None:
        for mirror in self._board.mirrors.values():
            if mirror.settling or not mirror.running:
                continue
            if mirror.failure is not None:
                self._own(mirror, self._report_failure, "fail")
            elif mirror.refuses_keyless and not mirror.stopping:
                self._own(mirror, self._keep, "stop compacting")
            elif not (mirror.kept and self._board.lease.valid):
                continue
            elif not mirror.stopping:
                self._tend(mirror)
            elif any(partition.stop_offset is None for partition in mirror.partitions):
                self._own(mirror, self._decide_end, "decide the end")
            elif all(partition.phase is Phase.DONE for partition in mirror.partitions):
                self._own(mirror, self._report_end, "stop")

    def _tend(self, mirror: Mirror) -> None:
        if (mirror.source_partitions or 0) > mirror.record.num_partitions:
            self._own(mirror, self._grow, "add partitions")
        elif mirror.to_be_compacted and time.monotonic() > mirror.compact_not_before:
            mirror.compact_not_before = time.monotonic() + COMPACT_RETRY_S
            self._own(mirror, self._compact, "compact")

    def _own(self, mirror: Mirror, work: Callable[[Mirror], Awaitable[None]], what: str) -> None:
        mirror.settling = True

        async def settle() -> None:
            try:
                await work(mirror)
            except Exception as error:  # noqa: BLE001 - whatever it was, it is tried again
                topic = mirror.record.mirror_topic_name
                self._board.log.warning("mirror_not_settled", topic=topic, wanted=what, error=str(error))
                await asyncio.sleep(SETTLE_RETRY_S)
            finally:
                mirror.settling = False
                self._board.wake_metadata.set()

        self._tasks.spawn(settle(), name=f"{what}: {mirror.record.mirror_topic_name}")

    async def _decide_end(self, mirror: Mirror) -> None:
        record = mirror.record
        # Those that have ended already did so for a promote that became a failover.
        known = all(p.known for p in mirror.partitions)
        if not known or (record.failover and any(p.sending is not None for p in mirror.partitions)):
            await asyncio.sleep(RETRY_DELAY_S)
            return
        ends = {p.index: p.position for p in mirror.partitions}
        if not record.failover:
            for p in mirror.partitions:
                ends[p.index] = await self._source_end(p)
        await self._events.stopping_at(record, ends)

    async def _source_end(self, p: MirrorPartition) -> int:
        record = p.mirror.record
        if p.source_leader is None:
            raise ConnectFailed(f"partition {p.index} of '{record.source_topic_name}' has no leader")
        key, position = (record.source_topic_name, p.index), p.position
        found = await list_offsets(self._source, p.source_leader, {key: LATEST}, isolation=READ_COMMITTED)
        if found[key] < position:
            # The fetcher finds out whether the source lost records or is only behind for a moment.
            raise ConnectFailed(
                f"partition {p.index} of '{record.source_topic_name}' ends at {found[key]} at the source, "
                f"behind the mirror's {position}"
            )
        return found[key]

    async def _grow(self, mirror: Mirror) -> None:
        await self._events.grown(mirror.record, mirror.source_partitions or 0)

    async def _compact(self, mirror: Mirror) -> None:
        await self._events.compact(mirror.record, self._source)

    async def _keep(self, mirror: Mirror) -> None:
        await self._events.keep(mirror.record)
        mirror.refuses_keyless = False

    async def _report_failure(self, mirror: Mirror) -> None:
        if mirror.failure is not None:
            await self._events.failed(mirror.record, *mirror.failure)

    async def _report_end(self, mirror: Mirror) -> None:
        # Where the barriers are: an append that was under way when the end was decided may be before them.
        await self._events.stopped(mirror.record, {p.index: p.position for p in mirror.partitions})
