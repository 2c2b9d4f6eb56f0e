"""What must be known of Produce (v3-13) and Fetch (v4-18) requests, read by hand and without their records.

Every client sends them all the time, so they are not decoded: one pass finds the topics (names, or ids from
v13 on: KIP-516), their partitions and where they lie in the frame. As for every request that is looked into,
a tagged field that we do not know is an error, and so is a byte too many: what we cannot read we cannot
judge. A frame may be 100 MB and a topic in it 3 bytes, so of Produce no more topics and partitions are read
than its bytes have room for with a batch of records each.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

from protocol.api_keys import ApiKey
from protocol.errors import DecodeError, UnsupportedVersion
from protocol.fields import (
    COMPACT,
    INT32,
    MALFORMED,
    PLAIN,
    Buffer,
    Encoding,
    check_end,
    expect_string,
    read_uvarint,
    refuse_tags,
)

PRODUCE_VERSIONS: Final = range(3, 14)
FETCH_VERSIONS: Final = range(4, 19)
# The replica id of who is no broker.
CONSUMER: Final = -1

PRODUCE_FLEXIBLE: Final = 9
FETCH_SESSIONS: Final = 7
_FETCH_RACK_ID: Final = 11
FETCH_FLEXIBLE: Final = 12
_FETCH_REPLICA_STATE: Final = 15
# Both requests name topics by id from here on.
TOPIC_IDS: Final = 13

_ACKS_AND_TIMEOUT: Final = struct.Struct(">hi")
_FETCH_LIMITS: Final = struct.Struct(">iiib")
_FETCH_SESSION: Final = struct.Struct(">ii")
_NO_SESSION: Final = (0, -1)

_CLUSTER_ID_TAG: Final = 0
_REPLICA_STATE_TAG: Final = 1
# In place of a size: the field is a string, which says its own.
_STRING: Final = -1
_NO_TAGS: Final[Mapping[int, int]] = {}

# A partition in a Produce request is a batch of at least 61 bytes and 5 more. A few may be broken and hold
# less: the broker says so.
_LEAST_PRODUCED_BYTES: Final = 64
_LEAST_FETCHED_BYTES: Final = 1
_FEW: Final = 1000


class TopicView(NamedTuple):
    """One topic of a request: its name or id, its partitions, and the bytes of the frame that it takes."""

    topic: str | UUID
    partitions: tuple[int, ...]
    start: int
    end: int


class ProduceView(NamedTuple):
    """A Produce request in `frame`, whose body begins at `body_at` and its array of topics at `topics_at`."""

    version: int
    frame: Buffer
    body_at: int
    topics_at: int
    transactional_id: str | None
    acks: int
    timeout_ms: int
    topics: tuple[TopicView, ...]


class FetchView(NamedTuple):
    """A Fetch request of broker `replica_id` or a CONSUMER; `forgotten` leaves its session (KIP-227).

    Its body begins at `body_at`, session and topics at `session_at`, and what follows them at `rest_at`.
    """

    version: int
    replica_id: int
    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    isolation_level: int
    session_id: int
    session_epoch: int
    topics: tuple[TopicView, ...]
    forgotten: tuple[TopicView, ...]
    body_at: int
    session_at: int
    rest_at: int


_ReadPartitions: TypeAlias = Callable[[Buffer, int], tuple[tuple[int, ...], int]]


def read_produce(version: int, frame: Buffer, body_at: int = 0) -> ProduceView:
    """Read the Produce request whose body begins at `body_at`; DecodeError, UnsupportedVersion."""
    if version not in PRODUCE_VERSIONS:
        raise UnsupportedVersion(ApiKey.PRODUCE, version)
    flexible = version >= PRODUCE_FLEXIBLE
    encoding = COMPACT if flexible else PLAIN
    read_partitions = _read_compact_produced if flexible else _read_plain_produced
    try:
        transactional_id, at = encoding.read_string(frame, body_at)
        acks, timeout_ms = _ACKS_AND_TIMEOUT.unpack_from(frame, at)
        topics_at = at + _ACKS_AND_TIMEOUT.size
        topics, at = _read_topics(
            frame, topics_at, encoding, version >= TOPIC_IDS, read_partitions, _LEAST_PRODUCED_BYTES
        )
        if flexible:
            at = refuse_tags(frame, at)
        check_end(frame, at)
    except MALFORMED as error:
        raise DecodeError(f"Produce request v{version}: {error}") from error
    return ProduceView(version, frame, body_at, topics_at, transactional_id, acks, timeout_ms, topics)


def has_transactional_records(request: ProduceView) -> bool:
    """Whether the batch of any partition is part of a transaction; DecodeError.

    As Kafka's RequestUtils looks: at the first batch of each partition, of which a request may have no more.
    """
    frame, encoding = request.frame, COMPACT if request.version >= PRODUCE_FLEXIBLE else PLAIN
    name_size = _ID_SIZE if request.version >= TOPIC_IDS else None
    try:
        return any(
            _is_transactional(frame, start, size)
            for topic in request.topics
            for start, size in _produced_records(frame, topic, encoding, name_size)
        )
    except MALFORMED as error:
        raise DecodeError(f"Produce request v{request.version}: {error}") from error


def _produced_records(
    frame: Buffer, topic: TopicView, encoding: Encoding, name_size: int | None
) -> Iterator[tuple[int, int]]:
    at = encoding.skip_string(frame, topic.start) if name_size is None else topic.start + name_size
    count, at = encoding.read_count(frame, at)
    for _ in range(count):
        length_at = at + INT32.size
        end = encoding.skip_bytes(frame, length_at)
        size = _bytes_size(frame, length_at, encoding)
        yield end - size, size
        at = end if encoding is PLAIN else refuse_tags(frame, end)


def _bytes_size(frame: Buffer, at: int, encoding: Encoding) -> int:
    if encoding is PLAIN:
        return max(int(INT32.unpack_from(frame, at)[0]), 0)
    return max(read_uvarint(frame, at)[0] - 1, 0)


def _is_transactional(frame: Buffer, start: int, size: int) -> bool:
    # Magic and attributes of a record batch; older formats have no transactions.
    return (
        size > _ATTRIBUTES_LOW and frame[start + _MAGIC] == 2 and bool(frame[start + _ATTRIBUTES_LOW] & 0x10)
    )


_ID_SIZE: Final = 16
_MAGIC: Final = 16
_ATTRIBUTES_LOW: Final = 22


def read_fetch(version: int, frame: Buffer, body_at: int = 0) -> FetchView:
    """Read the Fetch request whose body begins at `body_at`; DecodeError, UnsupportedVersion."""
    if version not in FETCH_VERSIONS:
        raise UnsupportedVersion(ApiKey.FETCH, version)
    flexible = version >= FETCH_FLEXIBLE
    encoding = COMPACT if flexible else PLAIN
    by_id = version >= TOPIC_IDS
    replica_id = CONSUMER
    session_id, session_epoch = _NO_SESSION
    forgotten: tuple[TopicView, ...] = ()
    at = body_at
    try:
        if version < _FETCH_REPLICA_STATE:
            (replica_id,) = INT32.unpack_from(frame, at)
            at += INT32.size
        limits: tuple[int, int, int, int] = _FETCH_LIMITS.unpack_from(frame, at)
        at += _FETCH_LIMITS.size
        session_at = at
        if version >= FETCH_SESSIONS:
            session_id, session_epoch = _FETCH_SESSION.unpack_from(frame, at)
            at += _FETCH_SESSION.size
        topics, at = _read_topics(frame, at, encoding, by_id, _FETCHED[version], _LEAST_FETCHED_BYTES)
        if version >= FETCH_SESSIONS:
            read_partitions = _read_compact_forgotten if flexible else _read_plain_forgotten
            forgotten, at = _read_topics(frame, at, encoding, by_id, read_partitions, _LEAST_FETCHED_BYTES)
        rest_at = at
        if version >= _FETCH_RACK_ID:
            rack_id, at = encoding.read_string(frame, at)
            expect_string(rack_id)
        if flexible:
            tags, at = _read_tags(frame, at, _FETCH_TAGS[version >= _FETCH_REPLICA_STATE])
            replica_id = _replica_of_tags(frame, tags, replica_id)
        check_end(frame, at)
    except MALFORMED as error:
        raise DecodeError(f"Fetch request v{version}: {error}") from error
    return FetchView(
        version,
        replica_id,
        *limits,
        session_id,
        session_epoch,
        topics,
        forgotten,
        body_at,
        session_at,
        rest_at,
    )


def _read_topics(
    frame: Buffer,
    at: int,
    encoding: Encoding,
    by_id: bool,
    read_partitions: _ReadPartitions,
    least_bytes: int,
) -> tuple[tuple[TopicView, ...], int]:
    partitions_left = _FEW + (len(frame) - at) // least_bytes
    count, at = _read_count(frame, at, encoding, least_bytes)
    topics = []
    topic: str | UUID
    for _ in range(count):
        start = at
        if by_id:
            partitions, at = read_partitions(frame, at + 16)
            topic = UUID(bytes=bytes(frame[start : start + 16]))
        else:
            name, at = encoding.read_string(frame, at)
            topic = expect_string(name)
            partitions, at = read_partitions(frame, at)
        partitions_left -= len(partitions)
        if partitions_left < 0:
            raise DecodeError("more partitions than the frame has room for")
        topics.append(TopicView(topic, partitions, start, at))
    return tuple(topics), at


# --- the partitions of one topic ----------------------------------------------------------------------------


def _read_plain_produced(frame: Buffer, at: int) -> tuple[tuple[int, ...], int]:
    count, at = _read_count(frame, at, PLAIN, _LEAST_PRODUCED_BYTES)
    indexes = []
    for _ in range(count):
        indexes.append(INT32.unpack_from(frame, at)[0])
        at = PLAIN.skip_bytes(frame, at + 4)
    return tuple(indexes), at


def _read_compact_produced(frame: Buffer, at: int) -> tuple[tuple[int, ...], int]:
    count, at = _read_count(frame, at, COMPACT, _LEAST_PRODUCED_BYTES)
    indexes = []
    for _ in range(count):
        indexes.append(INT32.unpack_from(frame, at)[0])
        at = refuse_tags(frame, COMPACT.skip_bytes(frame, at + 4))
    return tuple(indexes), refuse_tags(frame, at)


def _plain_fetched(size: int) -> _ReadPartitions:
    def read(frame: Buffer, at: int) -> tuple[tuple[int, ...], int]:
        count, at = _read_count(frame, at, PLAIN, _LEAST_FETCHED_BYTES)
        indexes = []
        for _ in range(count):
            indexes.append(INT32.unpack_from(frame, at)[0])
            at += size
        return tuple(indexes), at

    return read


def _compact_fetched(size: int, known_tags: Mapping[int, int]) -> _ReadPartitions:
    def read(frame: Buffer, at: int) -> tuple[tuple[int, ...], int]:
        count, at = _read_count(frame, at, COMPACT, _LEAST_FETCHED_BYTES)
        indexes = []
        for _ in range(count):
            indexes.append(INT32.unpack_from(frame, at)[0])
            _, at = _read_tags(frame, at + size, known_tags)
        return tuple(indexes), refuse_tags(frame, at)

    return read


_read_plain_forgotten = _plain_fetched(INT32.size)


def _read_compact_forgotten(frame: Buffer, at: int) -> tuple[tuple[int, ...], int]:
    count, at = _read_count(frame, at, COMPACT, _LEAST_FETCHED_BYTES)
    indexes = struct.unpack_from(f">{count}i", frame, at)
    return indexes, refuse_tags(frame, at + INT32.size * count)


def _read_count(frame: Buffer, at: int, encoding: Encoding, least_bytes: int) -> tuple[int, int]:
    count, at = encoding.read_count(frame, at)
    if count < 0:
        raise DecodeError("null where topics or partitions must be")
    if count > _FEW + (len(frame) - at) // least_bytes:
        raise DecodeError(f"{count} elements in the {len(frame) - at} bytes that are left")
    return count, at


# The size of a partition: index, offset and limit; log start (v5), leader epoch (v9), last fetched epoch
# (v12). Tagged: directory id (v17: KIP-853) and high watermark (v18: KIP-1166) of a replica.
_FETCHED: Final[Mapping[int, _ReadPartitions]] = {
    4: _plain_fetched(16),
    **dict.fromkeys(range(5, 9), _plain_fetched(24)),
    **dict.fromkeys(range(9, 12), _plain_fetched(28)),
    **dict.fromkeys(range(12, 17), _compact_fetched(32, _NO_TAGS)),
    17: _compact_fetched(32, {0: 16}),
    18: _compact_fetched(32, {0: 16, 1: 8}),
}


# --- tagged fields ------------------------------------------------------------------------------------------

# Known tags and their sizes, without and with ReplicaState (v15: KIP-903), which has no tags itself.
_FETCH_TAGS: Final = (
    {_CLUSTER_ID_TAG: _STRING},
    {_CLUSTER_ID_TAG: _STRING, _REPLICA_STATE_TAG: 4 + 8 + 1},
)


def _read_tags(frame: Buffer, at: int, known: Mapping[int, int]) -> tuple[Mapping[int, int], int]:
    """Return where each tagged field begins, and the position behind them all."""
    if frame[at] == 0:
        return _NO_TAGS, at + 1
    count, at = read_uvarint(frame, at)
    found: dict[int, int] = {}
    for _ in range(count):
        tag, at = read_uvarint(frame, at)
        size, at = read_uvarint(frame, at)
        if tag not in known or tag in found:
            raise DecodeError(f"a tagged field that we do not know, or twice: {tag}")
        due = COMPACT.skip_string(frame, at) - at if known[tag] == _STRING else known[tag]
        if size != due:
            raise DecodeError(f"tagged field {tag} of {size} bytes")
        found[tag] = at
        at += size
    return found, at


def _replica_of_tags(frame: Buffer, tags: Mapping[int, int], replica_id: int) -> int:
    state_at = tags.get(_REPLICA_STATE_TAG)
    if state_at is None:
        return replica_id
    refuse_tags(frame, state_at + 12)
    return int(INT32.unpack_from(frame, state_at)[0])
