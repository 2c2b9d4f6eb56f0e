"""Record batches of the message format v2 (KIP-98): walk, view, check, patch; the records stay as they are.

The header of 61 bytes (Kafka: `DefaultRecordBatch`), big endian, CRC32C over all from the attributes on:
baseOffset int64, batchLength int32 (of what follows it), partitionLeaderEpoch int32, magic int8, crc uint32,
attributes int16, lastOffsetDelta int32, baseTimestamp int64, maxTimestamp int64, producerId int64,
producerEpoch int16, baseSequence int32, recordsCount int32.

The formats v0 and v1 are recognised, and that is all.
"""

import struct
from collections.abc import Iterator
from typing import Final

from crc32c import crc32c

from protocol.codecs import Codec
from protocol.errors import DecodeError

MAGIC: Final = 2
HEADER_BYTES: Final = 61
_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_LENGTH: Final = struct.Struct(">i")
_LENGTH_OFFSET: Final = 8
_LENGTH_END: Final = 12
_MAGIC_OFFSET: Final = 16
_PREFIX_BYTES: Final = 17  # up to the magic, which has its place in all formats
_SHORTEST_LEGACY_LENGTH: Final = 14  # crc, magic, attributes, null key, null value
_CRC: Final = struct.Struct(">I")
_CRC_OFFSET: Final = 17
ATTRIBUTES_OFFSET: Final = 21
_PRODUCER: Final = struct.Struct(">qhi")
_PRODUCER_OFFSET: Final = 43
_START: Final = struct.Struct(">qiib")
_ATTRIBUTES: Final = struct.Struct(">h")

CODEC_MASK: Final = 0x07
_LAST_CODEC: Final = int(Codec.ZSTD)
LOG_APPEND_TIME: Final = 0x08
TRANSACTIONAL: Final = 0x10
CONTROL: Final = 0x20
DELETE_HORIZON: Final = 0x40

# What producers send; the leader writes its own into the log.
_NO_LEADER_EPOCH: Final = -1
_LAST_OFFSET: Final = (1 << 63) - 1


class BatchView:
    """One batch, seen through the buffer it came in; made by `read_batches`.

    Where the magic is not 2, only base_offset, batch_length, magic, size_bytes and raw mean anything.
    """

    # Whether some of the records were put there by a link (`dense_batches`).
    holds_fillers: Final = False

    __slots__ = (
        "_data",
        "_start",
        "attributes",
        "base_offset",
        "base_sequence",
        "base_timestamp",
        "batch_length",
        "count",
        "crc",
        "last_offset_delta",
        "magic",
        "max_timestamp",
        "partition_leader_epoch",
        "producer_epoch",
        "producer_id",
    )

    base_offset: int
    batch_length: int
    partition_leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int

    def __init__(self, data: memoryview, start: int) -> None:
        self._data = data
        self._start = start
        if data[start + _MAGIC_OFFSET] == MAGIC:
            header, position = data, start
        else:
            header, position = _legacy_header(data, start), 0
        (
            self.base_offset,
            self.batch_length,
            self.partition_leader_epoch,
            self.magic,
            self.crc,
            self.attributes,
            self.last_offset_delta,
            self.base_timestamp,
            self.max_timestamp,
            self.producer_id,
            self.producer_epoch,
            self.base_sequence,
            self.count,
        ) = _HEADER.unpack_from(header, position)

    @property
    def size_bytes(self) -> int:
        """The whole batch, header included."""
        return self.batch_length + _LENGTH_END

    @property
    def next_offset(self) -> int:
        """The first offset after the batch."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def codec(self) -> int:
        """A number of `Codec`, or one that Kafka does not have."""
        return self.attributes & CODEC_MASK

    @property
    def is_log_append_time(self) -> bool:
        """Whether all records have `max_timestamp`, the time of their append, for their timestamp."""
        return bool(self.attributes & LOG_APPEND_TIME)

    @property
    def is_transactional(self) -> bool:
        """Whether the batch belongs to a transaction (KIP-98)."""
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        """Whether the batch holds markers that clients do not see (KIP-98)."""
        return bool(self.attributes & CONTROL)

    @property
    def records(self) -> memoryview:
        """The records section, compressed as it is."""
        return self._data[self._start + HEADER_BYTES : self._start + self.batch_length + _LENGTH_END]

    @property
    def raw(self) -> memoryview:
        """The whole batch."""
        return self._data[self._start : self._start + self.batch_length + _LENGTH_END]

    def verify_crc(self) -> bool:
        """Whether the CRC32C is that of the bytes."""
        covered = self._data[self._start + ATTRIBUTES_OFFSET : self._start + self.batch_length + _LENGTH_END]
        return crc32c(covered) == self.crc


def _legacy_header(data: memoryview, start: int) -> memoryview:
    return memoryview(bytes(data[start : start + _PREFIX_BYTES]).ljust(HEADER_BYTES, b"\0"))


def read_batches(records: memoryview | bytes | bytearray) -> Iterator[BatchView]:
    """Walk the batches of a Fetch response's records field or a Produce request's. Raises DecodeError.

    A broker cuts what it sends anywhere: a last batch that is not complete is left out. CRCs are not checked.
    """
    data = memoryview(records)
    position, size = 0, len(data)
    while size - position >= _PREFIX_BYTES:
        (length,) = _LENGTH.unpack_from(data, position + _LENGTH_OFFSET)
        magic = data[position + _MAGIC_OFFSET]
        if length < (HEADER_BYTES - _LENGTH_END if magic == MAGIC else _SHORTEST_LEGACY_LENGTH):
            raise DecodeError(f"a record batch of magic {magic} claims {length} bytes, less than its header")
        end = position + _LENGTH_END + length
        if end > size:
            return
        batch = BatchView(data, position)
        if batch.base_offset < 0 or batch.last_offset_delta < 0 or batch.count < 0:
            raise DecodeError(
                f"a record batch has base offset {batch.base_offset}, last offset delta "
                f"{batch.last_offset_delta} and {batch.count} records"
            )
        if batch.base_offset > _LAST_OFFSET - batch.last_offset_delta - 1:
            raise DecodeError(f"a record batch at {batch.base_offset} ends beyond the last offset")
        yield batch
        position = end


def is_plain(batch: BatchView, expected_offset: int) -> bool:
    """Whether the batch can be appended at `expected_offset` as it is: no hole, no marker, no stamp.

    A transaction does not matter here (`transactions`).
    """
    # Nearly all batches are as this, with a codec and no flag: one of a single record has no time for more.
    return (
        batch.magic == MAGIC
        and batch.base_offset == expected_offset
        and batch.count == batch.last_offset_delta + 1
        and (
            0 <= batch.attributes <= _LAST_CODEC
            or (not batch.attributes & (CONTROL | LOG_APPEND_TIME) and batch.codec <= _LAST_CODEC)
        )
    )


def rewrite_for_append(
    batch: BatchView, producer_id: int, producer_epoch: int, base_sequence: int
) -> bytearray:
    """A copy to produce, its records untouched: base offset 0, this producer, outside of any transaction.

    Raises DecodeError for an older format.
    """
    appended = bytearray(batch.raw)
    _patch_for_append(batch, appended, producer_id, producer_epoch, base_sequence)
    return appended


def turn_into_append(
    batch: BatchView, producer_id: int, producer_epoch: int, base_sequence: int
) -> memoryview:
    """As `rewrite_for_append`, but the batch is altered where it lies, in a buffer that can be written to.

    The view's attributes stay those of the batch as it came. Raises DecodeError for an older format.
    """
    appended = batch.raw
    _patch_for_append(batch, appended, producer_id, producer_epoch, base_sequence)
    return appended


def _patch_for_append(
    batch: BatchView,
    appended: bytearray | memoryview,
    producer_id: int,
    producer_epoch: int,
    base_sequence: int,
) -> None:
    if batch.magic != MAGIC:
        raise DecodeError(f"a batch of magic {batch.magic} where only {MAGIC} is known")
    _START.pack_into(appended, 0, 0, batch.batch_length, _NO_LEADER_EPOCH, MAGIC)
    # With a delete horizon (KIP-534) the records' deltas count from it: they stay right without its flag.
    _ATTRIBUTES.pack_into(appended, ATTRIBUTES_OFFSET, batch.attributes & ~(TRANSACTIONAL | DELETE_HORIZON))
    _PRODUCER.pack_into(appended, _PRODUCER_OFFSET, producer_id, producer_epoch, base_sequence)
    seal(appended)


def seal(batch: bytearray | memoryview) -> None:
    """Write the CRC32C of a whole v2 batch into its header."""
    _CRC.pack_into(batch, _CRC_OFFSET, crc32c(memoryview(batch)[ATTRIBUTES_OFFSET:]))


def encode_batch(
    records: bytes | memoryview,
    count: int,
    *,
    attributes: int,
    base_timestamp: int,
    max_timestamp: int,
    producer_id: int,
    producer_epoch: int,
    base_sequence: int,
    base_offset: int = 0,
    last_offset_delta: int | None = None,
    partition_leader_epoch: int = _NO_LEADER_EPOCH,
) -> bytearray:
    """Put a header before a records section, compressed already as `attributes` say. Timestamps in ms."""
    batch = bytearray(HEADER_BYTES)
    _HEADER.pack_into(
        batch,
        0,
        base_offset,
        HEADER_BYTES - _LENGTH_END + len(records),
        partition_leader_epoch,
        MAGIC,
        0,
        attributes,
        count - 1 if last_offset_delta is None else last_offset_delta,
        base_timestamp,
        max_timestamp,
        producer_id,
        producer_epoch,
        base_sequence,
        count,
    )
    batch += records
    seal(batch)
    return batch
