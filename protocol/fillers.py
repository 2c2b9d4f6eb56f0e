"""Filler records: what stands in a mirror where a client cannot write, and what clients see instead.

A filler is a record with a key of 16 random bytes, the link's filler key, a null value and no headers.
Clients are shown a control batch (KIP-98) at its offset, which they skip by protocol. There is one use: the
barrier that ends a mirror, an uncompressed batch of one filler. It is presented in place, at the same length,
so that the response around it stays as it is: the 12 bytes that the shorter key leaves become the value.
"""

from collections.abc import Sequence
from typing import Final

from protocol.record_batches import (
    ATTRIBUTES_OFFSET,
    CONTROL,
    DELETE_HORIZON,
    HEADER_BYTES,
    BatchView,
    encode_batch,
    seal,
)
from protocol.varints import encode_varint

FILLER_KEY_BYTES: Final = 16
_NULL: Final = encode_varint(-1)
_NO_HEADERS: Final = encode_varint(0)
_KEY_LENGTH: Final = encode_varint(FILLER_KEY_BYTES)
_LONGEST_VARLONG: Final = 10

# Version 0, and a type that is neither abort (0) nor commit (1), of which some clients want more. All of them
# want 4 bytes.
_CONTROL_KEY: Final = b"\0\0\0\2"
_CONTROL_VALUE: Final = bytes(FILLER_KEY_BYTES - len(_CONTROL_KEY))
_CONTROL_REST: Final = (
    encode_varint(len(_CONTROL_KEY))
    + _CONTROL_KEY
    + encode_varint(len(_CONTROL_VALUE))
    + _CONTROL_VALUE
    + _NO_HEADERS
)


def encode_filler_batch(
    filler_key: bytes,
    count: int,
    timestamp_ms: int,
    producer_id: int,
    producer_epoch: int,
    base_sequence: int,
) -> bytes:
    """An uncompressed batch of `count` fillers to produce; ValueError for no filler or a wrong key."""
    if len(filler_key) != FILLER_KEY_BYTES or count < 1:
        raise ValueError(f"{count} fillers with a key of {len(filler_key)} bytes")
    records: list[bytes] = []
    for offset_delta in range(count):
        body = b"\0\0" + encode_varint(offset_delta) + _KEY_LENGTH + filler_key + _NULL + _NO_HEADERS
        records += (encode_varint(len(body)), body)
    batch = encode_batch(
        b"".join(records),
        count,
        attributes=0,
        base_timestamp=timestamp_ms,
        max_timestamp=timestamp_ms,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
    )
    return bytes(batch)


def present(buffer: bytearray | memoryview, filler_keys: Sequence[bytes]) -> int:
    """Turn the barriers in a Fetch response into control batches, in place; gives how many there were.

    A barrier is an intact uncompressed batch of one filler. The key anywhere else stays as it is.
    """
    view = memoryview(buffer)
    haystack = buffer if isinstance(buffer, bytearray) else bytes(buffer)
    presented = 0
    for key in filler_keys:
        position = haystack.find(key)
        while position >= 0:
            batch = _barrier_with_key_at(view, position, key)
            if batch is not None:
                _present_barrier(batch, view[position - len(_KEY_LENGTH) :])
                presented += 1
            position = haystack.find(key, position + 1)
    return presented


def _barrier_with_key_at(view: memoryview, position: int, key: bytes) -> BatchView | None:
    # The cleaner of a compacted topic puts the delete horizon in place of a tombstone's base timestamp
    # (KIP-534): then the timestamp delta is no longer a single 0.
    for varlong_bytes in range(1, _LONGEST_VARLONG + 1):
        after_timestamp = b"\0" + _KEY_LENGTH + key + _NULL + _NO_HEADERS
        body_bytes = 1 + varlong_bytes + len(after_timestamp)
        start = position - HEADER_BYTES - 2 - varlong_bytes - 1 - len(_KEY_LENGTH)
        if start < 0:
            break
        # Of older formats the view has no count.
        batch = BatchView(view, start)
        if (
            batch.size_bytes != HEADER_BYTES + 1 + body_bytes
            or batch.count != 1
            or batch.last_offset_delta != 0
        ):
            continue
        records = bytes(batch.records)
        timestamp_delta = records[2 : 2 + varlong_bytes]
        if (
            not batch.attributes & ~DELETE_HORIZON
            and records[:2] == encode_varint(body_bytes) + b"\0"
            and [byte >= 0x80 for byte in timestamp_delta] == [True] * (varlong_bytes - 1) + [False]
            and records[2 + varlong_bytes :] == after_timestamp
            and batch.verify_crc()
        ):
            return batch
    return None


def _present_barrier(batch: BatchView, from_key_length: memoryview) -> None:
    from_key_length[: len(_CONTROL_REST)] = _CONTROL_REST
    raw = batch.raw
    # The low byte of the attributes, big endian.
    raw[ATTRIBUTES_OFFSET + 1] |= CONTROL
    seal(raw)
