"""The clients of a fuzz: connections that send mutated requests as fast as the gateway settles them.

Frames go out in batches with an ordinary ApiVersions request behind them. A batch is settled when that is
answered or the connection has ended; one that is not settled in time is tried again alone, and is a hang only
if it is one again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from protocol.api_keys import ApiKey
from protocol.headers import encode_request_header
from protocol.messages import encode_request
from tests.e2e.raw_client import make
from tests.fuzz.corpus import CLIENT_ID, Corpus, sized
from tests.fuzz.mutation import alter, mutate

HANG_S: Final = 1.0
_GIVE_UP_S: Final = 10.0
_REPEATS: Final = 2
_LARGEST_BATCH: Final = 8
# So many frames lose their form; each of the others ends its connection less often.
_HARSH: Final = 0.25
_BATCHES_PER_CONNECTION: Final = 100
_REMEMBERED: Final = 20_000
_SENTINEL_ID: Final = 0x5E971E1
_SENTINEL: Final = sized(encode_request_header(ApiKey.API_VERSIONS, 0, _SENTINEL_ID, CLIENT_ID))
_SENTINEL_ANSWER: Final = struct.pack(">i", _SENTINEL_ID)


@dataclass
class Tally:
    """What has been done so far."""

    requests: int = 0
    hangs: int = 0
    slow_once: int = 0
    connections: int = 0
    not_connected: int = 0


@dataclass
class Attack:
    """`port` is a listener's; with `password` some connections log in first, as that listener wants."""

    corpus: Corpus
    seed: int
    tally: Tally
    found: Callable[[str, list[bytes]], None]
    going_on: Callable[[], bool]
    port: int = 0
    # The batches of the last connections by their local ports, for what the gateway logs about a peer.
    recent: OrderedDict[int, list[bytes]] = field(default_factory=OrderedDict)

    async def run(self, worker: int, login: tuple[str, str] | None = None) -> None:
        """Attacks until told to stop."""
        rng = random.Random(f"{self.seed} {worker}")
        while self.going_on():
            connection = await self._connect()
            if connection is None:
                self.tally.not_connected += 1
                await asyncio.sleep(0.05)
                continue
            self.tally.connections += 1
            try:
                if login is not None and rng.random() < 0.5:
                    await connection.settle(_login(*login), HANG_S)
                await self._use(connection, rng)
            finally:
                connection.abort()

    def under_way(self) -> list[bytes]:
        """The frames of the last batch, which may not be settled."""
        return next(reversed(self.recent.values()), [])

    async def _use(self, connection: _Connection, rng: random.Random) -> None:
        for _ in range(_BATCHES_PER_CONNECTION):
            if connection.closed or not self.going_on():
                return
            batch = [self._frame(rng) for _ in range(rng.randint(1, _LARGEST_BATCH))]
            self._remember(connection.local_port, batch)
            answered = connection.answers
            settled = await connection.settle(batch, HANG_S)
            # What came after the frame that ended the connection was not looked at.
            handled = connection.answers - answered + connection.closed
            self.tally.requests += min(handled, len(batch))
            if not settled:
                self.tally.slow_once += 1
                await connection.settled(_GIVE_UP_S)
                if await self._hangs_again(batch):
                    self.tally.hangs += 1
                    self.found("hang", batch)
                return

    async def _hangs_again(self, batch: list[bytes]) -> bool:
        for _ in range(_REPEATS):
            connection = await self._connect()
            if connection is None:
                return False
            try:
                if await connection.settle(batch, HANG_S):
                    return False
            finally:
                connection.abort()
        return True

    async def _connect(self) -> _Connection | None:
        with contextlib.suppress(OSError):
            _, connection = await asyncio.get_running_loop().create_connection(
                _Connection, "127.0.0.1", self.port
            )
            return connection
        return None

    def _remember(self, local_port: int, batch: list[bytes]) -> None:
        self.recent.pop(local_port, None)
        self.recent[local_port] = batch
        if len(self.recent) > _REMEMBERED:
            self.recent.popitem(last=False)

    def _frame(self, rng: random.Random) -> bytes:
        dice = rng.random()
        if dice > _HARSH:
            template = self.corpus.pick(rng, valid=True)
            return sized(
                alter(rng, template.data[:4] + rng.randbytes(4) + template.data[8:], template.body_at)
            )
        template = self.corpus.pick(rng)
        if dice < 0.005:
            return _wrongly_sized(rng, template.data)
        other = self.corpus.pick(rng).data
        keep = 0 if dice < 0.02 else 4 if dice < 0.03 else template.body_at
        frame = bytearray(mutate(rng, template.data, other, keep))
        if keep:
            frame[4:8] = rng.randbytes(4)
        return sized(bytes(frame))


def _wrongly_sized(rng: random.Random, frame: bytes) -> bytes:
    size = rng.choice((-1, -(2**31), 0, 1, 7, len(frame) - 1, 2**31 - 1))
    return struct.pack(">i", size) + frame


def _login(user: str, password: str) -> list[bytes]:
    requests = (
        make(ApiKey.SASL_HANDSHAKE, 1, mechanism="PLAIN"),
        make(ApiKey.SASL_AUTHENTICATE, 2, auth_bytes=f"\0{user}\0{password}".encode()),
    )
    return [
        sized(
            encode_request_header(int(each.__api_key__), int(each.__version__), 1, CLIENT_ID)
            + encode_request(each)
        )
        for each in requests
    ]


class _Connection(asyncio.Protocol):
    """Sends batches and counts answers."""

    def __init__(self) -> None:
        self.answers = 0
        self.closed = False
        self.local_port = 0
        self._data = bytearray()
        self._transport: asyncio.Transport | None = None
        self._settled = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no subclasses
        self.local_port = transport.get_extra_info("sockname")[1]

    def data_received(self, data: bytes) -> None:
        self._data += data
        at = 0
        while len(self._data) - at >= 4:
            size = int.from_bytes(self._data[at : at + 4])
            if len(self._data) - at - 4 < size:
                break
            if self._data[at + 4 : at + 8] == _SENTINEL_ANSWER:
                self._settled.set()
            else:
                self.answers += 1
            at += 4 + size
        del self._data[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._settled.set()

    async def settle(self, batch: list[bytes], timeout_s: float) -> bool:
        """Sends the batch; whether it was settled in time."""
        assert self._transport is not None
        self._settled.clear()
        if self.closed:
            return True
        self._transport.write(b"".join(batch) + _SENTINEL)
        return await self.settled(timeout_s)

    async def settled(self, timeout_s: float) -> bool:
        """Waits on; whether it was settled in that time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            return False
        return True

    def abort(self) -> None:
        """Leaves with a reset, which leaves nothing behind in the kernel."""
        if self._transport is not None:
            self._transport.abort()
