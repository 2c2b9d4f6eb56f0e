"""Responses about mirror topics as their source would give them: fillers presented, log starts kept.

Fetch v4-18 and ShareFetch v1-2 have records, whose fillers clients must not see. A broker that is killed may
forget how far a log was deleted, so Fetch, ListOffsets v1-11, OffsetForLeaderEpoch v2-4 and DeleteRecords
v0-2 never show an offset below the log start that is recorded. Nothing is encoded anew: offsets are changed
where they are, records are spliced, and of what is no mirror nothing but its size is looked at.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

from protocol.api_keys import ApiKey, is_flexible
from protocol.errors import DecodeError, UnsupportedVersion
from protocol.fields import (
    BYTES,
    COMPACT,
    INT16,
    INT32,
    INT64,
    OUT_OF_BOUNDS,
    PLAIN,
    STRING,
    TAGS,
    Encoding,
    Layout,
    expect_string,
    skip,
    skip_array,
)
from protocol.headers import response_body_offset
from protocol.presentation import Edit, Region, present, splice
from protocol.record_batches import HEADER_BYTES, MAGIC, BatchView

SHOWN_VERSIONS: Final[dict[int, range]] = {
    ApiKey.FETCH: range(4, 19),
    ApiKey.LIST_OFFSETS: range(1, 12),
    ApiKey.DELETE_RECORDS: range(3),
    ApiKey.OFFSET_FOR_LEADER_EPOCH: range(2, 5),
    ApiKey.SHARE_FETCH: range(1, 3),
}

_NONE: Final = 0
_OFFSET_OUT_OF_RANGE: Final = 1
_UNKNOWN: Final = INT64.pack(-1)
_UUID: Final = struct.Struct("16s")
_NO_REPLICA: Final = INT32.pack(-1)
_NULL_ARRAY: Final = -1

# The versions from which Fetch responses have a field.
_LOG_START: Final = 5
_SESSION: Final = 7
_PREFERRED_REPLICA: Final = 11
_FETCH_BY_ID: Final = 13


@dataclass(frozen=True, slots=True)
class ShownPartition:
    """What is known of a mirror's partition: where its log starts, which offsets a link has written."""

    log_start: int = 0
    regions: tuple[Region, ...] = ()


ShownTopic: TypeAlias = Callable[[int], ShownPartition]
Shown: TypeAlias = Callable[[str | UUID], ShownTopic | None]


class Presented(NamedTuple):
    """A response, the same or a new one, and how many batches in it are others than the broker sent."""

    frame: bytearray
    batches: int


@dataclass(slots=True)
class _Response:
    version: int
    frame: bytearray
    encoding: Encoding
    partition: Layout
    edits: list[Edit] = field(default_factory=list)
    batches: int = 0


_PartitionEditor: TypeAlias = Callable[[_Response, int, ShownTopic], int]


def present_response(api_key: int, version: int, frame: bytearray, shown: Shown) -> Presented:
    """Show what a mirror's source would, of the topics, by name or id, that `shown` knows.

    The frame may be altered where it is. DecodeError; UnsupportedVersion for a version that is not known.
    """
    if version not in SHOWN_VERSIONS[api_key]:
        raise UnsupportedVersion(api_key, version)
    encoding = COMPACT if is_flexible(api_key, version) else PLAIN
    at = response_body_offset(api_key, version, frame)
    before, partition = _layouts(api_key, version)
    response = _Response(version, frame, encoding, partition)
    try:
        at = _walk_topics(api_key, response, skip(frame, at, before, encoding), shown)
    except OUT_OF_BOUNDS as error:
        raise DecodeError(f"{ApiKey(api_key).name} response v{version}: {error}") from error
    if at > len(frame):
        raise DecodeError(f"{ApiKey(api_key).name} response v{version} ends within its topics")
    if not response.edits:
        return Presented(frame, 0)
    return Presented(splice(frame, response.edits), response.batches)


def _walk_topics(api_key: int, response: _Response, at: int, shown: Shown) -> int:
    frame, encoding = response.frame, response.encoding
    by_id = api_key == ApiKey.SHARE_FETCH or (api_key == ApiKey.FETCH and response.version >= _FETCH_BY_ID)
    edit_partition = _EDITORS[api_key]
    count, at = encoding.read_count(frame, at)
    topic: str | UUID
    for _ in range(count):
        if by_id:
            topic = UUID(bytes=_UUID.unpack_from(frame, at)[0])
            at += _UUID.size
        else:
            name, at = encoding.read_string(frame, at)
            topic = expect_string(name)
        shown_topic = shown(topic)
        if shown_topic is None:
            at = skip_array(frame, at, response.partition, encoding)
        else:
            partitions, at = encoding.read_count(frame, at)
            for _ in range(partitions):
                at = edit_partition(response, at, shown_topic)
        if encoding is COMPACT:
            at = skip(frame, at, (TAGS,), encoding)
    return at


# --- one editor per shape of partition ----------------------------------------------------------------------


def _edit_fetched(response: _Response, at: int, topic: ShownTopic) -> int:
    version, frame, encoding = response.version, response.frame, response.encoding
    end_of_head, aborted, replica, tags = _fetched_layout(version)
    records_at = skip(frame, at, (end_of_head, aborted, *replica), encoding)
    start, end = _read_records(response, records_at)
    (index,) = INT32.unpack_from(frame, at)
    (error_code,) = INT16.unpack_from(frame, at + 4)
    shown = topic(index)
    if error_code == _NONE:
        if _is_below(frame, start, end, shown.log_start):
            nothing = _encode_nothing(version, encoding)
            response.edits.append(Edit(at + 4, end, nothing))
        else:
            if version >= _LOG_START:
                _raise_offset(frame, at + end_of_head - INT64.size, shown.log_start)
            _present_records(response, records_at, start, end, shown.regions)
    return skip(frame, end, tags, encoding)


def _edit_acquired(response: _Response, at: int, topic: ShownTopic) -> int:
    frame, encoding = response.frame, response.encoding
    records_at = skip(frame, at, _BEFORE_ACQUIRED, encoding)
    start, end = _read_records(response, records_at)
    (index,) = INT32.unpack_from(frame, at)
    _present_records(response, records_at, start, end, topic(index).regions)
    return skip(frame, end, _AFTER_ACQUIRED, encoding)


def _read_records(response: _Response, at: int) -> tuple[int, int]:
    """Where the records begin and end."""
    end = response.encoding.skip_bytes(response.frame, at)
    if response.encoding is PLAIN:
        start = at + INT32.size
    else:
        _, start = response.encoding.read_count(response.frame, at)
    if end > len(response.frame):
        raise DecodeError(f"records up to byte {end} of a frame of {len(response.frame)}")
    return start, end


def _present_records(
    response: _Response, records_at: int, start: int, end: int, regions: tuple[Region, ...]
) -> None:
    changes = present(response.frame, start, end, regions)
    if changes:
        grown = sum(len(edit.new) - (edit.end - edit.start) for edit in changes)
        # A size of bytes is encoded as a count is.
        size = response.encoding.encode_count(end - start + grown)
        response.edits.append(Edit(records_at, start, size))
        response.edits += changes
        response.batches += len(changes)


def _is_below(frame: bytearray, start: int, end: int, log_start: int) -> bool:
    """Whether what was read is deleted: then it was asked for an offset below the start of the log."""
    if not log_start or end - start < HEADER_BYTES:
        return False
    batch = BatchView(memoryview(frame), start)
    return batch.magic == MAGIC and batch.next_offset <= log_start


def _encode_nothing(version: int, encoding: Encoding) -> bytes:
    """A partition from its error code to its records, as a broker says that an offset is out of range."""
    offsets = _UNKNOWN * (3 if version >= _LOG_START else 2)
    replica = _NO_REPLICA * (version >= _PREFERRED_REPLICA)
    error_code = INT16.pack(_OFFSET_OUT_OF_RANGE)
    return error_code + offsets + encoding.encode_count(_NULL_ARRAY) + replica + encoding.encode_count(0)


def _offset_editor(index_at: int, offset_at: int) -> _PartitionEditor:
    """Make the editor of a partition whose offset, at its place, is raised to the start of the log."""

    def edit(response: _Response, at: int, topic: ShownTopic) -> int:
        (index,) = INT32.unpack_from(response.frame, at + index_at)
        _raise_offset(response.frame, at + offset_at, topic(index).log_start)
        return skip(response.frame, at, response.partition, response.encoding)

    return edit


def _raise_offset(frame: bytearray, at: int, log_start: int) -> None:
    (offset,) = INT64.unpack_from(frame, at)
    # Negative ones say that there is none.
    if 0 <= offset < log_start:
        INT64.pack_into(frame, at, log_start)


_EDITORS: Final[dict[int, _PartitionEditor]] = {
    ApiKey.FETCH: _edit_fetched,
    ApiKey.SHARE_FETCH: _edit_acquired,
    ApiKey.LIST_OFFSETS: _offset_editor(0, 4 + 2 + 8),
    ApiKey.OFFSET_FOR_LEADER_EPOCH: _offset_editor(2, 2 + 4 + 4),
    ApiKey.DELETE_RECORDS: _offset_editor(0, 4),
}


# --- the layouts --------------------------------------------------------------------------------------------

# Index and error, its message, an error of acknowledgements, its message, current leader; acquired records.
_BEFORE_ACQUIRED: Final[Layout] = (6, STRING, 2, STRING, 8, TAGS)
_AFTER_ACQUIRED: Final[Layout] = ((18, TAGS), TAGS)


@cache
def _fetched_layout(version: int) -> tuple[int, Layout, Layout, Layout]:
    """Index, error and offsets; aborted transactions; preferred replica; what follows the records."""
    tags: Layout = (TAGS,) * is_flexible(ApiKey.FETCH, version)
    head = 30 if version >= _LOG_START else 22
    return head, (16, *tags), (4,) * (version >= _PREFERRED_REPLICA), tags


@cache
def _layouts(api_key: int, version: int) -> tuple[Layout, Layout]:
    """What comes before the topics, and a partition."""
    tags: Layout = (TAGS,) * is_flexible(api_key, version)
    if api_key == ApiKey.FETCH:  # throttle time; error and session id
        head, aborted, replica, _ = _fetched_layout(version)
        return (4 + 6 * (version >= _SESSION),), (head, aborted, *replica, BYTES, *tags)
    if api_key == ApiKey.SHARE_FETCH:  # throttle time and error, its message, lock timeout
        return (6, STRING, 4), (*_BEFORE_ACQUIRED, BYTES, *_AFTER_ACQUIRED)
    if api_key == ApiKey.LIST_OFFSETS:  # throttle time; index, error, timestamp, offset, leader epoch
        return (4 * (version >= 2),), (22 + 4 * (version >= 4), *tags)
    if api_key == ApiKey.OFFSET_FOR_LEADER_EPOCH:  # throttle time; error, index, leader epoch, end offset
        return (4,), (18, *tags)
    return (4,), (14, *tags)  # throttle time; index, low watermark, error
