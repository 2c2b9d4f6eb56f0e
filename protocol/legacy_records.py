"""Records of the message formats v0 and v1, which clusters before Kafka 3.0 may still hold (KIP-31, KIP-32).

A message: offset int64, size int32, crc uint32 (CRC-32 of what follows it), magic int8, attributes int8, in
v1 timestamp int64, key and value as int32 length (-1: null) and bytes (Kafka: `LegacyRecord`). A compressed
one holds a whole sequence of messages in its value, and has the offset of the last of them; in v0 they have
their own offsets, in v1 they count from 0 (Kafka: `AbstractLegacyRecordBatch`).
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

from protocol.codecs import Codec, decompress
from protocol.errors import DecodeError
from protocol.record_batches import CODEC_MASK, LOG_APPEND_TIME, BatchView
from protocol.varints import encode_varint

# Offset, timestamp in ms, attributes as in v2, and the bytes of a v2 record from its key on.
Item: TypeAlias = tuple[int, int, bytes, bytes]

_NO_TIMESTAMP: Final = -1
_HEAD: Final = struct.Struct(">qiIbb")
_CRC_END: Final = 16
_TIMESTAMP: Final = struct.Struct(">q")
_LENGTH: Final = struct.Struct(">i")
_NO_ATTRIBUTES: Final = b"\0"
_NO_HEADERS: Final = encode_varint(0)


class _Message(NamedTuple):
    offset: int
    magic: int
    attributes: int
    timestamp: int
    key: bytes | None
    value: bytes | None


def legacy_items(batch: BatchView, limit_bytes: int) -> Iterator[Item]:
    """The records of one message of v0 or v1, more than one if it is compressed. Raises DecodeError."""
    wrapper = next(_messages(bytes(batch.raw)))
    codec = wrapper.attributes & CODEC_MASK
    if not codec:
        yield _item(wrapper.offset, wrapper.timestamp, wrapper)
        return
    inner = list(_messages(_decompressed(wrapper, codec, limit_bytes)))
    if not inner:
        raise DecodeError(f"the compressed message at offset {wrapper.offset} is empty")
    shift = wrapper.offset - inner[-1].offset if wrapper.magic else 0
    for message in inner:
        if message.attributes & CODEC_MASK:
            raise DecodeError(f"the message at offset {wrapper.offset} is compressed twice")
        stamped = wrapper.attributes & LOG_APPEND_TIME
        yield _item(message.offset + shift, wrapper.timestamp if stamped else message.timestamp, message)


def _item(offset: int, timestamp: int, message: _Message) -> Item:
    rest = _bytes(message.key) + _bytes(message.value) + _NO_HEADERS
    return offset, timestamp, _NO_ATTRIBUTES, rest


def _bytes(value: bytes | None) -> bytes:
    return encode_varint(-1) if value is None else encode_varint(len(value)) + value


def _messages(data: bytes) -> Iterator[_Message]:
    position = 0
    while position < len(data):
        try:
            offset, size, crc, magic, attributes = _HEAD.unpack_from(data, position)
            end = position + 12 + size
            if magic not in (0, 1) or not position + _HEAD.size <= end <= len(data):
                raise DecodeError(f"a message of magic {magic} and {size} bytes at byte {position}")
            if zlib.crc32(data[position + _CRC_END : end]) != crc:
                raise DecodeError(f"the message at offset {offset} fails its checksum")
            at, timestamp = position + _HEAD.size, _NO_TIMESTAMP
            if magic:
                (timestamp,) = _TIMESTAMP.unpack_from(data, at)
                at += _TIMESTAMP.size
            key, at = _field(data, at, end)
            value, at = _field(data, at, end)
        except struct.error:
            raise DecodeError(f"a message ends within its head, at byte {position}") from None
        if at != end:
            raise DecodeError(f"{end - at} bytes follow the value of the message at offset {offset}")
        yield _Message(offset, magic, attributes, timestamp, key, value)
        position = end


def _field(data: bytes, at: int, end: int) -> tuple[bytes | None, int]:
    (length,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    if length == -1:
        return None, at
    if not 0 <= length <= end - at:
        raise DecodeError(f"a field of {length} bytes in {end - at} bytes of a message")
    return data[at : at + length], at + length


def _decompressed(wrapper: _Message, codec: int, limit_bytes: int) -> bytes:
    value = wrapper.value or b""
    if codec == Codec.LZ4 and wrapper.magic == 0:
        value = _with_right_checksum(value)
    return decompress(codec, value, limit_bytes)


# LZ4 frames of v0 have a checksum over more than the specification says (KAFKA-3160).
_LZ4_DESCRIPTOR: Final = 4
_CONTENT_SIZE: Final = 0x08
_PRIME_1, _PRIME_2, _PRIME_3, _PRIME_4, _PRIME_5 = (
    2654435761,
    2246822519,
    3266489917,
    668265263,
    374761393,
)
_MASK: Final = 0xFFFFFFFF


def _with_right_checksum(frame: bytes) -> bytes:
    if len(frame) < 16:
        raise DecodeError("an LZ4 frame ends within its head")
    end = _LZ4_DESCRIPTOR + (10 if frame[_LZ4_DESCRIPTOR] & _CONTENT_SIZE else 2)
    checksum = (_xxh32_short(frame[_LZ4_DESCRIPTOR:end]) >> 8) & 0xFF
    return frame[:end] + bytes([checksum]) + frame[end + 1 :]


def _xxh32_short(data: bytes) -> int:
    """XXH32 with seed 0, of less than 16 bytes."""
    value = (_PRIME_5 + len(data)) & _MASK
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        value = (value + int.from_bytes(data[at : at + 4], "little") * _PRIME_3) & _MASK
        value = (_rotated(value, 17) * _PRIME_4) & _MASK
    for byte in data[whole:]:
        value = (value + byte * _PRIME_5) & _MASK
        value = (_rotated(value, 11) * _PRIME_1) & _MASK
    value = ((value ^ (value >> 15)) * _PRIME_2) & _MASK
    value = ((value ^ (value >> 13)) * _PRIME_3) & _MASK
    return value ^ (value >> 16)


def _rotated(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK
