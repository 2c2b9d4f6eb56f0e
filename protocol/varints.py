"""Zigzag variable-length integers, as the records of a batch hold them (Protocol Buffers' sint32 and sint64).

Kafka: `ByteUtils.readVarint`, `ByteUtils.readVarlong`. Readers take `bytes`, whose items are cheaper than a
memoryview's.
"""

from typing import Final

from protocol.errors import DecodeError

_INT32_BYTES: Final = 5
_INT64_BYTES: Final = 10


def encode_varint(value: int) -> bytes:
    """Encode a signed integer of up to 64 bits; ValueError beyond."""
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{value} does not fit into a 64 bit varint")
    rest = (value << 1) ^ (value >> 63)
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append((rest & 0x7F) | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


# Lengths and offset deltas are nearly always here: what two bytes can hold.
SHORT_VARINTS: Final = tuple(encode_varint(value) for value in range(1 << 13))


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Read a signed 32 bit varint; gives the value and the position after it. Raises DecodeError."""
    return _read(data, position, _INT32_BYTES, 32)


def read_varlong(data: bytes, position: int) -> tuple[int, int]:
    """Read a signed 64 bit varint; gives the value and the position after it. Raises DecodeError."""
    return _read(data, position, _INT64_BYTES, 64)


def _read(data: bytes, position: int, max_bytes: int, bits: int) -> tuple[int, int]:
    raw = 0
    for shift, byte in enumerate(data[position : position + max_bytes]):
        raw |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            if raw >> bits:
                raise DecodeError(f"a varint at byte {position} of the records holds more than {bits} bits")
            return (raw >> 1) ^ -(raw & 1), position + shift + 1
    if position + max_bytes > len(data):
        raise DecodeError(f"the records end within a varint at byte {position}")
    raise DecodeError(f"a varint at byte {position} of the records is longer than {max_bytes} bytes")
