"""Kafka messages of every API and version that kio knows: bytes to kio's dataclasses and back.

The only importer of kio.serial, because kio trusts what it reads: a count makes it allocate at once
(five bytes: 275 GB and an abort), an unknown tagged field is a KeyError, the size of a tagged field is
ignored. So a body is walked first (`message_guard`), and only one that is whole reaches kio.
kio drops the milliseconds of timestamps: a decoded message that holds one must not be encoded again.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any, Final

from kio.index import KioIndexError, load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from protocol.errors import DecodeError, TooLargeToDecode, UnsupportedVersion
from protocol.message_guard import check_message, drop_unknown_tags

# What names a topic, a partition, a config or a member takes this much in a request of any real client.
_LEAST_ELEMENT_BYTES: Final = 16


@cache
def request_class(api_key: int, version: int) -> type:
    """Return kio's class of a request. Raises UnsupportedVersion."""
    try:
        return load_request_schema(api_key, version)
    except KioIndexError:
        raise UnsupportedVersion(api_key, version) from None


@cache
def response_class(api_key: int, version: int) -> type:
    """Return kio's class of a response. Raises UnsupportedVersion."""
    try:
        return load_response_schema(api_key, version)
    except KioIndexError:
        raise UnsupportedVersion(api_key, version) from None


def decode_request(
    api_key: int, version: int, body: bytes | bytearray | memoryview, *, max_bytes: int | None = None
) -> Any:
    """Decode the whole body of a request, which may hold no tagged field that kio does not know.

    What we cannot read we cannot authorize. With `max_bytes` a larger body is TooLargeToDecode, and so is one
    with more structures than that many bytes have room for, at 16 bytes each: 1 MiB of the smallest takes 25
    MiB and half a second. Raises DecodeError, UnsupportedVersion.
    """
    message = request_class(api_key, version)
    if max_bytes is None:
        # A copy, because kio reads a buffer's address and takes neither writable nor strided ones.
        data = bytes(body)
        check_message(message, data)
        return _read(message, data)
    if len(body) > max_bytes:
        raise TooLargeToDecode(f"{message.__name__} of {len(body)} bytes, the limit is {max_bytes}")
    data = bytes(body)
    check_message(message, data, max_bytes // _LEAST_ELEMENT_BYTES)
    return _read(message, data)


def decode_response(api_key: int, version: int, body: bytes | bytearray | memoryview) -> Any:
    """Decode the whole body of a response, dropping tagged fields that kio does not know (KIP-482).

    Raises DecodeError, UnsupportedVersion.
    """
    message = response_class(api_key, version)
    return _read(message, drop_unknown_tags(message, bytes(body)))


def _read(message: type, data: bytes) -> Any:
    read: Any = entity_reader(message)
    try:
        decoded, _ = read(data, 0)
    except Exception as error:
        # kio's own errors, and ValueError, OverflowError and the like of the values it makes.
        raise DecodeError(f"{message.__name__}: {error}") from error
    return decoded


def encode_request(message: Any) -> bytes:
    """Encode the body of a request; its class says key and version."""
    return _encode(message)


def encode_response(message: Any) -> bytes:
    """Encode the body of a response; its class says key and version."""
    return _encode(message)


def _encode(message: Any) -> bytes:
    buffer = io.BytesIO()
    entity_writer(type(message))(buffer, message)
    return buffer.getvalue()
