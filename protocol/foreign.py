"""What a peer that does not speak Kafka seems to speak instead, by its first bytes.

Only for messages to operators: nothing is decided by it.
"""

from __future__ import annotations

from typing import Final

_HTTP_METHODS: Final = (b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"TRAC")
_PREFIXES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x16\x03", "TLS"),
    (b"\x15\x03", "a TLS alert"),
    *((method, "HTTP") for method in _HTTP_METHODS),
    (b"CONN", "HTTP for a proxy"),
    (b"PRI ", "HTTP/2"),
    (b"HTTP", "an HTTP response"),
    (b"SSH-", "SSH"),
    (b"PROX", "a PROXY protocol header"),
    (b"\r\n\r\n", "a PROXY protocol header"),
)


def foreign_protocol(first: bytes | bytearray) -> str | None:
    """A name for what begins with these bytes, four or more of which are enough; None if they say nothing."""
    for prefix, name in _PREFIXES:
        if first.startswith(prefix):
            return name
    return None
