"""Stands between a gateway and a real broker: honest for the gateway's own requests, hostile for the fuzz's.

What the gateway asks for itself (and what the healthy client beside the fuzz asks) goes to the broker, with
this address in place of the broker's in every answer. A connection on which anything else is asked becomes
hostile for good: its requests get an answer made here, mutated, late, wrong or none. The answer to a request
depends on that request and the seed only, so that whatever is found can be had again.
"""

from __future__ import annotations

import asyncio
import random
import struct
import zlib
from collections import deque
from typing import Final

from protocol.broker_addresses import ADDRESS_VERSIONS, rewrite_addresses
from protocol.errors import ProtocolError
from protocol.headers import peek_request_header
from tests.fuzz.corpus import Corpus, sized
from tests.fuzz.mutation import mutate

# Of `RawClient`, with which the healthy client asks.
HEALTHY_ID: Final = "raw"
_HONEST: Final = (b"causeway", b"aiokafka", HEALTHY_ID.encode())
_HEADER: Final = struct.Struct(">hhih")
_HOST: Final = "127.0.0.1"


class Answers:
    """What a hostile broker answers; `made` counts what was mutated."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self._corpus = corpus
        self._seed = seed
        self.made = 0

    def to(self, frame: bytes) -> tuple[bytes, bool]:
        """The bytes to send, and whether to close the connection then."""
        # Neither the correlation id nor anything else that differs from run to run.
        rng = random.Random(zlib.crc32(frame[8:], zlib.crc32(frame[:4])) ^ self._seed)
        key, version = struct.unpack_from(">hh", frame) if len(frame) >= 4 else (0, 0)
        correlation_id = frame[4:8].ljust(4, b"\0")
        dice = rng.random()
        templates = self._corpus.responses.get((key, version))
        if templates is None:
            # Of a version that we have no answer to.
            return sized(correlation_id + rng.randbytes(rng.randrange(40))), False
        template = rng.choice(templates)
        body = template.data[4:]
        if dice < 0.4:
            self.made += 1
            other = rng.choice(templates).data
            body = mutate(rng, template.data, other, min(4, template.body_at))[4:]
        answer = sized(correlation_id + body)
        if dice > 0.997:
            odd = rng.choice(_ODD_ENDS)
            self.made += 1
            return odd(rng, answer, correlation_id)
        return answer, False


def _wrong_id(rng: random.Random, answer: bytes, correlation_id: bytes) -> tuple[bytes, bool]:
    return answer[:4] + rng.randbytes(4) + answer[8:], False


def _twice(rng: random.Random, answer: bytes, correlation_id: bytes) -> tuple[bytes, bool]:
    return answer * 2, False


def _partial(rng: random.Random, answer: bytes, correlation_id: bytes) -> tuple[bytes, bool]:
    return answer[: rng.randrange(len(answer))], True


def _nothing(rng: random.Random, answer: bytes, correlation_id: bytes) -> tuple[bytes, bool]:
    return b"", True


def _wrong_size(rng: random.Random, answer: bytes, correlation_id: bytes) -> tuple[bytes, bool]:
    size = rng.choice((-1, -(2**31), 2**31 - 1, 0, 3, len(answer) + 1000))
    return struct.pack(">i", size) + answer[4:], True


_ODD_ENDS: Final = (_wrong_id, _twice, _partial, _nothing, _wrong_size)


class HostileBroker:
    """Listens at `port` of loopback once started, in front of the broker at `real`."""

    def __init__(self, real: tuple[str, int], answers: Answers) -> None:
        self.port = 0
        self._real = real
        self._answers = answers
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Side(self), _HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    @property
    def real(self) -> tuple[str, int]:
        """Where the real broker is."""
        return self._real

    @property
    def answers(self) -> Answers:
        """What is answered in hostile mode."""
        return self._answers

    def advertised(self, node_id: int) -> tuple[str, int]:
        """This address, whichever broker is meant."""
        return _HOST, self.port


class _Frames:
    """Cuts bytes into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._data += data
        frames, at = [], 0
        while len(self._data) - at >= 4:
            size = int.from_bytes(self._data[at : at + 4])
            if len(self._data) - at - 4 < size:
                break
            frames.append(bytes(self._data[at + 4 : at + 4 + size]))
            at += 4 + size
        del self._data[:at]
        return frames


class _Side(asyncio.Protocol):
    """A connection of the gateway."""

    def __init__(self, broker: HostileBroker) -> None:
        self._broker = broker
        self._frames = _Frames()
        self._transport: asyncio.Transport | None = None
        self._real: _RealSide | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._waiting: list[bytes] = []
        self._hostile = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            if not self._hostile and not _is_honest(frame):
                self._hostile = True
                if self._real is not None:
                    self._real.close()
            if self._hostile:
                self._answer(frame)
            else:
                self._pass_on(frame)

    def _answer(self, frame: bytes) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return
        data, close = self._broker.answers.to(frame)
        self._transport.write(data)
        if close:
            self._transport.close()

    def _pass_on(self, frame: bytes) -> None:
        if self._real is not None:
            self._real.ask(frame)
            return
        self._waiting.append(frame)
        if self._dialling is None:
            self._dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        assert self._transport is not None
        try:
            _, real = await asyncio.get_running_loop().create_connection(
                lambda: _RealSide(self._broker, self._transport), *self._broker.real
            )
        except OSError:
            self._transport.abort()
            return
        self._real = real
        waiting, self._waiting = self._waiting, []
        for frame in waiting:
            real.ask(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._real is not None:
            self._real.close()


def _is_honest(frame: bytes) -> bool:
    if len(frame) < _HEADER.size:
        return False
    length = _HEADER.unpack_from(frame)[3]
    return length > 0 and frame[_HEADER.size : _HEADER.size + length].startswith(_HONEST)


class _RealSide(asyncio.Protocol):
    """The connection to the real broker that belongs to one of the gateway's."""

    def __init__(self, broker: HostileBroker, gateway: asyncio.Transport | None) -> None:
        self._broker = broker
        self._gateway = gateway
        self._frames = _Frames()
        self._asked: deque[tuple[int, int]] = deque()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def ask(self, frame: bytes) -> None:
        header = peek_request_header(frame)
        self._asked.append((header.api_key, header.api_version))
        assert self._transport is not None
        self._transport.write(sized(frame))

    def data_received(self, data: bytes) -> None:
        assert self._gateway is not None
        for frame in self._frames.feed(data):
            key, version = self._asked.popleft()
            parts: list[bytes | bytearray | memoryview] = [frame]
            if key in ADDRESS_VERSIONS and version >= ADDRESS_VERSIONS[key].start:
                try:
                    changed = rewrite_addresses(key, version, frame, self._broker.advertised)
                except ProtocolError:
                    changed = frame
                parts = changed if isinstance(changed, list) else [changed]
            self._gateway.write(sized(b"".join(parts)))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._gateway is not None:
            self._gateway.close()

    def close(self) -> None:
        """Ends it; the gateway's side may go on without."""
        self._gateway, gone = None, self._transport
        if gone is not None:
            gone.abort()
