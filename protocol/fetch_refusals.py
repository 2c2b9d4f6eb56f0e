"""Fetch requests of which some topics are refused, v4-18, by hand on the bytes: records stay where they are.

A request is made anew of the partitions that are left, in any state of its session (KIP-227). A response
loses the topics that are refused and gets an error for each of their partitions, and another session id.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cache
from typing import Final, TypeAlias
from uuid import UUID

from protocol.errors import DecodeError
from protocol.fields import (
    BYTES,
    COMPACT,
    INT32,
    MALFORMED,
    PLAIN,
    TAGS,
    Buffer,
    Encoding,
    Layout,
    expect_string,
    skip,
)
from protocol.request_views import FETCH_FLEXIBLE, FETCH_SESSIONS, TOPIC_IDS, FetchView, TopicView

Topic: TypeAlias = str | UUID
# The bytes of each partition in a request, by its index.
Partitions: TypeAlias = dict[int, bytes]

SESSIONLESS: Final = (0, -1)

_LOG_START: Final = 5
_LEADER_EPOCH: Final = 9
_PREFERRED_REPLICA: Final = 11
_SESSION: Final = struct.Struct(">ii")
_ERROR_AND_SESSION: Final = struct.Struct(">hi")
_INDEX_AND_ERROR: Final = struct.Struct(">ih")
_ID: Final = struct.Struct("16s")
_NONE: Final = struct.pack(">q", -1)
_NO_REPLICA: Final = INT32.pack(-1)


def fetch_partitions(version: int, frame: Buffer, topic: TopicView) -> Partitions:
    """The bytes of each partition of a topic in a request that `read_fetch` has read."""
    encoding = _encoding(version)
    at = topic.start + 16 if version >= TOPIC_IDS else encoding.skip_string(frame, topic.start)
    count, at = encoding.read_count(frame, at)
    layout = _asked_partition(version)
    found = {}
    for _ in range(count):
        start = at
        at = skip(frame, at, layout, encoding)
        found[INT32.unpack_from(frame, start)[0]] = bytes(frame[start:at])
    return found


def encode_fetch(
    view: FetchView, frame: Buffer, topics: Mapping[Topic, Partitions], session: tuple[int, int]
) -> bytes:
    """The body of the request with those topics instead of its own, none to forget, and that session."""
    encoding, version = _encoding(view.version), view.version
    parts: list[Buffer] = [frame[view.body_at : view.session_at]]
    if version >= FETCH_SESSIONS:
        parts.append(_SESSION.pack(*session))
    parts.append(encoding.encode_count(len(topics)))
    for topic, partitions in topics.items():
        parts += (_encode_topic(topic, encoding), encoding.encode_count(len(partitions)))
        parts += (*partitions.values(), encoding.no_tags)
    if version >= FETCH_SESSIONS:
        parts.append(encoding.encode_count(0))
    parts.append(frame[view.rest_at :])
    return b"".join(parts)


def fetch_refused(
    version: int,
    refused: Mapping[Topic, tuple[int, tuple[int, ...]]],
    session_id: int = 0,
    error_code: int = 0,
) -> bytes:
    """The body of a response that holds nothing but refusals: of each topic the code, and its partitions."""
    encoding = _encoding(version)
    head = INT32.pack(0)
    if version >= FETCH_SESSIONS:
        head += _ERROR_AND_SESSION.pack(error_code, session_id)
    topics = _encode_refused(version, refused)
    return b"".join((head, encoding.encode_count(len(topics)), *topics, encoding.no_tags))


def refuse_fetched(
    version: int,
    body: Buffer,
    refused: Mapping[Topic, tuple[int, tuple[int, ...]]],
    session_id: int | None = None,
) -> bytes:
    """A response without what it has of the refused topics, and with their refusals; DecodeError.

    With `session_id` that one stands in it.
    """
    encoding = _encoding(version)
    head_size = _topics_at(version)
    try:
        head = bytearray(body[:head_size])
        if version >= FETCH_SESSIONS and session_id is not None:
            INT32.pack_into(head, head_size - INT32.size, session_id)
        count, at = encoding.read_count(body, head_size)
        kept: list[Buffer] = []
        for _ in range(count):
            start = at
            topic, at = _read_topic(version, body, at, encoding)
            at = skip(body, at, _end_of_topic(version), encoding)
            if topic not in refused:
                kept.append(body[start:at])
    except MALFORMED as error:
        raise DecodeError(f"Fetch response v{version}: {error}") from error
    if at > len(body):
        raise DecodeError(f"Fetch response v{version}: a topic ends at byte {at} of {len(body)}")
    kept += _encode_refused(version, refused)
    return b"".join((head, encoding.encode_count(len(kept)), *kept, body[at:]))


def fetched_topics(version: int, body: Buffer) -> list[Topic]:
    """The topics of a response, in its order; DecodeError."""
    encoding = _encoding(version)
    found = []
    try:
        count, at = encoding.read_count(body, _topics_at(version))
        for _ in range(count):
            topic, at = _read_topic(version, body, at, encoding)
            at = skip(body, at, _end_of_topic(version), encoding)
            found.append(topic)
    except MALFORMED as error:
        raise DecodeError(f"Fetch response v{version}: {error}") from error
    return found


def session_id_of(version: int, body: Buffer) -> int:
    """The id of the session that a response belongs to, 0 for none; DecodeError."""
    if version < FETCH_SESSIONS:
        return 0
    try:
        return int(_ERROR_AND_SESSION.unpack_from(body, INT32.size)[1])
    except MALFORMED as error:
        raise DecodeError(f"Fetch response v{version}: {error}") from error


def _topics_at(version: int) -> int:
    """Where the topics of a response begin: throttle time, error and session are before them."""
    return INT32.size + (_ERROR_AND_SESSION.size if version >= FETCH_SESSIONS else 0)


def _encode_refused(version: int, refused: Mapping[Topic, tuple[int, tuple[int, ...]]]) -> list[bytes]:
    encoding = _encoding(version)
    # No high watermark, last stable offset, log start; no aborted transactions, replica, records.
    rest = _NONE * (3 if version >= _LOG_START else 2) + encoding.encode_count(0)
    if version >= _PREFERRED_REPLICA:
        rest += _NO_REPLICA
    rest += encoding.encode_count(0) + encoding.no_tags
    encoded = []
    for topic, (code, indexes) in refused.items():
        if not indexes:
            continue
        partitions = [_INDEX_AND_ERROR.pack(index, code) + rest for index in indexes]
        name = _encode_topic(topic, encoding)
        encoded.append(
            b"".join((name, encoding.encode_count(len(partitions)), *partitions, encoding.no_tags))
        )
    return encoded


def _encode_topic(topic: Topic, encoding: Encoding) -> bytes:
    return topic.bytes if isinstance(topic, UUID) else encoding.encode_string(topic)


def _read_topic(version: int, body: Buffer, at: int, encoding: Encoding) -> tuple[Topic, int]:
    if version >= TOPIC_IDS:
        (topic_id,) = _ID.unpack_from(body, at)
        return UUID(bytes=topic_id), at + _ID.size
    name, at = encoding.read_string(body, at)
    return expect_string(name), at


def _encoding(version: int) -> Encoding:
    return COMPACT if version >= FETCH_FLEXIBLE else PLAIN


@cache
def _asked_partition(version: int) -> Layout:
    """Index, offset and limit; log start (v5), leader epoch (v9), epoch of the last fetched (v12)."""
    size = 16 + 8 * (version >= _LOG_START) + 4 * (version >= _LEADER_EPOCH) + 4 * (version >= FETCH_FLEXIBLE)
    return (size, *(TAGS,) * (version >= FETCH_FLEXIBLE))


@cache
def _end_of_topic(version: int) -> Layout:
    """The partitions of a topic in a response: offsets, aborted transactions, records."""
    tags: Layout = (TAGS,) * (version >= FETCH_FLEXIBLE)
    size = 22 + 8 * (version >= _LOG_START)
    replica: Layout = (4,) * (version >= _PREFERRED_REPLICA)
    return ((size, (16, *tags), *replica, BYTES, *tags), *tags)
