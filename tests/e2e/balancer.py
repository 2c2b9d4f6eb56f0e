"""A TCP balancer: each connection goes to the next target that takes it, as with a Service of Kubernetes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Sequence
from typing import Self

from tests.e2e.raw_client import Address

_DIAL_S = 5
_PIECE = 1 << 16


class Balancer:
    """Listens at a port of this machine until closed; a target that refuses is passed over."""

    def __init__(self, port: int, targets: Sequence[Address]) -> None:
        self._port = port
        self._turns = itertools.cycle(range(len(targets)))
        self._targets = targets
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._listening.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        self._listening.set()
        await self._stop.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = next(self._turns)
        for turn in range(len(self._targets)):
            host, port = self._targets[(first + turn) % len(self._targets)]
            with contextlib.suppress(OSError):
                async with asyncio.timeout(_DIAL_S):
                    there, to_there = await asyncio.open_connection(host, port)
                await asyncio.gather(_pass_on(reader, to_there), _pass_on(there, writer))
                return
        writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
