"""Which batches of a Fetch response belong to aborted transactions (KIP-98; Kafka: `CompletedFetch`).

A response to read_committed lists, per partition, the aborted transactions that its batches are part of. The
list belongs to that response alone; a producer's transaction is over with its ABORT marker.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from protocol.codecs import decompress
from protocol.record_batches import BatchView
from protocol.varints import read_varint, read_varlong

_ABORT: Final = 0
_KEY_BYTES: Final = 4
_LIMIT_BYTES: Final = 64 << 10


class AbortedTransactions:
    """Judges the batches of one response, which must be given in their order, every one of them."""

    __slots__ = ("_active", "_coming")

    def __init__(self, aborted: Iterable[tuple[int, int]]) -> None:
        """`aborted` are producer ids with the first offsets of their transactions, in any order."""
        self._coming = deque(sorted(aborted, key=lambda each: each[1]))
        self._active: set[int] = set()

    def include(self, batch: BatchView) -> bool:
        """Whether the batch holds data of an aborted transaction."""
        last_offset = batch.base_offset + batch.last_offset_delta
        while self._coming and self._coming[0][1] <= last_offset:
            self._active.add(self._coming.popleft()[0])
        if batch.producer_id not in self._active or not batch.is_transactional:
            return False
        if batch.is_control:
            if control_type(batch) == _ABORT:
                self._active.discard(batch.producer_id)
            return False
        return True


def control_type(batch: BatchView) -> int | None:
    """The type of a control batch's first record (0: abort, 1: commit), None without any. DecodeError."""
    if batch.count < 1:
        return None
    # No broker compresses them. But one that is overlooked would make the next transaction an aborted one.
    data = decompress(batch.codec, batch.records, _LIMIT_BYTES)
    _, position = read_varint(data, 0)
    _, position = read_varlong(data, position + 1)
    _, position = read_varint(data, position)
    length, position = read_varint(data, position)
    key = data[position : position + length]
    return int.from_bytes(key[2:_KEY_BYTES]) if len(key) >= _KEY_BYTES else None
