"""Request and response headers, read and written without decoding the body.

Request header v1 and v2 (KIP-482; `client_id` stays a legacy string in v2), response header v0 and v1.
Tagged fields of a header are skipped within the frame's bounds; Kafka defines none.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from protocol.api_keys import is_flexible, response_header_version
from protocol.errors import DecodeError
from protocol.fields import OUT_OF_BOUNDS, Buffer, skip_tags

_REQUEST = struct.Struct(">hhih")
_CORRELATION_ID = struct.Struct(">i")
_REQUEST_CORRELATION_ID_AT = 4
_EMPTY_TAGS = b"\0"


class RequestHeader(NamedTuple):
    """The header of a request; the body begins at byte `body_offset` of the frame."""

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None
    body_offset: int


def peek_request_header(frame: Buffer) -> RequestHeader:
    """Read the header of a request frame of any API key and version.

    For a key that is not Kafka's the header is read as v1. Raises DecodeError.
    """
    try:
        api_key, version, correlation_id, length = _REQUEST.unpack_from(frame)
    except struct.error:
        raise DecodeError(f"request header: {len(frame)} bytes are too few") from None
    offset = _REQUEST.size
    client_id = None
    if length >= 0:
        if length > len(frame) - offset:
            raise DecodeError(f"request header: client_id of {length} bytes exceeds the frame")
        # As Kafka reads it: a client id is only shown, so a wrong byte in it is no reason to refuse.
        client_id = str(frame[offset : offset + length], "utf-8", "replace")
        offset += length
    elif length != -1:
        raise DecodeError(f"request header: client_id of length {length}")
    if is_flexible(api_key, version):
        offset = _skip_tagged_fields(frame, offset, "request header")
    return RequestHeader(api_key, version, correlation_id, client_id, offset)


def peek_correlation_id(response_frame: Buffer) -> int:
    """Return the correlation id of a response frame. Raises DecodeError."""
    try:
        (correlation_id,) = _CORRELATION_ID.unpack_from(response_frame)
    except struct.error:
        raise DecodeError(f"response header: {len(response_frame)} bytes are too few") from None
    return int(correlation_id)


def response_body_offset(api_key: int, version: int, frame: Buffer) -> int:
    """Return where the body of a response frame begins. Raises DecodeError."""
    offset = _CORRELATION_ID.size
    if len(frame) < offset:
        raise DecodeError(f"response header: {len(frame)} bytes are too few")
    if response_header_version(api_key, version) == 0:
        return offset
    return _skip_tagged_fields(frame, offset, "response header")


def _skip_tagged_fields(frame: Buffer, at: int, where: str) -> int:
    try:
        after = at + 1 if frame[at] == 0 else skip_tags(frame, at)
    except OUT_OF_BOUNDS:
        raise DecodeError(f"{where}: ends within its tagged fields") from None
    if after > len(frame):
        raise DecodeError(f"{where}: its tagged fields exceed the frame")
    return after


def encode_request_header(api_key: int, version: int, correlation_id: int, client_id: str | None) -> bytes:
    """Return the header that goes before a request's body."""
    encoded_id = b"" if client_id is None else client_id.encode()
    length = -1 if client_id is None else len(encoded_id)
    tags = _EMPTY_TAGS if is_flexible(api_key, version) else b""
    return _REQUEST.pack(api_key, version, correlation_id, length) + encoded_id + tags


def encode_response_header(api_key: int, version: int, correlation_id: int) -> bytes:
    """Return the header that goes before a response's body."""
    tags = _EMPTY_TAGS if response_header_version(api_key, version) else b""
    return _CORRELATION_ID.pack(correlation_id) + tags


def rewrite_request_correlation_id(frame: bytearray | memoryview, correlation_id: int) -> None:
    """Set the correlation id of a request frame in place; the header was peeked before."""
    _CORRELATION_ID.pack_into(frame, _REQUEST_CORRELATION_ID_AT, correlation_id)


def rewrite_response_correlation_id(frame: bytearray | memoryview, correlation_id: int) -> None:
    """Set the correlation id of a response frame in place; it was peeked before."""
    _CORRELATION_ID.pack_into(frame, 0, correlation_id)
