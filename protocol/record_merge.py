"""Make one batch of many small ones, so that a source of one-record batches can be caught up with.

The records are the same afterwards: offset, timestamp, key, value and headers. Of a record's bytes only three
numbers change: its length and its timestamp and offset deltas, which count from the merged batch's first
record. What follows them is copied unread.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from protocol.codecs import Codec, OutputTooLarge, compress, decompress
from protocol.errors import DecodeError
from protocol.record_batches import (
    CONTROL,
    HEADER_BYTES,
    LOG_APPEND_TIME,
    MAGIC,
    BatchView,
    encode_batch,
    rewrite_for_append,
)
from protocol.varints import SHORT_VARINTS, encode_varint, read_varint, read_varlong

SMALL_BATCH_BYTES: Final = 16 * 1024
# Records that shrink better than this are rare and gain little from a merge.
_MAX_EXPANSION: Final = 16
_SHORT_LIMIT: Final = len(SHORT_VARINTS)
_INT64: Final = 1 << 63


class Merged(NamedTuple):
    """A batch to produce, and how many of the given batches it holds."""

    batch: bytearray
    used: int


def merge_limit(batches: Sequence[BatchView], max_bytes: int) -> int:
    """How many of the first batches to merge: small ones, together up to `max_bytes`; 1: forward it."""
    total_bytes = 0
    for index, batch in enumerate(batches):
        size_bytes = batch.size_bytes
        total_bytes += size_bytes
        if size_bytes > SMALL_BATCH_BYTES or total_bytes > max_bytes:
            return max(index, 1)
    return len(batches)


def merge_batches(
    batches: Sequence[BatchView], producer_id: int, producer_epoch: int, base_sequence: int, max_bytes: int
) -> Merged:
    """Merge consecutive batches whose CRCs were checked; uncompressed, unless all share a codec.

    Where the result is above `max_bytes`, or what its inputs decompress to above 16 times that, half as many
    are merged, and so on; one left alone is rewritten verbatim, whatever its size. Raises DecodeError for
    batches that are not consecutive, have holes, are control batches or stamped LogAppendTime, and for
    records that are not what their batch claims; ValueError for no batch.
    """
    if not batches:
        raise ValueError("nothing to merge")
    _check_mergeable(batches)
    used = len(batches)
    while used > 1:
        merged = _merge(batches[:used], producer_id, producer_epoch, base_sequence, max_bytes)
        if merged is not None:
            return Merged(merged, used)
        used //= 2
    return Merged(rewrite_for_append(batches[0], producer_id, producer_epoch, base_sequence), 1)


def _check_mergeable(batches: Sequence[BatchView]) -> None:
    expected_offset = batches[0].base_offset
    for batch in batches:
        if batch.magic != MAGIC or batch.attributes & (CONTROL | LOG_APPEND_TIME):
            raise DecodeError(
                f"the batch at {batch.base_offset} cannot be merged: magic {batch.magic}, "
                f"attributes {batch.attributes:#x}"
            )
        if batch.base_offset != expected_offset:
            raise DecodeError(
                f"the batch at {batch.base_offset} does not follow offset {expected_offset - 1}"
            )
        expected_offset += batch.last_offset_delta + 1
        if batch.count != batch.last_offset_delta + 1:
            raise DecodeError(f"the batch at {batch.base_offset} has a hole")


def _merge(
    batches: Sequence[BatchView], producer_id: int, producer_epoch: int, base_sequence: int, max_bytes: int
) -> bytearray | None:
    """None where a bound is passed."""
    try:
        sections = _decompressed(batches, _MAX_EXPANSION * max_bytes)
    except OutputTooLarge:
        return None
    base_timestamp = batches[0].base_timestamp + _first_timestamp_delta(sections[0])
    if not -_INT64 <= base_timestamp < _INT64:
        raise DecodeError(f"the record at {batches[0].base_offset} has a timestamp beyond 64 bits")
    parts: list[bytes] = []
    count = 0
    for batch, section in zip(batches, sections, strict=True):
        try:
            _move_records(section, batch.count, batch.base_timestamp - base_timestamp, count, parts)
        except IndexError:
            raise DecodeError(f"the batch at {batch.base_offset} ends within a record") from None
        except DecodeError as error:
            raise DecodeError(f"the batch at {batch.base_offset}: {error}") from None
        count += batch.count
    codecs = {batch.codec for batch in batches}
    codec = codecs.pop() if len(codecs) == 1 else Codec.NONE
    records = compress(codec, b"".join(parts))
    if HEADER_BYTES + len(records) > max_bytes:
        return None
    return encode_batch(
        records,
        count,
        attributes=codec,
        base_timestamp=base_timestamp,
        max_timestamp=max(batch.max_timestamp for batch in batches),
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
    )


def _decompressed(batches: Sequence[BatchView], limit_bytes: int) -> list[bytes]:
    sections = []
    for batch in batches:
        section = decompress(batch.codec, batch.records, limit_bytes)
        limit_bytes -= len(section)
        sections.append(section)
    return sections


def _first_timestamp_delta(section: bytes) -> int:
    _, position = read_varint(section, 0)
    delta, _ = read_varlong(section, position + 1)
    return delta


def _move_records(
    section: bytes, count: int, timestamp_shift: int, first_offset_delta: int, parts: list[bytes]
) -> None:
    """Add the records, with their deltas moved, to `parts`. Raises DecodeError; IndexError at the end.

    Varints of one byte are read here and small ones looked up, since calls would take most of the time.
    """
    section_bytes = len(section)
    position = 0
    last_delta, timestamp = 0, b"\0"
    for index in range(count):
        length = section[position]
        position += 1
        if length < 0x80:
            length = (length >> 1) ^ -(length & 1)
        else:
            length, position = read_varint(section, position - 1)
        end = position + length
        if length < 0 or end > section_bytes:
            raise DecodeError(f"record {index} claims {length} of {section_bytes - position} bytes")

        delta = section[position + 1]
        rest = position + 2
        if delta < 0x80:
            delta = (delta >> 1) ^ -(delta & 1)
        else:
            delta, rest = read_varlong(section, rest - 1)
        delta += timestamp_shift
        if delta != last_delta:
            timestamp = _timestamp_varint(delta)
            last_delta = delta

        offset_delta = section[rest]
        rest += 1
        if offset_delta < 0x80:
            offset_delta = (offset_delta >> 1) ^ -(offset_delta & 1)
        else:
            offset_delta, rest = read_varint(section, rest - 1)
        if offset_delta != index or rest > end:
            raise DecodeError(f"record {index} of {length} bytes has offset delta {offset_delta}")
        offset_delta += first_offset_delta
        offset = SHORT_VARINTS[offset_delta] if offset_delta < _SHORT_LIMIT else encode_varint(offset_delta)

        length = end - rest + 1 + len(timestamp) + len(offset)
        prefix = SHORT_VARINTS[length] if length < _SHORT_LIMIT else encode_varint(length)
        parts += (prefix + section[position : position + 1] + timestamp + offset, section[rest:end])
        position = end
    if position != section_bytes:
        raise DecodeError(f"{section_bytes - position} bytes after its {count} records")


def _timestamp_varint(delta: int) -> bytes:
    if not -_INT64 <= delta < _INT64:
        raise DecodeError("a timestamp delta beyond 64 bits")
    return encode_varint(delta)
