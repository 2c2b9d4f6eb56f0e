"""Filler records: what stands in a mirror where a client cannot write.

A filler is a record with a key of 16 random bytes, the link's filler key, a null value and no headers. It
fills the offset of a transaction marker, of aborted data, of a record that compaction or retention removed,
and it is the barrier that ends a mirror. Clients are shown control batches (KIP-98) in its place.

Short runs are uncompressed, and the fillers in them are found by their key. Long runs are zstd batches of a
few fixed counts, whose records are compressed once per key: every batch of a count holds the same bytes, and
is known by their SHA-256. Another version of zstd may make other bytes. So what a link has ever written is
kept in the state, a `FixedPayload` for each, recorded before the first append.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Final

from protocol.codecs import Codec, compress
from protocol.record_batches import (
    HEADER_BYTES,
    encode_batch,
)
from protocol.varints import SHORT_VARINTS, encode_varint

FILLER_KEY_BYTES: Final = 16
# The counts of compressed batches, largest first: at most 60 kB each, 0.6 to 1.1 bytes per filler.
FIXED_COUNTS: Final = (100_000, 10_000, 1_000)
FIXED_CODEC: Final = Codec.ZSTD
# The most fillers of an uncompressed batch: 242 kB.
MOST_PLAIN: Final = 10_000

_NULL: Final = encode_varint(-1)
_NO_HEADERS: Final = encode_varint(0)
# Attributes, and the delta of a timestamp that is the batch's.
_BEFORE_OFFSET: Final = b"\0\0"


@dataclass(frozen=True, slots=True)
class FixedPayload:
    """How the records section of `count` compressed fillers is known: its size in bytes and its SHA-256."""

    count: int
    size_bytes: int
    sha256: bytes


def filler_tail(filler_key: bytes) -> bytes:
    """What follows the offset delta in a filler: key, null value, no headers; ValueError for a wrong key."""
    if len(filler_key) != FILLER_KEY_BYTES:
        raise ValueError(f"a filler key of {len(filler_key)} bytes")
    return encode_varint(FILLER_KEY_BYTES) + filler_key + _NULL + _NO_HEADERS


class FillerFormat:
    """Makes the filler batches of one key; ValueError for a key that does not have 16 bytes."""

    def __init__(self, filler_key: bytes) -> None:
        self.filler_key = filler_key
        self.tail = filler_tail(filler_key)
        plain = _records(self.tail, MOST_PLAIN)
        self._plain = b"".join(plain)
        self._plain_ends = list(accumulate(map(len, plain), initial=0))
        self._fixed: dict[int, bytes] = {}

    def payloads(self) -> tuple[FixedPayload, ...]:
        """What the state must hold before a compressed batch of this format is appended.

        The first call takes some 40 ms of CPU.
        """
        return tuple(
            FixedPayload(count, len(payload), hashlib.sha256(payload).digest())
            for count in FIXED_COUNTS
            for payload in (self._payload(count),)
        )

    def plain_records(self, count: int) -> memoryview:
        """The records section of an uncompressed batch of up to MOST_PLAIN fillers of one timestamp."""
        return memoryview(self._plain)[: self._plain_ends[count]]

    def next_count(self, left: int, *, max_bytes: int, fixed: bool) -> int:
        """How many of the `left` fillers of a run to put into the next batch of `max_bytes`; at least 1.

        `fixed` allows compressed batches, which a topic that is compacted must not have: its cleaner would
        compress what is left of them anew.
        """
        if fixed:
            for count in FIXED_COUNTS:
                if count <= left and HEADER_BYTES + len(self._payload(count)) <= max_bytes:
                    return count
        count = min(left, MOST_PLAIN)
        while count > 1 and HEADER_BYTES + self._plain_ends[count] > max_bytes:
            count //= 2
        return count

    def encode(
        self,
        count: int,
        *,
        timestamp_ms: int,
        producer_id: int,
        producer_epoch: int,
        base_sequence: int,
        fixed: bool = True,
    ) -> bytearray:
        """A batch of `count` fillers to produce, all of one timestamp.

        Compressed if the count is one of FIXED_COUNTS and `fixed` allows it; ValueError for a count that is
        neither that nor from 1 to MOST_PLAIN.
        """
        compressed = fixed and count in FIXED_COUNTS
        if not compressed and not 1 <= count <= MOST_PLAIN:
            raise ValueError(f"a batch of {count} fillers")
        return encode_batch(
            self._payload(count) if compressed else self.plain_records(count),
            count,
            attributes=FIXED_CODEC if compressed else Codec.NONE,
            base_timestamp=timestamp_ms,
            max_timestamp=timestamp_ms,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=base_sequence,
        )

    def _payload(self, count: int) -> bytes:
        payload = self._fixed.get(count)
        if payload is None:
            payload = self._fixed[count] = compress(FIXED_CODEC, b"".join(_records(self.tail, count)))
        return payload


_format_of = lru_cache(maxsize=64)(FillerFormat)


def _records(tail: bytes, count: int) -> list[bytes]:
    lengths = {size: encode_varint(len(_BEFORE_OFFSET) + size + len(tail)) for size in (1, 2, 3)}
    return [lengths[len(delta)] + _BEFORE_OFFSET + delta + tail for delta in _offset_deltas(count)]


def _offset_deltas(count: int) -> list[bytes]:
    # One by one they would take most of the time.
    deltas = list(SHORT_VARINTS[:count])
    if len(deltas) == count:
        return deltas
    below = [bytes((raw & 0x7F | 0x80, raw >> 7 | 0x80)) for raw in range(0, 1 << 14, 2)]
    high = 1
    while len(deltas) < count:
        deltas += [low + bytes((high,)) for low in below]
        high += 1
    return deltas[:count]


def encode_filler_batch(
    filler_key: bytes,
    count: int,
    timestamp_ms: int,
    producer_id: int,
    producer_epoch: int,
    base_sequence: int,
) -> bytes:
    """An uncompressed batch of `count` fillers to produce; ValueError for no filler or a wrong key."""
    return bytes(
        _format_of(filler_key).encode(
            count,
            timestamp_ms=timestamp_ms,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=base_sequence,
            fixed=False,
        )
    )
