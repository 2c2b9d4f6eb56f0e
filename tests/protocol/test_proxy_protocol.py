from __future__ import annotations

import ipaddress
import random
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.errors import DecodeError
from protocol.proxy_protocol import MAX_HEADER_BYTES, SIGNATURE, ProxyHeaderReader

V4 = bytes([10, 1, 2, 3, 192, 0, 2, 1]) + struct.pack(">HH", 40_000, 9092)
V6 = (
    ipaddress.ip_address("2001:db8::7").packed
    + ipaddress.ip_address("::1").packed
    + struct.pack(">HH", 40_001, 9092)
)
TLVS = b"\x04\0\0" + b"\x01\0\x02h2" + b"\x20\0\x05\x01\0\0\0\0"
REST = b"\0\0\0\x10what follows"


def v2(command: int = 0x21, family: int = 0x11, body: bytes = V4) -> bytes:
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", len(body)) + body


def read(data: bytes, pieces: random.Random | None = None) -> tuple[tuple[str, int] | None, int]:
    """The address, and how many bytes were read for it; EOFError if they do not suffice."""
    reader = ProxyHeaderReader()
    at = 0
    while reader.header is None:
        size = reader.wanted if pieces is None else pieces.randint(1, reader.wanted)
        piece = data[at : at + size]
        if not piece:
            raise EOFError
        reader.feed(piece)
        at += len(piece)
    assert reader.wanted == 0
    return reader.header.source, at


HEADERS: list[tuple[bytes, tuple[str, int] | None]] = [
    (v2(), ("10.1.2.3", 40_000)),
    (v2(body=V4 + TLVS), ("10.1.2.3", 40_000)),
    (v2(family=0x21, body=V6), ("2001:db8::7", 40_001)),
    (v2(family=0x21, body=V6 + TLVS), ("2001:db8::7", 40_001)),
    # LOCAL: a health check; whatever it carries has no meaning.
    (v2(0x20, 0x00, b""), None),
    (v2(0x20, 0xFF, b"\xff" * 7), None),
    (v2(0x20), None),
    # Families that are no TCP: the connection's own address stands.
    (v2(family=0x00, body=b""), None),
    (v2(family=0x00, body=b"\xff" * 9), None),
    (v2(family=0x12), None),
    (v2(family=0x22, body=V6), None),
    (v2(family=0x31, body=bytes(216)), None),
    (v2(family=0x32, body=bytes(216) + TLVS), None),
    (
        v2(body=V4 + b"\x04" + struct.pack(">H", MAX_HEADER_BYTES - 15) + bytes(MAX_HEADER_BYTES - 15)),
        ("10.1.2.3", 40_000),
    ),
    (b"PROXY TCP4 10.1.2.3 192.0.2.1 40000 9092\r\n", ("10.1.2.3", 40_000)),
    (b"PROXY TCP6 2001:db8::7 ::1 65535 0\r\n", ("2001:db8::7", 65_535)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", None),
]


@pytest.mark.parametrize(("header", "source"), HEADERS)
def test_a_header_is_read_whole_and_nothing_after_it(header: bytes, source: tuple[str, int] | None) -> None:
    assert read(header + REST) == (source, len(header))
    for seed in range(20):
        assert read(header + REST, random.Random(seed)) == (source, len(header))
    assert read(header, random.Random(0)) == (source, len(header))


@pytest.mark.parametrize(("header", "source"), HEADERS)
def test_a_header_split_at_every_byte(header: bytes, source: tuple[str, int] | None) -> None:
    for cut in range(1, min(len(header), 300)):
        reader = ProxyHeaderReader()
        at = 0
        while reader.header is None:
            end = min(at + reader.wanted, len(header))
            end = cut if at < cut < end else end
            reader.feed(header[at:end])
            at = end
        assert reader.header.source == source


@pytest.mark.parametrize(("header", "source"), HEADERS)
def test_a_header_that_breaks_off_is_none(header: bytes, source: tuple[str, int] | None) -> None:
    for size in range(min(len(header), 300)):
        with pytest.raises(EOFError):
            read(header[:size])


BROKEN: list[tuple[bytes, str]] = [
    (b"\0\0\0\x23\0\x12\0\x03" + bytes(40), "no PROXY protocol header"),
    (b"\x16\x03\x01" + bytes(40), "no PROXY protocol header"),
    (b"GET / HTTP/1.1\r\n", "no PROXY protocol header"),
    (b"PROXX TCP4 ", "no PROXY protocol header"),
    (b"\r\n\r\n\0\r\nQUIT\r", "no PROXY protocol header"),
    (b"Q", "no PROXY protocol header"),
    (v2(0x11), "unknown version or command 0x11"),
    (v2(0x22), "unknown version or command 0x22"),
    (v2(0x31), "unknown version or command 0x31"),
    (v2(family=0x01), "unknown family and transport 0x01"),
    (v2(family=0x10), "unknown family and transport 0x10"),
    (v2(family=0x13), "unknown family and transport 0x13"),
    (v2(family=0x41), "unknown family and transport 0x41"),
    (v2(body=V4[:11]), "addresses of 12 bytes in 11"),
    (v2(family=0x21), "addresses of 36 bytes in 12"),
    (v2(family=0x31, body=bytes(215)), "addresses of 216 bytes in 215"),
    (v2(body=V4 + b"\x04"), "a TLV is cut off"),
    (v2(body=V4 + b"\x04\0"), "a TLV is cut off"),
    (v2(body=V4 + TLVS + b"\x04\0\x01"), "a TLV is longer than the header"),
    (v2(body=V4 + b"\x04\xff\xff" + bytes(9)), "a TLV is longer than the header"),
    (v2(0x20, 0, bytes(MAX_HEADER_BYTES + 1)), f"{MAX_HEADER_BYTES + 1} bytes, the limit is"),
    (v2(body=V4 + bytes(65_523)), "65535 bytes, the limit is"),
    (b"PROXY UNKNOWN" + b"f" * 93 + b"\r\n", "longer than 107 bytes"),
    (b"PROXY UNKNOWN  \n", "no CR LF"),
    (b"PROXY TCP4\r\n" + bytes(20), "no CR LF"),
    (b"PROXY TCP4\r\r\n 10.1.2.3", "no CR LF"),
    (b"PROXY UDP4 10.1.2.3 192.0.2.1 1 2\r\n", "UDP4"),
    (b"PROXY  TCP4 10.1.2.3 192.0.2.1 1 2\r\n", "v1"),
    (b"PROXY TCP4 10.1.2.3 192.0.2.1 1\r\n", "v1"),
    (b"PROXY TCP4 10.1.2.3 192.0.2.1 1 2 3\r\n", "v1"),
    (b"PROXY TCP4 10.1.2.3 192.0.2.1 1 65536\r\n", "'65536' is not a port"),
    (b"PROXY TCP4 10.1.2.3 192.0.2.1 01 2\r\n", "'01' is not a port"),
    (b"PROXY TCP4 10.1.2.3 192.0.2.1 -1 2\r\n", "'-1' is not a port"),
    (b"PROXY TCP4 10.1.2.3 192.0.2.1 1 \r\n", "'' is not a port"),
    (b"PROXY TCP4 10.1.2.300 192.0.2.1 1 2\r\n", "10.1.2.300"),
    (b"PROXY TCP4 10.1.2.3 localhost 1 2\r\n", "localhost"),
    (b"PROXY TCP4 ::1 ::1 1 2\r\n", "not of TCP4"),
    (b"PROXY TCP6 10.1.2.3 192.0.2.1 1 2\r\n", "not of TCP6"),
    (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "not of TCP6"),
    (b"PROXY TCP4 10.1.2.\xe9 192.0.2.1 1 2\r\n", "v1"),
]


@pytest.mark.parametrize(("data", "why"), BROKEN)
def test_what_is_no_header_is_refused_at_any_split(data: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        read(data)
    for seed in range(10):
        with pytest.raises(DecodeError, match=why):
            read(data, random.Random(seed))


def test_the_first_wrong_byte_is_enough() -> None:
    reader = ProxyHeaderReader()
    with pytest.raises(DecodeError):
        reader.feed(b"\0")


def test_more_than_was_wanted_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="16 bytes where 15 were wanted"):
        ProxyHeaderReader().feed(bytes(16))


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers())
@example(b"", 0)
def test_any_bytes_are_a_header_or_refused_or_too_few(data: bytes, seed: int) -> None:
    for start in (b"", SIGNATURE, SIGNATURE + b"\x21", SIGNATURE + b"\x21\x11\0", b"PROXY ", b"PROXY TCP4 "):
        try:
            source, size = read(start + data, random.Random(seed))
        except (DecodeError, EOFError):
            continue
        assert size <= len(start + data)
        if source is not None:
            ipaddress.ip_address(source[0])
            assert 0 <= source[1] <= 65535


@settings(deadline=None)
@given(
    st.ip_addresses(), st.integers(0, 65535), st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)))
)
def test_what_a_proxy_says_is_what_is_read(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, tlvs: list[tuple[int, bytes]]
) -> None:
    body = address.packed * 2 + struct.pack(">HH", port, 9092)
    body += b"".join(struct.pack(">BH", kind, len(value)) + value for kind, value in tlvs)
    header = v2(family=0x11 if address.version == 4 else 0x21, body=body)
    assert read(header + REST) == ((str(address), port), len(header))
    line = f"PROXY TCP{address.version} {address} {address} {port} 9092\r\n".encode()
    assert read(line + REST) == ((str(address), port), len(line))
