"""Log lines that a flood cannot multiply: a few of each kind in some seconds, and the number of the rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

_EVERY_S: Final = 5.0
# Kinds are our own words, never a client's; this holds if one forgets that.
_MAX_KINDS: Final = 100


class Complaints:
    """Passes `burst` of a kind on at once, and of others within `every_s` after the first the number."""

    def __init__(
        self, *, burst: int = 1, every_s: float = _EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._every_s = every_s
        self._clock = clock
        # When the first of a kind came, and how many since.
        self._kinds: dict[str, tuple[float, int]] = {}

    def say(self, log: Callable[..., object], event: str, kind: str = "", **fields: Any) -> None:
        """Calls `log(event, **fields)`, with `unsaid` if others were left out since the last time."""
        key, now = f"{event} {kind}", self._clock()
        since, count = self._kinds.get(key, (float("-inf"), 0))
        unsaid = 0
        if now - since >= self._every_s:
            since, unsaid, count = now, max(count - self._burst, 0), 0
        if key not in self._kinds and len(self._kinds) >= _MAX_KINDS:
            self._kinds.clear()
        self._kinds[key] = (since, count + 1)
        if count < self._burst:
            log(event, **fields, **({"unsaid": unsaid} if unsaid else {}))
