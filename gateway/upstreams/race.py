"""Several ways to the same thing, begun one after the other without waiting for the end of the first.

As RFC 8305 (Happy Eyeballs) does with the addresses of a name: the next one begins when the last has failed,
or has not come to an end in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from gateway.tasks import Tasks

T = TypeVar("T")


class AllFailed(Exception):
    """No attempt succeeded; `errors` are theirs, in the order of the attempts."""

    def __init__(self, errors: Sequence[Exception]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = errors


async def first_success(
    attempts: Sequence[Callable[[], Coroutine[Any, Any, T]]],
    *,
    delay_s: float,
    failures: tuple[type[Exception], ...],
    discard: Callable[[T], None],
) -> T:
    """The first result; AllFailed if each attempt raised one of `failures`, anything else is raised at once.

    The others are cancelled; what they had got by then is given to `discard`.
    """
    tasks = Tasks("race")
    waiting = list(enumerate(attempts))
    running: set[asyncio.Task[None]] = set()
    arrived: list[T] = []
    errors: dict[int, Exception] = {}

    async def run(number: int, attempt: Callable[[], Coroutine[Any, Any, T]]) -> None:
        try:
            arrived.append(await attempt())
        except Exception as error:  # noqa: BLE001 - raised below, by whoever waits
            errors[number] = error

    try:
        try:
            while waiting or running:
                if waiting:
                    number, attempt = waiting.pop(0)
                    running.add(tasks.spawn(run(number, attempt), name=str(number)))
                timeout_s = delay_s if waiting else None
                _, running = await asyncio.wait(
                    running, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
                )
                if arrived:
                    break
                for error in errors.values():
                    if not isinstance(error, failures):
                        raise error
        finally:
            await tasks.close()
    except BaseException:
        for each in arrived:
            discard(each)
        raise
    if not arrived:
        raise AllFailed([errors[number] for number in sorted(errors)])
    first, *late = arrived
    for each in late:
        discard(each)
    return first
