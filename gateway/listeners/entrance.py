"""From an accepted socket to a framed connection, within one deadline.

In this order: the PROXY protocol header, if the listener wants one; a look at the first bytes, whether they
are TLS at all; the handshake, in which the server name (SNI, RFC 6066) decides for which broker it is.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, TypeAlias

from gateway.wire import FrameConnection, normal_host
from protocol.errors import DecodeError
from protocol.foreign import foreign_protocol
from protocol.proxy_protocol import ProxyHeaderReader

Network: TypeAlias = IPv4Network | IPv6Network

_KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
_PEEKED_BYTES: Final = 16
_TLS_HANDSHAKE: Final = 0x16


class NotEntered(Exception):
    """A connection that does not become a session; `reason` is its label in metrics, the text says more.

    `loud`: somebody should look at it; other failures are a client's everyday life.
    """

    def __init__(self, reason: str, message: str, *, loud: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.loud = loud


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is there since when (`time.monotonic`): the client's own address where a proxy told it."""

    host: str
    port: int
    since: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """A client that is in: its connection, and the broker that it asked for (None: any)."""

    wire: FrameConnection
    node_id: int | None


@dataclass(slots=True)
class _Question:
    """What a handshake under way asks for; `refused` if no broker has the name."""

    node_id: int | None
    server_name: str | None = None
    refused: bool = False


# A context is told of server names without being told whose; a transport's callbacks run in the context
# of the task that made it.
_question: ContextVar[_Question] = ContextVar("_question")


class Entrance:
    """How connections to the listener `name` come in; each has `timeout_s` for all that is before Kafka.

    `proxies`: the networks from which connections come with a PROXY header, all of them; None: none has one.
    `server_names`: the node id by lower-case server name, None for the bootstrap; None: any name will do.
    """

    def __init__(
        self,
        name: str,
        *,
        max_frame_bytes: int,
        timeout_s: float,
        ssl_context: ssl.SSLContext | None,
        proxies: Sequence[Network] | None = None,
        server_names: Mapping[str, int | None] | None = None,
    ) -> None:
        if server_names is not None and ssl_context is None:
            raise ValueError("server names come with TLS only")
        self._name = name
        self._max_frame_bytes = max_frame_bytes
        self._timeout_s = timeout_s
        self._proxies = proxies
        self._server_names = server_names
        self._ssl_context = ssl_context
        if ssl_context is not None and server_names is not None:
            ssl_context.sni_callback = self._on_server_name

    # --- who is there ----------------------------------------------------------------------------------

    async def identify(self, accepted: socket.socket) -> Visitor:
        """Finds out who has connected; NotEntered, with the socket closed."""
        try:
            return await self._identify(accepted)
        except OSError as error:
            # Resets, and the deadline: TimeoutError is an OSError.
            accepted.close()
            raise NotEntered("lost", self._text(error)) from error
        except BaseException:
            accepted.close()
            raise

    async def _identify(self, accepted: socket.socket) -> Visitor:
        since = time.monotonic()
        name = accepted.getpeername()
        host, port = normal_host(name[0]), int(name[1])
        if self._proxies is None:
            return Visitor(host, port, since)
        address = ip_address(host)
        if not any(address in network for network in self._proxies):
            raise NotEntered("proxy", f"{host} is not in proxy_protocol_from", loud=True)
        async with asyncio.timeout(self._timeout_s):
            source = await _read_proxy_header(accepted)
        if source is None:
            return Visitor(host, port, since)
        return Visitor(normal_host(source[0]), source[1], since)

    # --- what is wanted --------------------------------------------------------------------------------

    async def open(self, accepted: socket.socket, visitor: Visitor, node_id: int | None) -> Arrival:
        """Takes over the socket, accepted at the port of `node_id`; NotEntered, with the socket closed."""
        question = _Question(node_id)
        _question.set(question)
        try:
            _tune(accepted)
            if self._ssl_context is not None:
                async with asyncio.timeout(self._left_s(visitor)):
                    await _expect_tls(accepted)
            wire = FrameConnection(
                max_frame_bytes=self._max_frame_bytes,
                name=f"client at {self._name}",
                peer=(visitor.host, visitor.port),
            )
            wire.opened_monotonic = visitor.since
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: wire,
                accepted,
                ssl=self._ssl_context,
                ssl_handshake_timeout=self._left_s(visitor) if self._ssl_context else None,
            )
        except OSError as error:
            # ssl.SSLError is an OSError, as are resets and the handshake's timeout.
            accepted.close()
            raise self._failed(question, error) from error
        except BaseException:
            accepted.close()
            raise
        return Arrival(wire, question.node_id)

    def _left_s(self, visitor: Visitor) -> float:
        # Not 0, which asyncio takes for no handshake at all.
        return max(visitor.since + self._timeout_s - time.monotonic(), 0.001)

    def _on_server_name(
        self, _ssl: ssl.SSLSocket | ssl.SSLObject, server_name: str | None, _context: ssl.SSLContext
    ) -> int | None:
        question = _question.get(None)
        names = self._server_names
        if question is None or names is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        question.server_name = server_name
        wanted = (server_name or "").lower()
        if wanted not in names:
            # Without a name, as in connections to an IP address, any broker would be a guess.
            question.refused = True
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        question.node_id = names[wanted]
        return None

    def _failed(self, question: _Question, error: OSError) -> NotEntered:
        if question.refused and question.server_name is None:
            return NotEntered("server_name", "no server name in the handshake (SNI)", loud=True)
        if question.refused:
            return NotEntered("server_name", f"no broker has the name {question.server_name!r}", loud=True)
        return NotEntered("lost" if self._ssl_context is None else "tls", self._text(error))

    def _text(self, error: OSError) -> str:
        if isinstance(error, TimeoutError) and error.errno is None:
            return f"took longer than {self._timeout_s} s"
        return str(error) or type(error).__name__


# --- the socket -------------------------------------------------------------------------------------------


async def _read_proxy_header(accepted: socket.socket) -> tuple[str, int] | None:
    loop = asyncio.get_running_loop()
    reader = ProxyHeaderReader()
    while reader.header is None:
        data = await loop.sock_recv(accepted, reader.wanted)
        if not data:
            raise NotEntered("lost", "closed before its PROXY header was complete")
        try:
            reader.feed(data)
        except DecodeError as error:
            raise NotEntered("proxy", f"{error}{_but(data)}", loud=True) from error
    return reader.header.source


async def _expect_tls(accepted: socket.socket) -> None:
    first = await _peek(accepted)
    if not first:
        raise NotEntered("lost", "closed before it said anything")
    if first[0] != _TLS_HANDSHAKE:
        kafka = " but Kafka without TLS" if first[0] == 0 else _but(first)
        raise NotEntered("not_tls", f"this listener speaks TLS, the client does not{kafka}", loud=True)


def _but(first: bytes) -> str:
    name = foreign_protocol(first)
    return "" if name is None else f" but {name}"


async def _peek(accepted: socket.socket) -> bytes:
    """Some first bytes, which stay in the socket; empty if the client has left."""
    while True:
        try:
            return accepted.recv(_PEEKED_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            await _readable(accepted)


async def _readable(accepted: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(accepted, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(accepted)


def _tune(accepted: socket.socket) -> None:
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A client that vanished without a word must not hold its session for ever.
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        option = getattr(socket, name, None)
        if option is not None:
            accepted.setsockopt(socket.IPPROTO_TCP, option, value)
