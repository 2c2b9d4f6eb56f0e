"""The header with which a load balancer says whose connection it passes on: PROXY protocol, versions 1 and 2.

Follows haproxy's `doc/proxy-protocol.txt`. Of version 2: LOCAL and PROXY, TCP over IPv4 and IPv6; for other
families that it names (UNSPEC, UDP, UNIX) the connection's own address stands, as it demands; TLVs are walked
and skipped. What it calls invalid is refused.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from protocol.errors import DecodeError

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
# The longest that is useful carries a client's certificate; the format alone would allow 64 KiB.
MAX_HEADER_BYTES: Final = 8192

_V1_PREFIX: Final = b"PROXY "
_V1_SHORTEST: Final = len(b"PROXY UNKNOWN\r\n")
_V1_LONGEST: Final = 107
_V2_FIXED: Final = struct.Struct(">12sBBH")
_TLV: Final = struct.Struct(">BH")
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
# Bytes of addresses by family and transport.
_ADDRESS_BYTES: Final = {0x00: 0, _TCP4: 12, 0x12: 12, _TCP6: 36, 0x22: 36, 0x31: 216, 0x32: 216}


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """Who is behind the proxy: address and port; None if the header does not say."""

    source: tuple[str, int] | None


class ProxyHeaderReader:
    """Reads one header, in pieces of any size, and never a byte of what follows it.

    Read at most `wanted` bytes, `feed` them, and again until `header` is there.
    """

    def __init__(self) -> None:
        self.header: ProxyHeader | None = None
        self.wanted = _V1_SHORTEST
        self._read = bytearray()

    def feed(self, data: bytes) -> None:
        """Takes what was read; DecodeError if that can be no header, whatever comes."""
        if len(data) > self.wanted:
            raise ValueError(f"{len(data)} bytes where {self.wanted} were wanted")
        self._read += data
        if _agree(self._read, SIGNATURE):
            self._go_on_v2()
        elif _agree(self._read, _V1_PREFIX):
            self._go_on_v1()
        else:
            raise DecodeError("no PROXY protocol header")

    def _go_on_v1(self) -> None:
        read = self._read
        if (end := read.find(b"\n")) >= 0:
            if end != len(read) - 1 or read.find(b"\r") != end - 1:
                raise DecodeError("PROXY header v1: no CR LF at its end")
            self.wanted = 0
            self.header = ProxyHeader(_source_v1(read))
            return
        at_least = 1 if read.endswith(b"\r") else 2
        self.wanted = max(_V1_SHORTEST - len(read), at_least)
        if len(read) + self.wanted > _V1_LONGEST:
            raise DecodeError(f"PROXY header v1: longer than {_V1_LONGEST} bytes")

    def _go_on_v2(self) -> None:
        read = self._read
        if len(read) < _V2_FIXED.size:
            self.wanted = _V2_FIXED.size - len(read)
            return
        _, command, family, length = _V2_FIXED.unpack_from(read)
        if command not in {_LOCAL, _PROXY}:
            raise DecodeError(f"PROXY header v2: unknown version or command {command:#04x}")
        if length > MAX_HEADER_BYTES:
            raise DecodeError(f"PROXY header v2: {length} bytes, the limit is {MAX_HEADER_BYTES}")
        # What belongs to LOCAL is of no meaning, its family too.
        if command == _PROXY:
            _check_family(family, length)
        self.wanted = _V2_FIXED.size + length - len(read)
        if not self.wanted:
            self.header = ProxyHeader(_source_v2(read, family) if command == _PROXY else None)


def _agree(read: bytearray, start: bytes) -> bool:
    """Whether `read` begins with `start`, or may still come to."""
    return read.startswith(start) or start.startswith(read)


def _source_v1(line: bytearray) -> tuple[str, int] | None:
    fields = line[len(_V1_PREFIX) : -2].split(b" ")
    if fields[0] == b"UNKNOWN":
        return None
    try:
        version = {b"TCP4": 4, b"TCP6": 6}[bytes(fields[0])]
        source, destination, source_port, destination_port = (field.decode("ascii") for field in fields[1:])
        addresses = [ipaddress.ip_address(text) for text in (source, destination)]
        ports = [_port(text) for text in (source_port, destination_port)]
    except (KeyError, ValueError) as error:
        raise DecodeError(f"PROXY header v1: {error}") from error
    if any(address.version != version for address in addresses) or "%" in source:
        raise DecodeError(f"PROXY header v1: addresses that are not of {fields[0].decode()}")
    return str(addresses[0]), ports[0]


def _port(text: str) -> int:
    if not text.isdigit() or str(int(text)) != text or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port")
    return int(text)


def _check_family(family: int, length: int) -> None:
    addresses = _ADDRESS_BYTES.get(family)
    if addresses is None:
        raise DecodeError(f"PROXY header v2: unknown family and transport {family:#04x}")
    if length < addresses:
        raise DecodeError(f"PROXY header v2: addresses of {addresses} bytes in {length}")


def _source_v2(read: bytearray, family: int) -> tuple[str, int] | None:
    if family == 0x00:
        return None
    _check_tlvs(read, _V2_FIXED.size + _ADDRESS_BYTES[family])
    start = _V2_FIXED.size
    if family == _TCP4:
        (port,) = struct.unpack_from(">H", read, start + 8)
        return str(ipaddress.IPv4Address(bytes(read[start : start + 4]))), port
    if family == _TCP6:
        (port,) = struct.unpack_from(">H", read, start + 32)
        return str(ipaddress.IPv6Address(bytes(read[start : start + 16]))), port
    return None


def _check_tlvs(read: bytearray, at: int) -> None:
    while at < len(read):
        if at + _TLV.size > len(read):
            raise DecodeError("PROXY header v2: a TLV is cut off")
        _, length = _TLV.unpack_from(read, at)
        at += _TLV.size + length
    if at > len(read):
        raise DecodeError("PROXY header v2: a TLV is longer than the header")
