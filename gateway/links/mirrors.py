"""The mirror topics of this gateway's links: shown, altered, and what their replicators report of them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from gateway.links import errors
from gateway.links.board import TRANSPORT_ERRORS
from gateway.links.errors import LinkError
from gateway.links.link_tasks import TIMEOUT_ERROR, UNREACHABLE_ERROR
from gateway.links.mirror_commands import MirrorCommands, as_seen
from gateway.links.mirror_making import TOPIC_SETTLE_S, UNKNOWN_TOPIC, MirrorMaker, known_configs, nobody_else
from gateway.links.mirror_notes import Change, MirrorNotes
from gateway.links.mirror_state import TRANSITIONS, Action
from gateway.links.partition import OpenTransaction
from gateway.links.requests import MirrorView, PartitionLag
from gateway.links.runtime import LinkRuntime
from gateway.links.topic_configs import promoted_configs
from gateway.state.records import (
    Delete,
    LinkRecord,
    MirrorRecord,
    MirrorStatus,
    MirrorTopicError,
    Record,
    State,
)
from gateway.state.store import StateUnavailable, Store
from gateway.tasks import Tasks
from gateway.upstreams.admin import alter_topic_configs
from gateway.upstreams.cluster import Cluster

log = structlog.get_logger(__name__)


class Mirrors(MirrorNotes):
    """All mirror topics of the fronted cluster. `follow` makes what runs follow a changed state."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        runtimes: Mapping[str, LinkRuntime],
        follow: Callable[[], Awaitable[None]],
        all_have_read: Callable[[], Awaitable[None]] = nobody_else,
    ) -> None:
        super().__init__(cluster, self.write)
        self._store = store
        self._runtimes = runtimes
        self._follow = follow
        self._maker = MirrorMaker(store, cluster, runtimes, self, all_have_read)
        self._tasks = Tasks("mirror topics")
        # Promote, fail over, pause or resume; one result per mirror topic.
        self.alter = MirrorCommands(store, runtimes, self).alter
        # Make a mirror topic; see that one is made whose record is there already.
        self.create = self._maker.create
        self.finish_creation = self._maker.finish_creation

    async def close(self) -> None:
        """Stop what is under way. Idempotent."""
        await self._maker.close()
        await self._tasks.close()

    def of(self, link: LinkRecord) -> list[MirrorRecord]:
        """The mirror topics of a link, by name."""
        mirrors = self._store.state.mirrors
        found = (mirrors[name] for name in sorted(mirrors))
        return [mirror for mirror in found if mirror.cluster_link_id == link.cluster_link_id]

    async def write(self, change: Change) -> None:
        """Write to the state, and have everything follow. LinkError if it cannot be written."""
        try:
            await self._store.update(change)
        except StateUnavailable as error:
            raise errors.state_unavailable(str(error)) from error
        await self._follow()

    def view(self, record: MirrorRecord) -> MirrorView:
        """A mirror topic as it stands."""
        runtime = self._runtimes.get(record.link_name)
        lags: list[PartitionLag] = []
        transactions: list[OpenTransaction] = []
        if runtime is not None and runtime.replicator is not None:
            mirror = runtime.replicator.mirrors.get(record.mirror_topic_name)
            for p in mirror.partitions if mirror is not None else ():
                fetched = -1 if p.source_end is None else p.fetch_offset
                lags.append(PartitionLag(p.index, p.lag, fetched))
                transactions += p.open_transactions
        return MirrorView(as_seen(record, runtime), lags, transactions)

    def forget(self, name: str) -> None:
        """A client deleted the topic: its record goes too, once the topic is gone."""
        self._tasks.spawn(self._forget(name), name=f"forget {name}")

    async def _forget(self, name: str) -> None:
        record = self._store.state.mirrors.get(name)
        deadline = time.monotonic() + TOPIC_SETTLE_S
        while record is not None and time.monotonic() < deadline:
            try:
                topic = (await self._cluster.metadata([name])).topics.get(name)
                if topic is None or topic.error_code == UNKNOWN_TOPIC or topic.topic_id != record.topic_id:
                    # Its status may have changed meanwhile, as its replicator misses the topic too.
                    await self.write(
                        lambda state: (
                            [Delete("mirror", name)] if _is_same(state.mirrors.get(name), record) else []
                        )
                    )
                    return
            except (LinkError, *TRANSPORT_ERRORS) as error:
                log.warning("mirror_topic_not_forgotten", topic=name, error=str(error))
            await asyncio.sleep(0.2)

    # What the replicators report.

    async def failed(self, mirror: MirrorRecord, error: MirrorTopicError, message: str) -> None:
        """A mirror cannot go on."""
        await self.change(
            mirror,
            lambda current: _is_possible(current.status, Action.FAIL),
            status=MirrorStatus.FAILED,
            error=error,
            error_message=message,
            state_time_ms=_now_ms(),
        )

    async def stopping_at(self, mirror: MirrorRecord, stop_offsets: Mapping[int, int]) -> None:
        """The end of a mirror is decided; of no use if a promote became a failover meanwhile."""
        wish = (mirror.status, mirror.failover, mirror.stop_offsets)
        await self.change(
            mirror,
            lambda current: (current.status, current.failover, current.stop_offsets) == wish,
            stop_offsets=dict(stop_offsets),
        )

    async def stopped(self, mirror: MirrorRecord, stop_offsets: Mapping[int, int]) -> None:
        """The barriers are written, there: give the topic its own configs, and let clients write."""
        if not mirror.failover:
            await self._sync_once_more(mirror)
        # As the last sync has left it.
        record = self._store.state.mirrors.get(mirror.mirror_topic_name)
        if record is None or not _is_same(record, mirror):
            record = mirror
        configs = promoted_configs(record, await known_configs(self._cluster))
        await alter_topic_configs(self._cluster, mirror.mirror_topic_name, configs)
        await self.change(
            mirror,
            lambda current: _is_possible(current.status, Action.FINISH),
            status=MirrorStatus.STOPPED,
            stop_offsets=dict(stop_offsets),
            state_time_ms=_now_ms(),
        )

    async def _sync_once_more(self, mirror: MirrorRecord) -> None:
        """What follows the data is to be as it is at the source; LinkError if that is away."""
        runtime = self._runtimes.get(mirror.link_name)
        for error in await runtime.last_syncs() if runtime is not None else ():
            if error.error_code in (UNREACHABLE_ERROR, TIMEOUT_ERROR):
                raise errors.state_unavailable(f"the last sync before the promote: {error.error_message}")
            # Waiting changes nothing about these, and the task has been showing them.
            log.warning(
                "promoted_without_sync",
                topic=mirror.mirror_topic_name,
                code=error.error_code,
                error=error.error_message,
            )

    async def change(
        self, mirror: MirrorRecord, when: Callable[[MirrorRecord], bool], **update: object
    ) -> bool:
        """Change the record of this mirror as it now is, if it is that mirror's and `when` holds."""
        name, changed = mirror.mirror_topic_name, False

        def change(state: State) -> list[Record | Delete]:
            nonlocal changed
            current = state.mirrors.get(name)
            changed = current is not None and _is_same(current, mirror) and when(current)
            return [current.model_copy(update=update)] if current is not None and changed else []

        await self.write(change)
        return changed


def _is_same(current: MirrorRecord | None, mirror: MirrorRecord) -> bool:
    """Whether the record is of that mirror, and not of a later one under its name."""
    return current is not None and current.producer_id == mirror.producer_id


def _is_possible(status: MirrorStatus, action: Action) -> bool:
    return action in TRANSITIONS[status]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
