"""Batches with holes become runs without: what a client can write at every offset from one to the next.

A broker gives the records of an append consecutive offsets. So a batch that compaction left holes in, an
aborted one, and one of the message formats v0 and v1 are taken apart, into *sections* of records at
consecutive offsets and *filler runs* between them (`fillers`). The bytes of a record stay what they are
from its key on. Batches stamped LogAppendTime are taken apart too: every record gets the time of its append
for its own, since a broker does not take the stamp from a client.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from protocol.codecs import Codec, compress, decompress
from protocol.errors import DecodeError
from protocol.fillers import FIXED_COUNTS, FillerFormat, filler_tail
from protocol.legacy_records import Item, legacy_items
from protocol.record_batches import HEADER_BYTES, MAGIC, BatchView, encode_batch
from protocol.varints import SHORT_VARINTS, encode_varint, read_varint, read_varlong

# More fillers than this are never in one uncompressed batch.
LONGEST_RUN: Final = 10_000
NO_TIMESTAMP: Final = -1
_LIMIT_BYTES: Final = 256 << 20
_LONG_RUN_BYTES: Final = 64 << 10
_INT64: Final = 1 << 63


class Section:
    """Records at consecutive offsets, not yet a batch; it can be merged as a `BatchView` can."""

    __slots__ = ("_records", "base_offset", "base_timestamp", "codec", "count", "max_timestamp")

    magic: Final = MAGIC
    # What `records` are, whatever the codec of the batch that they came in.
    attributes: Final = 0
    holds_fillers: Final = False

    def __init__(
        self,
        base_offset: int,
        count: int,
        records: bytes,
        *,
        base_timestamp: int,
        max_timestamp: int,
        codec: int,
    ) -> None:
        self.base_offset = base_offset
        self.count = count
        self._records = records
        self.base_timestamp = base_timestamp
        self.max_timestamp = max_timestamp
        self.codec = codec

    @property
    def last_offset_delta(self) -> int:
        """As `BatchView.last_offset_delta`."""
        return self.count - 1

    @property
    def next_offset(self) -> int:
        """The first offset after the section."""
        return self.base_offset + self.count

    @property
    def size_bytes(self) -> int:
        """Its size as an uncompressed batch."""
        return HEADER_BYTES + len(self._records)

    @property
    def records(self) -> memoryview:
        """The records, uncompressed."""
        return memoryview(self._records)

    def encode(self, producer_id: int, producer_epoch: int, base_sequence: int) -> bytearray:
        """The batch to produce, compressed as its source was."""
        return encode_batch(
            compress(self.codec, self._records),
            self.count,
            attributes=self.codec,
            base_timestamp=self.base_timestamp,
            max_timestamp=self.max_timestamp,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=base_sequence,
        )


class FillerRun:
    """Fillers at consecutive offsets, all of one timestamp; one that is not long can be merged."""

    __slots__ = ("_key", "base_offset", "base_timestamp", "compressed", "count", "max_timestamp")

    magic: Final = MAGIC
    attributes: Final = 0
    codec: Final = int(Codec.NONE)
    holds_fillers: Final = True

    def __init__(
        self, base_offset: int, count: int, timestamp: int, filler_key: bytes, *, compressed: bool = False
    ) -> None:
        self.base_offset = base_offset
        self.count = count
        # Whether it is to be one of the compressed batches of `fillers`.
        self.compressed = compressed
        self.base_timestamp = self.max_timestamp = timestamp
        self._key = filler_key

    @property
    def last_offset_delta(self) -> int:
        """As `BatchView.last_offset_delta`."""
        return self.count - 1

    @property
    def next_offset(self) -> int:
        """The first offset after the run."""
        return self.base_offset + self.count

    @property
    def is_long(self) -> bool:
        """Whether the run does not fit into one uncompressed batch."""
        return self.count > LONGEST_RUN

    @property
    def size_bytes(self) -> int:
        """Its size as an uncompressed batch; of a long run, which need not be held in memory, a token."""
        return _LONG_RUN_BYTES if self.is_long else HEADER_BYTES + _filler_records(self._key)[1][self.count]

    @property
    def records(self) -> memoryview:
        """The records, uncompressed; ValueError for a long run."""
        if self.is_long:
            raise ValueError(f"{self.count} fillers in one batch")
        records, ends = _filler_records(self._key)
        return memoryview(records)[: ends[self.count]]

    def next_count(self, max_bytes: int, *, compressed: bool) -> int:
        """How many of the fillers can be one batch of at most `max_bytes`; at least 1."""
        if compressed and self.count >= LONGEST_RUN:
            return _format(self._key).next_count(self.count, max_bytes=max_bytes, fixed=True)
        count = min(self.count, LONGEST_RUN)
        ends = _filler_records(self._key)[1]
        while count > 1 and HEADER_BYTES + ends[count] > max_bytes:
            count //= 2
        return count

    def split(self, count: int, *, compressed: bool = False) -> tuple["FillerRun", "FillerRun"]:
        """The first `count` fillers, compressed if there can be such a batch, and the others."""
        compressed = compressed and count in FIXED_COUNTS
        first = FillerRun(self.base_offset, count, self.base_timestamp, self._key, compressed=compressed)
        rest = FillerRun(self.base_offset + count, self.count - count, self.base_timestamp, self._key)
        return first, rest

    def encode(self, producer_id: int, producer_epoch: int, base_sequence: int) -> bytearray:
        """The batch to produce; ValueError for a run that does not fit into one."""
        if self.compressed:
            return _format(self._key).encode(
                self.count,
                timestamp_ms=self.base_timestamp,
                producer_id=producer_id,
                producer_epoch=producer_epoch,
                base_sequence=base_sequence,
            )
        return encode_batch(
            bytes(self.records),
            self.count,
            attributes=Codec.NONE,
            base_timestamp=self.base_timestamp,
            max_timestamp=self.base_timestamp,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=base_sequence,
        )


Piece = BatchView | Section | FillerRun


_format = lru_cache(maxsize=64)(FillerFormat)


@lru_cache(maxsize=64)
def _filler_records(filler_key: bytes) -> tuple[bytes, list[int]]:
    """The longest run's records, and by number of fillers the bytes that they take."""
    tail = filler_tail(filler_key)
    records, ends = bytearray(), [0]
    for offset_delta in range(LONGEST_RUN):
        body = b"\0\0" + encode_varint(offset_delta) + tail
        records += encode_varint(len(body)) + body
        ends.append(len(records))
    return bytes(records), ends


def densify(
    batch: BatchView,
    start: int,
    previous_timestamp: int,
    *,
    aborted: bool,
    filler_key: bytes,
    max_bytes: int,
) -> Iterator[Section | FillerRun]:
    """What stands for the offsets from `start` to the batch's end, of a batch whose CRC was checked.

    A filler has the timestamp of the record that it stands for, where there is one: in a control batch or, if
    the batch is `aborted`, any of its records. Others have the timestamp of the record before them, which is
    `previous_timestamp` at first. Sections are not above `max_bytes`, save one of a single record. Raises
    DecodeError.
    """
    if batch.magic == MAGIC and batch.is_control:
        # A gateway shows its fillers as control batches, of one record for a run.
        begin = max(start, batch.base_offset)
        if begin > start:
            yield FillerRun(start, begin - start, previous_timestamp, filler_key)
        yield FillerRun(begin, batch.next_offset - begin, batch.max_timestamp, filler_key)
        return
    items = _items(batch) if batch.magic == MAGIC else legacy_items(batch, _LIMIT_BYTES)
    codec = batch.codec if batch.magic == MAGIC else int(Codec.NONE)
    cut = _Cut(start, previous_timestamp, filler_key, codec, max_bytes)
    for offset, timestamp, attributes, rest in items:
        if offset < start:
            cut.last_timestamp = timestamp
            continue
        if offset < cut.next_offset:
            raise DecodeError(f"a record at offset {offset} follows that at {cut.next_offset - 1}")
        if offset > cut.next_offset:
            yield from cut.fill(offset, cut.last_timestamp)
        if aborted:
            yield from cut.fill(offset + 1, timestamp)
            cut.last_timestamp = timestamp
        else:
            yield from cut.add(timestamp, attributes, rest)
    if cut.next_offset < batch.next_offset:
        yield from cut.fill(batch.next_offset, cut.last_timestamp)
    yield from cut.flush()


class _Cut:
    """What is collected until it is cut off as a section or a run."""

    def __init__(
        self, start: int, last_timestamp: int, filler_key: bytes, codec: int, max_bytes: int
    ) -> None:
        self.next_offset = start
        self.last_timestamp = last_timestamp
        self._filler_key = filler_key
        self._codec = codec
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._count = 0
        self._base_timestamp = 0
        self._max_timestamp = 0
        self._run: FillerRun | None = None

    def fill(self, end: int, timestamp: int) -> Iterator[Section | FillerRun]:
        """Fillers up to `end`."""
        if self._parts or (self._run is not None and self._run.base_timestamp != timestamp):
            yield from self.flush()
        count = end - self.next_offset
        if self._run is None:
            self._run = FillerRun(self.next_offset, count, timestamp, self._filler_key)
        else:
            self._run.count += count
        self.next_offset = end

    def add(self, timestamp: int, attributes: bytes, rest: bytes) -> Iterator[Section | FillerRun]:
        """One record."""
        # The longest that the length and the deltas may become.
        size = len(rest) + 22
        if (
            self._run is not None
            or (self._parts and self._size + size > self._max_bytes)
            or not -_INT64 <= timestamp - self._base_timestamp < _INT64
        ):
            yield from self.flush()
        if not self._parts:
            self._base_timestamp = self._max_timestamp = timestamp
        body = attributes + encode_varint(timestamp - self._base_timestamp) + _varint(self._count)
        self._parts += (_varint(len(body) + len(rest)), body, rest)
        self._size += size
        self._count += 1
        self._max_timestamp = max(self._max_timestamp, timestamp)
        self.last_timestamp = timestamp
        self.next_offset += 1

    def flush(self) -> Iterator[Section | FillerRun]:
        """What was collected."""
        if self._run is not None:
            yield self._run
            self._run = None
        if self._parts:
            yield Section(
                self.next_offset - self._count,
                self._count,
                b"".join(self._parts),
                base_timestamp=self._base_timestamp,
                max_timestamp=self._max_timestamp,
                codec=self._codec,
            )
            self._parts = []
            self._size = self._count = 0


def _varint(value: int) -> bytes:
    return SHORT_VARINTS[value] if value < len(SHORT_VARINTS) else encode_varint(value)


def _items(batch: BatchView) -> Iterator[Item]:
    """Offset, timestamp, attributes and the bytes from the key on, of every record."""
    data = decompress(batch.codec, batch.records, _LIMIT_BYTES)
    append_time = batch.max_timestamp if batch.is_log_append_time else None
    base_offset, base_timestamp = batch.base_offset, batch.base_timestamp
    position, size = 0, len(data)
    for _ in range(batch.count):
        length, start = read_varint(data, position)
        position = start + length
        if length < 1 or position > size:
            raise DecodeError(f"a record of {length} bytes in {size - start} bytes")
        timestamp_delta, rest = read_varlong(data, start + 1)
        offset_delta, rest = read_varint(data, rest)
        if rest > position or not 0 <= offset_delta <= batch.last_offset_delta:
            raise DecodeError(f"{length} bytes and offset delta {offset_delta} as a record")
        timestamp = base_timestamp + timestamp_delta if append_time is None else append_time
        if not -_INT64 <= timestamp < _INT64:
            raise DecodeError(
                f"a record at offset {base_offset + offset_delta} has a timestamp beyond 64 bits"
            )
        yield base_offset + offset_delta, timestamp, data[start : start + 1], data[rest:position]
    if position != size:
        raise DecodeError(f"{size - position} bytes after {batch.count} records")
