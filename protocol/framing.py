"""Kafka's frames: a signed 32-bit size, then that many bytes (the protocol guide's RequestOrResponse).

Bytes come in by `feed`, or without a copy by asyncio.BufferedProtocol's pair `get_buffer` and
`buffer_updated`; frames go out by `next_frame`, until `settle`. Small frames are cut out of one receive
buffer that all decoders share, which stays in the processor's cache; what is left of it after its frames were
taken is moved to a buffer of the decoder's own, so one that waits for nothing holds no memory. A large frame
is received into a bytearray of its own. Memory follows the bytes that arrived, not those announced, unless
the peer is trusted with its announcements.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from protocol.errors import DecodeError, FrameTooLarge
from protocol.foreign import foreign_protocol

_SIZE = struct.Struct(">i")
PREFIX_BYTES = _SIZE.size

# What is left over is most often a part of one small request.
_FIRST_BUFFER_BYTES = 4 << 10
# A buffer of a decoder's own doubles up to here while reads fill it. Beyond it only frames grow that nobody
# takes away.
_FULL_BUFFER_BYTES = 64 << 10
# An unfinished frame from this size on gets a bytearray of its own, of at first this many bytes.
_LARGE_FRAME_BYTES = 32 << 10
# By how much it grows where there is no room for twice its size: many may, before the first is told to wait.
_SMALL_GROWTH_BYTES = 128 << 10
# Where every decoder without bytes of its own receives: in one thread, and nothing stays in it.
_SHARED = bytearray(64 << 10)


class FrameDecoder:
    """Cuts a byte stream into frames. After an error it stays broken and drops what still comes.

    `max_frame_bytes` and `trusted_bytes` may be changed at any time, and so may `may_allocate`, which is
    asked before a size is believed.
    """

    __slots__ = (
        "_buffer",
        "_error",
        "_large",
        "_large_filled",
        "_large_size",
        "_read_at",
        "_write_at",
        "max_frame_bytes",
        "may_allocate",
        "trusted_bytes",
    )

    def __init__(self, max_frame_bytes: int, *, trusted_bytes: int = 0) -> None:
        self.max_frame_bytes = max_frame_bytes
        # So much of a frame is allocated when it is announced. One that is allocated whole is never moved: a
        # third less work for frames of megabytes.
        self.trusted_bytes = trusted_bytes
        self.may_allocate: Callable[[int], bool] = always
        self._buffer = _SHARED
        self._read_at = 0
        self._write_at = 0
        self._large: bytearray | None = None
        self._large_size = 0
        self._large_filled = 0
        self._error: DecodeError | None = None

    @property
    def large_bytes(self) -> int:
        """What an unfinished large frame takes of memory, which may be more than has arrived of it."""
        return 0 if self._large is None else len(self._large)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes of any number, at any split."""
        source = memoryview(data)
        while source:
            target = self.get_buffer(len(source))
            taken = min(len(target), len(source))
            target[:taken] = source[:taken]
            target.release()
            self.buffer_updated(taken)
            self.settle()
            source = source[taken:]

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature, its hint is always -1
        """Return where the next bytes go, never empty; a view is of no use after the next call."""
        if self._large is not None and self._large_filled < self._large_size:
            if self._large_filled == len(self._large):
                self._grow_large(self._large)
            return memoryview(self._large)[self._large_filled :]
        if self._write_at == len(self._buffer):
            self._make_room()
        return memoryview(self._buffer)[self._write_at :]

    def _grow_large(self, large: bytearray) -> None:
        # By doubling: a peer pays for memory with bytes. Not in buffer_updated, where the event loop still
        # holds the view: in place this is 30 times cheaper than a copy, but nobody may view the old bytes.
        more = min(self._large_size - len(large), len(large))
        if more > _SMALL_GROWTH_BYTES and not self.may_allocate(more):
            more = _SMALL_GROWTH_BYTES
        try:
            large.extend(bytes(more))
        except BufferError:
            self._large = large + bytes(more)

    def _make_room(self) -> None:
        pending = self._buffer[self._read_at : self._write_at]
        size = len(self._buffer)
        if size < _FULL_BUFFER_BYTES or 2 * len(pending) > size:
            self._buffer = pending.ljust(2 * size, b"\0")
        else:
            self._buffer[: len(pending)] = pending
        self._read_at = 0
        self._write_at = len(pending)

    def buffer_updated(self, nbytes: int) -> None:
        """Note that `nbytes` bytes were written to what `get_buffer` returned last."""
        if self._error is not None:
            return
        if self._large is not None and self._large_filled < self._large_size:
            self._large_filled += nbytes
        else:
            self._write_at += nbytes

    def settle(self) -> None:
        """Keep what is left of the bytes that came; to be called before another decoder may receive."""
        if self._buffer is not _SHARED or self._read_at == self._write_at:
            return
        pending = self._buffer[self._read_at : self._write_at]
        size = _FIRST_BUFFER_BYTES
        while size <= len(pending):
            size *= 2
        self._buffer = pending.ljust(size, b"\0")
        self._read_at = 0
        self._write_at = len(pending)

    def _drop_buffer(self) -> None:
        self._buffer = _SHARED
        self._read_at = self._write_at = 0

    def next_frame(self) -> bytearray | None:
        """Return the next frame without its size, or None while it is not complete.

        Raises FrameTooLarge, or DecodeError for a negative size.
        """
        if self._error is not None:
            raise self._error
        large = self._large
        if large is not None:
            if self._large_filled < self._large_size:
                return None
            self._large = None
            return large
        start = self._read_at + PREFIX_BYTES
        if start > self._write_at:
            return None
        (size,) = _SIZE.unpack_from(self._buffer, self._read_at)
        if not 0 <= size <= self.max_frame_bytes:
            raise self._broken(size)
        end = start + size
        if end < self._write_at:
            self._read_at = end
            return self._buffer[start:end]
        if end == self._write_at:
            frame = self._buffer[start:end]
            self._drop_buffer()
            return frame
        if size >= _LARGE_FRAME_BYTES:
            self._begin_large(start, size)
        return None

    def _broken(self, size: int) -> DecodeError:
        if size < 0:
            self._error = DecodeError(f"frame of negative size {size}")
        else:
            self._error = FrameTooLarge(size, self.max_frame_bytes, foreign_protocol(_SIZE.pack(size)))
        self._drop_buffer()
        return self._error

    def _begin_large(self, start: int, size: int) -> None:
        self._large_size = size
        self._large_filled = filled = self._write_at - start
        at_once = min(size, self.trusted_bytes)
        if at_once > _LARGE_FRAME_BYTES and not self.may_allocate(at_once):
            at_once = 0
        self._large = bytearray(min(size, max(filled, _LARGE_FRAME_BYTES, at_once)))
        self._large[:filled] = self._buffer[start : self._write_at]
        self._drop_buffer()


def always(_size: int) -> bool:
    """Every size may be allocated."""
    return True


def frame_size_prefix(length: int) -> bytes:
    """Return the 4 bytes that go before a frame of `length` bytes."""
    return _SIZE.pack(length)
