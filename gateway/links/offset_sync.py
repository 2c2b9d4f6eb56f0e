"""ConsumerOffsetSync: what groups have committed at a link's source is committed here, for mirror topics.

Read are the groups of every source broker and their stable offsets (KIP-447), many groups in one request.
Written is to groups here that are empty and not local, with leader epoch -1 and the source's metadata; a
broker refuses it where a group has members. A client that commits without ever joining is seen by its
gateway, which has the state say so first: the state is read to its end right before and right after each
commit. What was written over such a commit in between is put back, from what the state says of it.

At the source nothing is ever written; its coordinators are those that list a group.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import structlog
from kio.schema.errors import ErrorCode

from gateway import observe
from gateway.links.board import TRANSPORT_ERRORS
from gateway.links.configs import LinkConfig
from gateway.links.group_coordinators import MOVED, GroupCoordinators
from gateway.links.group_filters import NameFilters
from gateway.links.link_tasks import (
    AUTHORIZATION_ERROR,
    INTERNAL_ERROR,
    MISCONFIGURATION_ERROR,
    error_of,
)
from gateway.links.local_groups import SWITCH, LocalGroups, local_group
from gateway.links.mirror_places import places_of
from gateway.links.offset_plan import GroupPlan, Place, plan_group, wanted_offsets
from gateway.links.partition import Mirror
from gateway.links.requests import TaskError
from gateway.state.records import GroupRecord, LocalReason
from gateway.state.store import StateUnavailable, Store
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.errors import KafkaError
from gateway.upstreams.groups import (
    Committed,
    Group,
    GroupOffsets,
    TopicPartition,
    commit_offsets,
    fetch_offsets,
    list_groups,
)

FILTERS: Final = "consumer.offset.group.filters"
PREFIX_SWITCH: Final = "consumer.group.prefix.enable"
RESERVED: Final = "_causeway"
# Groups per request: an answer of a few thousand offsets holds up neither gateway for long.
GROUPS_AT_ONCE: Final = 50
COMMITS_AT_ONCE: Final = 8
STABLE_RETRY_S: Final = (0.1, 0.3)
# Every so often all is compared with the destination, not only what has changed at the source.
WHOLE_EVERY_RUNS: Final = 10

_GROUP_DENIED: Final = int(ErrorCode.group_authorization_failed)
# A broker's words for: this group has members.
_HAS_MEMBERS: Final = frozenset(
    {
        int(ErrorCode.unknown_member_id),
        int(ErrorCode.illegal_generation),
        int(ErrorCode.rebalance_in_progress),
        int(ErrorCode.stale_member_epoch),
        int(ErrorCode.fenced_member_epoch),
    }
)
# The mirror topic was deleted meanwhile.
_GONE: Final = frozenset({int(ErrorCode.unknown_topic_or_partition), int(ErrorCode.unknown_topic_id)})

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Synced:
    """What became of groups in one run, by their names here."""

    errors: list[TaskError] = field(default_factory=list)
    # What the source's groups have committed of mirrored partitions, by the groups' names here.
    wanted: dict[str, dict[TopicPartition, Committed]] = field(default_factory=dict)
    local: list[GroupRecord] = field(default_factory=list)
    ahead: set[str] = field(default_factory=set)
    unstable: set[str] = field(default_factory=set)
    committed: int = 0


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a cluster by name, and the brokers that did not say."""

    by_name: Mapping[str, Group]
    errors: Sequence[TaskError]


class ConsumerOffsetSync:
    """The offsets of one link. `mirrors` are its mirror topics as they are now."""

    name: Final = "ConsumerOffsetSync"
    interval_key: Final = "consumer.offset.sync.ms"

    def __init__(
        self,
        link_name: str,
        cluster_link_id: str,
        source: Cluster,
        destination: Cluster,
        store: Store,
        local: LocalGroups,
        mirrors: Callable[[], Iterable[Mirror]],
    ) -> None:
        self.link_name = link_name
        self.cluster_link_id = cluster_link_id
        self.source = source
        self.destination = destination
        self.local = local
        self._store = store
        self._mirrors = mirrors
        self._coordinators = GroupCoordinators(destination)
        # By group and mirror partition the offset that is known to be committed here by this link.
        self._written: dict[str, dict[TopicPartition, int]] = {}
        self._runs = 0
        # One at a time: a move of a group is between runs.
        self.turn = asyncio.Lock()

    # As the frame of tasks wants it.

    def is_on(self, config: LinkConfig) -> bool:
        """Whether `consumer.offset.sync.enable` is set."""
        return config.flag(SWITCH)

    def problems(self, config: LinkConfig) -> Sequence[TaskError]:
        """Filters that include nothing sync nothing: hardly what somebody wants who switches it on."""
        try:
            filters = NameFilters.parse(config.text(FILTERS) or "")
        except (ValueError, KeyError, TypeError):
            return [TaskError(MISCONFIGURATION_ERROR, f"{FILTERS} cannot be read")]
        if filters.includes_nothing:
            text = f"{SWITCH} is set, but {FILTERS} includes no group: no offsets are synced"
            return [TaskError(MISCONFIGURATION_ERROR, text)]
        if config.flag(PREFIX_SWITCH) and not config.prefix:
            text = f"{PREFIX_SWITCH} is set, but the link has no cluster.link.prefix"
            return [TaskError(MISCONFIGURATION_ERROR, text)]
        return ()

    async def run(self, config: LinkConfig) -> Sequence[TaskError]:
        """Sync every group that the filters include."""
        async with self.turn:
            filters = NameFilters.parse(config.text(FILTERS) or "")
            places = await self.places()
            if not places:
                return ()
            listed = await groups_of(self.source)
            wanted = [
                group
                for group in listed.by_name.values()
                if group.name and group.commits_offsets and filters.includes(group.name)
            ]
            here = await groups_of(self.destination)
            self._runs += 1
            whole = self._runs % WHOLE_EVERY_RUNS == 1
            synced = await self.sync(wanted, prefix_of(config), places, here, whole=whole)
            errors = [*listed.errors, *here.errors, *synced.errors]
            if not listed.by_name and not errors:
                errors = await self._probe(filters)
            if whole and not here.errors:
                await self._forget_gone(here)
            observe.groups_synced.labels(self.link_name).set(len(synced.wanted))
            observe.groups_local.labels(self.link_name).set(len(self.local.of(self.cluster_link_id)))
            observe.groups_ahead.labels(self.link_name).set(len(synced.ahead))
            return errors

    async def places(self) -> dict[TopicPartition, Place]:
        """What the link's mirrors hold, by the source's partitions."""
        return await places_of(self._mirrors(), self.destination)

    async def _probe(self, filters: NameFilters) -> list[TaskError]:
        """Brokers leave out what we may not describe: whether there is nothing, or nothing for us."""
        nodes = (await self.source.metadata([])).brokers
        names = [
            *sorted(filters.literals),
            *(f"{prefix}causeway-{uuid4().hex}" for prefix in filters.prefixes),
        ]
        for node_id in nodes:
            answers = await fetch_offsets(self.source, node_id, names[:GROUPS_AT_ONCE])
            denied = [name for name, found in answers.items() if found.error_code == _GROUP_DENIED]
            if denied:
                shown = [name for name in denied if name in filters.literals] or ["the groups of the filters"]
                return [_denied(name) for name in shown]
            break
        return []

    async def _forget_gone(self, here: Groups) -> None:
        """A group that is gone here has left nothing to be protected: deleted offsets come back."""
        now_ms = local_group("", "", LocalReason.MEMBERS).since_ms
        gone = [
            record
            for record in self.local.of(self.cluster_link_id)
            if record.group not in here.by_name and now_ms - record.since_ms > _SETTLED_MS
        ]
        await self.local.forget(gone)

    # The work.

    async def sync(
        self,
        groups: Iterable[Group],
        prefix: str,
        places: Mapping[TopicPartition, Place],
        here: Groups,
        *,
        whole: bool,
    ) -> Synced:
        """Bring these groups of the source up to date here. `whole`: also what has not changed there."""
        synced = Synced()
        by_node: dict[int, list[str]] = defaultdict(list)
        for group in groups:
            if not group.name.startswith(RESERVED) and not (prefix + group.name).startswith(RESERVED):
                by_node[group.node_id].append(group.name)

        async def of_broker(node_id: int, names: list[str]) -> None:
            for first in range(0, len(names), GROUPS_AT_ONCE):
                chunk = names[first : first + GROUPS_AT_ONCE]
                try:
                    fetched = await self._fetch(node_id, chunk, synced)
                    await self._take_over(
                        {prefix + name: wanted_offsets(found, places) for name, found in fetched.items()},
                        here,
                        synced,
                        whole=whole,
                    )
                except (StateUnavailable, *TRANSPORT_ERRORS) as error:
                    synced.errors.append(error_of(error))

        async with asyncio.TaskGroup() as brokers:
            for node_id, names in by_node.items():
                brokers.create_task(of_broker(node_id, sorted(names)))
        if synced.local:
            await self.local.mark(synced.local)
        observe.group_offsets_committed.labels(self.link_name).inc(synced.committed)
        return synced

    async def _fetch(
        self, node_id: int, names: Sequence[str], synced: Synced
    ) -> dict[str, Mapping[TopicPartition, Committed]]:
        """The stable offsets of source groups. Unstable ones become stable as their transactions end."""
        answers = await fetch_offsets(self.source, node_id, names)
        for delay_s in STABLE_RETRY_S:
            unstable = [name for name, answer in answers.items() if answer.unstable]
            if not unstable:
                break
            await asyncio.sleep(delay_s)
            answers |= await fetch_offsets(self.source, node_id, unstable)
        found: dict[str, Mapping[TopicPartition, Committed]] = {}
        for name, answer in answers.items():
            if answer.error_code:
                synced.errors.append(_of_source(answer, name))
                continue
            if answer.unstable:
                synced.unstable.add(name)
            found[name] = answer.offsets
        return found

    async def _take_over(
        self,
        wanted: Mapping[str, dict[TopicPartition, Committed]],
        here: Groups,
        synced: Synced,
        *,
        whole: bool,
    ) -> None:
        """Commit for groups what their source has, where they are neither local nor up to date."""
        due: dict[str, dict[TopicPartition, Committed]] = {}
        for name, offsets in wanted.items():
            if not offsets:
                continue
            synced.wanted[name] = offsets
            if self.local.find(self.cluster_link_id, name) is not None:
                self._written.pop(name, None)
            elif name in here.by_name and here.by_name[name].has_members:
                self._goes_on_here(name, LocalReason.MEMBERS, synced)
            elif whole or not self._is_written(name, offsets):
                due[name] = offsets
        if not due:
            return
        by_node, failed = await self._coordinators.sort(due)
        synced.errors += [error_of(error) for error in failed.values()]
        for node_id, names in by_node.items():
            present = await fetch_offsets(self.destination, node_id, names)
            await self._commit(node_id, {name: due[name] for name in names}, present, synced)

    def _is_written(self, name: str, offsets: Mapping[TopicPartition, Committed]) -> bool:
        written = self._written.get(name, {})
        return all(written.get(where) == each.offset for where, each in offsets.items())

    def _goes_on_here(self, name: str, reason: LocalReason, synced: Synced) -> None:
        self._written.pop(name, None)
        synced.local.append(local_group(self.cluster_link_id, name, reason))
        log.info("group_is_local", link=self.link_name, group=name, reason=reason)

    async def _commit(
        self,
        node_id: int,
        due: Mapping[str, dict[TopicPartition, Committed]],
        present: Mapping[str, GroupOffsets],
        synced: Synced,
    ) -> None:
        plans: dict[str, GroupPlan] = {}
        for name, offsets in due.items():
            answer = present.get(name)
            if answer is None or answer.error_code:
                self._coordinators.forget([name])
                code = answer.error_code if answer is not None else int(ErrorCode.unknown_server_error)
                synced.errors.append(
                    error_of(KafkaError(code, f"OffsetFetch of group {name} at the destination"))
                )
                continue
            if answer.unstable & offsets.keys():
                # Somebody commits in a transaction right now, here.
                self._goes_on_here(name, LocalReason.COMMITTED, synced)
                continue
            plan = plan_group(offsets, answer.offsets, self._written.get(name, {}))
            if plan.foreign:
                self._goes_on_here(name, LocalReason.COMMITTED, synced)
                continue
            if plan.ahead:
                synced.ahead.add(name)
            self._written.setdefault(name, {}).update(plan.settled)
            if plan.commits:
                plans[name] = plan
        if not plans:
            return
        # Whoever has committed here through a gateway has had the state say so.
        await self._store.read_to_end()
        tried = {n: p for n, p in plans.items() if self.local.find(self.cluster_link_id, n) is None}
        at_once = asyncio.Semaphore(COMMITS_AT_ONCE)

        async def commit(name: str, plan: GroupPlan) -> None:
            async with at_once:
                await self._commit_one(node_id, name, plan.commits, synced)

        async with asyncio.TaskGroup() as commits:
            for name, plan in tried.items():
                commits.create_task(commit(name, plan))
        await self._store.read_to_end()
        for name, plan in tried.items():
            record = self.local.find(self.cluster_link_id, name)
            if record is not None:
                await self._put_back(node_id, record, plan.commits)

    async def _commit_one(
        self, node_id: int, name: str, commits: Mapping[TopicPartition, Committed], synced: Synced
    ) -> None:
        written = self._written.setdefault(name, {})
        for where in commits:
            # Whether a commit without an answer was made is not known.
            written.pop(where, None)
        try:
            refused = await commit_offsets(self.destination, node_id, name, commits)
        except TRANSPORT_ERRORS as error:
            self._coordinators.forget([name])
            synced.errors.append(error_of(error))
            return
        codes = set(refused.values())
        if codes & _HAS_MEMBERS:
            self._goes_on_here(name, LocalReason.MEMBERS, synced)
            return
        if codes & MOVED:
            self._coordinators.forget([name])
        done = {where: each.offset for where, each in commits.items() if where not in refused}
        written.update(done)
        synced.committed += len(done)
        for code in codes - _GONE:
            where = next(tp for tp, each in refused.items() if each == code)
            text = f"OffsetCommit of group {name} for {where[0]}-{where[1]} at the destination"
            synced.errors.append(error_of(KafkaError(code, text)))

    async def _put_back(
        self, node_id: int, record: GroupRecord, ours: Mapping[TopicPartition, Committed]
    ) -> None:
        """A client has committed between our two looks at the state: what it committed has to stand."""
        self._written.pop(record.group, None)
        theirs = {
            (topic, index): offset for topic, each in record.offsets.items() for index, offset in each.items()
        }
        found = (await fetch_offsets(self.destination, node_id, [record.group])).get(record.group)
        present = found.offsets if found is not None else {}
        lost = {
            where: Committed(offset)
            for where, offset in theirs.items()
            if where in ours and where in present and present[where].offset == ours[where].offset != offset
        }
        if lost:
            log.warning(
                "group_commit_put_back", link=self.link_name, group=record.group, partitions=len(lost)
            )
            await commit_offsets(self.destination, node_id, record.group, lost)


# A commit that the state announces may not have reached its broker yet.
_SETTLED_MS: Final = 600_000


def prefix_of(config: LinkConfig) -> str:
    """What comes before the names of the source's groups here."""
    return config.prefix if config.flag(PREFIX_SWITCH) else ""


async def groups_of(cluster: Cluster) -> Groups:
    """Every group that a broker lists to us."""
    nodes = list((await cluster.metadata([])).brokers)
    answers = await asyncio.gather(
        *(list_groups(cluster, node_id) for node_id in nodes), return_exceptions=True
    )
    groups: dict[str, Group] = {}
    errors = []
    for answer in answers:
        if isinstance(answer, TRANSPORT_ERRORS):
            errors.append(error_of(answer))
        elif isinstance(answer, BaseException):
            raise answer
        else:
            groups |= {group.name: group for group in answer}
    return Groups(groups, errors)


def _of_source(answer: GroupOffsets, name: str) -> TaskError:
    if answer.error_code == _GROUP_DENIED:
        return _denied(name)
    return TaskError(
        INTERNAL_ERROR, str(KafkaError(answer.error_code, f"OffsetFetch of group {name} at the source"))
    )


def _denied(name: str) -> TaskError:
    text = (
        f"the link's principal may not read the offsets of {name} at the source: it needs DESCRIBE on groups"
    )
    return TaskError(AUTHORIZATION_ERROR, text)
