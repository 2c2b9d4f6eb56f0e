from __future__ import annotations

import pytest

from protocol.foreign import foreign_protocol


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (b"\x16\x03\x01\x02", "TLS"),
        (b"\x15\x03\x03\x00\x02", "a TLS alert"),
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"POST /kafka/v3 HTTP/1.1\r\n", "HTTP"),
        (b"OPTI", "HTTP"),
        (b"CONNECT broker:9092 HTTP/1.1", "HTTP for a proxy"),
        (b"PRI * HTTP/2.0\r\n", "HTTP/2"),
        (b"HTTP/1.1 400 Bad Request", "an HTTP response"),
        (b"SSH-2.0-OpenSSH_9.2", "SSH"),
        (b"PROXY TCP4 ", "a PROXY protocol header"),
        (b"\r\n\r\n\0\r\nQUIT\n", "a PROXY protocol header"),
        (b"\0\0\0\x23\0\x12", None),
        (b"\xff\xff\xff\xff", None),
        (b"G", None),
        (b"", None),
    ],
)
def test_first_bytes(first: bytes, name: str | None) -> None:
    assert foreign_protocol(first) == name
    assert foreign_protocol(bytearray(first)) == name
