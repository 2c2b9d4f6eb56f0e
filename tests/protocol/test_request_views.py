"""Produce and Fetch requests as kio sees them, in every version; hostile bytes never pass."""

import dataclasses
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from protocol.errors import DecodeError, UnsupportedVersion
from protocol.fields import encode_uvarint
from protocol.headers import peek_request_header
from protocol.messages import decode_request, encode_request, request_class
from protocol.request_views import (
    CONSUMER,
    FETCH_VERSIONS,
    PRODUCE_VERSIONS,
    FetchView,
    ProduceView,
    TopicView,
    read_fetch,
    read_produce,
)
from tests.protocol.real_frames import REQUESTS, RealFrame
from tests.protocol.schema_bytes import build, hostile_variants

PRODUCE, FETCH = 0, 1
READERS: dict[int, Callable[[int, bytes, int], ProduceView | FetchView]] = {
    PRODUCE: read_produce,
    FETCH: read_fetch,
}
EVERY = [
    *((PRODUCE, version) for version in PRODUCE_VERSIONS),
    *((FETCH, version) for version in FETCH_VERSIONS),
]
every_version = pytest.mark.parametrize(("key", "version"), EVERY, ids=[f"{'PF'[k]}{v}" for k, v in EVERY])


def ms(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)


def compare_topics(
    views: tuple[TopicView, ...], topics: Any, partitions_of: Callable[[Any], tuple[int, ...]]
) -> None:
    names = [getattr(topic, "name", getattr(topic, "topic", None)) or topic.topic_id for topic in topics]
    assert [view.topic for view in views] == names
    assert [view.partitions for view in views] == [partitions_of(topic) for topic in topics]


def compare_produce(view: ProduceView, request: Any) -> None:
    assert (view.transactional_id, view.acks) == (request.transactional_id, request.acks)
    assert view.timeout_ms == ms(request.timeout)
    compare_topics(
        view.topics, request.topic_data, lambda topic: tuple(part.index for part in topic.partition_data)
    )


def compare_fetch(view: FetchView, request: Any) -> None:
    state = getattr(request, "replica_state", None)
    assert view.replica_id == (request.replica_id if state is None else state.replica_id)
    assert view.max_wait_ms == ms(request.max_wait)
    assert view.min_bytes == request.min_bytes
    assert view.max_bytes == request.max_bytes
    assert view.isolation_level == request.isolation_level
    session = (getattr(request, "session_id", 0), getattr(request, "session_epoch", -1))
    assert (view.session_id, view.session_epoch) == session
    compare_topics(
        view.topics, request.topics, lambda topic: tuple(part.partition for part in topic.partitions)
    )
    forgotten = getattr(request, "forgotten_topics_data", ())
    compare_topics(view.forgotten, forgotten, lambda topic: tuple(topic.partitions))


COMPARE: dict[int, Callable[[Any, Any], None]] = {PRODUCE: compare_produce, FETCH: compare_fetch}


@every_version
def test_the_view_is_what_kio_decodes(key: int, version: int) -> None:
    for seed in range(15):
        body, _ = build(request_class(key, version), seed)
        view = READERS[key](version, b"header" + body, 6)
        COMPARE[key](view, decode_request(key, version, body))


@pytest.mark.parametrize("frame", [frame for frame in REQUESTS if frame.api_key in READERS], ids=str)
def test_real_requests(frame: RealFrame) -> None:
    header = peek_request_header(frame.data)
    view = READERS[frame.api_key](frame.version, frame.data, header.body_offset)
    COMPARE[frame.api_key](
        view, decode_request(frame.api_key, frame.version, frame.data[header.body_offset :])
    )


def test_real_requests_are_of_every_version() -> None:
    assert {(frame.api_key, frame.version) for frame in REQUESTS} >= set(EVERY)


@pytest.mark.parametrize("version", PRODUCE_VERSIONS)
def test_where_topics_lie(version: int) -> None:
    body, _ = build(request_class(PRODUCE, version), 4)
    request = decode_request(PRODUCE, version, body)
    view = read_produce(version, bytearray(b"header" + body), 6)
    frame = bytes(view.frame)
    assert view.body_at == 6
    for topic, of_view in zip(request.topic_data, view.topics, strict=True):
        alone = encode_request(dataclasses.replace(request, topic_data=(topic,)))
        assert frame[of_view.start : of_view.end] in alone
    # Between the count and the end there is nothing but topics.
    assert [topic.end for topic in view.topics[:-1]] == [topic.start for topic in view.topics[1:]]
    assert len(frame) - view.topics[-1].end == (version >= 9)
    assert view.topics[0].start - view.topics_at == (1 if version >= 9 else 4)


def test_topic_ids() -> None:
    body, _ = build(request_class(PRODUCE, 13), 4)
    assert all(isinstance(topic.topic, UUID) for topic in read_produce(13, body).topics)


@every_version
def test_truncated_at_every_byte_and_too_long(key: int, version: int) -> None:
    body, _ = build(request_class(key, version), 1)
    for end in range(len(body)):
        with pytest.raises(DecodeError):
            READERS[key](version, body[:end], 0)
    with pytest.raises(DecodeError):
        READERS[key](version, body + b"\x00", 0)


@every_version
def test_every_length_and_count_that_lies_is_refused(key: int, version: int) -> None:
    message = request_class(key, version)
    _, marks = build(message, 2)
    assert marks
    for hostile in hostile_variants(marks):
        body, _ = build(message, 2, hostile)
        with pytest.raises(DecodeError):
            READERS[key](version, body, 0)


@pytest.mark.parametrize(("key", "version"), [(0, 2), (0, 14), (1, 3), (1, 19)])
def test_other_versions(key: int, version: int) -> None:
    with pytest.raises(UnsupportedVersion):
        READERS[key](version, b"", 0)


def incremental_fetch(tags: bytes) -> bytes:
    return bytes.fromhex("000001f4 00000001 00100000 01 00000009 00000002 01 01 01") + tags


CLUSTER = b"\x00\x03\x03me"
STATE = b"\x01\x0d" + bytes.fromhex("00000003 0000000000000009 00")


def test_an_incremental_fetch() -> None:
    view = read_fetch(17, incremental_fetch(b"\x00"))
    assert view[:-3] == FetchView(17, CONSUMER, 500, 1, 1048576, 1, 9, 2, (), (), 0, 0, 0)[:-3]


def test_a_follower_is_seen() -> None:
    assert read_fetch(17, incremental_fetch(b"\x02" + CLUSTER + STATE)).replica_id == 3
    assert read_fetch(17, incremental_fetch(b"\x01" + STATE)).replica_id == 3
    assert read_fetch(17, incremental_fetch(b"\x01" + CLUSTER)).replica_id == CONSUMER


@pytest.mark.parametrize(
    "tags",
    [
        b"\x01\x02\x01x",
        b"\x02" + STATE + STATE,
        b"\x01\x01\x0c" + STATE[2:-1],
        b"\x01\x01\x0e" + STATE[2:-1] + b"\x01\x00",
        b"\x01" + STATE[:-1] + b"\x01",
        b"\x01\x00\x04\x03me\x00",
        b"\x01\x00\x02\x03me",
        b"\x02" + STATE,
        b"\x01" + STATE + b"\x00",
    ],
    ids=[
        "unknown",
        "twice",
        "short",
        "long",
        "nested tags",
        "string ends early",
        "late",
        "count",
        "byte too many",
    ],
)
def test_tagged_fields_that_are_refused(tags: bytes) -> None:
    with pytest.raises(DecodeError):
        read_fetch(17, incremental_fetch(tags))


def test_a_follower_says_so_by_a_tag_from_v15_on_only() -> None:
    body = bytes.fromhex("ffffffff") + incremental_fetch(b"\x01" + STATE)
    with pytest.raises(DecodeError):
        read_fetch(14, body)
    assert read_fetch(14, bytes.fromhex("00000007") + incremental_fetch(b"\x00")).replica_id == 7


@pytest.mark.parametrize("tagged", [9, 13])
def test_a_tagged_field_in_a_produce_request_is_refused(tagged: int) -> None:
    body, _ = build(request_class(PRODUCE, tagged), 1)
    read_produce(tagged, body)
    with pytest.raises(DecodeError):
        read_produce(tagged, body[:-1] + b"\x01\x00\x01x")


def test_the_error_says_where() -> None:
    with pytest.raises(DecodeError, match="Produce request v9: "):
        read_produce(9, b"\x00")
    with pytest.raises(DecodeError, match="Fetch request v12: "):
        read_fetch(12, b"\x00")


def test_a_topic_that_is_not_utf8() -> None:
    with pytest.raises(DecodeError):
        read_produce(9, b"\x00\xff\xff\x00\x00\x00\x01\x02\x02\xff\x01\x00\x00")


def test_a_topic_without_partitions() -> None:
    (topic,) = read_produce(9, bytes.fromhex("00 ffff 00000000 02 02 61 01 00 00")).topics
    assert (topic.topic, topic.partitions) == ("a", ())
    (topic,) = read_produce(3, bytes.fromhex("ffff ffff 00000000 00000001 0001 61 00000000")).topics
    assert (topic.topic, topic.partitions) == ("a", ())


HEAD = bytes.fromhex("00 ffff 00000000")


def produce_with(topics: int, partitions: int, record_bytes: int) -> bytes:
    records = encode_uvarint(record_bytes + 1) + bytes(record_bytes)
    topic = b"\x02a" + encode_uvarint(partitions + 1) + (bytes(4) + records + b"\x00") * partitions + b"\x00"
    return HEAD + encode_uvarint(topics + 1) + topic * topics + b"\x00"


@pytest.mark.parametrize(
    ("topics", "partitions", "record_bytes"),
    [(1000, 0, 0), (1, 1000, 0), (5000, 1, 61), (1, 5000, 61), (50, 100, 61)],
)
def test_as_many_as_there_can_be(topics: int, partitions: int, record_bytes: int) -> None:
    view = read_produce(9, produce_with(topics, partitions, record_bytes))
    assert [len(topic.partitions) for topic in view.topics] == [partitions] * topics


@pytest.mark.parametrize(
    ("topics", "partitions", "record_bytes"),
    [(1100, 0, 0), (1, 1200, 0), (20, 100, 0), (5000, 1, 20), (1, 5000, 20)],
)
def test_more_than_there_is_room_for(topics: int, partitions: int, record_bytes: int) -> None:
    with pytest.raises(DecodeError, match=r"room|left"):
        read_produce(9, produce_with(topics, partitions, record_bytes))


@pytest.mark.parametrize(
    "topic", [b"\x01\x01\x00", b"\x02a\x02\x00\x00\x00\x00\x00\x00\x00"], ids=["empty", "null records"]
)
def test_memory_stays_below_eight_times_the_frame(topic: bytes) -> None:
    count = 300_000
    frame = HEAD + encode_uvarint(count + 1) + topic * count + b"\x00"
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            read_produce(9, frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(frame) + 2**20


@pytest.mark.parametrize(
    ("version", "body"),
    [
        (9, "00 ffff 00000000 00 00"),
        (9, "00 ffff 00000000 02 02 61 00 00 00"),
        (9, "00 ffff 00000000 02 00 01 00 00"),
        (3, "ffff ffff 00000000 ffffffff"),
        (3, "ffff ffff 00000000 00000001 0001 61 ffffffff"),
    ],
    ids=["topics", "partitions", "name", "plain topics", "plain partitions"],
)
def test_null_where_there_must_be_something(version: int, body: str) -> None:
    with pytest.raises(DecodeError, match="null"):
        read_produce(version, bytes.fromhex(body))
