"""A bound of the bytes that all clients together make us hold, kept by reading more slowly.

Every session has an `Account` for its two connections. Beyond the budget whoever holds much is not read from
until there is room; connections with less than `SMALL_BYTES` are never held back (and not counted), so that
heartbeats, metadata and small requests pass whatever large transfers do. Nobody waits for ever: of those that
wait one has the turn, and is read from whatever the others hold, until it has given all back. So a frame
larger than the whole budget passes too, alone. Waiting is first come, first served.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

SMALL_BYTES: Final = 16 * 1024
_LOOK_AGAIN_S: Final = 0.05
# What a connection may bring in one go, a kernel's receive buffer at its largest.
_ONE_READ_BYTES: Final = 4 << 20
# Who has more to do gives the turn away then, if it holds little besides.
_TURN_S: Final = 1.0
_LITTLE_BYTES: Final = 1 << 20


class Reader(Protocol):
    """A connection, as far as it can be held back."""

    def hold_back(self, held_back: bool) -> None:
        """Stop or go on reading."""
        ...


class ByteBudget:
    """All accounts together; `on_full` is called whenever a connection is held back."""

    def __init__(
        self,
        limit_bytes: int,
        *,
        on_full: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._on_full = on_full
        self._clock = clock
        # Ordered, and quick to remove from.
        self._waiting: dict[Account, None] = {}
        self._turn: Account | None = None
        self._turn_ends_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many sessions are held back."""
        return len(self._waiting)

    def open(self) -> Account:
        """An account for one session."""
        return Account(self)

    def changed(self, account: Account, reader: Reader, delta: int) -> None:
        """Told by an account what its `reader` holds more, or less."""
        self.used_bytes += delta
        if delta > 0:
            if self.used_bytes > self.limit_bytes and account is not self._turn:
                self._over(account, reader)
        elif account is self._turn and account.held_bytes <= 0:
            self._turn = None
            self._let_go_on()
        elif self._waiting and self.used_bytes < self.limit_bytes:
            self._look_soon()

    def _over(self, account: Account, reader: Reader) -> None:
        if self._turn is None and not self._waiting:
            self._give_turn(account)
            return
        reader.hold_back(True)
        account.held_back.add(reader)
        self._waiting.setdefault(account)
        self._on_full()
        self._look_soon()

    def forget(self, account: Account) -> None:
        """Told that the account holds nothing and wants nothing any more."""
        self._waiting.pop(account, None)
        if account is self._turn:
            self._turn = None
            self._let_go_on()

    def _look_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._look)

    def _look(self) -> None:
        self._timer = None
        turn = self._turn
        if turn is not None and turn.held_bytes <= _LITTLE_BYTES and self._clock() >= self._turn_ends_at:
            self._turn = None
        self._let_go_on()

    def _let_go_on(self) -> None:
        free = self.limit_bytes - self.used_bytes
        for account in list(self._waiting):
            if free < _ONE_READ_BYTES:
                break
            free -= _ONE_READ_BYTES
            self._release(account)
        if self._turn is None and self._waiting:
            first = next(iter(self._waiting))
            self._give_turn(first)
            self._release(first)
        if self._waiting:
            # Also where nobody gives anything back: readers let go may have had nothing to read.
            self._look_soon()

    def _give_turn(self, account: Account) -> None:
        self._turn = account
        self._turn_ends_at = self._clock() + _TURN_S

    def _release(self, account: Account) -> None:
        self._waiting.pop(account, None)
        readers, account.held_back = account.held_back, set()
        for reader in readers:
            reader.hold_back(False)


class Account:
    """What one session holds, over its connections."""

    __slots__ = ("_budget", "held_back", "held_bytes")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.held_bytes = 0
        self.held_back: set[Reader] = set()

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more are within the budget."""
        return self._budget.used_bytes + size <= self._budget.limit_bytes

    def change(self, reader: Reader, delta: int) -> None:
        """Notes that `reader` holds `delta` bytes more; it may be held back at once."""
        self.held_bytes += delta
        self._budget.changed(self, reader, delta)

    def leave(self, reader: Reader) -> None:
        """Notes that `reader`, which holds nothing any more, is gone."""
        self.held_back.discard(reader)
        if not self.held_back and self.held_bytes <= 0:
            self._budget.forget(self)
