"""Make one batch of many small ones, so that a source of one-record batches can be caught up with.

The records are the same afterwards: offset, timestamp, key, value and headers. Of a record's bytes only three
numbers change: its length and its timestamp and offset deltas, which count from the merged batch's first
record. What follows them is copied unread.

Fillers are merged too; they must not be compressed, so that a gateway finds them on the way to a client.
Where that would cost much, and there is no backlog, they stay alone.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from protocol.codecs import Codec, OutputTooLarge, compress, decompress
from protocol.dense_batches import Piece
from protocol.errors import DecodeError
from protocol.record_batches import (
    CODEC_MASK,
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
# Compressed batches above this are not stored uncompressed together with fillers, unless so many wait.
_MIXED_BATCH_BYTES: Final = 4 * 1024
_BACKLOG: Final = 32
# Records that shrink better than this are rare and gain little from a merge.
_MAX_EXPANSION: Final = 16
_SHORT_LIMIT: Final = len(SHORT_VARINTS)
_INT64: Final = 1 << 63

# The attributes and deltas of a batch's first record when its timestamp is the batch's.
_NO_DELTAS: Final = b"\0\0\0"
_REST_AFTER_SHORT_LENGTH: Final = 1 + len(_NO_DELTAS)
_TWO_LENGTH_BYTES: Final = 1 + 64 + 1
# Room for the deltas to grow, to their 10 and 5 bytes, while the length stays a short varint.
_PLAIN_LIMIT: Final = _SHORT_LIMIT - 15


class Merged(NamedTuple):
    """A batch to produce, and how many of the given batches it holds."""

    batch: bytearray
    used: int


def merge_limit(batches: Sequence[Piece], max_bytes: int) -> int:
    """How many of the first batches to merge: small ones, together up to `max_bytes`; 1: forward it."""
    total_bytes = 0
    picky = len(batches) < _BACKLOG
    fillers = compressed = False
    for index, batch in enumerate(batches):
        size_bytes = batch.size_bytes
        total_bytes += size_bytes
        if size_bytes > SMALL_BATCH_BYTES or total_bytes > max_bytes:
            return max(index, 1)
        if picky:
            fillers = fillers or batch.holds_fillers
            compressed = compressed or (
                size_bytes > _MIXED_BATCH_BYTES and bool(batch.attributes & CODEC_MASK)
            )
            if fillers and compressed:
                return index
    return len(batches)


def append_form(piece: Piece, producer_id: int, producer_epoch: int, base_sequence: int) -> bytearray:
    """The batch to produce for one piece alone. Raises DecodeError, ValueError for a long run."""
    if isinstance(piece, BatchView):
        return rewrite_for_append(piece, producer_id, producer_epoch, base_sequence)
    return piece.encode(producer_id, producer_epoch, base_sequence)


def merge_batches(
    batches: Sequence[Piece], producer_id: int, producer_epoch: int, base_sequence: int, max_bytes: int
) -> Merged:
    """Merge consecutive batches whose CRCs were checked; uncompressed, unless all share a codec.

    Fillers are never compressed.

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
    return Merged(append_form(batches[0], producer_id, producer_epoch, base_sequence), 1)


def _check_mergeable(batches: Sequence[Piece]) -> None:
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
    batches: Sequence[Piece], producer_id: int, producer_epoch: int, base_sequence: int, max_bytes: int
) -> bytearray | None:
    """None where a bound is passed."""
    try:
        sections = _decompressed(batches, _MAX_EXPANSION * max_bytes)
    except OutputTooLarge:
        return None
    base_timestamp = batches[0].base_timestamp + _first_timestamp_delta(sections[0])
    if not -_INT64 <= base_timestamp < _INT64:
        raise DecodeError(f"the record at offset {batches[0].base_offset} has a timestamp beyond 64 bits")
    parts: list[bytes] = []
    try:
        _move_batches(batches, sections, base_timestamp, parts)
    except (IndexError, DecodeError) as error:
        # Every record made two parts, and no offset is missing.
        offset = batches[0].base_offset + len(parts) // 2
        reason = "its batch ends within it" if isinstance(error, IndexError) else str(error)
        raise DecodeError(f"the record at offset {offset}: {reason}") from error
    codec, records = _compressed(batches, b"".join(parts))
    if HEADER_BYTES + len(records) > max_bytes:
        return None
    return encode_batch(
        records,
        len(parts) // 2,
        attributes=codec,
        base_timestamp=base_timestamp,
        max_timestamp=max(batch.max_timestamp for batch in batches),
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
    )


def _decompressed(batches: Sequence[Piece], limit_bytes: int) -> list[bytes]:
    sections = []
    for batch in batches:
        codec = batch.attributes & CODEC_MASK
        if codec:
            section = decompress(codec, batch.records, limit_bytes)
            limit_bytes -= len(section)
        else:
            section = batch.records.tobytes()
        sections.append(section)
    return sections


def _compressed(batches: Sequence[Piece], records: bytes) -> tuple[int, bytes]:
    codecs = {batch.codec for batch in batches} - {Codec.NONE}
    if len(codecs) == 1 and not any(batch.holds_fillers for batch in batches):
        codec = codecs.pop()
        compressed = compress(codec, records)
        if len(compressed) < len(records):
            return codec, compressed
    return Codec.NONE, records


def _first_timestamp_delta(section: bytes) -> int:
    _, position = read_varint(section, 0)
    delta, _ = read_varlong(section, position + 1)
    return delta


def _move_batches(
    batches: Sequence[Piece], sections: Sequence[bytes], base_timestamp: int, parts: list[bytes]
) -> None:
    """Add the records, with their deltas moved, to `parts`. Raises DecodeError; IndexError at an end."""
    moved = 0
    last_shift, timestamp = 0, b"\0"
    for batch, section in zip(batches, sections, strict=True):
        timestamp_shift = batch.base_timestamp - base_timestamp
        size = len(section)
        # A batch of one record has deltas of 0 and one length that fits, which two comparisons tell: twice as
        # fast as reading them. `rest` is where the key begins.
        rest = _REST_AFTER_SHORT_LENGTH if size < _TWO_LENGTH_BYTES else _REST_AFTER_SHORT_LENGTH + 1
        if (
            batch.count == 1
            and size < _PLAIN_LIMIT
            and section.startswith(_NO_DELTAS, rest - len(_NO_DELTAS))
            and section.startswith(SHORT_VARINTS[size - rest + len(_NO_DELTAS)])
        ):
            if timestamp_shift != last_shift:
                timestamp = _timestamp_varint(timestamp_shift)
                last_shift = timestamp_shift
            offset = SHORT_VARINTS[moved] if moved < _SHORT_LIMIT else encode_varint(moved)
            length = 1 + len(timestamp) + len(offset) + size - rest
            parts += (SHORT_VARINTS[length] + b"\0" + timestamp + offset, section[rest:])
        else:
            _move_batch(section, batch.count, timestamp_shift, moved, parts)
        moved += batch.count


def _move_batch(
    section: bytes, count: int, timestamp_shift: int, offset_shift: int, parts: list[bytes]
) -> None:
    # Varints of one byte are read here and short ones looked up, since calls would take most of the time.
    size = len(section)
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
        if length < 0 or end > size:
            raise DecodeError(f"it claims {length} of {size - position} bytes")

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
            raise DecodeError(f"{length} bytes and offset delta {offset_delta} as record {index}")
        offset_delta += offset_shift
        offset = SHORT_VARINTS[offset_delta] if offset_delta < _SHORT_LIMIT else encode_varint(offset_delta)

        length = 1 + len(timestamp) + len(offset) + end - rest
        prefix = SHORT_VARINTS[length] if length < _SHORT_LIMIT else encode_varint(length)
        parts += (prefix + section[position : position + 1] + timestamp + offset, section[rest:end])
        position = end
    if position != size:
        raise DecodeError(f"{size - position} bytes follow the {count} records before it")


def _timestamp_varint(delta: int) -> bytes:
    if 0 <= delta < _SHORT_LIMIT:
        return SHORT_VARINTS[delta]
    if not -_INT64 <= delta < _INT64:
        raise DecodeError("its timestamp delta would be beyond 64 bits")
    return encode_varint(delta)
