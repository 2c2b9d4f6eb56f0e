"""The two private requests of a source-initiated link: LinkAttach and LinkBind, version 0.

A source half sends LinkAttach on an ordinary authenticated connection; from an answer without an error on the
roles are swapped, and the destination sends ApiVersions to keep the parked connection alive or LinkBind to
use it as a connection to one source broker. Their encoding is Kafka's before KIP-482, so that it needs no
tagged fields: a field more is a version more. The API keys are 32000 and 32001 and never advertised.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self
from uuid import UUID

from protocol.api_keys import ApiKey
from protocol.errors import DecodeError, UnsupportedVersion
from protocol.fields import INT16, INT32, OUT_OF_BOUNDS, PLAIN, Buffer, expect_string

VERSION: Final = 0
ANY_BROKER: Final = -1
# Kafka's NOT_CONTROLLER: links run in another process behind the same address, so another connection may do.
DIAL_AGAIN: Final = 41

_AGENT = struct.Struct(">16sq")


@dataclass(frozen=True, slots=True)
class LinkAttachRequest:
    """A source half offers its connection to a link; `link_id` is None until the destination assigned one."""

    API_KEY: ClassVar[ApiKey] = ApiKey.LINK_ATTACH

    link_name: str
    link_id: str | None
    source_cluster_id: str
    agent_id: UUID
    agent_epoch: int

    def encode(self) -> bytes:
        """Encode the request's body."""
        return b"".join(
            (
                PLAIN.encode_string(self.link_name),
                PLAIN.encode_string(self.link_id),
                PLAIN.encode_string(self.source_cluster_id),
                _AGENT.pack(self.agent_id.bytes, self.agent_epoch),
            )
        )

    @classmethod
    def decode(cls, version: int, body: Buffer) -> Self:
        """Decode a request's body; UnsupportedVersion, DecodeError."""
        _check_version(cls.API_KEY, version)
        try:
            link_name, at = PLAIN.read_string(body, 0)
            link_id, at = PLAIN.read_string(body, at)
            source_cluster_id, at = PLAIN.read_string(body, at)
            agent_id, agent_epoch = _AGENT.unpack_from(body, at)
        except OUT_OF_BOUNDS as error:
            raise DecodeError(f"LinkAttach request: {error}") from error
        _check_end("LinkAttach request", at + _AGENT.size, body)
        return cls(
            expect_string(link_name),
            link_id,
            expect_string(source_cluster_id),
            UUID(bytes=agent_id),
            agent_epoch,
        )


@dataclass(frozen=True, slots=True)
class LinkAttachResponse:
    """The destination's answer: the link's id, which instance this is, how many want connections."""

    API_KEY: ClassVar[ApiKey] = ApiKey.LINK_ATTACH

    error_code: int
    error_message: str | None
    link_id: str | None
    instance_id: str
    instance_count: int

    def encode(self) -> bytes:
        """Encode the response's body."""
        return b"".join(
            (
                INT16.pack(self.error_code),
                PLAIN.encode_string(self.error_message),
                PLAIN.encode_string(self.link_id),
                PLAIN.encode_string(self.instance_id),
                INT32.pack(self.instance_count),
            )
        )

    @classmethod
    def decode(cls, version: int, body: Buffer) -> Self:
        """Decode a response's body; UnsupportedVersion, DecodeError."""
        _check_version(cls.API_KEY, version)
        try:
            (error_code,) = INT16.unpack_from(body, 0)
            error_message, at = PLAIN.read_string(body, 2)
            link_id, at = PLAIN.read_string(body, at)
            instance_id, at = PLAIN.read_string(body, at)
            (instance_count,) = INT32.unpack_from(body, at)
        except OUT_OF_BOUNDS as error:
            raise DecodeError(f"LinkAttach response: {error}") from error
        _check_end("LinkAttach response", at + 4, body)
        return cls(error_code, error_message, link_id, expect_string(instance_id), instance_count)


@dataclass(frozen=True, slots=True)
class LinkBindRequest:
    """The destination turns a parked connection into one to source broker `node_id` (ANY_BROKER: -1)."""

    API_KEY: ClassVar[ApiKey] = ApiKey.LINK_BIND

    node_id: int

    def encode(self) -> bytes:
        """Encode the request's body."""
        return INT32.pack(self.node_id)

    @classmethod
    def decode(cls, version: int, body: Buffer) -> Self:
        """Decode a request's body; UnsupportedVersion, DecodeError."""
        _check_version(cls.API_KEY, version)
        _check_end("LinkBind request", INT32.size, body)
        (node_id,) = INT32.unpack(body)
        if node_id < ANY_BROKER:
            raise DecodeError(f"LinkBind request: node id {node_id}")
        return cls(node_id)


@dataclass(frozen=True, slots=True)
class LinkBindResponse:
    """The source half's answer: with error code 0 the connection is the broker's from the next byte on."""

    API_KEY: ClassVar[ApiKey] = ApiKey.LINK_BIND

    error_code: int
    error_message: str | None

    def encode(self) -> bytes:
        """Encode the response's body."""
        return INT16.pack(self.error_code) + PLAIN.encode_string(self.error_message)

    @classmethod
    def decode(cls, version: int, body: Buffer) -> Self:
        """Decode a response's body; UnsupportedVersion, DecodeError."""
        _check_version(cls.API_KEY, version)
        try:
            (error_code,) = INT16.unpack_from(body, 0)
            error_message, at = PLAIN.read_string(body, 2)
        except OUT_OF_BOUNDS as error:
            raise DecodeError(f"LinkBind response: {error}") from error
        _check_end("LinkBind response", at, body)
        return cls(error_code, error_message)


def _check_version(api_key: ApiKey, version: int) -> None:
    if version != VERSION:
        raise UnsupportedVersion(api_key, version)


def _check_end(what: str, end: int, body: Buffer) -> None:
    if end != len(body):
        raise DecodeError(f"{what}: {len(body)} bytes where its fields take {end}")
