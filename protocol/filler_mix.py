"""Batches of data and fillers together, made from source batches with holes: where forwarding is not exact.

Every offset of a range is covered: by the source's record, its timestamp, key, value and headers the same, or
by a filler. A filler has the timestamp of the record that it stands for, if that was seen, else of the record
before it, so that offsets are found by timestamp as at the source. What is mixed is uncompressed, since
fillers are found by their key. Batches stamped LogAppendTime are written as if their producer had set that
time, each for itself.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from protocol.codecs import Codec, compress, decompress
from protocol.errors import DecodeError
from protocol.fillers import MOST_PLAIN, FillerFormat
from protocol.record_batches import HEADER_BYTES, MAGIC, BatchView, encode_batch
from protocol.varints import SHORT_VARINTS, encode_varint, read_varint, read_varlong

_SEQUENCES: Final = 1 << 31
_INT64: Final = 1 << 63
_SHORT_LIMIT: Final = len(SHORT_VARINTS)
_NO_ATTRIBUTES: Final = b"\0"


class Source(NamedTuple):
    """A batch of the source, whose CRC was checked; if it is not `kept`, fillers take its records' places."""

    batch: BatchView
    kept: bool = True


class Mixed(NamedTuple):
    """A batch to produce, for the offsets from `first_offset` up to below `next_offset`."""

    first_offset: int
    next_offset: int
    batch: bytearray


def mix(
    sources: Sequence[Source],
    start: int,
    stop: int,
    fillers: FillerFormat,
    *,
    timestamp_ms: int,
    producer_id: int,
    producer_epoch: int,
    max_bytes: int,
    limit_bytes: int,
    fixed: bool,
) -> Iterator[Mixed]:
    """Cover every offset from `start` up to below `stop`; base sequences are offsets modulo 2^31.

    Batches are made one by one, as they are asked for, and have at most `max_bytes`, but for a record that is
    larger by itself. Runs of 1,000 fillers and more that the sources say nothing of become batches of their
    own, compressed if `fixed` allows it. What precedes the first record has `timestamp_ms`. DecodeError
    for sources that overlap, are of an older format, are not what their headers claim or decompress to more
    than `limit_bytes` each.
    """
    writer = _Writer(start, fillers, timestamp_ms, producer_id, producer_epoch, max_bytes, fixed)
    end_of_last = 0
    for batch, kept in sources:
        if batch.base_offset < end_of_last:
            raise DecodeError(f"the batch at {batch.base_offset} begins before offset {end_of_last}")
        end_of_last = batch.next_offset
        stamp = batch.max_timestamp if batch.is_log_append_time else None
        for offset, timestamp, attributes, rest in _records(batch, limit_bytes):
            if offset >= stop:
                break
            if offset >= start:
                yield from writer.fill(offset)
            yield from writer.look(timestamp, stamp)
            if offset >= start:
                yield from writer.add(attributes, rest, batch.codec) if kept else writer.add_filler()
    yield from writer.fill(stop)
    yield from writer.flush()


class _Writer:
    def __init__(
        self,
        start: int,
        fillers: FillerFormat,
        timestamp_ms: int,
        producer_id: int,
        producer_epoch: int,
        max_bytes: int,
        fixed: bool,
    ) -> None:
        self._fillers = fillers
        self._producer_id = producer_id
        self._producer_epoch = producer_epoch
        self._max_bytes = max_bytes
        self._fixed = fixed
        # Of the last record that was looked at, and its batch's if that is stamped LogAppendTime.
        self._timestamp = timestamp_ms
        self._stamp: int | None = None
        # The first offset that is in no batch yet, and the batch that is being made.
        self._next_offset = start
        self._parts: list[bytes] = []
        self._size = 0
        self._base_timestamp = 0
        self._max_timestamp = 0
        # Of its records; None for a filler.
        self._codecs: set[int | None] = set()

    def look(self, timestamp: int, stamp: int | None) -> Iterator[Mixed]:
        """Take note of the record that is next."""
        if stamp != self._stamp or not -_INT64 <= timestamp - self._base_timestamp < _INT64:
            yield from self.flush()
        self._timestamp = timestamp
        self._stamp = stamp

    def fill(self, to: int) -> Iterator[Mixed]:
        """Add fillers up to below that offset, with the timestamp of the last record."""
        if to - self._next_offset >= MOST_PLAIN:
            yield from self.flush()
        while (left := to - self._next_offset) >= MOST_PLAIN:
            count = self._fillers.next_count(left, max_bytes=self._max_bytes, fixed=self._fixed)
            first_offset = self._next_offset
            self._next_offset += count
            batch = self._fillers.encode(
                count,
                timestamp_ms=self._timestamp,
                producer_id=self._producer_id,
                producer_epoch=self._producer_epoch,
                base_sequence=first_offset % _SEQUENCES,
                fixed=self._fixed,
            )
            yield Mixed(first_offset, self._next_offset, batch)
        while self._next_offset < to:
            yield from self.add_filler()

    def add_filler(self) -> Iterator[Mixed]:
        """Add one filler."""
        return self.add(_NO_ATTRIBUTES, self._fillers.tail, None)

    def add(self, attributes: bytes, rest: bytes, codec: int | None) -> Iterator[Mixed]:
        """Add a record, of which `rest` is what follows the deltas."""
        record = self._encode(attributes, rest)
        if self._parts and self._size + len(record) > self._max_bytes:
            yield from self.flush()
            record = self._encode(attributes, rest)
        self._parts.append(record)
        self._size += len(record)
        self._max_timestamp = max(self._max_timestamp, self._timestamp)
        self._codecs.add(codec)
        self._next_offset += 1

    def _encode(self, attributes: bytes, rest: bytes) -> bytes:
        if not self._parts:
            self._base_timestamp = self._max_timestamp = self._timestamp
            self._size = HEADER_BYTES
        timestamp_delta = self._timestamp - self._base_timestamp
        body = attributes + _varint(timestamp_delta) + _varint(len(self._parts)) + rest
        return _varint(len(body)) + body

    def flush(self) -> Iterator[Mixed]:
        """The batch that is being made, if there is anything in it."""
        if not self._parts:
            return
        count = len(self._parts)
        records = b"".join(self._parts)
        codec = Codec.NONE
        (only, *others) = self._codecs
        # Without a filler it can be compressed as its source was: a record that fits only then still does.
        if only and not others:
            compressed = compress(only, records)
            if len(compressed) < len(records):
                codec, records = Codec(only), compressed
        first_offset = self._next_offset - count
        batch = encode_batch(
            records,
            count,
            attributes=codec,
            base_timestamp=self._base_timestamp,
            max_timestamp=self._max_timestamp,
            producer_id=self._producer_id,
            producer_epoch=self._producer_epoch,
            base_sequence=first_offset % _SEQUENCES,
        )
        self._parts, self._codecs = [], set()
        yield Mixed(first_offset, self._next_offset, batch)


def _varint(value: int) -> bytes:
    return SHORT_VARINTS[value] if 0 <= value < _SHORT_LIMIT else encode_varint(value)


def _records(batch: BatchView, limit_bytes: int) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Offset, timestamp in ms, attributes and what follows the deltas, of each record. Raises DecodeError."""
    if batch.magic != MAGIC:
        raise DecodeError(f"a batch of magic {batch.magic} where only {MAGIC} is known")
    section = decompress(batch.codec, batch.records, limit_bytes)
    stamp = batch.max_timestamp if batch.is_log_append_time else None
    position, last_delta = 0, -1
    for _ in range(batch.count):
        length, start = read_varint(section, position)
        position = start + length
        if length < 1 or position > len(section):
            raise DecodeError(f"a record of {length} bytes in {len(section) - start} bytes")
        timestamp_delta, at = read_varlong(section, start + 1)
        offset_delta, at = read_varint(section, at)
        if at > position or not last_delta < offset_delta <= batch.last_offset_delta:
            raise DecodeError(
                f"a record of {length} bytes with offset delta {offset_delta} after {last_delta}"
            )
        last_delta = offset_delta
        timestamp = batch.base_timestamp + timestamp_delta if stamp is None else stamp
        if not -_INT64 <= timestamp < _INT64:
            raise DecodeError(f"a record with the timestamp {timestamp}")
        yield batch.base_offset + offset_delta, timestamp, section[start : start + 1], section[at:position]
    if position != len(section):
        raise DecodeError(f"{len(section) - position} bytes after {batch.count} records")
