"""Owner of background tasks: every coroutine that runs on its own belongs to one `Tasks`.

A task that fails is logged with its name and takes nobody along; whoever needs to stop on a failure awaits
the task that `spawn` returned. `close` cancels and waits, and may be called again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Tasks:
    """A set of tasks with one owner. `owner` names it in the log."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Starts `coroutine`; raises RuntimeError after `close`, so that nothing outlives its owner."""
        if self._closing:
            coroutine.close()
            raise RuntimeError(f"{self._owner} is closing, {name} cannot start")
        task = asyncio.get_running_loop().create_task(coroutine, name=f"{self._owner}/{name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def wait(self, timeout_s: float) -> bool:
        """Waits until every task has ended by itself; False if they have not in time."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
        return not self._tasks

    async def close(self) -> None:
        """Cancels every task but the calling one and waits until they have ended."""
        self._closing = True
        me = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not me]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("task.failed", task=task.get_name(), error=repr(error), exc_info=error)
