"""The records of the state topic: one JSON object per link, mirror topic, user, ACL and group.

The newest of a key counts. One more says whose state this is: the id of the cluster for which it is kept.

A record's key is `{"kind": ..., "name": ...}`, its value the model below, a null value deletes it.
Every value carries the version of its form. A gateway refuses a form that it does not know rather
than drop fields that a newer gateway relies on.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Final, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from protocol.acls import Acl, Operation, PatternType, Permission, ResourceType


class LinkMode(StrEnum):
    """`link.mode`: the part that the fronted cluster plays in a link."""

    DESTINATION = "DESTINATION"
    SOURCE = "SOURCE"
    BIDIRECTIONAL = "BIDIRECTIONAL"


class ConnectionMode(StrEnum):
    """`connection.mode`: whether this half of a link dials or is dialled."""

    OUTBOUND = "OUTBOUND"
    INBOUND = "INBOUND"


class MirrorStatus(StrEnum):
    """`mirror_status` of the REST contract."""

    ACTIVE = "ACTIVE"
    FAILED = "FAILED"
    LINK_FAILED = "LINK_FAILED"
    LINK_PAUSED = "LINK_PAUSED"
    PAUSED = "PAUSED"
    PENDING_STOPPED = "PENDING_STOPPED"
    SOURCE_UNAVAILABLE = "SOURCE_UNAVAILABLE"
    STOPPED = "STOPPED"
    PENDING_MIRROR = "PENDING_MIRROR"


class MirrorTopicError(StrEnum):
    """`mirror_topic_error` of the REST contract."""

    UNKNOWN = "UNKNOWN"
    NOT_SET = "NOT_SET"
    NO_ERROR = "NO_ERROR"
    SOURCE_TOPIC_MAY_BE_DELETED = "SOURCE_TOPIC_MAY_BE_DELETED"
    SOURCE_TOPIC_ID_CHANGED = "SOURCE_TOPIC_ID_CHANGED"
    SOURCE_PARTITIONS_DECREASED = "SOURCE_PARTITIONS_DECREASED"
    NON_MONOTONIC_LOG_APPEND_EPOCH = "NON_MONOTONIC_LOG_APPEND_EPOCH"
    UNEXPECTED_TRUNCATION = "UNEXPECTED_TRUNCATION"
    UNSUPPORTED_MESSAGE_FORMAT = "UNSUPPORTED_MESSAGE_FORMAT"
    NON_MONOTONIC_SOURCE_EPOCH = "NON_MONOTONIC_SOURCE_EPOCH"
    ILLEGAL_STATE = "ILLEGAL_STATE"
    UNSUPPORTED_MIRROR_STATE = "UNSUPPORTED_MIRROR_STATE"


class StateFormatError(Exception):
    """The state topic holds something that this version did not write and cannot understand."""


class _Form(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        ser_json_bytes="base64",
        val_json_bytes="base64",
        hide_input_in_errors=True,
    )


class LinkRecord(_Form):
    """One half of a cluster link, kept by the cluster that it belongs to."""

    version: Literal[1] = 1
    link_name: str
    cluster_link_id: str
    link_mode: LinkMode
    connection_mode: ConnectionMode
    source_cluster_id: str | None = None
    destination_cluster_id: str | None = None
    # Values of sensitive keys are ciphertext (see `secrets`).
    configs: dict[str, str] = Field(default_factory=dict, repr=False)
    owner: str | None = None
    filler_key: bytes = Field(repr=False, min_length=16, max_length=16)
    created_ms: int


class FillerPayload(_Form):
    """How compressed fillers are known: how many they are, their size compressed, and the SHA-256 of that."""

    count: int
    size_bytes: int
    sha256: bytes


class MirrorRecord(_Form):
    """A mirror topic on its destination cluster."""

    version: Literal[1] = 1
    link_name: str
    # The link's id and key outlive the link: what its mirror wrote is presented as long as the topic lives.
    cluster_link_id: str
    filler_key: bytes = Field(repr=False, min_length=16, max_length=16)
    # Every form in which the key's fillers were ever compressed, recorded before it is written.
    filler_payloads: tuple[FillerPayload, ...] = ()
    mirror_topic_name: str
    source_topic_name: str
    num_partitions: int
    replication_factor: int | None = None
    # The source's values of the configs that are held while it is a mirror; promote writes them.
    configs: dict[str, str] = Field(default_factory=dict)
    # The source's values of these, its defaults too: what clients are shown.
    shown_configs: dict[str, str] = Field(default_factory=dict)
    # The source's values of the others, as the mirror topic was last given them; None before the first time.
    synced_configs: dict[str, str] | None = None
    source_topic_id: UUID | None = None
    topic_id: UUID | None = None
    producer_id: int
    status: MirrorStatus = MirrorStatus.ACTIVE
    error: MirrorTopicError = MirrorTopicError.NO_ERROR
    error_message: str | None = None
    state_time_ms: int
    # Partition to the offset where its log begins, if that is not 0. What is below is not the source's.
    log_starts: dict[int, int] = Field(default_factory=dict)
    # Whether the destination compacts it too.
    compacted: bool = False
    # Partition to the leader epochs of the source, each with its first offset: that of the last record that
    # is in the mirror, and those from there on.
    source_epochs: dict[int, list[tuple[int, int]]] = Field(default_factory=dict)
    # Partition to the source offset where the mirror ends; set when it is asked to stop.
    stop_offsets: dict[int, int] | None = None
    failover: bool = False


class ScramKeys(_Form):
    """What RFC 5802 §3 has a server keep instead of a password."""

    salt: bytes = Field(repr=False)
    iterations: int
    stored_key: bytes = Field(repr=False)
    server_key: bytes = Field(repr=False)


class UserRecord(_Form):
    """A user of this gateway, by SCRAM mechanism name the keys that prove its password."""

    version: Literal[1] = 1
    name: str
    scram: dict[str, ScramKeys]


class AclRecord(_Form):
    """An ACL with who wants it to be there: an administrator, the links that brought it, or both."""

    version: Literal[1] = 1
    resource_type: ResourceType
    pattern_type: PatternType
    resource_name: str
    principal: str
    host: str
    operation: Operation
    permission: Permission
    admin: bool
    link_names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if not self.admin and not self.link_names:
            raise ValueError("an ACL that nobody wants")
        # ValueError for what is none.
        _ = self.acl
        return self

    @cached_property
    def acl(self) -> Acl:
        """What it says."""
        return Acl(
            self.resource_type,
            self.pattern_type,
            self.resource_name,
            self.principal,
            self.host,
            self.operation,
            self.permission,
        )

    @classmethod
    def of(cls, acl: Acl, *, admin: bool, link_names: Iterable[str] = ()) -> "AclRecord":
        """The record of an ACL, with its owners."""
        return cls(
            resource_type=acl.resource_type,
            pattern_type=acl.pattern_type,
            resource_name=acl.name,
            principal=acl.principal,
            host=acl.host,
            operation=acl.operation,
            permission=acl.permission,
            admin=admin,
            link_names=tuple(sorted(link_names)),
        )


def acl_key(acl: Acl) -> str:
    """The name under which an ACL is kept."""
    codes = int(acl.resource_type), int(acl.pattern_type), int(acl.operation), int(acl.permission)
    return json.dumps([*codes, acl.principal, acl.host, acl.name], separators=(",", ":"))


class LocalReason(StrEnum):
    """Why a group is no longer taken over from a link's source."""

    COMMITTED = "COMMITTED"
    MEMBERS = "MEMBERS"
    MOVED = "MOVED"


class GroupRecord(_Form):
    """A consumer group that goes on here: the link no longer writes its offsets."""

    version: Literal[1] = 1
    cluster_link_id: str
    # Its name here, with the link's prefix if groups have that.
    group: str
    reason: LocalReason
    since_ms: int
    # What it was about to commit when this was written: mirror topic to partition to offset.
    offsets: dict[str, dict[int, int]] = Field(default_factory=dict)


class ClusterRecord(_Form):
    """The cluster that this state belongs to."""

    version: Literal[1] = 1
    cluster_id: str


Record = LinkRecord | MirrorRecord | UserRecord | AclRecord | GroupRecord | ClusterRecord
Kind = Literal["link", "mirror", "user", "acl", "group", "cluster"]

# There is one only.
_CLUSTER: Final = "id"
_FORMS: Mapping[str, type[Record]] = {
    "link": LinkRecord,
    "mirror": MirrorRecord,
    "user": UserRecord,
    "acl": AclRecord,
    "group": GroupRecord,
    "cluster": ClusterRecord,
}


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes the record of that kind and name."""

    kind: Kind
    name: str


def group_key(cluster_link_id: str, group: str) -> str:
    """The name under which a link's local group is kept."""
    return f"{cluster_link_id}/{group}"


def key_of(record: Record) -> tuple[Kind, str]:
    """Kind and name under which a record is kept."""
    match record:
        case LinkRecord():
            return "link", record.link_name
        case MirrorRecord():
            return "mirror", record.mirror_topic_name
        case UserRecord():
            return "user", record.name
        case AclRecord():
            return "acl", acl_key(record.acl)
        case GroupRecord():
            return "group", group_key(record.cluster_link_id, record.group)
        case ClusterRecord():
            return "cluster", _CLUSTER


def encode_change(change: Record | Delete) -> tuple[bytes, bytes | None]:
    """Key and value of the Kafka record that stores a change; the value is None for a deletion."""
    if isinstance(change, Delete):
        return _encode_key(change.kind, change.name), None
    return _encode_key(*key_of(change)), change.model_dump_json().encode()


def decode_change(key: bytes | None, value: bytes | None) -> Record | Delete:
    """Inverse of `encode_change`. StateFormatError for anything that this version does not write."""
    kind, name = _decode_key(key)
    if value is None:
        return Delete(kind, name)
    try:
        record = _FORMS[kind].model_validate_json(value)
    except ValidationError as error:
        version = _version_of(value)
        if version not in (None, 1):
            raise StateFormatError(
                f"{kind} {name!r} has version {version}, this gateway knows version 1"
            ) from None
        # Not the whole error: it would quote values.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "value"
        raise StateFormatError(f"{kind} {name!r}: {where}: {first['msg']}") from None
    if key_of(record) != (kind, name):
        raise StateFormatError(f"the record under {kind} {name!r} is named {key_of(record)[1]!r}")
    return record


def _encode_key(kind: Kind, name: str) -> bytes:
    return json.dumps({"kind": kind, "name": name}, separators=(",", ":")).encode()


def _decode_key(key: bytes | None) -> tuple[Kind, str]:
    try:
        match json.loads(key or b""):
            case {
                "kind": "link" | "mirror" | "user" | "acl" | "group" | "cluster" as kind,
                "name": str(name),
                **rest,
            } if not rest:
                return kind, name
    except (ValueError, RecursionError):
        pass
    shown = repr((key or b"")[:80])
    raise StateFormatError(f"the key {shown} names no kind of record that this gateway knows")


def _version_of(value: bytes) -> object:
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return parsed.get("version") if isinstance(parsed, dict) else None


@dataclass(frozen=True, slots=True)
class State:
    """Everything in the state topic at one moment; links, mirror topics and users by their names.

    `groups` are by `group_key`. `acls`, by `acl_key`, is the same object until one of them changes.
    """

    links: Mapping[str, LinkRecord] = field(default_factory=lambda: MappingProxyType({}))
    mirrors: Mapping[str, MirrorRecord] = field(default_factory=lambda: MappingProxyType({}))
    users: Mapping[str, UserRecord] = field(default_factory=lambda: MappingProxyType({}))
    groups: Mapping[str, GroupRecord] = field(default_factory=lambda: MappingProxyType({}))
    cluster_id: str | None = None
    acls: Mapping[str, AclRecord] = field(default_factory=lambda: MappingProxyType({}))

    def with_changes(self, changes: Iterable[Record | Delete]) -> "State":
        """The state after these changes, in their order."""
        links, mirrors, users = dict(self.links), dict(self.mirrors), dict(self.users)
        groups = dict(self.groups)
        cluster_id = self.cluster_id
        acls: dict[str, AclRecord] | None = None
        for change in changes:
            match change:
                case Delete("link", name):
                    links.pop(name, None)
                case Delete("mirror", name):
                    mirrors.pop(name, None)
                case Delete("user", name):
                    users.pop(name, None)
                case Delete("group", name):
                    groups.pop(name, None)
                case LinkRecord():
                    links[change.link_name] = change
                case MirrorRecord():
                    mirrors[change.mirror_topic_name] = change
                case UserRecord():
                    users[change.name] = change
                case GroupRecord():
                    groups[group_key(change.cluster_link_id, change.group)] = change
                case ClusterRecord():
                    cluster_id = change.cluster_id
                case Delete("cluster"):
                    cluster_id = None
                case AclRecord() | Delete("acl"):
                    acls = dict(self.acls) if acls is None else acls
                    _change_acl(acls, change)
        return State(
            MappingProxyType(links),
            MappingProxyType(mirrors),
            MappingProxyType(users),
            MappingProxyType(groups),
            cluster_id,
            self.acls if acls is None else MappingProxyType(acls),
        )


def _change_acl(acls: dict[str, AclRecord], change: AclRecord | Delete) -> None:
    if isinstance(change, Delete):
        acls.pop(change.name, None)
    else:
        acls[acl_key(change.acl)] = change
