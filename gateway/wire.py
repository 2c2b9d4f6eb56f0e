"""A framed connection with flow control in both directions, used for clients, brokers and links alike.

Supports plain TCP and TLS (whatever transport the loop attaches), on uvloop and on asyncio's own loop. Frames
are received into the decoder's buffers without a copy (`asyncio.BufferedProtocol`). Above the queue limits
reading stops, so that the peer feels the back-pressure; writing is bounded by `drain`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

from gateway.byte_budget import SMALL_BYTES, Account
from protocol.errors import DecodeError
from protocol.framing import FrameDecoder, always, frame_size_prefix

BytesLike: TypeAlias = bytes | bytearray | memoryview

# Below this a copy is cheaper than one more entry in the kernel's vector of buffers.
_JOIN_BELOW_BYTES: Final = 16 * 1024
# TLS encrypts what it is given at once into a buffer that grows, and copies that: with megabytes most of the
# time goes into fresh memory.
_TLS_WRITE_BYTES: Final = 64 * 1024
_WRITE_HIGH_BYTES: Final = 256 * 1024
_CLOSE_TIMEOUT_S: Final = 5.0
# Where a transport may put what arrives after the end; what it holds is never looked at.
_DISCARDED: Final = bytearray(64 * 1024)


class ConnectionClosed(Exception):
    """The connection has ended, here or at the peer; `reason` says how, `cause` is the transport's error."""

    def __init__(self, reason: str, cause: BaseException | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cause = cause


class FrameConnection(asyncio.BufferedProtocol):
    """One connection of size-prefixed frames; made in the factory of `create_server`/`create_connection`.

    `peer` is who is at the other end, where that is not whoever the socket is connected to (a proxy is).
    `on_connected` is called once the transport (with TLS: its handshake) is up. `on_readable` may be set by
    an owner that takes frames by `next_frame` instead of `read_frame`; called at frames and at the end.
    `on_writable` is called when the write buffer has room again.
    """

    def __init__(
        self,
        *,
        max_frame_bytes: int,
        max_queued_bytes: int = 1 << 20,
        max_queued_frames: int = 64,
        name: str,
        peer: tuple[str, int] | None = None,
        on_connected: Callable[[FrameConnection], None] | None = None,
        close_timeout_s: float = _CLOSE_TIMEOUT_S,
    ) -> None:
        self.name = name
        self.peer = "" if peer is None else _address(peer)
        # Without the port, and of IPv4 as IPv4: what limits, ACLs and audit go by.
        self.peer_host = "" if peer is None else normal_host(peer[0])
        self.local_port = 0
        self.ssl_object: Any = None
        self.opened_monotonic = self.last_read_monotonic = time.monotonic()
        self.frames_received = 0
        self.on_readable: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self._on_connected = on_connected
        self._close_timeout_s = close_timeout_s
        self._decoder = FrameDecoder(max_frame_bytes)
        self._max_queued_bytes = max_queued_bytes
        self._max_queued_frames = max_queued_frames
        # Lists, since they are short, and an empty deque takes ten times as much on every idle connection.
        self._frames: list[bytearray] = []
        self._queued_bytes = 0
        self._undecoded_bytes = 0
        self._reading_paused = False
        self._account: Account | None = None
        self._in_hand_bytes = 0
        self._unsent_bytes = 0
        self._counted_bytes = 0
        self._held_back = False
        self._wants_more = True
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._read_waiter: asyncio.Future[None] | None = None
        self._drain_waiters: list[asyncio.Future[None]] = []
        # Whether the peer takes less than it is sent: `drain` waits then. Stays so at an end.
        self.writing_paused = False
        self._writing_paused_at = 0.0
        self._broken: DecodeError | None = None
        self._end: ConnectionClosed | None = None
        self._lost = False
        self._lost_waiters: list[asyncio.Future[None]] = []
        self._abort_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<FrameConnection {self.name} {self.peer or 'unconnected'}{' closed' if self.closed else ''}>"

    @property
    def max_frame_bytes(self) -> int:
        """Largest frame taken from the peer, in bytes without the size prefix; may be set at any time."""
        return self._decoder.max_frame_bytes

    @max_frame_bytes.setter
    def max_frame_bytes(self, value: int) -> None:
        self._decoder.max_frame_bytes = value

    @property
    def trusted_bytes(self) -> int:
        """How much of a frame is allocated at once when the peer announces it; may be set at any time."""
        return self._decoder.trusted_bytes

    @trusted_bytes.setter
    def trusted_bytes(self, value: int) -> None:
        self._decoder.trusted_bytes = value

    @property
    def closed(self) -> bool:
        """True once either side has ended the connection; frames that came before may still be read."""
        return self._end is not None

    @property
    def in_frame(self) -> bool:
        """Whether the peer has begun a frame and we wait for the rest; not while we do not read."""
        return self._undecoded_bytes > 0 and not self._reading_paused

    def unsent_s(self, now: float) -> float:
        """For how many seconds up to `now` (monotonic) the peer has not taken what is to be sent."""
        return now - self._writing_paused_at if self.writing_paused else 0.0

    # --- reading --------------------------------------------------------------------------------------

    async def read_frame(self, timeout_s: float | None = None) -> bytearray:
        """The next frame; ConnectionClosed at the end, DecodeError if the framing is broken, TimeoutError."""
        frame = self.next_frame()
        if frame is not None:
            return frame
        if self._read_waiter is not None:
            raise RuntimeError(f"{self.name}: read_frame has a reader already")
        async with asyncio.timeout(timeout_s):
            while frame is None:
                self._read_waiter = self._loop.create_future()
                try:
                    await self._read_waiter
                finally:
                    self._read_waiter = None
                frame = self.next_frame()
        return frame

    def next_frame(self) -> bytearray | None:
        """The next frame if there is one; raises as `read_frame` once all frames before the end are taken."""
        if self._in_hand_bytes:
            self.put_down()
        if not self._frames:
            if self._broken is not None:
                raise self._broken
            if self._end is not None:
                raise ConnectionClosed(self._end.reason, self._end.cause)
            return None
        frame = self._frames.pop(0)
        self._queued_bytes -= len(frame)
        if self._counted_bytes:
            # Not in the queue any more, but here until its owner is done with it.
            self._in_hand_bytes = len(frame)
            self._count_held()
        if self._undecoded_bytes or not self._wants_more:
            self._decode_queued()
        return frame

    def _decode_queued(self) -> None:
        """Moves frames from the decoder to the queue while it has room; reading goes on if it still has."""
        next_frame = self._decoder.next_frame
        while (has_room := self._has_room()) and self._undecoded_bytes and self._broken is None:
            try:
                frame = next_frame()
            except DecodeError as error:
                self._broken = error
                break
            if frame is None:
                break
            self.frames_received += 1
            self._undecoded_bytes -= len(frame) + 4
            self._queued_bytes += len(frame)
            self._frames.append(frame)
        self._wants_more = has_room and self._broken is None
        reads = self._wants_more and not self._held_back
        if reads is self._reading_paused:
            self._control_reading(wanted=reads)

    def _has_room(self) -> bool:
        return len(self._frames) < self._max_queued_frames and self._queued_bytes < self._max_queued_bytes

    def _control_reading(self, *, wanted: bool) -> None:
        transport = self._transport
        if transport is None or self._end is not None or transport.is_closing():
            return
        if wanted and self._reading_paused:
            self._reading_paused = False
            transport.resume_reading()
        elif not wanted and not self._reading_paused:
            self._reading_paused = True
            transport.pause_reading()

    # --- what this connection holds of the budget of all --------------------------------------------------

    def charge_to(self, account: Account | None) -> None:
        """From now on what is held here counts in that account; with None it counts nowhere."""
        if self._account is not None:
            self._count(0)
            self._account.leave(self)
            self.hold_back(False)
        self._account = account
        # None at the end: a connection must not hold itself through its decoder.
        self._decoder.may_allocate = always if account is None else self._may_allocate
        if account is not None:
            self._count_held()

    @property
    def account(self) -> Account | None:
        """Where what is held here counts."""
        return self._account

    def put_down(self) -> None:
        """Tells that the frame taken last is not held any more; so does taking the next."""
        if self._in_hand_bytes:
            self._in_hand_bytes = 0
            self._count_held()

    def hold_back(self, held_back: bool) -> None:
        """Stops reading, or lets it go on as far as the queue has room."""
        self._held_back = held_back
        self._control_reading(wanted=self._wants_more and not held_back)

    def _may_allocate(self, size: int) -> bool:
        if self._account is not None and not self._account.has_room(size):
            return False
        # At once: others ask before the first bytes are counted.
        self._count(self._counted_bytes + size)
        return True

    def _count_held(self) -> None:
        unfinished = max(self._undecoded_bytes, self._decoder.large_bytes)
        held = self._in_hand_bytes + unfinished + self._queued_bytes
        if self.writing_paused and self._transport is not None:
            held += max(self._transport.get_write_buffer_size(), self._unsent_bytes)
        self._count(held if held > SMALL_BYTES else 0)

    def _count(self, held: int) -> None:
        delta = held - self._counted_bytes
        if delta and self._account is not None:
            self._counted_bytes = held
            self._account.change(self, delta)

    def _wake_reader(self) -> None:
        if self._read_waiter is not None and not self._read_waiter.done():
            self._read_waiter.set_result(None)
        if self.on_readable is not None:
            self.on_readable()

    # --- writing --------------------------------------------------------------------------------------

    def write_frame(self, *parts: BytesLike) -> None:
        """Sends the parts as one frame; large ones are not copied: leave them unaltered. ConnectionClosed."""
        if self._end is not None:
            raise ConnectionClosed(self._end.reason, self._end.cause)
        transport = self._transport
        if transport is None:
            raise RuntimeError(f"{self.name}: not connected")
        if len(parts) == 1 and len(parts[0]) < _JOIN_BELOW_BYTES:
            transport.write(frame_size_prefix(len(parts[0])) + parts[0])
            return
        size = sum(map(len, parts))
        prefix = frame_size_prefix(size)
        if size < _JOIN_BELOW_BYTES:
            transport.write(b"".join((prefix, *parts)))
        else:
            self._write_large(transport, prefix, parts)
        if self.writing_paused:
            # A large part stays here whole until its last byte has left.
            self._unsent_bytes += size
            self._count_held()

    def _write_large(self, transport: asyncio.Transport, prefix: bytes, parts: tuple[BytesLike, ...]) -> None:
        buffers: list[BytesLike] = []
        small: list[BytesLike] = [prefix]
        for part in parts:
            if len(part) < _JOIN_BELOW_BYTES:
                small.append(part)
                continue
            if small:
                buffers.append(b"".join(small))
            # asyncio's TLS cuts what it could not send off the front: a copy with bytes, none with a view.
            buffers.append(memoryview(part))
            small = []
        if small:
            buffers.append(b"".join(small))
        if self.ssl_object is None:
            transport.writelines(buffers)
            return
        for buffer in buffers:
            view = memoryview(buffer)
            for start in range(0, len(view), _TLS_WRITE_BYTES):
                transport.write(view[start : start + _TLS_WRITE_BYTES])

    def begin_frame(self, *parts: BytesLike) -> bytes:
        """Sends a frame but for its last byte, which `end_frame` is to be given. ConnectionClosed.

        From now on `drain` returns only when everything has been handed to the kernel.
        """
        if self._end is not None:
            raise ConnectionClosed(self._end.reason, self._end.cause)
        if self._transport is None:
            raise RuntimeError(f"{self.name}: not connected")
        self._transport.set_write_buffer_limits(high=0)
        prefix = frame_size_prefix(sum(map(len, parts)))
        last = memoryview(parts[-1])
        self._write_large(self._transport, prefix, (*parts[:-1], last[:-1]))
        return bytes(last[-1:])

    def end_frame(self, last: bytes) -> None:
        """Sends the rest of a frame. ConnectionClosed."""
        if self._end is not None:
            raise ConnectionClosed(self._end.reason, self._end.cause)
        if self._transport is not None:
            self._transport.write(last)

    async def drain(self, timeout_s: float | None = None) -> None:
        """Returns when the write buffer has room; ConnectionClosed, TimeoutError."""
        if self._end is None and not self.writing_paused:
            return
        async with asyncio.timeout(timeout_s):
            while self.writing_paused and self._end is None:
                waiter = self._loop.create_future()
                self._drain_waiters.append(waiter)
                try:
                    await waiter
                finally:
                    self._drain_waiters.remove(waiter)
        if self._end is not None:
            raise ConnectionClosed(self._end.reason, self._end.cause)

    def _wake_writers(self) -> None:
        for waiter in self._drain_waiters:
            if not waiter.done():
                waiter.set_result(None)

    # --- ending ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Sends what was written, then closes; aborts if that takes longer than `close_timeout_s`."""
        self._drop_received()
        self._finish(ConnectionClosed("closed by us"))
        transport = self._transport
        if transport is None or self._lost or self._abort_timer is not None:
            return
        self._abort_timer = self._loop.call_later(self._close_timeout_s, transport.abort)
        transport.close()

    def abort(self) -> None:
        """Closes at once; what was not sent is dropped."""
        self._drop_received()
        self._finish(ConnectionClosed("aborted by us"))
        if self._transport is not None and not self._lost:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Returns when the transport is gone; after `close` that is at most `close_timeout_s` away."""
        while self._transport is not None and not self._lost:
            waiter = self._loop.create_future()
            self._lost_waiters.append(waiter)
            try:
                await waiter
            finally:
                self._lost_waiters.remove(waiter)

    def _drop_received(self) -> None:
        self._frames.clear()
        self._in_hand_bytes = self._undecoded_bytes = self._queued_bytes = 0
        if self._counted_bytes:
            self._count(0)

    def _finish(self, end: ConnectionClosed) -> None:
        if self._end is not None:
            return
        self._end = end
        self._wake_writers()
        self._wake_reader()

    # --- called by the transport ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.Transport, but have all its methods.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        if not self.peer:
            name = transport.get_extra_info("peername")
            self.peer = _address(name)
            self.peer_host = normal_host(name[0]) if isinstance(name, tuple) else ""
        sockname = transport.get_extra_info("sockname")
        self.local_port = sockname[1] if isinstance(sockname, tuple) else 0
        self.ssl_object = transport.get_extra_info("ssl_object")
        self.last_read_monotonic = time.monotonic()
        if self._end is not None:
            self._transport.abort()
        elif self._on_connected is not None:
            self._on_connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._end is not None or self._broken is not None:
            return memoryview(_DISCARDED)
        return self._decoder.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        if self._end is not None or self._broken is not None:
            return
        self.last_read_monotonic = time.monotonic()
        self._undecoded_bytes += nbytes
        decoder = self._decoder
        decoder.buffer_updated(nbytes)
        self._decode_queued()
        if self._undecoded_bytes:
            decoder.settle()
        if self._undecoded_bytes + self._queued_bytes > SMALL_BYTES:
            self._count_held()
        if self._frames or self._broken is not None:
            self._wake_reader()

    def eof_received(self) -> None:
        self._finish(ConnectionClosed(self._how("closed by the peer")))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._lost = True
        for waiter in self._lost_waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.charge_to(None)
        self._finish(ConnectionClosed(self._how(f"lost: {exc!r}" if exc else "lost"), exc))

    def pause_writing(self) -> None:
        self.writing_paused = True
        self._writing_paused_at = time.monotonic()
        # Some event loops tell only after `write` has returned.
        self._count_held()

    def resume_writing(self) -> None:
        self.writing_paused = False
        self._unsent_bytes = 0
        if self._counted_bytes:
            self._count_held()
        self._wake_writers()
        if self.on_writable is not None:
            self.on_writable()

    def _how(self, what: str) -> str:
        # With the queue full, whole frames may be waiting undecoded: then the place of the end is not known.
        return f"connection {what}{' in the middle of a frame' if self.in_frame else ''}"


def normal_host(host: str) -> str:
    """An IP address as text, that of IPv4 without the clothes of IPv6 that a dual-stack socket gives it."""
    if not host.startswith("::ffff:"):
        return host
    mapped = ipaddress.IPv6Address(host).ipv4_mapped
    return host if mapped is None else str(mapped)


def _address(name: object) -> str:
    if not isinstance(name, tuple) or len(name) < 2:
        return str(name or "unknown")
    host = normal_host(name[0])
    return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"
