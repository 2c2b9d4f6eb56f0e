"""The bounds of hand-written readers: Java's limits, lying lengths, positions past the end."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import DecodeError
from protocol.fields import (
    BYTES,
    COMPACT,
    OUT_OF_BOUNDS,
    PLAIN,
    STRING,
    TAGS,
    Encoding,
    Layout,
    check_end,
    encode_uvarint,
    expect_string,
    read_uvarint,
    refuse_tags,
    skip,
    skip_tags,
)

BOTH = pytest.mark.parametrize("encoding", [PLAIN, COMPACT], ids=["plain", "compact"])


@given(st.integers(0, 2**31 - 1), st.binary(max_size=3))
def test_uvarint_round_trip(value: int, before: bytes) -> None:
    encoded = encode_uvarint(value)
    assert read_uvarint(before + encoded + b"\xff", len(before)) == (value, len(before) + len(encoded))


def test_uvarints_are_as_short_as_can_be() -> None:
    lengths = {value: len(encode_uvarint(value)) for value in (0, 127, 128, 2**14 - 1, 2**14, 2**31 - 1)}
    assert lengths == {0: 1, 127: 1, 128: 2, 2**14 - 1: 2, 2**14: 3, 2**31 - 1: 5}


@pytest.mark.parametrize(
    ("data", "value"),
    [("00", 0), ("7f", 127), ("8001", 128), ("8000", 0), ("ffffffff07", 2**31 - 1), ("8080808000", 0)],
)
def test_uvarint_is_read_as_java_reads_it(data: str, value: int) -> None:
    assert read_uvarint(bytes.fromhex(data), 0) == (value, len(data) // 2)


@pytest.mark.parametrize("data", ["8080808008", "ffffffff0f", "ffffffff7f", "808080808000", "ffffffffff01"])
def test_uvarint_that_java_would_take_for_negative_or_cut_off(data: str) -> None:
    with pytest.raises(DecodeError):
        read_uvarint(bytes.fromhex(data), 0)


@BOTH
@given(value=st.none() | st.text(max_size=200))
def test_string_round_trip(encoding: Encoding, value: str | None) -> None:
    encoded = encoding.encode_string(value)
    assert encoding.read_string(encoded + b"x", 0) == (value, len(encoded))
    assert encoding.skip_string(encoded, 0) == len(encoded)
    for end in range(len(encoded)):
        with pytest.raises((DecodeError, *OUT_OF_BOUNDS)):
            encoding.read_string(encoded[:end], 0)


def test_string_that_is_not_utf8() -> None:
    with pytest.raises(OUT_OF_BOUNDS):
        COMPACT.read_string(b"\x02\xff", 0)


@BOTH
@pytest.mark.parametrize("count", [-1, 0, 1, 127, 128, 2**31 - 2])
def test_count_round_trip(encoding: Encoding, count: int) -> None:
    encoded = encoding.encode_count(count)
    assert encoding.read_count(encoded, 0) == (count, len(encoded))


def test_negative_lengths() -> None:
    for read, size in (
        (PLAIN.read_count, 4),
        (PLAIN.read_string, 2),
        (PLAIN.skip_string, 2),
        (PLAIN.skip_bytes, 4),
    ):
        with pytest.raises(DecodeError):
            read((-2).to_bytes(size, "big", signed=True), 0)


def test_null_is_no_name() -> None:
    assert expect_string("") == ""
    with pytest.raises(DecodeError):
        expect_string(None)


def test_tags_are_skipped_or_refused() -> None:
    two = b"\x02\x00\x01x\x09\x02yz"
    assert skip_tags(b"-" + two, 1) == 1 + len(two)
    assert refuse_tags(b"\x00", 0) == 1
    with pytest.raises(DecodeError):
        refuse_tags(two, 0)


LAYOUT: Layout = (2, STRING, BYTES, (4,), (STRING, (1,)))


@BOTH
def test_skip_a_layout(encoding: Encoding) -> None:
    bytes_field = struct.pack(">i", 3) + b"abc" if encoding is PLAIN else b"\x04abc"
    null_bytes = b"\xff\xff\xff\xff" if encoding is PLAIN else b"\x00"
    nested = encoding.encode_string("k") + encoding.encode_count(3) + b"123"
    full = (
        b"hd"
        + encoding.encode_string("name")
        + bytes_field
        + encoding.encode_count(2)
        + b"........"
        + encoding.encode_count(2)
        + nested * 2
    )
    nulls = (
        b"hd"
        + encoding.encode_string(None)
        + null_bytes
        + encoding.encode_count(-1)
        + encoding.encode_count(-1)
    )
    for body in (full, nulls):
        assert skip(body, 0, LAYOUT, encoding) == len(body)


def test_skip_tags_of_a_layout() -> None:
    assert skip(b"\x00\x01\x05\x01x", 0, (TAGS, TAGS), COMPACT) == 5


def test_a_lying_count_ends_with_the_buffer() -> None:
    with pytest.raises(OUT_OF_BOUNDS):
        skip(encode_uvarint(2**31 - 1) + b"\x01" * 50, 0, ((STRING, TAGS),), COMPACT)
    assert skip(encode_uvarint(2**31 - 1), 0, ((4,),), COMPACT) > 2**32


def test_check_end() -> None:
    check_end(b"abc", 3)
    for end in (2, 4):
        with pytest.raises(DecodeError):
            check_end(b"abc", end)
