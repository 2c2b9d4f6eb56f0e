"""Gives memory of connections that have gone back to the system.

glibc keeps what was freed between blocks that are still in use: 80 MiB after a thousand connections with
TLS.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from typing import Final

_LOOK_EVERY_S: Final = 5.0
# Less is not worth the milliseconds that it takes.
_MANY: Final = 100


class Trimmer:
    """Calls `trim` when many connections, and at least half of the most there were, have gone."""

    def __init__(self, connections: Callable[[], int], trim: Callable[[], object] | None = None) -> None:
        self._connections = connections
        self._trim = trim or _malloc_trim
        self._most = 0

    async def run(self) -> None:
        """Looks every few seconds, for ever."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """Trims if it is time."""
        now = self._connections()
        self._most = max(self._most, now)
        if self._most - now >= max(_MANY, self._most // 2):
            self._most = now
            self._trim()


def _malloc_trim() -> None:
    # Other C libraries do not have it, and return memory by themselves or not at all.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
