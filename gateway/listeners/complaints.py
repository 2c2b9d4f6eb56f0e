"""Log lines that a flood cannot multiply: of each kind one in some seconds, with the number of the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

_EVERY_S: Final = 5.0
# Kinds are our own words, never a client's; this holds if one forgets that.
_MAX_KINDS: Final = 100


class Complaints:
    """Passes the first of its kind on at once, and of those within `every_s` after it the number."""

    def __init__(self, *, every_s: float = _EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}

    def say(self, log: Callable[..., object], event: str, kind: str = "", **fields: Any) -> None:
        """Calls `log(event, **fields)`, with `unsaid` if others were left out since the last time."""
        key, now = f"{event} {kind}", self._clock()
        said_at, unsaid = self._kinds.get(key, (float("-inf"), 0))
        if now - said_at < self._every_s:
            self._kinds[key] = (said_at, unsaid + 1)
            return
        if len(self._kinds) >= _MAX_KINDS:
            self._kinds.clear()
        self._kinds[key] = (now, 0)
        log(event, **fields, **({"unsaid": unsaid} if unsaid else {}))
