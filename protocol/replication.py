"""The two requests that the link's data goes through: Fetch from a source, Produce to a destination.

Fetch v11 and v12 name topics, v13 (KIP-516) gives their ids, so that a recreated topic cannot be taken for
the one it replaced. Produce v9 and v13 differ in the same way. Requests are written by hand since kio
encodes in Python, and Fetch responses are read by hand so that the records stay where they were received.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from protocol.errors import DecodeError

FETCH_BY_NAME: Final = (11, 12)
FETCH_BY_ID: Final = 13
PRODUCE_BY_NAME: Final = 9
PRODUCE_BY_ID: Final = 13

READ_UNCOMMITTED: Final = 0
READ_COMMITTED: Final = 1

_FETCH_HEAD = struct.Struct(">iiiibii")
_FETCH_PARTITION = struct.Struct(">iiqqi")
_FETCH_PARTITION_12 = struct.Struct(">iiqiqi")
_PARTITION_HEAD = struct.Struct(">ihqqq")
_ABORTED = struct.Struct(">qq")
_NOTHING = memoryview(b"")


@dataclass(frozen=True, slots=True)
class FetchPartition:
    """One partition to fetch: its offset, the most bytes wanted of it, the leader epoch that is expected.

    A leader of another epoch refuses (KIP-320); -1 expects nothing.
    """

    partition: int
    fetch_offset: int
    max_bytes: int
    leader_epoch: int = -1


@dataclass(frozen=True, slots=True)
class FetchTopic:
    """A topic to fetch from; the id is used by v13, the name by the others."""

    name: str
    topic_id: UUID | None
    partitions: list[FetchPartition]


@dataclass(frozen=True, slots=True)
class FetchedPartition:
    """What a Fetch response says of one partition. `records` is a view into the response."""

    topic: str | UUID
    partition: int
    error_code: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    # Producer id and first offset of each aborted transaction that has a part in `records`.
    aborted_transactions: Sequence[tuple[int, int]]
    records: memoryview


def encode_fetch(
    version: int,
    topics: Sequence[FetchTopic],
    *,
    max_wait_ms: int,
    min_bytes: int = 1,
    max_bytes: int,
    isolation_level: int,
) -> bytes:
    """Body of a sessionless consumer's Fetch request, v11 to v13."""
    out = bytearray(_FETCH_HEAD.pack(-1, max_wait_ms, min_bytes, max_bytes, isolation_level, 0, -1))
    flexible = version >= 12
    out += _count(len(topics), flexible)
    for topic in topics:
        if version >= FETCH_BY_ID:
            if topic.topic_id is None:
                raise ValueError(f"Fetch v{version} needs the topic id of {topic.name}")
            out += topic.topic_id.bytes
        else:
            out += _string(topic.name, flexible)
        out += _count(len(topic.partitions), flexible)
        for p in topic.partitions:
            if flexible:
                out += _FETCH_PARTITION_12.pack(
                    p.partition, p.leader_epoch, p.fetch_offset, -1, -1, p.max_bytes
                )
                out.append(0)
            else:
                out += _FETCH_PARTITION.pack(p.partition, p.leader_epoch, p.fetch_offset, -1, p.max_bytes)
        if flexible:
            out.append(0)
    out += _count(0, flexible) + _string("", flexible)
    if flexible:
        out.append(0)
    return bytes(out)


def decode_fetch(version: int, body: memoryview) -> tuple[int, list[FetchedPartition]]:
    """Error code of the response and its partitions, v11 to v13. DecodeError if it is malformed."""
    reader = _Reader(body)
    flexible = version >= 12
    reader.take(4)
    error_code = reader.int16()
    reader.take(4)
    partitions: list[FetchedPartition] = []
    for _ in reader.items(flexible):
        by_id = version >= FETCH_BY_ID
        topic = UUID(bytes=bytes(reader.take(16))) if by_id else reader.string(flexible)
        partitions.extend(_fetched(reader, topic, flexible) for _ in reader.items(flexible))
        reader.tags(flexible)
    reader.tags(flexible)
    if reader.left:
        raise DecodeError(f"Fetch v{version} response: {reader.left} bytes after its end")
    return error_code, partitions


def _fetched(reader: "_Reader", topic: str | UUID, flexible: bool) -> FetchedPartition:
    index, error, high_watermark, last_stable_offset, log_start = _PARTITION_HEAD.unpack(reader.take(30))
    aborted: list[tuple[int, int]] = []
    for _ in reader.items(flexible):
        aborted.append(_ABORTED.unpack(reader.take(_ABORTED.size)))
        reader.tags(flexible)
    reader.take(4)
    records = reader.records(flexible)
    reader.tags(flexible)
    return FetchedPartition(
        topic, index, error, high_watermark, last_stable_offset, log_start, aborted, records
    )


@dataclass(frozen=True, slots=True)
class ProduceTopic:
    """Batches for a topic, at most one per partition; the id is used by v13, the name by v9."""

    name: str
    topic_id: UUID | None
    batches: list[tuple[int, bytes | bytearray | memoryview]]


def encode_produce(
    version: int, topics: Sequence[ProduceTopic], *, timeout_ms: int
) -> list[bytes | bytearray | memoryview]:
    """Body of a Produce request (v9 or v13, acks all) in parts; the batches are not copied."""
    parts: list[bytes | bytearray | memoryview] = []
    head = bytearray(b"\x00" + struct.pack(">hi", -1, timeout_ms) + _count(len(topics), True))
    for topic in topics:
        if version >= PRODUCE_BY_ID:
            if topic.topic_id is None:
                raise ValueError(f"Produce v{version} needs the topic id of {topic.name}")
            head += topic.topic_id.bytes
        else:
            head += _string(topic.name, True)
        head += _count(len(topic.batches), True)
        for partition, batch in topic.batches:
            head += struct.pack(">i", partition) + _uvarint(len(batch) + 1)
            parts.append(bytes(head))
            parts.append(batch)
            head = bytearray(b"\x00")
        head.append(0)
    head.append(0)
    parts.append(bytes(head))
    return parts


def _uvarint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _count(count: int, flexible: bool) -> bytes:
    return _uvarint(count + 1) if flexible else struct.pack(">i", count)


def _string(text: str, flexible: bool) -> bytes:
    raw = text.encode()
    return (_uvarint(len(raw) + 1) if flexible else struct.pack(">h", len(raw))) + raw


class _Reader:
    """Bounded reads from a response body; every length is checked against the bytes that are left."""

    __slots__ = ("_at", "_body")

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._body) - self._at

    def take(self, size: int) -> memoryview:
        at = self._at
        if not 0 <= size <= len(self._body) - at:
            raise DecodeError(f"Fetch response: {size} bytes announced at byte {at}, {self.left} are left")
        self._at = at + size
        return self._body[at : at + size]

    def int16(self) -> int:
        return int.from_bytes(self.take(2), signed=True)

    def int32(self) -> int:
        return int.from_bytes(self.take(4), signed=True)

    def uvarint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 28:
                raise DecodeError(f"Fetch response: a varint of more than 5 bytes ends at byte {self._at}")

    def items(self, flexible: bool) -> Iterator[None]:
        # A null array counts as an empty one, as aborted transactions are null for read_uncommitted.
        count = self.uvarint() - 1 if flexible else self.int32()
        # Every element of every array here is at least one byte long.
        if count > self.left:
            raise DecodeError(f"Fetch response: {count} elements announced, {self.left} bytes are left")
        for _ in range(count):
            yield

    def string(self, flexible: bool) -> str:
        length = self.uvarint() - 1 if flexible else self.int16()
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError:
            raise DecodeError("Fetch response: a topic name is not UTF-8") from None

    def records(self, flexible: bool) -> memoryview:
        length = self.uvarint() - 1 if flexible else self.int32()
        return _NOTHING if length == -1 else self.take(length)

    def tags(self, flexible: bool) -> None:
        if not flexible:
            return
        for _ in range(self.uvarint()):
            self.uvarint()
            self.take(self.uvarint())
