"""Consumer groups of a fake broker, which coordinates them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.upstreams.metadata import nested_class
from protocol.api_keys import ApiKey
from tests.fakes.broker import Answer
from tests.fakes.kafka import FakeKafka

_NO_EPOCH: Final = -1


@dataclass
class FakeGroup:
    """A group: what it committed (offset, metadata, leader epoch), and who is in it."""

    offsets: dict[tuple[str, int], tuple[int, str, int]] = field(default_factory=dict)
    protocol_type: str = "consumer"
    state: str = "Empty"
    type: str = "Classic"
    error_code: int = 0
    # Answered as unstable this often.
    unstable: int = 0


@dataclass
class FakeGroups:
    """Answers for the groups of `kafka`."""

    kafka: FakeKafka
    groups: dict[str, FakeGroup] = field(default_factory=dict)
    commits: list[tuple[str, dict[tuple[str, int], int]]] = field(default_factory=list)
    commit_error: int = 0

    def __post_init__(self) -> None:
        kafka = self.kafka
        kafka.versions |= {
            ApiKey.LIST_GROUPS: (0, 5),
            ApiKey.OFFSET_FETCH: (1, 9),
            ApiKey.OFFSET_COMMIT: (2, 9),
            ApiKey.FIND_COORDINATOR: (0, 4),
            ApiKey.DESCRIBE_GROUPS: (0, 5),
        }
        usual: dict[int, Callable[[Any, Any], Answer]] = {
            ApiKey.LIST_GROUPS: self._list,
            ApiKey.OFFSET_FETCH: self._fetch,
            ApiKey.OFFSET_COMMIT: self._commit,
            ApiKey.FIND_COORDINATOR: self._find,
            ApiKey.DESCRIBE_GROUPS: self._describe,
        }
        kafka._usual.update(usual)
        kafka.handlers.update(dict.fromkeys(usual, kafka._handle))
        # Who is connected knows the versions of before.
        kafka.cut()

    def put(
        self, name: str, offsets: dict[tuple[str, int], int], metadata: str = "", epoch: int = -1
    ) -> None:
        """Somebody has committed these."""
        group = self.groups.setdefault(name, FakeGroup())
        group.offsets.update({where: (offset, metadata, epoch) for where, offset in offsets.items()})

    def get(self, name: str) -> dict[tuple[str, int], int]:
        """The offsets of a group."""
        group = self.groups.get(name, FakeGroup())
        return {where: offset for where, (offset, _, _) in group.offsets.items()}

    def _list(self, response: Any, request: Any) -> Answer:
        made = nested_class(response, "ListedGroup")
        version = response.__version__
        listed = []
        for name, group in self.groups.items():
            more: dict[str, Any] = {}
            if version >= 4:
                more["group_state"] = group.state
            if version >= 5:
                more["group_type"] = group.type
            listed.append(made(group_id=name, protocol_type=group.protocol_type, **more))
        throttle = {"throttle_time": timedelta()} if version >= 1 else {}
        return response(error_code=ErrorCode.none, groups=tuple(listed), **throttle)

    def _fetch(self, response: Any, request: Any) -> Answer:
        version = response.__version__
        if version >= 8:
            made = nested_class(response, "OffsetFetchResponseGroup")
            groups = tuple(
                made(group_id=each.group_id, error_code=self._error(each.group_id), topics=topics)
                for each in request.groups
                for topics in [self._topics(response, each.group_id, batched=True)]
            )
            return response(throttle_time=timedelta(), groups=groups)
        throttle = {"throttle_time": timedelta()} if version >= 3 else {}
        topics = self._topics(response, request.group_id, batched=False)
        return response(topics=topics, error_code=self._error(request.group_id), **throttle)

    def _error(self, name: str) -> ErrorCode:
        return ErrorCode(self.groups[name].error_code) if name in self.groups else ErrorCode.none

    def _topics(self, response: Any, name: str, *, batched: bool) -> tuple[Any, ...]:
        group = self.groups.get(name)
        if group is None:
            return ()
        unstable = group.unstable > 0
        group.unstable -= unstable
        end = "s" if batched else ""
        topic_class = nested_class(response, f"OffsetFetchResponseTopic{end}")
        partition_class = nested_class(response, f"OffsetFetchResponsePartition{end}")
        epochs = response.__version__ >= 5
        by_topic: dict[str, list[Any]] = {}
        for (topic, index), (offset, metadata, epoch) in group.offsets.items():
            by_topic.setdefault(topic, []).append(
                partition_class(
                    partition_index=index,
                    committed_offset=-1 if unstable else offset,
                    metadata="" if unstable else metadata,
                    error_code=ErrorCode.unstable_offset_commit if unstable else ErrorCode.none,
                    **({"committed_leader_epoch": epoch} if epochs else {}),
                )
            )
        return tuple(topic_class(name=topic, partitions=tuple(each)) for topic, each in by_topic.items())

    def _commit(self, response: Any, request: Any) -> Answer:
        group = self.groups.get(request.group_id)
        error = ErrorCode(self.commit_error)
        if group is not None and group.state != "Empty":
            error = ErrorCode.unknown_member_id
        offsets = {
            (topic.name, p.partition_index): (
                p.committed_offset,
                p.committed_metadata,
                getattr(p, "committed_leader_epoch", _NO_EPOCH),
            )
            for topic in request.topics
            for p in topic.partitions
        }
        if error is ErrorCode.none:
            self.groups.setdefault(request.group_id, FakeGroup(protocol_type="")).offsets.update(offsets)
            self.commits.append((request.group_id, {w: o for w, (o, _, _) in offsets.items()}))
        topic_class = nested_class(response, "OffsetCommitResponseTopic")
        partition_class = nested_class(response, "OffsetCommitResponsePartition")
        topics = tuple(
            topic_class(
                name=topic.name,
                partitions=tuple(
                    partition_class(partition_index=p.partition_index, error_code=error)
                    for p in topic.partitions
                ),
            )
            for topic in request.topics
        )
        throttle = {"throttle_time": timedelta()} if response.__version__ >= 3 else {}
        return response(topics=topics, **throttle)

    def _find(self, response: Any, request: Any) -> Answer:
        where = {
            "node_id": self.kafka.node_id,
            "host": "localhost",
            "port": 1,
            "error_code": ErrorCode.none,
            "error_message": None,
        }
        if response.__version__ >= 4:
            made = nested_class(response, "Coordinator")
            found = tuple(made(key=key, **where) for key in request.coordinator_keys)
            return response(throttle_time=timedelta(), coordinators=found)
        if response.__version__ == 0:
            del where["error_message"]
            return response(**where)
        return response(throttle_time=timedelta(), **where)

    def _describe(self, response: Any, request: Any) -> Answer:
        made = nested_class(response, "DescribedGroup")
        member = nested_class(response, "DescribedGroupMember")
        version = response.__version__
        groups = []
        for name in request.groups:
            group = self.groups.get(name, FakeGroup(state="Dead"))
            instance = {"group_instance_id": None} if version >= 4 else {}
            members = tuple(
                member(
                    member_id=f"{name}-1",
                    client_id="app",
                    client_host="/10.0.0.1",
                    member_metadata=b"",
                    member_assignment=b"",
                    **instance,
                )
                for _ in range(group.state not in ("Empty", "Dead"))
            )
            groups.append(
                made(
                    error_code=ErrorCode.none,
                    group_id=name,
                    group_state=group.state,
                    protocol_type=group.protocol_type,
                    protocol_data="range",
                    members=members,
                )
            )
        throttle = {"throttle_time": timedelta()} if version >= 1 else {}
        return response(groups=tuple(groups), **throttle)
