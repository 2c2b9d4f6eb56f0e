from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.state.shared_answer import SharedAnswer
from gateway.tasks import Tasks


class Question:
    """Answers with its number once it is told to."""

    def __init__(self) -> None:
        self.put = 0
        self.may_answer = asyncio.Event()

    async def __call__(self) -> int:
        self.put += 1
        number = self.put
        await self.may_answer.wait()
        if number == 7:
            raise ValueError("seven")
        return number


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks("test")
    yield tasks
    await tasks.close()


async def test_all_who_ask_meanwhile_share_the_next_answer_and_none_gets_an_older_one(tasks: Tasks) -> None:
    question = Question()
    shared = SharedAnswer(question, tasks)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(shared.get())
        while not question.put:
            await asyncio.sleep(0)
        later = [group.create_task(shared.get()) for _ in range(100)]
        await asyncio.sleep(0)
        question.may_answer.set()
    assert first.result() == 1
    assert {task.result() for task in later} == {2}
    assert question.put == 2
    assert await shared.get() == 3


async def test_who_gives_up_takes_nobody_along(tasks: Tasks) -> None:
    question = Question()
    shared = SharedAnswer(question, tasks)
    patient = asyncio.create_task(shared.get())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await shared.get()
    question.may_answer.set()
    assert await patient == 1


async def test_an_error_is_everybodys_and_the_next_one_asks_again(tasks: Tasks) -> None:
    question = Question()
    question.put = 6
    question.may_answer.set()
    shared = SharedAnswer(question, tasks)
    results = await asyncio.gather(shared.get(), shared.get(), return_exceptions=True)
    assert [str(result) for result in results] == ["seven", "seven"]
    assert await shared.get() == 8
