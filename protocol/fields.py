"""Kafka's primitive fields by hand: bounded readers, skippers and encoders, in both encodings.

For the frames that are too many or too large to be decoded whole. Versions before KIP-482 have int16 and
int32 lengths and no tagged fields (`PLAIN`); flexible ones have varint lengths plus one and tagged fields
(`COMPACT`).

Readers take a buffer and a position and return the value and the position behind it. A position never goes
back and every element of an array takes at least one byte, so the work is bounded by the frame, whatever the
counts in it claim. Reading past the end raises one of `OUT_OF_BOUNDS`, which the public functions of the
callers translate to DecodeError: a check of our own at each step would double the cost of a Fetch response.
"""

import struct
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from protocol.errors import DecodeError

Buffer: TypeAlias = bytes | bytearray | memoryview

OUT_OF_BOUNDS: Final = (IndexError, struct.error, UnicodeDecodeError)
# For those who add to the text where it happened.
MALFORMED: Final = (DecodeError, *OUT_OF_BOUNDS)

INT16: Final = struct.Struct(">h")
INT32: Final = struct.Struct(">i")
INT64: Final = struct.Struct(">q")

_MAX_INT32: Final = 2**31 - 1


class Field(Enum):
    """The fields of a layout that say their length themselves."""

    STRING = 1
    BYTES = 2
    TAGS = 3


STRING: Final = Field.STRING
BYTES: Final = Field.BYTES
TAGS: Final = Field.TAGS

# The fields of a message in order: a number of bytes, a Field, or for an array its elements' layout.
Layout: TypeAlias = tuple["int | Field | Layout", ...]


class Encoding(NamedTuple):
    """How one family of versions writes lengths. A null array has the count -1, a null string is None."""

    read_count: Callable[[Buffer, int], tuple[int, int]]
    read_string: Callable[[Buffer, int], tuple[str | None, int]]
    skip_string: Callable[[Buffer, int], int]
    skip_bytes: Callable[[Buffer, int], int]
    encode_count: Callable[[int], bytes]
    encode_string: Callable[[str | None], bytes]
    no_tags: bytes


def read_uvarint(buffer: Buffer, at: int) -> tuple[int, int]:
    """Read an unsigned varint; DecodeError from 2^31 on, where Java's is negative or cut off."""
    value = buffer[at]
    at += 1
    if value < 0x80:
        return value, at
    value &= 0x7F
    for shift in (7, 14, 21, 28):
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > _MAX_INT32:
                raise DecodeError(f"a length of {value}: the most is {_MAX_INT32}")
            return value, at
    raise DecodeError("a length has more than 5 bytes")


def encode_uvarint(value: int) -> bytes:
    """Encode an unsigned varint in its shortest form."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append((value & 0x7F) | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def skip_tags(buffer: Buffer, at: int) -> int:
    """Return the position behind a section of tagged fields, whatever they are (KIP-482)."""
    count, at = read_uvarint(buffer, at)
    for _ in range(count):
        _, at = read_uvarint(buffer, at)
        size, at = read_uvarint(buffer, at)
        at += size
    return at


def refuse_tags(buffer: Buffer, at: int) -> int:
    """Return the position behind a section of tagged fields that must be empty; DecodeError if it is not."""
    if buffer[at]:
        raise DecodeError("a tagged field that we do not know")
    return at + 1


def skip(buffer: Buffer, at: int, layout: Layout, encoding: Encoding) -> int:
    """Return the position behind the fields of `layout`; past the end if the last one claims so."""
    for field in layout:
        if isinstance(field, int):
            at += field
        elif field is TAGS:
            at = skip_tags(buffer, at) if buffer[at] else at + 1
        elif field is STRING:
            at = encoding.skip_string(buffer, at)
        elif field is BYTES:
            at = encoding.skip_bytes(buffer, at)
        else:
            at = skip_array(buffer, at, field, encoding)
    return at


def skip_array(buffer: Buffer, at: int, element: Layout, encoding: Encoding) -> int:
    """Return the position behind an array, null or not, whose elements look like `element`."""
    count, at = encoding.read_count(buffer, at)
    first = element[0]
    if len(element) == 1 and isinstance(first, int):
        return at + max(count, 0) * first
    for _ in range(count):
        at = skip(buffer, at, element, encoding)
    return at


def expect_string(value: str | None) -> str:
    """Return the value of a string that may not be null; DecodeError if it is."""
    if value is None:
        raise DecodeError("null where a name is needed")
    return value


def check_end(buffer: Buffer, end: int) -> None:
    """DecodeError unless the fields that were read end where the buffer does."""
    if end != len(buffer):
        raise DecodeError(f"{len(buffer)} bytes where the fields take {end}")


def _text(buffer: Buffer, start: int, end: int) -> str:
    if end > len(buffer):
        raise DecodeError(f"a string of {end - start} bytes where {len(buffer) - start} are left")
    return str(buffer[start:end], "utf-8")


def _read_plain_count(buffer: Buffer, at: int) -> tuple[int, int]:
    (count,) = INT32.unpack_from(buffer, at)
    if count < -1:
        raise DecodeError(f"an array of {count} elements")
    return count, at + 4


def _read_plain_string(buffer: Buffer, at: int) -> tuple[str | None, int]:
    (size,) = INT16.unpack_from(buffer, at)
    at += 2
    if size < 0:
        if size < -1:
            raise DecodeError(f"a string of {size} bytes")
        return None, at
    return _text(buffer, at, at + size), at + size


def _skip_plain_string(buffer: Buffer, at: int) -> int:
    size: int = INT16.unpack_from(buffer, at)[0]
    if size < -1:
        raise DecodeError(f"a string of {size} bytes")
    return at + 2 + max(size, 0)


def _skip_plain_bytes(buffer: Buffer, at: int) -> int:
    size: int = INT32.unpack_from(buffer, at)[0]
    if size < -1:
        raise DecodeError(f"a field of {size} bytes")
    return at + 4 + max(size, 0)


def _encode_plain_string(value: str | None) -> bytes:
    if value is None:
        return b"\xff\xff"
    encoded = value.encode()
    return INT16.pack(len(encoded)) + encoded


def _read_compact_count(buffer: Buffer, at: int) -> tuple[int, int]:
    count, at = read_uvarint(buffer, at)
    return count - 1, at


def _read_compact_string(buffer: Buffer, at: int) -> tuple[str | None, int]:
    size, at = read_uvarint(buffer, at)
    if size == 0:
        return None, at
    end = at + size - 1
    return _text(buffer, at, end), end


def _skip_compact(buffer: Buffer, at: int) -> int:
    size, at = read_uvarint(buffer, at)
    return at + size - 1 if size else at


def _encode_compact_count(count: int) -> bytes:
    return encode_uvarint(count + 1)


def _encode_compact_string(value: str | None) -> bytes:
    if value is None:
        return b"\x00"
    encoded = value.encode()
    return encode_uvarint(len(encoded) + 1) + encoded


PLAIN: Final = Encoding(
    _read_plain_count,
    _read_plain_string,
    _skip_plain_string,
    _skip_plain_bytes,
    INT32.pack,
    _encode_plain_string,
    b"",
)
COMPACT: Final = Encoding(
    _read_compact_count,
    _read_compact_string,
    _skip_compact,
    _skip_compact,
    _encode_compact_count,
    _encode_compact_string,
    b"\x00",
)
