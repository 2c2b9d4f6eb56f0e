"""A state store without Kafka."""

import asyncio
from collections.abc import Callable, Sequence

from gateway.state.records import Delete, Record, State


class FakeStore:
    """Applies changes at once; `failure` is raised instead if it is set.

    With `lag` what others wrote (`foresee`) is seen only after `read_to_end`.
    """

    def __init__(self) -> None:
        self.state = State()
        self.failure: Exception | None = None
        self.staleness_s = 0.0
        self.reads = 0
        # Raised by the next updates, one each, before the change is made, or after if it is told so.
        self.failures: list[Exception | None] = []
        self.lose_answers = False
        self._coming: list[Record | Delete] = []
        self._subscribers: list[Callable[[State], None]] = []
        # Set to hold updates back.
        self.free = asyncio.Event()
        self.free.set()
        self.waiting = 0
        self.updates = 0

    def subscribe(self, callback: Callable[[State], None]) -> None:
        """As the real one."""
        self._subscribers.append(callback)

    def foresee(self, *changes: Record | Delete) -> None:
        """Somebody else has written this; it is not read yet."""
        self._coming += changes

    async def read_to_end(self) -> State:
        """As the real one."""
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        self._apply(self._coming)
        self._coming = []
        return self.state

    async def update(self, change: Callable[[State], Sequence[Record | Delete]]) -> State:
        """As the real one."""
        self.waiting += 1
        await self.free.wait()
        self.waiting -= 1
        if self.failure is not None:
            raise self.failure
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None and not self.lose_answers:
            raise failure
        self.updates += 1
        self._apply(change(self.state))
        if failure is not None:
            raise failure
        return self.state

    def _apply(self, changes: Sequence[Record | Delete]) -> None:
        if changes:
            self.state = self.state.with_changes(changes)
            for subscriber in self._subscribers:
                subscriber(self.state)
