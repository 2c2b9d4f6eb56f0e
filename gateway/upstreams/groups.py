"""Consumer groups of a cluster, as links need them: which there are, what they committed, commits for them.

Supports ListGroups 0 to 5 (KIP-518, KIP-848), OffsetFetch 2 to 9 (KIP-88, KIP-447, KIP-709), OffsetCommit
2 to 9 (KIP-98, KIP-320), FindCoordinator 1 to 6 (KIP-699) and DescribeGroups 0 to 5. Later versions of the
offset APIs name topics by ids, which is not what a link has. Each may raise what `Cluster` raises.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeAlias

from kio.schema.errors import ErrorCode

from gateway.upstreams.cluster import Cluster
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import KafkaError
from gateway.upstreams.metadata import nested_class
from protocol.api_keys import ApiKey
from protocol.messages import request_class

TopicPartition: TypeAlias = tuple[str, int]

_GROUP_KEY: Final = 0
_BATCHED_OFFSET_FETCH: Final = 8
_BATCHED_FIND_COORDINATOR: Final = 4
_REQUIRE_STABLE: Final = 7
_RETENTION_VERSIONS: Final = range(2, 5)
_BROKERS_RETENTION: Final = timedelta(milliseconds=-1)
# ConsumerGroupState, in words of classic groups (Dead, Empty) and of KIP-848 (Empty).
_WITHOUT_MEMBERS: Final = frozenset({"Empty", "Dead"})
# OffsetFetch gives this for what was never committed.
_NO_OFFSET: Final = -1


@dataclass(frozen=True, slots=True)
class Group:
    """A group as its coordinator `node_id` lists it; state and type are empty where the broker is too old."""

    name: str
    node_id: int
    protocol_type: str = ""
    state: str = ""
    type: str = ""

    @property
    def has_members(self) -> bool:
        """Whether somebody is in it; an unknown state counts as empty."""
        return bool(self.state) and self.state not in _WITHOUT_MEMBERS

    @property
    def commits_offsets(self) -> bool:
        """Whether its offsets are positions in topics, of consumers or of Kafka Streams."""
        # Who commits without ever joining leaves the protocol type empty; share groups keep no such offsets.
        return self.protocol_type in ("", "consumer", "streams") and self.type.lower() != "share"


@dataclass(frozen=True, slots=True)
class Committed:
    """An offset as it was committed; the leader epoch is -1 where none was given."""

    offset: int
    metadata: str = ""
    leader_epoch: int = -1


@dataclass(slots=True)
class GroupOffsets:
    """What one group has committed, and what could not be had; the error code of all of it, 0 for none."""

    error_code: int = 0
    offsets: dict[TopicPartition, Committed] = field(default_factory=dict)
    # With an open transaction that is about to commit others.
    unstable: set[TopicPartition] = field(default_factory=set)
    refused: dict[TopicPartition, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A member of a group."""

    member_id: str
    client_id: str


async def list_groups(cluster: Cluster, node_id: int, *, timeout_s: float = 30) -> list[Group]:
    """The groups that this broker coordinates and that we may describe. KafkaError."""

    def message(connection: BrokerConnection) -> Any:
        return request_class(ApiKey.LIST_GROUPS, connection.pick_version(ApiKey.LIST_GROUPS, 0, 5))()

    response = await cluster.request(message, node_id=node_id, timeout_s=timeout_s, idempotent=True)
    if response.error_code != ErrorCode.none:
        raise KafkaError(response.error_code, f"ListGroups at broker {node_id}")
    return [
        Group(
            group.group_id,
            node_id,
            group.protocol_type,
            getattr(group, "group_state", ""),
            getattr(group, "group_type", ""),
        )
        for group in response.groups
    ]


async def fetch_offsets(
    cluster: Cluster,
    node_id: int,
    groups: Sequence[str],
    *,
    topics: Mapping[str, Iterable[int]] | None = None,
    timeout_s: float = 30,
) -> dict[str, GroupOffsets]:
    """What these groups, which the broker coordinates, have committed, stable offsets only (KIP-447).

    Of all topics, or of these partitions. One request where the broker can (KIP-709), else one per group.
    """
    version = 0

    def message(connection: BrokerConnection, asked: Sequence[str]) -> Any:
        nonlocal version
        version = connection.pick_version(ApiKey.OFFSET_FETCH, 2, 9)
        return _offset_fetch(version, asked, topics)

    found: dict[str, GroupOffsets] = {}
    left = list(groups)
    while left:
        response = await cluster.request(
            partial(message, asked=left), node_id=node_id, timeout_s=timeout_s, idempotent=True
        )
        if version >= _BATCHED_OFFSET_FETCH:
            return found | {group.group_id: _read_offsets(group) for group in response.groups}
        found[left[0]] = _read_offsets(response)
        left = left[1:]
    return found


def _offset_fetch(version: int, groups: Sequence[str], topics: Mapping[str, Iterable[int]] | None) -> Any:
    request = request_class(ApiKey.OFFSET_FETCH, version)
    batched = version >= _BATCHED_OFFSET_FETCH
    topic_class = nested_class(request, "OffsetFetchRequestTopics" if batched else "OffsetFetchRequestTopic")
    wanted = None
    if topics is not None:
        wanted = tuple(
            topic_class(name=name, partition_indexes=tuple(indexes)) for name, indexes in topics.items()
        )
    stable = {"require_stable": True} if version >= _REQUIRE_STABLE else {}
    if not batched:
        return request(group_id=groups[0], topics=wanted, **stable)
    group_class = nested_class(request, "OffsetFetchRequestGroup")
    return request(groups=tuple(group_class(group_id=name, topics=wanted) for name in groups), **stable)


def _read_offsets(answer: Any) -> GroupOffsets:
    found = GroupOffsets(int(answer.error_code))
    for topic in answer.topics:
        for p in topic.partitions:
            where = (str(topic.name), int(p.partition_index))
            if p.error_code == ErrorCode.unstable_offset_commit:
                found.unstable.add(where)
            elif p.error_code != ErrorCode.none:
                found.refused[where] = int(p.error_code)
            elif p.committed_offset > _NO_OFFSET:
                epoch = int(getattr(p, "committed_leader_epoch", -1))
                found.offsets[where] = Committed(int(p.committed_offset), p.metadata or "", epoch)
    return found


async def commit_offsets(
    cluster: Cluster,
    node_id: int,
    group: str,
    offsets: Mapping[TopicPartition, Committed],
    *,
    timeout_s: float = 30,
) -> dict[TopicPartition, int]:
    """Commit as nobody of an empty group; the error codes by partition, of those that were refused.

    UNKNOWN_MEMBER_ID where the group has members. Never sent twice.
    """

    def message(connection: BrokerConnection) -> Any:
        version = connection.pick_version(ApiKey.OFFSET_COMMIT, 2, 9)
        request = request_class(ApiKey.OFFSET_COMMIT, version)
        topic_class = nested_class(request, "OffsetCommitRequestTopic")
        partition_class = nested_class(request, "OffsetCommitRequestPartition")
        topics = defaultdict(list)
        for (topic, index), committed in offsets.items():
            # The leader epoch's default is -1: one of another cluster would have consumers wait for it.
            topics[topic].append(
                partition_class(
                    partition_index=index,
                    committed_offset=committed.offset,
                    committed_metadata=committed.metadata,
                )
            )
        retention = {"retention_time": _BROKERS_RETENTION} if version in _RETENTION_VERSIONS else {}
        return request(
            group_id=group,
            generation_id_or_member_epoch=-1,
            member_id="",
            topics=tuple(topic_class(name=name, partitions=tuple(each)) for name, each in topics.items()),
            **retention,
        )

    response = await cluster.request(message, node_id=node_id, timeout_s=timeout_s)
    return {
        (str(topic.name), int(p.partition_index)): int(p.error_code)
        for topic in response.topics
        for p in topic.partitions
        if p.error_code != ErrorCode.none
    }


async def find_coordinators(
    cluster: Cluster, groups: Sequence[str], *, timeout_s: float = 30
) -> dict[str, int | KafkaError]:
    """The broker that coordinates each group, or why that is not known.

    Makes the cluster create its offsets topic if it has none: not for clusters that are only to be read.
    """
    found: dict[str, int | KafkaError] = {}
    version = 0

    def message(connection: BrokerConnection, names: Sequence[str]) -> Any:
        nonlocal version
        version = connection.pick_version(ApiKey.FIND_COORDINATOR, 1, 6)
        request = request_class(ApiKey.FIND_COORDINATOR, version)
        if version >= _BATCHED_FIND_COORDINATOR:
            return request(key_type=_GROUP_KEY, coordinator_keys=tuple(names))
        return request(key_type=_GROUP_KEY, key=names[0])

    left = list(groups)
    while left:
        response = await cluster.request(partial(message, names=left), timeout_s=timeout_s, idempotent=True)
        if version >= _BATCHED_FIND_COORDINATOR:
            for each in response.coordinators:
                found[each.key] = _node_of(each, each.key)
            return found
        found[left[0]] = _node_of(response, left[0])
        left = left[1:]
    return found


def _node_of(answer: Any, group: str) -> int | KafkaError:
    if answer.error_code != ErrorCode.none:
        return KafkaError(answer.error_code, f"FindCoordinator of group {group}")
    return int(answer.node_id)


async def describe_members(
    cluster: Cluster, node_id: int, groups: Sequence[str], *, timeout_s: float = 30
) -> dict[str, list[GroupMember]]:
    """The members of classic groups; groups of other kinds are left out."""

    def message(connection: BrokerConnection) -> Any:
        version = connection.pick_version(ApiKey.DESCRIBE_GROUPS, 0, 5)
        request = request_class(ApiKey.DESCRIBE_GROUPS, version)
        more = {"include_authorized_operations": False} if version >= 3 else {}
        return request(groups=tuple(groups), **more)

    response = await cluster.request(message, node_id=node_id, timeout_s=timeout_s, idempotent=True)
    return {
        str(group.group_id): [GroupMember(member.member_id, member.client_id) for member in group.members]
        for group in response.groups
        if group.error_code == ErrorCode.none
    }
