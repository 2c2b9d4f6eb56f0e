"""The records within a batch of the message format v2, one by one: for checkers and tools, not for hot paths.

A record (Kafka: `DefaultRecord`): length varint, attributes int8, timestampDelta varlong, offsetDelta varint,
key and value as varint length (-1: null) and bytes, headers as varint count of (key, value).
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from protocol.codecs import Codec, compress, decompress
from protocol.errors import DecodeError
from protocol.record_batches import (
    CONTROL,
    LOG_APPEND_TIME,
    MAGIC,
    TRANSACTIONAL,
    BatchView,
    encode_batch,
)
from protocol.varints import encode_varint, read_varint, read_varlong

_DEFAULT_LIMIT_BYTES: Final = 128 * 1024 * 1024


class Record(NamedTuple):
    """One record; `timestamp` in ms. Bytes of a header's key that are not UTF-8 become lone surrogates."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


def iterate_records(batch: BatchView, limit_bytes: int = _DEFAULT_LIMIT_BYTES) -> Iterator[Record]:
    """Decode a batch's records, decompressed to at most `limit_bytes`. Raises DecodeError."""
    if batch.magic != MAGIC:
        raise DecodeError(f"a batch of magic {batch.magic} where only {MAGIC} is known")
    data = decompress(batch.codec, batch.records, limit_bytes)
    position = 0
    for _ in range(batch.count):
        length, start = read_varint(data, position)
        position = start + length
        if length < 0 or position > len(data):
            raise DecodeError(f"a record of {length} bytes in {len(data) - start} bytes")
        yield _decode_record(batch, data[start:position])
    if position != len(data):
        raise DecodeError(f"{len(data) - position} bytes after {batch.count} records")


def _decode_record(batch: BatchView, data: bytes) -> Record:
    timestamp_delta, position = read_varlong(data, 1)
    offset_delta, position = read_varint(data, position)
    if not 0 <= offset_delta <= batch.last_offset_delta:
        raise DecodeError(
            f"a record with offset delta {offset_delta} in a batch up to {batch.last_offset_delta}"
        )
    key, position = _read_bytes(data, position)
    value, position = _read_bytes(data, position)
    header_count, position = read_varint(data, position)
    if not 0 <= header_count <= len(data) - position:
        raise DecodeError(f"a record with {header_count} headers in {len(data) - position} bytes")
    headers = []
    for _ in range(header_count):
        header_key, position = _read_bytes(data, position)
        if header_key is None:
            raise DecodeError("a record header without a key")
        header_value, position = _read_bytes(data, position)
        headers.append((header_key.decode("utf-8", "surrogateescape"), header_value))
    if position != len(data):
        raise DecodeError(f"{len(data) - position} bytes after the end of a record")
    timestamp = batch.max_timestamp if batch.is_log_append_time else batch.base_timestamp + timestamp_delta
    return Record(batch.base_offset + offset_delta, timestamp, key, value, tuple(headers))


def _read_bytes(data: bytes, position: int) -> tuple[bytes | None, int]:
    length, position = read_varint(data, position)
    if length == -1:
        return None, position
    if not 0 <= length <= len(data) - position:
        raise DecodeError(f"a field of {length} bytes in {len(data) - position} bytes of a record")
    return data[position : position + length], position + length


def build_batch(
    records: Sequence[Record],
    *,
    codec: int = Codec.NONE,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    transactional: bool = False,
    control: bool = False,
    log_append_time: bool = False,
    partition_leader_epoch: int = -1,
) -> bytes:
    """Encode records, in the order of their offsets, as one batch; ValueError if there is none."""
    if not records:
        raise ValueError("a batch needs a record")
    base_offset, base_timestamp = records[0].offset, records[0].timestamp
    section = b"".join(_encode_record(record, base_offset, base_timestamp) for record in records)
    flags = (LOG_APPEND_TIME * log_append_time) | (TRANSACTIONAL * transactional) | (CONTROL * control)
    batch = encode_batch(
        compress(codec, section),
        len(records),
        attributes=codec | flags,
        base_timestamp=base_timestamp,
        max_timestamp=max(record.timestamp for record in records),
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
        base_offset=base_offset,
        last_offset_delta=records[-1].offset - base_offset,
        partition_leader_epoch=partition_leader_epoch,
    )
    return bytes(batch)


def _encode_record(record: Record, base_offset: int, base_timestamp: int) -> bytes:
    parts = [
        b"\0",
        encode_varint(record.timestamp - base_timestamp),
        encode_varint(record.offset - base_offset),
        _encode_bytes(record.key),
        _encode_bytes(record.value),
        encode_varint(len(record.headers)),
    ]
    for key, value in record.headers:
        parts += (_encode_bytes(key.encode("utf-8", "surrogateescape")), _encode_bytes(value))
    body = b"".join(parts)
    return encode_varint(len(body)) + body


def _encode_bytes(value: bytes | None) -> bytes:
    return encode_varint(-1) if value is None else encode_varint(len(value)) + value
