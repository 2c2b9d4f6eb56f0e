"""Moving consumers: what a link's groups have done on either side, and groups that go on here from now on.

A move is for a group that has stopped at the source: what it committed there last is committed here, and the
group is local from then on. Nothing is taken over for it again, until the link is told to follow it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.links import errors
from gateway.links.board import TRANSPORT_ERRORS
from gateway.links.errors import LinkError
from gateway.links.group_filters import NameFilters
from gateway.links.link_tasks import config_of
from gateway.links.local_groups import LocalGroups, local_group
from gateway.links.offset_plan import Place
from gateway.links.offset_sync import FILTERS, GROUPS_AT_ONCE, ConsumerOffsetSync, groups_of, prefix_of
from gateway.links.runtime import LinkRuntime
from gateway.state.records import GroupRecord, LocalReason
from gateway.state.store import StateUnavailable
from gateway.upstreams.groups import (
    Committed,
    Group,
    GroupMember,
    TopicPartition,
    describe_members,
    fetch_offsets,
)

_REFUSED: Final = 400
_REASONS: Final[Mapping[LocalReason, str]] = {
    LocalReason.COMMITTED: "it has committed offsets here",
    LocalReason.MEMBERS: "it was seen with members here",
    LocalReason.MOVED: "it was moved here",
}


@dataclass(frozen=True, slots=True)
class GroupPartition:
    """A group's position in a mirrored partition; -1 where there is none, None where it is not known."""

    topic: str
    partition: int
    source_offset: int
    source_end: int | None
    mirror_end: int

    @property
    def lag(self) -> int | None:
        """Records at the source that the group has not read."""
        return None if self.source_end is None else max(0, self.source_end - self.source_offset)

    @property
    def missing(self) -> int:
        """Records that the group has read at the source and that are not here yet."""
        return max(0, self.source_offset - self.mirror_end)


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group of a link's source as it stands; `mirror_group` is its name here."""

    group: str
    mirror_group: str
    source_state: str
    source_members: Sequence[GroupMember]
    has_source_members: bool
    partitions: Sequence[GroupPartition] = ()
    # Topics in which it has positions that this link does not take over.
    other_topics: Sequence[str] = ()
    included: bool = True
    local: GroupRecord | None = None


@dataclass(frozen=True, slots=True)
class MoveResult:
    """What became of a wish for one group; no error code means done. `retriable`: time may mend it."""

    group: str
    mirror_group: str
    error_code: int | None = None
    error_message: str | None = None
    retriable: bool = False
    partitions: Sequence[GroupPartition] = field(default_factory=tuple)


class GroupMoves:
    """The groups of the links of this gateway. Every method may raise LinkError."""

    def __init__(self, runtimes: Mapping[str, LinkRuntime], local: LocalGroups) -> None:
        self._runtimes = runtimes
        self._local = local

    async def groups(self, link_name: str, names: Sequence[str] | None = None) -> list[GroupView]:
        """Groups with positions in mirrored topics: those of the link's filters, or these."""
        runtime, sync = self._sync_of(link_name)
        try:
            return await self._look(runtime, sync, names)
        except TRANSPORT_ERRORS as error:
            raise _unreachable(error) from error

    async def _look(
        self, runtime: LinkRuntime, sync: ConsumerOffsetSync, names: Sequence[str] | None
    ) -> list[GroupView]:
        config = config_of(runtime.record)
        filters = NameFilters.parse(config.text(FILTERS) or "")
        prefix = prefix_of(config)
        places = await sync.places()
        listed = await groups_of(sync.source)
        if listed.errors and not listed.by_name:
            raise errors.state_unavailable(f"The source's groups: {listed.errors[0].error_message}")
        wanted = [
            group
            for group in listed.by_name.values()
            if (filters.includes(group.name) if names is None else group.name in names)
            and group.commits_offsets
        ]
        views = []
        for group, committed, members in await _positions(sync, wanted):
            partitions = _partitions(committed, places, runtime)
            if not partitions and names is None:
                continue
            topics = {topic for topic, _ in committed} - {topic for topic, _ in places}
            views.append(
                GroupView(
                    group.name,
                    prefix + group.name,
                    group.state or ("Stable" if members else "Empty"),
                    members,
                    group.has_members or bool(members),
                    partitions,
                    sorted(topics),
                    filters.includes(group.name),
                    self._local.find(sync.cluster_link_id, prefix + group.name),
                )
            )
        return sorted(views, key=lambda view: view.group)

    async def move(self, link_name: str, names: Sequence[str], *, validate_only: bool) -> list[MoveResult]:
        """Take over what these groups committed last, and leave them to themselves from now on."""
        runtime, sync = self._sync_of(link_name)
        try:
            async with sync.turn:
                return [await self._move(runtime, sync, name, validate_only) for name in dict.fromkeys(names)]
        except StateUnavailable as error:
            raise errors.state_unavailable(str(error)) from error
        except TRANSPORT_ERRORS as error:
            raise _unreachable(error) from error

    async def _move(
        self, runtime: LinkRuntime, sync: ConsumerOffsetSync, name: str, validate_only: bool
    ) -> MoveResult:
        mirror_name = prefix_of(config_of(runtime.record)) + name
        view = next(iter(await self._look(runtime, sync, [name])), None)

        def refused(text: str, *, retriable: bool = False) -> MoveResult:
            partitions = view.partitions if view is not None else ()
            return MoveResult(name, mirror_name, _REFUSED, text, retriable, partitions)

        if view is None:
            return refused(
                f"Group '{name}' is not at the source, or the link's principal may not DESCRIBE it there."
            )
        if view.local is not None and view.local.reason is LocalReason.MOVED:
            return MoveResult(name, mirror_name, partitions=view.partitions)
        if (problem := _obstacle(view)) is not None:
            return refused(problem[0], retriable=problem[1])
        here = await groups_of(sync.destination)
        if mirror_name in here.by_name and here.by_name[mirror_name].has_members:
            return refused(f"Group '{mirror_name}' has members here already.")
        if validate_only:
            return MoveResult(name, mirror_name, partitions=view.partitions)
        listed = await groups_of(sync.source)
        group = listed.by_name.get(name)
        synced = await sync.sync(
            [group] if group is not None else [],
            mirror_name.removesuffix(name),
            await sync.places(),
            here,
            whole=True,
        )
        if synced.errors:
            return refused(synced.errors[0].error_message, retriable=True)
        if self._local.find(sync.cluster_link_id, mirror_name) is not None:
            return refused(f"Group '{mirror_name}' has begun to work here meanwhile.")
        if synced.ahead:
            return refused(f"Group '{mirror_name}' is further here than at the source: reset one of them.")
        # Whoever has come back to the source since would go on there, unnoticed.
        after = next(iter(await self._look(runtime, sync, [name])), None)
        if after is None or after.has_source_members or not _same(after, view):
            return refused(f"Group '{name}' has gone on at the source meanwhile.", retriable=True)
        await self._local.mark([local_group(sync.cluster_link_id, mirror_name, LocalReason.MOVED)])
        return MoveResult(name, mirror_name, partitions=after.partitions)

    async def follow(self, link_name: str, names: Sequence[str]) -> list[MoveResult]:
        """Have the link take over these groups, named as at the source, again."""
        runtime, sync = self._sync_of(link_name)
        prefix = prefix_of(config_of(runtime.record))
        found = {name: self._local.find(sync.cluster_link_id, prefix + name) for name in dict.fromkeys(names)}
        try:
            await self._local.forget([record for record in found.values() if record is not None])
        except StateUnavailable as error:
            raise errors.state_unavailable(str(error)) from error
        for task in runtime.link_tasks:
            if task.name == sync.name:
                task.wake()
        return [
            MoveResult(name, prefix + name)
            if record is not None
            else MoveResult(name, prefix + name, _REFUSED, f"Group '{prefix + name}' is not local here.")
            for name, record in found.items()
        ]

    def _sync_of(self, link_name: str) -> tuple[LinkRuntime, ConsumerOffsetSync]:
        runtime = self._runtimes.get(link_name)
        if runtime is None:
            raise errors.link_not_found(link_name)
        if runtime.offset_sync is None:
            raise errors.invalid_request(
                f"Cluster link '{link_name}' is the source half; groups are moved at the destination."
            )
        return runtime, runtime.offset_sync


def _obstacle(view: GroupView) -> tuple[str, bool] | None:
    """What keeps a group from being moved now, and whether time may mend it."""
    if view.local is not None:
        why = _REASONS[view.local.reason]
        return f"Group '{view.mirror_group}' goes on here already: {why}.", False
    if not view.partitions:
        return f"Group '{view.group}' has committed nothing of a mirrored topic at the source.", False
    if view.has_source_members:
        many = f"{len(view.source_members)} member(s)" if view.source_members else "members"
        return f"Group '{view.group}' still has {many} at the source: stop them first.", True
    behind = [p for p in view.partitions if p.missing]
    if behind:
        p = behind[0]
        text = (
            f"Mirror topic '{p.topic}' has to catch up: partition {p.partition} ends at {p.mirror_end} here, "
            f"group '{view.group}' is at {p.source_offset}."
        )
        return text, True
    return None


def _same(after: GroupView, before: GroupView) -> bool:
    def offsets(view: GroupView) -> dict[tuple[str, int], int]:
        return {(p.topic, p.partition): p.source_offset for p in view.partitions}

    return offsets(after) == offsets(before)


async def _positions(
    sync: ConsumerOffsetSync, groups: Iterable[Group]
) -> list[tuple[Group, Mapping[TopicPartition, Committed], Sequence[GroupMember]]]:
    by_node: dict[int, list[Group]] = defaultdict(list)
    for group in groups:
        by_node[group.node_id].append(group)
    found: list[tuple[Group, Mapping[TopicPartition, Committed], Sequence[GroupMember]]] = []
    for node_id, coordinated in by_node.items():
        for first in range(0, len(coordinated), GROUPS_AT_ONCE):
            chunk = coordinated[first : first + GROUPS_AT_ONCE]
            answers = await fetch_offsets(sync.source, node_id, [group.name for group in chunk])
            # Brokers of old times do not list states.
            asked = [group.name for group in chunk if group.has_members or not group.state]
            members = await describe_members(sync.source, node_id, asked) if asked else {}
            for group in chunk:
                answer = answers.get(group.name)
                if answer is not None and not answer.error_code:
                    found.append((group, answer.offsets, members.get(group.name, [])))
    return found


def _partitions(
    committed: Mapping[TopicPartition, Committed],
    places: Mapping[TopicPartition, Place],
    runtime: LinkRuntime,
) -> list[GroupPartition]:
    mirrors = runtime.replicator.mirrors if runtime.replicator is not None else {}
    found = []
    for where, position in sorted(committed.items()):
        place = places.get(where)
        if place is not None:
            mirror = mirrors.get(place.topic)
            end = mirror.partitions[place.partition].source_end if mirror is not None else None
            found.append(GroupPartition(place.topic, place.partition, position.offset, end, place.log_end))
    return found


def _unreachable(error: Exception) -> LinkError:
    return errors.state_unavailable(f"The source or the destination does not answer: {error}")
