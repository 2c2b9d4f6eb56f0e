"""Groups that go on here, and whose offsets a link therefore leaves alone: kept in the state.

A group is local once it has committed here, through any gateway, an offset of a mirror topic of a link that
takes over offsets; once it was seen with members; or once it was moved. Before a client's first such commit
goes to the broker the state says so: whoever takes over offsets reads the state to its end before it commits
(as `offset_sync` says), so that it cannot be unaware of what a client has committed.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from uuid import UUID

import structlog

from gateway.links.link_tasks import config_of
from gateway.state.records import (
    Delete,
    GroupRecord,
    LinkMode,
    LocalReason,
    MirrorRecord,
    MirrorStatus,
    Record,
    State,
    group_key,
)
from gateway.state.store import StateUnavailable, Store
from gateway.tasks import Tasks

# Clients can think of any number of groups; what is beyond is not protected, and the log says so.
MAX_PER_LINK: Final = 50_000
WRITE_TIMEOUT_S: Final = 10.0
SWITCH: Final = "consumer.offset.sync.enable"
_PREFIX_SWITCH: Final = "consumer.group.prefix.enable"

Offsets: TypeAlias = Mapping[str | UUID, Mapping[int, int]]

log = structlog.get_logger(__name__)


def takes_offsets(mirror: MirrorRecord) -> bool:
    """Whether the offsets of this mirror topic are its source's to set."""
    if mirror.status is MirrorStatus.PENDING_STOPPED:
        return not mirror.failover
    return mirror.topic_id is not None and mirror.status in (MirrorStatus.ACTIVE, MirrorStatus.PAUSED)


@dataclass(frozen=True, slots=True)
class _Watch:
    """A link that takes over offsets: the beginning of its groups' names here, its mirrors by name and id."""

    cluster_link_id: str
    prefix: str
    topics: Mapping[str | UUID, str]


@dataclass(slots=True)
class _Batch:
    """Records that are written together."""

    records: dict[str, GroupRecord] = field(default_factory=dict)
    writing: asyncio.Task[StateUnavailable | None] | None = None


class LocalGroups:
    """The local groups of all links of this cluster."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tasks = Tasks("local groups")
        self._seen: State | None = None
        self._watches: Sequence[_Watch] = ()
        self._batch: _Batch | None = None
        self._turn = asyncio.Lock()
        self._full: set[str] = set()

    async def close(self) -> None:
        """Stop writing. Idempotent."""
        await self._tasks.close()

    def find(self, cluster_link_id: str, group: str) -> GroupRecord | None:
        """What the state says of a group, named as here."""
        return self._store.state.groups.get(group_key(cluster_link_id, group))

    def of(self, cluster_link_id: str) -> list[GroupRecord]:
        """The local groups of a link."""
        return [g for g in self._store.state.groups.values() if g.cluster_link_id == cluster_link_id]

    @property
    def watching(self) -> bool:
        """Whether `before_commit` could have anything to do."""
        return bool(self._watched())

    def _watched(self) -> Sequence[_Watch]:
        state = self._store.state
        if state is not self._seen:
            self._seen, self._watches = state, _watches_of(state)
        return self._watches

    async def before_commit(self, group: str, offsets: Offsets) -> None:
        """Returns when the state says that a client of a gateway commits this. StateUnavailable."""
        found = []
        for watch in self._watched():
            if not group.startswith(watch.prefix) or self.find(watch.cluster_link_id, group) is not None:
                continue
            mirrored = {watch.topics[t]: dict(each) for t, each in offsets.items() if t in watch.topics}
            if mirrored:
                reason = LocalReason.COMMITTED
                found.append(local_group(watch.cluster_link_id, group, reason, mirrored))
        if found:
            await self.mark(found)

    async def mark(self, records: Iterable[GroupRecord]) -> None:
        """Keep these in the state, in one write with those of others. StateUnavailable."""
        batch = self._batch
        if batch is None:
            batch = self._batch = _Batch()
            batch.writing = self._tasks.spawn(self._write(batch), name="mark groups")
        for record in records:
            batch.records.setdefault(group_key(record.cluster_link_id, record.group), record)
        if batch.writing is None:
            raise RuntimeError("a batch is written by somebody")
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                # Others wait for it too, and it has to be known whether it was written.
                failure = await asyncio.shield(batch.writing)
        except TimeoutError:
            raise StateUnavailable(f"the state was not written within {WRITE_TIMEOUT_S:g} s") from None
        if failure is not None:
            raise failure

    async def _write(self, batch: _Batch) -> StateUnavailable | None:
        async with self._turn:
            self._batch = None
            try:
                await self._store.update(lambda state: self._new_in(state, batch))
            except StateUnavailable as error:
                return error
        return None

    def _new_in(self, state: State, batch: _Batch) -> list[Record | Delete]:
        links = {link.cluster_link_id for link in state.links.values()}
        counts: dict[str, int] = {}
        for known in state.groups.values():
            counts[known.cluster_link_id] = counts.get(known.cluster_link_id, 0) + 1
        new: list[Record | Delete] = []
        for key, record in batch.records.items():
            link_id = record.cluster_link_id
            if link_id not in links or key in state.groups:
                continue
            if counts.get(link_id, 0) >= MAX_PER_LINK:
                if link_id not in self._full:
                    self._full.add(link_id)
                    log.error("local_groups_full", cluster_link_id=link_id, limit=MAX_PER_LINK)
                continue
            counts[link_id] = counts.get(link_id, 0) + 1
            new.append(record)
        return new

    async def forget(self, records: Iterable[GroupRecord]) -> None:
        """The link may take over these groups again, if they are as given. StateUnavailable."""
        given = {group_key(record.cluster_link_id, record.group): record for record in records}

        def change(state: State) -> list[Record | Delete]:
            return [Delete("group", key) for key, record in given.items() if state.groups.get(key) == record]

        if given:
            await self._store.update(change)


def local_group(
    cluster_link_id: str,
    group: str,
    reason: LocalReason,
    offsets: Mapping[str, Mapping[int, int]] | None = None,
) -> GroupRecord:
    """A record as of now."""
    return GroupRecord(
        cluster_link_id=cluster_link_id,
        group=group,
        reason=reason,
        since_ms=time.time_ns() // 1_000_000,
        offsets={topic: dict(each) for topic, each in (offsets or {}).items()},
    )


def _watches_of(state: State) -> list[_Watch]:
    watches = []
    for link in state.links.values():
        config = config_of(link)
        if link.link_mode is LinkMode.SOURCE or not config.flag(SWITCH):
            continue
        topics: dict[str | UUID, str] = {}
        for mirror in state.mirrors.values():
            if mirror.cluster_link_id == link.cluster_link_id and takes_offsets(mirror):
                topics[mirror.mirror_topic_name] = mirror.mirror_topic_name
                if mirror.topic_id is not None:
                    topics[mirror.topic_id] = mirror.mirror_topic_name
        if topics:
            prefix = config.prefix if config.flag(_PREFIX_SWITCH) else ""
            watches.append(_Watch(link.cluster_link_id, prefix, topics))
    return watches
