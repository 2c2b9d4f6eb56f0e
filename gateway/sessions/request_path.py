"""The way of requests and responses through a session: one client connection is one upstream connection.

A gate decides per request (`Decision`); this module acts: admit while `in_flight` has room and the writers
have drained, send with a correlation id of our own, match the reply, finish it, write in the client's order.
We read the next reply only when the client's writer has drained. What need not wait is done where the bytes
arrive, without a task between.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from gateway import observe
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import ConnectFailed
from gateway.wire import BytesLike, ConnectionClosed, FrameConnection
from protocol.errors import ProtocolError
from protocol.headers import (
    RequestHeader,
    encode_response_header,
    peek_correlation_id,
    rewrite_request_correlation_id,
    rewrite_response_correlation_id,
)
from protocol.in_flight import InFlight

Parts: TypeAlias = Sequence[BytesLike]
# Makes the client's response out of the broker's whole frame, which has the client's correlation id already.
Finish: TypeAlias = Callable[[bytearray], Parts]

_CORRELATION_IDS: Final = 2**31


@dataclass(slots=True)
class Forward:
    """Send `frame`, a whole request, upstream; `finish` makes the client's response, None leaves it as it is.

    With `close_after` the session ends then, for that reason.
    """

    frame: bytearray
    finish: Finish | None = None
    expects_reply: bool = True
    close_after: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer here: `body` is a response's body, without header."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Refuse:
    """Close the connection, as Kafka does with what it cannot answer; `reason` is for the log."""

    reason: str


Decision: TypeAlias = Forward | Reply | Refuse


class Renewal:
    """The login of an upstream connection that must be renewed now and then (KIP-368)."""

    def __init__(self, connection: BrokerConnection) -> None:
        self._connection = connection
        self.under_way = False

    @classmethod
    def of(cls, connection: BrokerConnection) -> Renewal | None:
        """None if the login lasts as long as the connection."""
        return None if math.isinf(connection.login_due_at) else cls(connection)

    @property
    def due(self) -> bool:
        """Whether it must be done before the next request."""
        return time.monotonic() >= self._connection.login_due_at

    async def renew(self) -> None:
        """Renews it between two requests; ConnectFailed."""
        self.under_way = True
        try:
            await self._connection.renew_detached()
        except (ConnectionClosed, ProtocolError, TimeoutError) as error:
            raise ConnectFailed(str(error)) from error
        finally:
            self.under_way = False


class RequestPath:
    """Requests and responses of one client connection; `dial` makes the upstream connection when needed.

    `on_upstream_end` is told once why no more responses come: ConnectionClosed, DecodeError, or a bug.
    """

    def __init__(
        self,
        wire: FrameConnection,
        dial: Callable[[], Awaitable[BrokerConnection]],
        *,
        max_in_flight: int,
        max_in_flight_bytes: int,
        listener: str,
        on_upstream_end: Callable[[Exception], None],
    ) -> None:
        self.in_flight: InFlight[Finish | None] = InFlight(max_in_flight, max_in_flight_bytes)
        self._in_flight_full = observe.in_flight_full.labels(listener)
        self._traffic = observe.traffic_of(listener)
        self._wire = wire
        self._dial = dial
        self._on_upstream_end: Callable[[Exception], None] | None = on_upstream_end
        self._upstream: FrameConnection | None = None
        self._renewal: Renewal | None = None
        self._correlation_ids = itertools.count()
        self._progress: asyncio.Event | None = None
        wire.on_writable = self._relay

    @property
    def waits_for_client(self) -> bool:
        """Whether nothing is due to the client, or it does not take what is."""
        return self._wire.writing_paused or self.in_flight.empty

    def admits(self, size_bytes: int) -> bool:
        """Whether `admit` and then `forward` have nothing to wait for."""
        upstream = self._upstream
        return (
            upstream is not None
            and not upstream.writing_paused
            and (not self._wire.writing_paused or self._wire.closed)
            and self.in_flight.has_room(size_bytes)
            and (self._renewal is None or not self._renewal.due)
        )

    async def admit(self, size_bytes: int) -> None:
        """Returns when there is room for a request of that size and the client takes its responses.

        A client that has left is no hindrance: what it sent before still goes to the broker.
        """
        with contextlib.suppress(ConnectionClosed):
            await self._wire.drain()
        if self._upstream is not None and self._upstream.writing_paused:
            await self._upstream.drain()
        if not self.in_flight.has_room(size_bytes):
            self._in_flight_full.inc()
        while not self.in_flight.has_room(size_bytes):
            await self._wait_for_progress()
        if self._renewal is not None and self._renewal.due:
            # Nobody else sends meanwhile: whoever wants to comes through here.
            await self.idle()
            await self._renewal.renew()

    async def idle(self) -> None:
        """Returns when nothing is in flight and every response has been handed to the kernel's buffers."""
        while not self.in_flight.empty:
            await self._wait_for_progress()

    async def _wait_for_progress(self) -> None:
        if self._upstream is None or self._upstream.closed:
            raise ConnectionClosed("the broker left requests unanswered")
        if self._progress is None:
            self._progress = asyncio.Event()
        self._progress.clear()
        await self._progress.wait()

    def wake(self) -> None:
        """Lets those who wait for a free place look again; called on every progress and at the end."""
        if self._progress is not None:
            self._progress.set()

    async def forward(self, header: RequestHeader, decision: Forward) -> None:
        """Sends the request upstream, dialling it first if need be; returns when its writer has drained."""
        upstream = self._upstream
        if upstream is None:
            connection = await self._dial()
            upstream = self._upstream = connection.detach()
            self._renewal = Renewal.of(connection)
            upstream.on_readable = self._relay
        self.forward_now(header, decision)
        await upstream.drain()

    def forward_now(self, header: RequestHeader, decision: Forward) -> None:
        """Sends the request upstream, which `admits` said is there and takes it; ConnectionClosed."""
        upstream = self._upstream
        if upstream is None:
            raise RuntimeError("nothing was dialled yet")
        correlation_id = next(self._correlation_ids) % _CORRELATION_IDS
        frame = decision.frame
        rewrite_request_correlation_id(frame, correlation_id)
        if decision.expects_reply:
            self.in_flight.add_forwarded(correlation_id, header, len(frame), decision.finish)
        upstream.write_frame(frame)
        # Only now, when it counts as what the broker has not taken: who holds nothing loses the turn.
        self._wire.put_down()

    def reply(self, header: RequestHeader, body: bytes) -> None:
        """Answers a request here, in its turn."""
        response_header = encode_response_header(header.api_key, header.api_version, header.correlation_id)
        self.in_flight.add_local((response_header, body))
        self._write(self.in_flight.pop_ready())

    async def linger(self, timeout_s: float) -> None:
        """Waits, while responses are relayed, until the broker has answered what it was sent.

        A connection that is closed with a response unread is reset, and a broker drops requests that it has
        received but not yet handled when that happens: what a client sent before it left would be lost.
        """
        upstream = self._upstream
        if upstream is None or upstream.closed:
            return
        with contextlib.suppress(TimeoutError, ConnectionClosed):
            async with asyncio.timeout(timeout_s):
                await self.idle()

    def close(self) -> None:
        """Ends the upstream connection after sending what was written, and lets go of the client's."""
        self._wire.on_writable = None
        self._on_upstream_end = None
        if self._upstream is not None:
            self._upstream.close()

    def abort(self) -> None:
        """Ends the upstream connection at once."""
        if self._upstream is not None:
            self._upstream.abort()

    def _relay(self) -> None:
        """Passes on what the upstream has answered, as long as the client takes it."""
        upstream, wire, in_flight = self._upstream, self._wire, self.in_flight
        if upstream is None or self._on_upstream_end is None:
            return
        if self._renewal is not None and self._renewal.under_way:
            return
        try:
            # What a client that has left would have got is read all the same: `linger` waits for it.
            while not wire.writing_paused or wire.closed:
                frame = upstream.next_frame()
                if frame is None:
                    return
                entry = in_flight.match(peek_correlation_id(frame))
                rewrite_response_correlation_id(frame, entry.header.correlation_id)
                finish = entry.context
                parts = (frame,) if finish is None else finish(frame)
                ready = in_flight.answer(entry, parts)
                self._write(ready)
                upstream.put_down()
        except Exception as error:  # noqa: BLE001 - handed to the owner, who knows all of them
            on_end, self._on_upstream_end = self._on_upstream_end, None
            on_end(error)

    def _write(self, ready: Sequence[Parts]) -> None:
        if not self._wire.closed:
            for parts in ready:
                self._traffic.response_bytes += sum(map(len, parts))
                self._wire.write_frame(*parts)
        self.wake()
