"""Produce requests of which some topics are refused: these are cut out and answered, the rest is forwarded.

Produce v3-13, by hand on the bytes: records stay as they are, and throttle time, node endpoints and whatever
else the broker's response holds stay the broker's. The client sees every partition that it sent exactly once.
"""

import struct
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Final, TypeAlias
from uuid import UUID

from protocol.errors import DecodeError
from protocol.fields import (
    COMPACT,
    INT32,
    MALFORMED,
    PLAIN,
    STRING,
    TAGS,
    Buffer,
    Encoding,
    Layout,
    expect_string,
    skip,
)
from protocol.refusals import Answer, Cut, Refusal
from protocol.request_views import PRODUCE_FLEXIBLE, TOPIC_IDS, ProduceView

RefusedTopicOrId: TypeAlias = Callable[[str | UUID], Refusal | None]
Refusals: TypeAlias = dict[str | UUID, Refusal]

_LOG_START: Final = 5
_MESSAGES: Final = 8
_REFUSED_PARTITION: Final = struct.Struct(">ihqq")
_NO_LOG_START: Final = struct.pack(">q", -1)


def split_produce(request: ProduceView, refused: RefusedTopicOrId) -> Answer | Cut | None:
    """Cut the refused topics out of a Produce request; None if there is none.

    With acks=0 nothing is answered: the caller forwards what is left and closes the connection, as Kafka.
    """
    refusals: Refusals = {}
    kept = []
    for topic in request.topics:
        refusal = refused(topic.topic)
        if refusal is None:
            kept.append(topic)
        else:
            refusals[topic.topic] = refusal
    if not refusals:
        return None
    encoding = _encoding(request.version)
    if not kept:
        topics = _encode_refused_topics(request, refusals)
        return Answer(_join(encoding, topics.values(), INT32.pack(0) + encoding.no_tags))
    frame = memoryview(request.frame)
    topics_end = request.topics[-1].end
    rest = _join(encoding, [frame[topic.start : topic.end] for topic in kept], frame[topics_end:])
    return Cut(
        bytes(frame[request.body_at : request.topics_at]) + rest, partial(_merge_produce, request, refusals)
    )


def _join(encoding: Encoding, elements: Iterable[Buffer], after: Buffer) -> bytes:
    elements = tuple(elements)
    return b"".join((encoding.encode_count(len(elements)), *elements, after))


def _encoding(version: int) -> Encoding:
    return COMPACT if version >= PRODUCE_FLEXIBLE else PLAIN


def _merge_produce(request: ProduceView, refusals: Refusals, response_body: Buffer) -> bytes:
    """Add the refused topics to a Produce response; throttle time and node endpoints stay the broker's."""
    encoding = _encoding(request.version)
    try:
        theirs, topics_end = _read_topics(request.version, response_body, encoding)
    except MALFORMED as error:
        raise DecodeError(f"Produce response v{request.version}: {error}") from error
    ours = _encode_refused_topics(request, refusals)
    merged: list[Buffer] = []
    for topic in dict.fromkeys(view.topic for view in request.topics):
        merged += (ours[topic],) if topic in ours else theirs.pop(topic, ())
    for elements in theirs.values():
        merged += elements
    return _join(encoding, merged, response_body[topics_end:])


def _read_topics(
    version: int, body: Buffer, encoding: Encoding
) -> tuple[dict[str | UUID, list[Buffer]], int]:
    topics: dict[str | UUID, list[Buffer]] = {}
    partitions = _end_of_topic(version)
    count, at = encoding.read_count(body, 0)
    for _ in range(count):
        start = at
        topic: str | UUID
        if version >= TOPIC_IDS:
            at = skip(body, start + 16, partitions, encoding)
            topic = UUID(bytes=bytes(body[start : start + 16]))
        else:
            name, at = encoding.read_string(body, start)
            topic = expect_string(name)
            at = skip(body, at, partitions, encoding)
        topics.setdefault(topic, []).append(body[start:at])
    if at > len(body):
        raise DecodeError(f"a topic ends at byte {at} of {len(body)}")
    return topics, at


@cache
def _end_of_topic(version: int) -> Layout:
    tags: Layout = (TAGS,) * (version >= PRODUCE_FLEXIBLE)
    record_errors_and_message: Layout = ((4, STRING, *tags), STRING) if version >= _MESSAGES else ()
    return ((30 if version >= _LOG_START else 22, *record_errors_and_message, *tags), *tags)


def _encode_refused_topics(request: ProduceView, refusals: Refusals) -> dict[str | UUID, bytes]:
    encoding = _encoding(request.version)
    partitions: dict[str | UUID, dict[int, None]] = {}
    for view in request.topics:
        if view.topic in refusals:
            partitions.setdefault(view.topic, {}).update(dict.fromkeys(view.partitions))
    encoded = {}
    for topic, indexes in partitions.items():
        name = topic.bytes if isinstance(topic, UUID) else encoding.encode_string(topic)
        code, message = refusals[topic]
        after = _NO_LOG_START if request.version >= _LOG_START else b""
        if request.version >= _MESSAGES:
            after += encoding.encode_count(0) + encoding.encode_string(message)
        after += encoding.no_tags
        elements = [_REFUSED_PARTITION.pack(index, code, -1, -1) + after for index in indexes]
        encoded[topic] = name + _join(encoding, elements, encoding.no_tags)
    return encoded
