from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from gateway.tasks import Tasks


async def test_close_cancels_and_waits_until_every_task_has_ended() -> None:
    tasks = Tasks("owner")
    ended: list[str] = []

    async def slow_to_stop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended.append("stopped")

    tasks.spawn(slow_to_stop(), name="a")
    tasks.spawn(slow_to_stop(), name="b")
    await asyncio.sleep(0)
    await tasks.close()
    assert ended == ["stopped", "stopped"]
    assert len(tasks) == 0
    await tasks.close()


async def test_a_failure_is_logged_with_the_name_and_leaves_the_others_alone() -> None:
    tasks = Tasks("owner")
    go_on = asyncio.Event()

    async def fails() -> None:
        raise LookupError("lost it")

    with capture_logs() as logs:
        other = tasks.spawn(go_on.wait(), name="other")
        tasks.spawn(fails(), name="failing")
        await asyncio.sleep(0.01)
        assert not other.done()
        go_on.set()
        assert await other
    assert [(line["event"], line["task"]) for line in logs] == [("task.failed", "owner/failing")]
    assert "lost it" in logs[0]["error"]


async def test_cancelling_is_no_failure() -> None:
    tasks = Tasks("owner")
    with capture_logs() as logs:
        tasks.spawn(asyncio.sleep(60), name="sleeper")
        await tasks.close()
    assert logs == []


async def test_nothing_starts_after_close() -> None:
    tasks = Tasks("owner")
    await tasks.close()
    with pytest.raises(RuntimeError, match="closing"):
        tasks.spawn(asyncio.sleep(0), name="late")


async def test_a_task_may_close_its_owner() -> None:
    tasks = Tasks("owner")
    tasks.spawn(asyncio.sleep(60), name="sleeper")
    await asyncio.wait_for(tasks.spawn(tasks.close(), name="closer"), 1)
    assert len(tasks) == 0
