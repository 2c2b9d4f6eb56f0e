"""Attempts one after the other, without waiting for the end of each."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

from gateway.upstreams.race import AllFailed, first_success


class Runner:
    """Attempts that note what becomes of them."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.discarded: list[str] = []

    async def attempt(self, name: str, after_s: float, error: Exception | None = None) -> str:
        self.begun.append(name)
        try:
            await asyncio.sleep(after_s)
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        if error is not None:
            raise error
        return name

    async def race(self, *attempts: tuple[Any, ...], delay_s: float = 0.1) -> str:
        return await first_success(
            [functools.partial(self.attempt, *each) for each in attempts],
            delay_s=delay_s,
            failures=(OSError,),
            discard=self.discarded.append,
        )


async def test_the_first_is_enough() -> None:
    runner = Runner()
    assert await runner.race(("a", 0), ("b", 0)) == "a"
    assert runner.begun == ["a"]


async def test_a_failure_begins_the_next_at_once() -> None:
    runner = Runner()
    assert await runner.race(("a", 0, OSError("no")), ("b", 0), delay_s=60) == "b"


async def test_silence_begins_the_next_after_a_while_and_is_given_up_for_it() -> None:
    runner = Runner()
    assert await runner.race(("a", 60), ("b", 60), ("c", 0), ("d", 0)) == "c"
    assert runner.begun == ["a", "b", "c"]
    assert sorted(runner.cancelled) == ["a", "b"]


async def test_one_that_is_only_slow_wins_over_a_slower_one() -> None:
    assert await Runner().race(("a", 0.2), ("b", 60)) == "a"


async def test_all_errors_are_told_in_order() -> None:
    with pytest.raises(AllFailed, match="one; two; three") as failed:
        await Runner().race(("a", 0.3, OSError("one")), ("b", 0, OSError("two")), ("c", 0, OSError("three")))
    assert [str(error) for error in failed.value.errors] == ["one", "two", "three"]


async def test_what_is_no_failure_ends_the_race() -> None:
    runner = Runner()
    with pytest.raises(KeyError):
        await runner.race(("a", 60), ("b", 0, KeyError("b")), ("c", 0))
    assert runner.begun == ["a", "b"]
    assert runner.cancelled == ["a"]


async def test_two_at_the_same_moment() -> None:
    runner = Runner()
    both = asyncio.Event()

    async def together(name: str) -> str:
        if name == "b":
            both.set()
        await both.wait()
        return name

    won = await first_success(
        [functools.partial(together, "a"), functools.partial(together, "b")],
        delay_s=0.01,
        failures=(OSError,),
        discard=runner.discarded.append,
    )
    assert {won, *runner.discarded} == {"a", "b"}


async def test_cancelling_the_race_cancels_all() -> None:
    runner = Runner()
    racing = asyncio.create_task(runner.race(("a", 60), ("b", 60), delay_s=0.01))
    while len(runner.begun) < 2:
        await asyncio.sleep(0.01)
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert sorted(runner.cancelled) == ["a", "b"]
