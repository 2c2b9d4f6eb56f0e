"""Broker addresses in responses, replaced by the gateway's own: all eight responses that carry any.

Metadata v0-13, DescribeCluster v0-2, FindCoordinator v0-6, ShareFetch and ShareAcknowledge v1-2, and the
NodeEndpoints of Produce v10-13 and Fetch v16-18 (KIP-951), a tagged field at the very end. DescribeQuorum v2
loses the addresses of the controllers (KIP-853), whom no client reaches through here. A response is
never encoded again: the fields before the addresses are skipped, only the list of brokers is written anew,
records stay where they were received and unknown tagged fields survive. A broker without an advertised
address is left out, or as a coordinator not available: its real address never gets to a client. Metadata also
loses the topics that do not exist for clients, and tells which topic ids it had (KIP-516).
"""

from collections.abc import Callable
from functools import cache
from typing import Final, NamedTuple, TypeAlias

from protocol.api_keys import ApiKey, is_flexible
from protocol.errors import DecodeError, NoBrokers, UnsupportedVersion
from protocol.fields import (
    BYTES,
    COMPACT,
    INT16,
    INT32,
    OUT_OF_BOUNDS,
    PLAIN,
    STRING,
    TAGS,
    Buffer,
    Encoding,
    Layout,
    encode_uvarint,
    read_uvarint,
    skip,
)
from protocol.headers import response_body_offset

Advertised: TypeAlias = Callable[[int], tuple[str, int] | None]
Hidden: TypeAlias = Callable[[str], bool]
# Told each topic's name and the 16 bytes of its id.
Seen: TypeAlias = Callable[[str, bytes], None]
Frame: TypeAlias = bytes | bytearray

# The versions that carry addresses; one above them may carry more and is refused.
ADDRESS_VERSIONS: Final[dict[int, range]] = {
    ApiKey.PRODUCE: range(10, 14),
    ApiKey.FETCH: range(16, 19),
    ApiKey.METADATA: range(14),
    ApiKey.FIND_COORDINATOR: range(7),
    ApiKey.DESCRIBE_QUORUM: range(2, 3),
    ApiKey.DESCRIBE_CLUSTER: range(3),
    ApiKey.SHARE_FETCH: range(1, 3),
    ApiKey.SHARE_ACKNOWLEDGE: range(1, 3),
}

_COORDINATOR_NOT_AVAILABLE: Final = 15
_NODE_ENDPOINTS_TAG: Final = 0
# Metadata's topics have an id from here on.
_TOPIC_IDS: Final = 10
_NO_NODE: Final = INT32.pack(-1)


class _Response(NamedTuple):
    api_key: int
    version: int
    frame: Frame
    body: int
    encoding: Encoding
    advertised: Advertised
    hidden: Hidden | None
    seen: Seen | None


class _Edit(NamedTuple):
    start: int
    end: int
    new: bytes


def rewrite_addresses(
    api_key: int,
    version: int,
    frame: Frame,
    advertised: Advertised,
    hidden: Hidden | None = None,
    seen: Seen | None = None,
) -> Frame | list[Buffer]:
    """Replace each broker's address in a response by `advertised(node_id)`; drop Metadata's `hidden` topics.

    With `hidden`, `seen` is told all topics of Metadata from v10 on, the hidden ones too. Returns the same
    frame if nothing changes, else the parts of a new one, which may be views of the old. DecodeError;
    NoBrokers for Metadata that would show topics and no broker; UnsupportedVersion for one too new to know.
    """
    versions = ADDRESS_VERSIONS.get(api_key)
    if versions is None or version < versions.start:
        return frame
    if version not in versions:
        raise UnsupportedVersion(api_key, version)
    encoding = COMPACT if is_flexible(api_key, version) else PLAIN
    body = response_body_offset(api_key, version, frame)
    try:
        response = _Response(api_key, version, frame, body, encoding, advertised, hidden, seen)
        edits = _EDITORS[api_key](response)
    except OUT_OF_BOUNDS as error:
        raise DecodeError(f"{ApiKey(api_key).name} response v{version}: {error}") from error
    return _apply(frame, edits)


def drop_topics(version: int, frame: Frame, hidden: Hidden) -> Frame | list[Buffer]:
    """Drop the topics of a Metadata response that are `hidden`; else as `rewrite_addresses`. DecodeError."""
    encoding = COMPACT if is_flexible(ApiKey.METADATA, version) else PLAIN
    body = response_body_offset(ApiKey.METADATA, version, frame)
    response = _Response(ApiKey.METADATA, version, frame, body, encoding, _no_address, hidden, None)
    try:
        topics_at = _metadata_topics_at(response, _edit_brokers(response, *_metadata_brokers(response)).end)
        edits = _drop_topics(response, topics_at, hidden)
    except OUT_OF_BOUNDS as error:
        raise DecodeError(f"METADATA response v{version}: {error}") from error
    return _apply(frame, edits)


def _no_address(_node_id: int) -> None:
    return None


def _apply(frame: Frame, edits: list[_Edit]) -> Frame | list[Buffer]:
    changes = [edit for edit in edits if frame[edit.start : edit.end] != edit.new]
    if not changes:
        return frame
    view = memoryview(frame)
    parts: list[Buffer] = []
    at = 0
    for edit in changes:
        parts += (view[at : edit.start], edit.new)
        at = edit.end
    parts.append(view[at:])
    return parts


def _check_position(frame: Frame, at: int) -> None:
    if at > len(frame):
        raise DecodeError(f"a field ends at byte {at} of a frame of {len(frame)}")


def _edit_brokers(response: _Response, start: int, end_of_broker: Layout) -> _Edit:
    """Edit the array of brokers at `start`: node id, host, port, and what `end_of_broker` says."""
    frame, encoding = response.frame, response.encoding
    count, at = encoding.read_count(frame, start)
    brokers = []
    for _ in range(count):
        (node_id,) = INT32.unpack_from(frame, at)
        port_at = encoding.skip_string(frame, at + 4)
        at = skip(frame, port_at + 4, end_of_broker, encoding)
        if (address := response.advertised(node_id)) is not None:
            new_address = _encode_address(encoding, address)
            brokers.append(INT32.pack(node_id) + new_address + frame[port_at + 4 : at])
    _check_position(frame, at)
    return _Edit(start, at, encoding.encode_count(len(brokers)) + b"".join(brokers))


def _encode_address(encoding: Encoding, address: tuple[str, int]) -> bytes:
    host, port = address
    return encoding.encode_string(host) + INT32.pack(port)


# --- one editor per shape of response -----------------------------------------------------------------------


def _edit_metadata(response: _Response) -> list[_Edit]:
    brokers = _edit_brokers(response, *_metadata_brokers(response))
    if response.hidden is None:
        return [brokers]
    topics = _drop_topics(response, _metadata_topics_at(response, brokers.end), response.hidden)
    none, null = response.encoding.encode_count(0), response.encoding.encode_count(-1)
    if brokers.new == none and topics[0].new not in (none, null):
        # librdkafka would never ask anybody again (its issue 5301).
        raise NoBrokers("there are topics, but no broker of theirs has a port on this listener")
    return [brokers, *topics]


def _metadata_brokers(response: _Response) -> tuple[int, Layout]:
    """Where the brokers begin, and what ends each of them."""
    version = response.version
    end_of_broker: Layout = (STRING,) * (version >= 1) + (TAGS,) * (version >= 9)
    return response.body + 4 * (version >= 3), end_of_broker


def _metadata_topics_at(response: _Response, brokers_end: int) -> int:
    version = response.version
    cluster_and_controller: Layout = (STRING,) * (version >= 2) + (4,) * (version >= 1)
    return skip(response.frame, brokers_end, cluster_and_controller, response.encoding)


def _drop_topics(response: _Response, start: int, hidden: Hidden) -> list[_Edit]:
    frame, encoding = response.frame, response.encoding
    end_of_topic = _end_of_metadata_topic(response.version)
    seen = response.seen if response.version >= _TOPIC_IDS else None
    count, first_at = encoding.read_count(frame, start)
    dropped = []
    at = first_at
    for _ in range(count):
        topic_at = at
        name, id_at = encoding.read_string(frame, topic_at + 2)
        at = skip(frame, id_at, end_of_topic, encoding)
        if name is None:
            continue
        if seen is not None and at <= len(frame):
            seen(name, bytes(frame[id_at : id_at + 16]))
        if hidden(name):
            dropped.append(_Edit(topic_at, at, b""))
    _check_position(frame, at)
    return [_Edit(start, first_at, encoding.encode_count(count - len(dropped))), *dropped]


def _edit_list(response: _Response) -> list[_Edit]:
    before, end_of_broker = _around_brokers(response.api_key, response.version)
    at = skip(response.frame, response.body, before, response.encoding)
    return [_edit_brokers(response, at, end_of_broker)]


def _edit_tagged_list(response: _Response) -> list[_Edit]:
    frame = response.frame
    before, end_of_broker = _around_brokers(response.api_key, response.version)
    tags_at = skip(frame, response.body, before, COMPACT)
    if frame[tags_at] == 0:
        _check_end(frame, tags_at + 1)
        return []
    count, at = read_uvarint(frame, tags_at)
    edits = []
    for _ in range(count):
        tag, size_at = read_uvarint(frame, at)
        size, field_at = read_uvarint(frame, size_at)
        at = field_at + size
        if tag == _NODE_ENDPOINTS_TAG:
            edit = _edit_brokers(response, field_at, end_of_broker)
            if edit.end != at:
                raise DecodeError(
                    f"node endpoints of {edit.end - field_at} bytes in a tagged field of {size}"
                )
            edits.append(_Edit(size_at, at, encode_uvarint(len(edit.new)) + edit.new))
    _check_end(frame, at)
    return edits


def _check_end(frame: Frame, at: int) -> None:
    if at != len(frame):
        raise DecodeError(f"a frame of {len(frame)} bytes whose fields take {at}")


def _edit_coordinators(response: _Response) -> list[_Edit]:
    frame, encoding, version = response.frame, response.encoding, response.version
    at = response.body + 4 * (version >= 1)
    if version < 4:
        end = skip(frame, at, (2, *(STRING,) * (version >= 1), 4, STRING, 4), encoding)
        _check_position(frame, end)
        node_at = skip(frame, at, (2, *(STRING,) * (version >= 1)), encoding)
        return _edit_coordinator(response, node_at, at)
    count, at = encoding.read_count(frame, at)
    edits = []
    for _ in range(count):
        node_at = encoding.skip_string(frame, at)
        error_at = encoding.skip_string(frame, node_at + 4) + 4
        at = skip(frame, error_at, (2, STRING, TAGS), encoding)
        edits += _edit_coordinator(response, node_at, error_at)
    _check_position(frame, at)
    return edits


def _edit_coordinator(response: _Response, node_at: int, error_at: int) -> list[_Edit]:
    """Edit one coordinator; one that cannot be told is no node at all, as Kafka says it."""
    frame, encoding = response.frame, response.encoding
    (node_id,) = INT32.unpack_from(frame, node_at)
    (error_code,) = INT16.unpack_from(frame, error_at)
    address_end = encoding.skip_string(frame, node_at + 4) + 4
    address = None if error_code else response.advertised(node_id)
    if address is None:
        node = _NO_NODE + _encode_address(encoding, ("", -1))
        error = INT16.pack(error_code or _COORDINATOR_NOT_AVAILABLE)
    else:
        node = INT32.pack(node_id) + _encode_address(encoding, address)
        error = INT16.pack(error_code)
    return sorted([_Edit(node_at, address_end, node), _Edit(error_at, error_at + 2, error)])


def _edit_quorum(response: _Response) -> list[_Edit]:
    """Keep the controllers' ids and none of their listeners."""
    frame, encoding = response.frame, response.encoding
    start = skip(frame, response.body, _BEFORE_CONTROLLERS, encoding)
    count, at = encoding.read_count(frame, start)
    new: list[bytes | bytearray] = [encoding.encode_count(count)]
    for _ in range(count):
        end_at = skip(frame, at + 4, (_LISTENER,), encoding)
        new += (frame[at : at + 4], encoding.encode_count(0))
        at = skip(frame, end_at, (TAGS,), encoding)
        new.append(frame[end_at:at])
    _check_position(frame, at)
    return [_Edit(start, at, b"".join(new))]


_EDITORS: Final[dict[int, Callable[[_Response], list[_Edit]]]] = {
    ApiKey.PRODUCE: _edit_tagged_list,
    ApiKey.FETCH: _edit_tagged_list,
    ApiKey.METADATA: _edit_metadata,
    ApiKey.FIND_COORDINATOR: _edit_coordinators,
    ApiKey.DESCRIBE_CLUSTER: _edit_list,
    ApiKey.DESCRIBE_QUORUM: _edit_quorum,
    ApiKey.SHARE_FETCH: _edit_list,
    ApiKey.SHARE_ACKNOWLEDGE: _edit_list,
}


# --- the layouts --------------------------------------------------------------------------------------------

_CURRENT_LEADER: Final[Layout] = (8, TAGS)
_NODE_ENDPOINT_END: Final[Layout] = (STRING, TAGS)
# id, directory, log end, last fetch, last caught up
_REPLICA: Final[Layout] = (44, TAGS)
# error and its message, topics and their partitions
_BEFORE_CONTROLLERS: Final[Layout] = (
    2,
    STRING,
    (STRING, (6, STRING, 16, _REPLICA, _REPLICA, TAGS), TAGS),
)
_LISTENER: Final[Layout] = (STRING, STRING, 2, TAGS)


@cache
def _end_of_metadata_topic(version: int) -> Layout:
    """What follows error code and name: topic id, is_internal, partitions, authorized operations."""
    nodes: Layout = (4,)
    tags: Layout = (TAGS,) * (version >= 9)
    replicas_isr_offline: Layout = (nodes,) * (3 if version >= 5 else 2)
    partition: Layout = (14 if version >= 7 else 10, *replicas_isr_offline, *tags)
    return (16 * (version >= 10) + (version >= 1), partition, 4 * (version >= 8), *tags)


@cache
def _around_brokers(api_key: int, version: int) -> tuple[Layout, Layout]:
    """What comes before the brokers, or before the tagged fields with them, and what ends each broker."""
    if api_key == ApiKey.DESCRIBE_CLUSTER:
        # throttle time and error, its message, endpoint type, cluster id, controller; rack, is_fenced
        return (6, STRING, int(version >= 1), STRING, 4), (STRING, int(version >= 2), TAGS)
    return _before_node_endpoints(api_key, version), _NODE_ENDPOINT_END


def _before_node_endpoints(api_key: int, version: int) -> Layout:
    if api_key == ApiKey.PRODUCE:  # topics and their partitions with record errors, throttle time
        topic = 16 if version >= 13 else STRING
        return ((topic, (30, (4, STRING, TAGS), STRING, TAGS), TAGS), 4)
    if api_key == ApiKey.FETCH:  # throttle time, error and session id, topics: aborted transactions, records
        return (10, (16, (30, (16, TAGS), 4, BYTES, TAGS), TAGS))
    if api_key == ApiKey.SHARE_FETCH:  # throttle time and error, its message, lock timeout, topics
        partition: Layout = (6, STRING, 2, STRING, *_CURRENT_LEADER, BYTES, (18, TAGS), TAGS)
        return (6, STRING, 4, (16, partition, TAGS))
    # ShareAcknowledge: the same without records
    return (6, STRING, 4 * (version >= 2), (16, (6, STRING, *_CURRENT_LEADER, TAGS), TAGS))
