"""One answer for all who ask meanwhile, to a question that must be put after they asked and takes a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from gateway.tasks import Tasks

T = TypeVar("T")


class SharedAnswer(Generic[T]):
    """Puts `question` once for all who came before it was put; whoever comes later waits for the next time.

    So a thousand callers cost two questions, and none gets an answer that is older than its call.
    """

    def __init__(self, question: Callable[[], Awaitable[T]], tasks: Tasks) -> None:
        self._question = question
        self._tasks = tasks
        self._asking = asyncio.Lock()
        self._next: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """An answer to a question that was put after this call; raises what it raises."""
        if self._next is None:
            self._next = self._tasks.spawn(self._ask(), name="shared question")
        # Who gives up takes nobody along.
        return await asyncio.shield(self._next)

    async def _ask(self) -> T:
        async with self._asking:
            self._next = None
            return await self._question()
