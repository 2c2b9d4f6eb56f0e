"""What clients see of a mirror's batches: control batches (KIP-98) for fillers, all else as it is stored.

Clients skip control batches by protocol. A batch of nothing but fillers, and one that the cleaner of a
compacted topic has emptied, becomes a control batch of one record at its last offset, so that a consumer
moves on. Out of an uncompressed batch of data and fillers the fillers are cut. A compressed batch of data is
never decompressed: its records are compared with those that the link is known to have written. What is cut
off by the size of a response, malformed, or has a wrong CRC stays as it is, for the client to judge.

The control record is the one that all clients take: a key of 4 bytes (kafka-python), of version 0 and a type
that is neither abort nor commit (sarama), a null value. Batches without a record are not among what they
take: kafkajs would fetch them again and again.
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from crc32c import crc32c

from protocol.codecs import decompress
from protocol.errors import DecodeError
from protocol.fillers import FIXED_CODEC, FIXED_COUNTS, MOST_PLAIN, FillerFormat, FixedPayload
from protocol.record_batches import (
    ATTRIBUTES_OFFSET,
    CODEC_MASK,
    CONTROL,
    DELETE_HORIZON,
    HEADER_BYTES,
    LOG_APPEND_TIME,
    MAGIC,
    BatchView,
    encode_batch,
    seal,
)
from protocol.varints import encode_varint, read_varint, read_varlong

# Base offset, length, magic, attributes, last offset delta, count.
_HEADER: Final = struct.Struct(">qi4xb4xhi30xi")
_CRC: Final = struct.Struct(">I")
_CRC_OFFSET: Final = 17
_LENGTH_OFFSET: Final = 8
_COUNT_OFFSET: Final = 57
_INT32: Final = struct.Struct(">i")
_TIMESTAMPS: Final = struct.Struct(">qq")
_TIMESTAMPS_OFFSET: Final = 27
_NO_STAMP: Final = CONTROL | LOG_APPEND_TIME | DELETE_HORIZON
_LENGTH_END: Final = 12

_CONTROL_KEY: Final = b"\0\0\0\2"
_CONTROL_TAIL: Final = encode_varint(len(_CONTROL_KEY)) + _CONTROL_KEY + encode_varint(-1) + encode_varint(0)
# More than one filler takes, compressed or not.
_LONE_FILLER_BYTES: Final = 96


class Edit(NamedTuple):
    """Bytes of a frame to replace."""

    start: int
    end: int
    new: bytes | bytearray


def splice(frame: bytearray, edits: Sequence[Edit]) -> bytearray:
    """A copy of the frame with the edits, which are in order, made."""
    view = memoryview(frame)
    parts: list[memoryview | bytes | bytearray] = []
    at = 0
    for edit in edits:
        parts += (view[at : edit.start], edit.new)
        at = edit.end
    parts.append(view[at:])
    return bytearray().join(parts)


@dataclass(frozen=True, slots=True)
class Kept:
    """The records beside fillers: their bytes in order, and how many they are."""

    parts: list[bytes]
    count: int


class KnownFillers:
    """How the fillers of a link are known: by their key, or by one of the payloads that it has written."""

    def __init__(self, filler_key: bytes, payloads: Iterable[FixedPayload] = ()) -> None:
        self.filler_key = filler_key
        self._format = FillerFormat(filler_key)
        self._digests: dict[tuple[int, int], set[bytes]] = {}
        for payload in payloads:
            self._digests.setdefault((payload.count, payload.size_bytes), set()).add(payload.sha256)

    def are_all(self, count: int, records: memoryview) -> bool:
        """Whether this is the records section of `count` fillers of one timestamp, uncompressed."""
        return count <= MOST_PLAIN and records == self._format.plain_records(count)

    def are_compressed(self, count: int, records: memoryview) -> bool:
        """Whether this is the records section of `count` fillers, compressed."""
        digests = self._digests.get((count, len(records)))
        return digests is not None and hashlib.sha256(records).digest() in digests

    def is_left_over(self, last_offset_delta: int, records: memoryview) -> bool:
        """Whether this is what a cleaner leaves of a compressed batch: the last filler, compressed anew."""
        if last_offset_delta + 1 not in FIXED_COUNTS or len(records) > _LONE_FILLER_BYTES:
            return False
        try:
            section = decompress(FIXED_CODEC, records, _LONE_FILLER_BYTES)
        except DecodeError:
            return False
        found = self.without(1, section)
        return found is not None and not found.count

    def without(self, count: int, section: bytes) -> Kept | None:
        """What a records section holds beside fillers; None if it is malformed or has no filler."""
        tail = self._format.tail
        parts: list[bytes] = []
        kept = count
        position = kept_from = 0
        size = len(section)
        try:
            for _ in range(count):
                start = position
                length, body = read_varint(section, start)
                position = body + length
                if length < 0 or position > size:
                    return None
                tail_at = position - len(tail)
                if (
                    tail_at > body
                    and section.startswith(tail, tail_at)
                    and _is_filler(section, body, tail_at)
                ):
                    parts.append(section[kept_from:start])
                    kept_from = position
                    kept -= 1
        except DecodeError:
            return None
        if position != size or kept == count:
            return None
        parts.append(section[kept_from:])
        return Kept(parts, kept)


def _is_filler(section: bytes, start: int, tail_at: int) -> bool:
    """Whether a record's body that begins at `start` has nothing but its deltas before the filler's tail."""
    if section[start]:
        return False
    _, at = read_varlong(section, start + 1)
    _, at = read_varint(section, at)
    return at == tail_at


@dataclass(frozen=True, slots=True)
class Region:
    """Offsets of a partition, up to below `stop` if that is not None, that a link has written.

    With `log_append_time` the source stamped these batches with the time of their append.
    """

    start: int
    stop: int | None
    fillers: KnownFillers = field(repr=False)
    log_append_time: bool = False


def present(frame: bytearray, start: int, end: int, regions: Sequence[Region]) -> list[Edit]:
    """What is to be changed of the records between two positions of a frame, in order.

    Only the type of timestamps is changed at once, where it is, since no byte moves for it.
    """
    edits: list[Edit] = []
    for region in regions:
        _present_region(frame, start, end, region, edits)
    return edits


def _present_region(frame: bytearray, start: int, end: int, region: Region, edits: list[Edit]) -> None:
    fillers, stop = region.fillers, region.stop
    view = memoryview(frame)
    at = start
    # Where the key is found next; it is searched for once, whatever the number of batches.
    key_at = -1
    while at + HEADER_BYTES <= end:
        base_offset, length, magic, attributes, last_offset_delta, count = _HEADER.unpack_from(frame, at)
        next_at = at + _LENGTH_END + length
        if magic != MAGIC or length < HEADER_BYTES - _LENGTH_END or next_at > end:
            return
        if last_offset_delta < 0 or count < 0:
            return
        if stop is not None and base_offset >= stop:
            return
        if base_offset >= region.start and not (attributes & CONTROL and count):
            new = None
            if attributes & CODEC_MASK or not count:
                if not count or _are_fillers(fillers, attributes, last_offset_delta, count, view[at:next_at]):
                    new = _control_batch(view[at:next_at])
            else:
                if key_at < at:
                    key_at = frame.find(fillers.filler_key, at, end)
                    key_at = end if key_at < 0 else key_at
                if key_at < next_at:
                    new = _without_fillers(fillers, count, view[at:next_at])
            if new is not None:
                edits.append(Edit(at, next_at, new))
            if region.log_append_time:
                _stamp(view[at:next_at] if new is None else memoryview(new))
        at = next_at


def _are_fillers(
    fillers: KnownFillers, attributes: int, last_offset_delta: int, count: int, batch: memoryview
) -> bool:
    if attributes & CODEC_MASK != FIXED_CODEC:
        return False
    records = batch[HEADER_BYTES:]
    return fillers.are_compressed(count, records) or (
        count == 1 and fillers.is_left_over(last_offset_delta, records)
    )


def _without_fillers(fillers: KnownFillers, count: int, batch: memoryview) -> bytearray | None:
    """What is to be seen of an uncompressed batch; None if that is the batch itself."""
    records = batch[HEADER_BYTES:]
    if fillers.are_all(count, records):
        return _control_batch(batch)
    found = fillers.without(count, bytes(records))
    if found is None:
        return None
    if not found.count:
        return _control_batch(batch)
    if not _is_intact(batch):
        return None
    rest = bytearray().join((batch[:HEADER_BYTES], *found.parts))
    _INT32.pack_into(rest, _LENGTH_OFFSET, len(rest) - _LENGTH_END)
    _INT32.pack_into(rest, _COUNT_OFFSET, found.count)
    seal(rest)
    return rest


def _control_batch(batch: memoryview) -> bytearray | None:
    """What is to be seen of a batch without data; None if its CRC is wrong."""
    if not _is_intact(batch):
        return None
    view = BatchView(batch, 0)
    body = b"\0\0" + encode_varint(view.last_offset_delta) + _CONTROL_TAIL
    return encode_batch(
        encode_varint(len(body)) + body,
        1,
        attributes=CONTROL,
        base_timestamp=view.max_timestamp,
        max_timestamp=view.max_timestamp,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        base_offset=view.base_offset,
        last_offset_delta=view.last_offset_delta,
        partition_leader_epoch=view.partition_leader_epoch,
    )


def _stamp(batch: memoryview) -> None:
    """Say that the records have the time of their append, of a batch of data that all have one time.

    Those of batches that were merged have several, and the client would give all of them the last.
    """
    base_timestamp, max_timestamp = _TIMESTAMPS.unpack_from(batch, _TIMESTAMPS_OFFSET)
    # The low byte of the attributes, big endian.
    attributes = batch[ATTRIBUTES_OFFSET + 1]
    if base_timestamp == max_timestamp and not attributes & _NO_STAMP and _is_intact(batch):
        batch[ATTRIBUTES_OFFSET + 1] |= LOG_APPEND_TIME
        seal(batch)


def _is_intact(batch: memoryview) -> bool:
    crc: int = _CRC.unpack_from(batch, _CRC_OFFSET)[0]
    return crc32c(batch[ATTRIBUTES_OFFSET:]) == crc
