"""The HTTP server on the admin address: uvicorn, started and ended by the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import uvicorn

from gateway.admin.gate import App
from gateway.admin.http_protocol import server_settings

STOPPED_WITHIN_S: Final = 5.0


class AdminServer(uvicorn.Server):
    """Serves an ASGI application on a socket that is bound already; with TLS if there is a context."""

    def __init__(self, api: App, ssl_context: ssl.SSLContext | None) -> None:
        settings = server_settings(api, stop_s=STOPPED_WITHIN_S)
        # uvicorn would make one of its own from file names; this one has the rules of every listener.
        settings.ssl = ssl_context
        super().__init__(settings)
        self._ended = asyncio.Event()

    async def serve_on(self, bound: socket.socket) -> None:
        """Serves until `stop`."""
        try:
            await self.serve(sockets=[bound])
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Ends what `serve_on` began; returns when it has ended, or after `STOPPED_WITHIN_S`."""
        self.should_exit = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOPPED_WITHIN_S):
                await self._ended.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone: they are the gateway's."""
        yield
