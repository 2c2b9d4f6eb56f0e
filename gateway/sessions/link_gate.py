"""What the other side of a source-initiated link may ask of a source broker; it is taken for hostile.

Only APIs that read, every frame decoded, a consumer and never a follower (a follower's fetch would move the
source's high watermark), no auto-creation, no fetch session in which something could hide, no host of this
side in any answer. Internal topics, the gateway's own topics, groups and transactional ids, and what is not
on the link's allow-list do not exist: they are asked of the broker under a name or id that nobody has, so
that it gives the answer itself, and are cut out of what lists everything.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol, get_args, get_type_hints
from uuid import UUID, uuid4

from gateway import observe
from gateway.sessions.acl_requests import AclRequests, UnknownElement
from gateway.sessions.presentation import ShownNow, no_mirrors, presentation
from gateway.sessions.request_path import Decision, Forward, Parts, Refuse, Reply
from gateway.sessions.reserved_names import is_reserved
from gateway.upstreams.cluster import ClusterMetadata
from protocol.api_keys import ApiKey
from protocol.api_versions import Versions, encode_api_versions_body
from protocol.broker_addresses import ADDRESS_VERSIONS, rewrite_addresses
from protocol.headers import (
    RequestHeader,
    encode_request_header,
    encode_response_header,
    response_body_offset,
)
from protocol.messages import decode_request, decode_response, encode_request, encode_response

INTERNAL_TOPICS: Final = frozenset(
    {"__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"}
)
# A Fetch of 10,000 partitions by id is half of it; whatever is larger is no request of a replicator.
MAX_REQUEST_BYTES: Final = 1 << 20
_GROUP: Final = 0
_TOPIC_RESOURCE: Final = 2
_LITERAL: Final = 3
_REFRESH_S: Final = 1.0

# What the text and id fields of these APIs name; a test walks all of them.
TOPIC_FIELDS: Final = frozenset({"name", "topic"})
GROUP_FIELDS: Final = frozenset({"group_id", "key", "coordinator_keys", "groups"})
TRANSACTION_FIELDS: Final = frozenset({"transactional_id", "transactional_ids"})
TOPIC_ID_FIELDS: Final = frozenset({"topic_id"})
_NAMES: Final = (
    TOPIC_FIELDS | GROUP_FIELDS | TRANSACTION_FIELDS | TOPIC_ID_FIELDS | {"is_internal", "resource_name"}
)
# Of members of classic groups: what they subscribe to and have, hidden topics too, is in these bytes.
_BLANKED: Final[Mapping[str, str | bytes]] = {
    "client_host": "",
    "member_metadata": b"",
    "member_assignment": b"",
}

# Their answers name what was not asked for, or show clients; the others only matter if something was hidden.
_ALWAYS_DECODED: Final = frozenset(
    {
        ApiKey.METADATA,
        ApiKey.OFFSET_FETCH,
        ApiKey.LIST_GROUPS,
        ApiKey.DESCRIBE_GROUPS,
        ApiKey.DESCRIBE_ACLS,
        ApiKey.LIST_TRANSACTIONS,
        ApiKey.DESCRIBE_TRANSACTIONS,
    }
)


class MetadataSource(Protocol):
    """The source cluster, as far as its topics are concerned."""

    async def metadata(self, topics: list[str] | None) -> ClusterMetadata: ...


class TopicCatalog:
    """Topic ids and internal topics of the source cluster; shared by the bound sessions of a link."""

    def __init__(self, cluster: MetadataSource) -> None:
        self._cluster = cluster
        self._names: dict[UUID, str] = {}
        self._internal: frozenset[str] = INTERNAL_TOPICS
        self._read_at: float | None = None

    async def know(self, topic_ids: set[UUID]) -> None:
        """Reads the topics unless all ids are known; at most once a second for ids that do not exist."""
        if self._read_at is not None:
            age_s = time.monotonic() - self._read_at
            if topic_ids <= self._names.keys() or age_s < _REFRESH_S:
                return
        found = await self._cluster.metadata(None)
        self._names = {
            topic.topic_id: name for name, topic in found.topics.items() if topic.topic_id is not None
        }
        self._internal = INTERNAL_TOPICS | {name for name, topic in found.topics.items() if topic.is_internal}
        self._read_at = time.monotonic()

    def name(self, topic_id: UUID) -> str | None:
        """The name of a topic; None if there is no topic with that id."""
        return self._names.get(topic_id)

    def is_internal(self, name: str) -> bool:
        """Whether the brokers use the topic themselves."""
        return name in self._internal


class LinkGate:
    """Decides about the requests of one bound connection."""

    def __init__(
        self,
        versions: Versions,
        catalog: TopicCatalog,
        *,
        shown: ShownNow = no_mirrors,
        allowed: Callable[[str], bool] | None = None,
        acls: AclRequests | None = None,
    ) -> None:
        self._versions = versions
        self._acls = acls
        self._catalog = catalog
        self.shown = shown
        self._allowed = allowed

    async def decide(self, header: RequestHeader, frame: bytearray) -> Decision:
        """What becomes of a request: DecodeError if it is malformed."""
        key, version = header.api_key, header.api_version
        if key == ApiKey.API_VERSIONS:
            return Reply(encode_api_versions_body(version, self._versions))
        lowest, highest = self._versions.get(key, (0, -1))
        if not lowest <= version <= highest:
            return Refuse(f"{observe.api_name(key)} version {version} is not offered to links")
        asked = decode_request(
            key, version, memoryview(frame)[header.body_offset :], max_bytes=MAX_REQUEST_BYTES
        )
        forbidden = _FORBIDDEN[key](asked) if key in _FORBIDDEN else None
        if forbidden is not None:
            return Refuse(forbidden)
        if key == ApiKey.DESCRIBE_ACLS and self._acls is not None:
            return self._describe_acls(version, asked)
        await self._catalog.know(_topic_ids(asked))
        hidden = _StandIns(self)
        request = hidden.hide(_tamed(key, asked))
        if request != asked:
            frame = bytearray(encode_request_header(key, version, header.correlation_id, header.client_id))
            frame += encode_request(request)
        return Forward(frame, _Finish(self, key, version, hidden))

    def _describe_acls(self, version: int, asked: Any) -> Decision:
        """Where this gateway enforces ACLs it is its own that hold for its clients, not the brokers'."""
        if self._acls is None:
            raise RuntimeError("this gateway has no ACLs")
        try:
            body = self._acls.describe(asked, version)
        except UnknownElement as error:
            return Refuse(str(error))
        finish = _Finish(self, ApiKey.DESCRIBE_ACLS, version, _StandIns(self))
        return Reply(finish.without_hidden(body))

    def hides_topic(self, name: str) -> bool:
        """Whether a topic does not exist for the other side."""
        if is_reserved(name) or self._catalog.is_internal(name):
            return True
        return self._allowed is not None and not self._allowed(name)

    def hides_topic_id(self, topic_id: UUID) -> bool:
        """Whether a topic id does not exist for the other side; what is unknown here does not."""
        name = self._catalog.name(topic_id)
        return name is None or self.hides_topic(name)


# --- requests ------------------------------------------------------------------------------------------


def _tamed(key: int, asked: Any) -> Any:
    """The request as a consumer without side effects would send it."""
    names = {field.name for field in dataclasses.fields(asked)}
    wanted = {name: value for name, value in _TAMED.get(key, {}).items() if name in names}
    if "replica_state" in names:
        wanted["replica_state"] = type(asked.replica_state)()
    return dataclasses.replace(asked, **wanted) if wanted else asked


_TAMED: Final[Mapping[int, Mapping[str, Any]]] = {
    ApiKey.FETCH: {
        "replica_id": -1,
        "cluster_id": None,
        "session_id": 0,
        "session_epoch": -1,
        "forgotten_topics_data": (),
    },
    ApiKey.LIST_OFFSETS: {"replica_id": -1},
    ApiKey.OFFSET_FOR_LEADER_EPOCH: {"replica_id": -1},
    ApiKey.METADATA: {"allow_auto_topic_creation": False},
}


def _metadata_forbidden(request: Any) -> str | None:
    # Before version 4 a request cannot say that missing topics must not be created.
    return None if request.__version__ >= 4 else f"Metadata version {request.__version__} may create topics"


def _find_coordinator_forbidden(request: Any) -> str | None:
    key_type = getattr(request, "key_type", _GROUP)
    return None if key_type == _GROUP else f"FindCoordinator of key type {key_type}"


def _describe_configs_forbidden(request: Any) -> str | None:
    others = {resource.resource_type for resource in request.resources} - {_TOPIC_RESOURCE}
    # The configs of a broker hold its addresses.
    return f"DescribeConfigs of resource types {sorted(others)}" if others else None


_FORBIDDEN: Final[Mapping[int, Callable[[Any], str | None]]] = {
    ApiKey.METADATA: _metadata_forbidden,
    ApiKey.FIND_COORDINATOR: _find_coordinator_forbidden,
    ApiKey.DESCRIBE_CONFIGS: _describe_configs_forbidden,
}


def _topic_ids(message: Any) -> set[UUID]:
    found: set[UUID] = set()

    def note(name: str, value: Any) -> Any:
        if name in TOPIC_ID_FIELDS and isinstance(value, UUID):
            found.add(value)
        return value

    _map_fields(message, note)
    return found


class _StandIns:
    """Names and ids that nobody has, in the place of those that do not exist for the other side."""

    def __init__(self, gate: LinkGate) -> None:
        self._gate = gate
        self.originals: dict[Any, Any] = {}

    def hide(self, request: Any) -> Any:
        """`request` with stand-ins."""
        return _map_fields(request, self._hide)

    def _hide(self, name: str, value: Any) -> Any:
        if not _is_hidden(self._gate, name, value):
            return value
        stand_in = uuid4() if isinstance(value, UUID) else f"hidden-{uuid4().hex}"
        self.originals[stand_in] = value
        return stand_in

    def show(self, response: Any) -> Any:
        """`response` with what was asked for back."""
        return _map_fields(response, lambda _, value: self.originals.get(value, value))


def _is_hidden(gate: LinkGate, field_name: str, value: Any) -> bool:
    if isinstance(value, UUID):
        return field_name in TOPIC_ID_FIELDS and gate.hides_topic_id(value)
    if not isinstance(value, str):
        return False
    if field_name in TOPIC_FIELDS or field_name == "resource_name":
        return gate.hides_topic(value)
    return field_name in GROUP_FIELDS | TRANSACTION_FIELDS and is_reserved(value)


# --- responses -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Finish:
    """Makes the answer to one request out of the broker's response."""

    gate: LinkGate
    api_key: int
    version: int
    hidden: _StandIns

    def __call__(self, frame: bytearray) -> Parts:
        key, version = self.api_key, self.version
        present = presentation(self.gate.shown, key, version)
        if present is not None:
            # The fillers of links into this cluster are hidden from the other side as from any client.
            frame = present(frame)
        if key in _ALWAYS_DECODED or self.hidden.originals:
            frame = self._without_hidden(frame)
        if key not in ADDRESS_VERSIONS:
            return (frame,)
        rewritten = rewrite_addresses(key, version, frame, _neutral_address)
        return rewritten if isinstance(rewritten, list) else (rewritten,)

    def _without_hidden(self, frame: bytearray) -> bytearray:
        key, version = self.api_key, self.version
        response = decode_response(
            key, version, memoryview(frame)[response_body_offset(key, version, frame) :]
        )
        shown = self._cut(response) if key in _ALWAYS_DECODED else response
        if self.hidden.originals:
            shown = self.hidden.show(shown)
        if shown is response:
            return frame
        correlation_id = int.from_bytes(frame[:4], "big", signed=True)
        return bytearray(encode_response_header(key, version, correlation_id) + encode_response(shown))

    def without_hidden(self, body: bytes) -> bytes:
        """The body of an answer that is given here, as a broker's would be shown."""
        return encode_response(self._cut(decode_response(self.api_key, self.version, body)))

    def _cut(self, message: Any) -> Any:
        """`message` without list entries about something hidden, and without what tells of clients."""
        changes: dict[str, Any] = {}
        for name in _telling_fields(message.__class__):
            value = getattr(message, name)
            if name in _BLANKED:
                changes[name] = _BLANKED[name]
            elif value is not None:
                kept = tuple(self._cut(entry) for entry in value if not self._is_about_hidden(entry))
                if len(kept) != len(value) or any(
                    new is not old for new, old in zip(kept, value, strict=True)
                ):
                    changes[name] = kept
        return dataclasses.replace(message, **changes) if changes else message

    def _is_about_hidden(self, entry: Any) -> bool:
        if self.api_key == ApiKey.DESCRIBE_ACLS:
            return self._is_acl_of_hidden(entry)
        if getattr(entry, "is_internal", False):
            return True
        # A topic may be newer than what is known of ids; where its name is given, that decides.
        named = isinstance(getattr(entry, "name", None), str)
        for name in _naming_fields(entry.__class__):
            if named and name in TOPIC_ID_FIELDS:
                continue
            value = getattr(entry, name)
            # A stand-in is the answer to what was asked.
            if value not in self.hidden.originals and _is_hidden(self.gate, name, value):
                return True
        return False

    def _is_acl_of_hidden(self, entry: Any) -> bool:
        name = getattr(entry, "resource_name", None)
        if name is None or name == "*":
            return False
        literal_topic = (
            entry.resource_type == _TOPIC_RESOURCE and getattr(entry, "pattern_type", _LITERAL) == _LITERAL
        )
        return is_reserved(name) or (literal_topic and self.gate.hides_topic(name))


@functools.cache
def _naming_fields(entry: type) -> tuple[str, ...]:
    """The plain fields of a list entry that may name something hidden."""
    return tuple(
        field.name
        for field in dataclasses.fields(entry)
        if field.name in _NAMES and _part(entry, field) is None
    )


@functools.cache
def _telling_fields(message: type) -> tuple[str, ...]:
    """The fields of a message that may have to be cut: most of what a long answer holds is numbers."""
    return tuple(
        field.name
        for field in dataclasses.fields(message)
        if field.name in _BLANKED
        or ((part := _part(message, field)) is not None and (_naming_fields(part) or _telling_fields(part)))
    )


def _part(message: type, field: dataclasses.Field[Any]) -> type | None:
    """The class of the entries of a list of structures, None for any other field."""
    for each in _flat(get_type_hints(message)[field.name]):
        if dataclasses.is_dataclass(each):
            return each if isinstance(each, type) else None
    return None


def _flat(hint: Any) -> Iterator[Any]:
    yield hint
    for each in get_args(hint):
        yield from _flat(each)


def _neutral_address(node_id: int) -> tuple[str, int]:
    # Nobody dials it: the other side asks for a broker by its id.
    return f"node-{node_id}", 0


def _map_fields(message: Any, change: Callable[[str, Any], Any]) -> Any:
    """`message` with every plain value replaced by `change(field name, value)`."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        if isinstance(value, tuple):
            new: Any = tuple(
                _map_fields(entry, change) if dataclasses.is_dataclass(entry) else change(field.name, entry)
                for entry in value
            )
        elif dataclasses.is_dataclass(value):
            new = _map_fields(value, change)
        else:
            new = change(field.name, value)
        if new != value:
            changes[field.name] = new
    return dataclasses.replace(message, **changes) if changes else message
