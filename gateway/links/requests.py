"""What can be asked of the links, and what they show: values that carry no behaviour."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from gateway.links.errors import invalid_request
from gateway.links.partition import OpenTransaction
from gateway.state.records import LinkRecord, MirrorRecord, MirrorStatus

MirrorVerb = Literal["promote", "failover", "pause", "resume"]


class LinkState(StrEnum):
    """`link_state` of the REST contract."""

    ACTIVE = "ACTIVE"
    FAILED = "FAILED"
    UNAVAILABLE = "UNAVAILABLE"
    PAUSED = "PAUSED"
    UNKNOWN = "UNKNOWN"


class LinkErrorKind(StrEnum):
    """`link_error` of the REST contract: why a link is not in working order."""

    UNKNOWN = "UNKNOWN"
    NO_ERROR = "NO_ERROR"
    AUTHENTICATION_ERROR = "AUTHENTICATION_ERROR"
    UNRESOLVABLE_BOOTSTRAP_ERROR = "UNRESOLVABLE_BOOTSTRAP_ERROR"
    BOOTSTRAP_TCP_CONNECTION_FAILED_ERROR = "BOOTSTRAP_TCP_CONNECTION_FAILED_ERROR"
    TIMEOUT_ERROR = "TIMEOUT_ERROR"


class TaskState(StrEnum):
    """State of one of a link's tasks, as in the REST contract."""

    UNKNOWN = "UNKNOWN"
    ACTIVE = "ACTIVE"
    IN_ERROR = "IN_ERROR"
    NOT_CONFIGURED = "NOT_CONFIGURED"
    LINK_FAILED = "LINK_FAILED"
    LINK_UNAVAILABLE = "LINK_UNAVAILABLE"
    LINK_PAUSED = "LINK_PAUSED"


@dataclass(frozen=True, slots=True)
class CreateLink:
    """Wish for a half of a link on the fronted cluster."""

    link_name: str
    source_cluster_id: str | None = None
    destination_cluster_id: str | None = None
    remote_cluster_id: str | None = None
    cluster_link_id: str | None = None
    configs: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """Wish for another value of a link's config; None: its default."""

    name: str
    value: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class CreateMirror:
    """Wish for a mirror topic; the name defaults to the source topic's."""

    source_topic_name: str
    mirror_topic_name: str | None = None
    replication_factor: int | None = None
    configs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskError:
    """Why a task is IN_ERROR."""

    error_code: str
    error_message: str


@dataclass(frozen=True, slots=True)
class TaskView:
    """One of the link's recurring jobs."""

    task_name: str
    state: TaskState
    errors: Sequence[TaskError] = ()


@dataclass(frozen=True, slots=True)
class LinkView:
    """A link as it stands."""

    record: LinkRecord
    link_state: LinkState
    link_error: LinkErrorKind = LinkErrorKind.NO_ERROR
    link_error_message: str | None = None
    topic_names: Sequence[str] = ()
    tasks: Sequence[TaskView] = ()


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far a mirror partition is behind, in records; the fetch offset is -1 before the first fetch."""

    partition: int
    lag: int
    last_source_fetch_offset: int = -1


@dataclass(frozen=True, slots=True)
class MirrorView:
    """A mirror topic as it stands."""

    record: MirrorRecord
    lags: Sequence[PartitionLag] = ()
    # What the lags do not count: transactions at the source that nobody has ended for a while.
    open_transactions: Sequence[OpenTransaction] = ()


@dataclass(frozen=True, slots=True)
class AlterResult:
    """What became of a verb for one mirror topic; no error code means accepted."""

    mirror_topic_name: str
    error_code: int | None = None
    error_message: str | None = None
    lags: Sequence[PartitionLag] = ()


class LinksService(Protocol):
    """What the REST API needs of the links. Every method may raise LinkError."""

    async def create_link(self, request: CreateLink, *, validate_only: bool, validate_link: bool) -> None: ...

    def links(self) -> list[LinkView]: ...

    def link(self, link_name: str) -> LinkView: ...

    async def delete_link(
        self, link_name: str, *, force: bool, validate_only: bool, drop_acls: bool = False
    ) -> None: ...

    async def alter_configs(
        self, link_name: str, changes: Sequence[ConfigChange], *, validate_only: bool
    ) -> None: ...

    async def create_mirror(self, link_name: str, request: CreateMirror) -> None: ...

    def mirrors(self, link_name: str | None, status: MirrorStatus | None) -> list[MirrorView]: ...

    def mirror(self, link_name: str, mirror_topic_name: str) -> MirrorView: ...

    async def alter_mirrors(
        self,
        verb: MirrorVerb,
        link_name: str,
        names: Sequence[str] | None,
        pattern: str | None,
        validate_only: bool,
        *,
        force: bool = False,
    ) -> list[AlterResult]: ...


def compiled(pattern: str) -> re.Pattern[str]:
    """`mirror_topic_name_pattern`; LinkError 40002 if it is no regular expression."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise invalid_request(f"'{pattern}' is not a regular expression: {error}") from error
