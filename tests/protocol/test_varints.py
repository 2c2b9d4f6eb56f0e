"""Zigzag varints: Kafka's own values, round trips, and what no varint may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import DecodeError
from protocol.varints import SHORT_VARINTS, encode_varint, read_varint, read_varlong

# From Kafka's ByteUtilsTest.
KNOWN = [
    (0, "00"),
    (-1, "01"),
    (1, "02"),
    (63, "7e"),
    (-64, "7f"),
    (64, "8001"),
    (-65, "8101"),
    (8191, "fe7f"),
    (-8192, "ff7f"),
    (8192, "808001"),
    (2147483647, "feffffff0f"),
    (-2147483648, "ffffffff0f"),
]
KNOWN_LONG = [(9223372036854775807, "feffffffffffffffff01"), (-9223372036854775808, "ffffffffffffffffff01")]


@pytest.mark.parametrize(("value", "encoded"), KNOWN + KNOWN_LONG)
def test_known_values(value: int, encoded: str) -> None:
    data = bytes.fromhex(encoded)
    assert encode_varint(value) == data
    assert read_varlong(b"?" + data + b"?", 1) == (value, len(data) + 1)


@pytest.mark.parametrize(("value", "encoded"), KNOWN)
def test_known_values_of_32_bits(value: int, encoded: str) -> None:
    data = bytes.fromhex(encoded)
    assert read_varint(data + b"\xff", 0) == (value, len(data))


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_round_trip(value: int) -> None:
    data = encode_varint(value)
    assert read_varlong(data, 0) == (value, len(data))


def test_short_varints_are_all_that_fit_into_two_bytes() -> None:
    assert all(SHORT_VARINTS[value] == encode_varint(value) for value in range(len(SHORT_VARINTS)))
    assert len(SHORT_VARINTS[-1]) == 2
    assert len(encode_varint(len(SHORT_VARINTS))) == 3


@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1])
def test_more_than_64_bits_cannot_be_encoded(value: int) -> None:
    with pytest.raises(ValueError, match="64 bit"):
        encode_varint(value)


def test_longer_forms_of_a_number_are_read() -> None:
    assert read_varint(bytes.fromhex("82808000"), 0) == (1, 4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [("", "end within"), ("ffffffff", "end within"), ("8080808080", "longer"), ("ffffffff1f", "32 bits")],
)
def test_broken_varints(data: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        read_varint(bytes.fromhex(data), 0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("8080", "end within"),
        ("80808080808080808080", "longer"),
        ("8080808080808080808001", "longer"),
        ("ffffffffffffffffff03", "64 bits"),
    ],
)
def test_broken_varlongs(data: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        read_varlong(bytes.fromhex(data), 0)
