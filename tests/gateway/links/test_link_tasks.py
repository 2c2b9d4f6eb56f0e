"""A link's tasks: when they run, how long they may take, and what is shown of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from gateway.links import link_tasks
from gateway.links.configs import LinkConfig
from gateway.links.errors import LinkError
from gateway.links.link_tasks import LinkTask, error_of
from gateway.links.requests import TaskError, TaskState
from gateway.state.records import LinkRecord
from gateway.upstreams.errors import AuthenticationFailed, ConnectFailed, KafkaError
from gateway.wire import ConnectionClosed
from tests.fakes.links import link_record
from tests.gateway.links.lab import until

ON = {"consumer.offset.sync.enable": "true", "consumer.offset.sync.ms": "60000"}
NO_FILTER = TaskError("MISCONFIGURATION_ERROR", "no filter")
ODD = TaskError("INTERNAL_ERROR", "odd")


@dataclass
class FakeWork:
    """Counts its runs; `outcomes` are what the next ones come to, `free` holds them back."""

    outcomes: list[Sequence[TaskError] | Exception] = field(default_factory=list)
    name: str = "ConsumerOffsetSync"
    interval_key: str = "consumer.offset.sync.ms"
    runs: int = 0
    at_work: int = 0
    most_at_work: int = 0
    free: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.free.set()

    def is_on(self, config: LinkConfig) -> bool:
        return config.flag("consumer.offset.sync.enable")

    def problems(self, config: LinkConfig) -> Sequence[TaskError]:
        return [NO_FILTER] if config.text("consumer.offset.group.filters") == "none" else []

    async def run(self, config: LinkConfig) -> Sequence[TaskError]:
        assert self.is_on(config)
        self.runs += 1
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            await self.free.wait()
            outcome = self.outcomes.pop(0) if self.outcomes else ()
        finally:
            self.at_work -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def record(**configs: str) -> LinkRecord:
    """A link with these configs; `_` stands for `.`."""
    given = {name.replace("_", "."): value for name, value in configs.items()}
    return link_record().model_copy(update={"configs": {**ON, **given}})


@contextlib.asynccontextmanager
async def running(task: LinkTask) -> AsyncIterator[None]:
    """The task at work."""
    loop = asyncio.create_task(task.run_for_ever())
    try:
        yield
    finally:
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loop


def state(task: LinkTask) -> TaskState:
    return task.view().state


async def test_a_task_that_is_off_does_nothing() -> None:
    work = FakeWork()
    task = LinkTask(work, record(consumer_offset_sync_enable="false"))
    async with running(task):
        await asyncio.sleep(0.02)
    assert (state(task), work.runs, task.is_on) == (TaskState.NOT_CONFIGURED, 0, False)


async def test_it_runs_at_once_and_then_waits_for_its_time() -> None:
    work = FakeWork()
    task = LinkTask(work, record())
    assert state(task) is TaskState.ACTIVE
    async with running(task):
        await until(lambda: work.runs == 1)
        await asyncio.sleep(0.05)
    assert (work.runs, state(task)) == (1, TaskState.ACTIVE)


async def test_its_interval_is_from_start_to_start() -> None:
    work = FakeWork()
    task = LinkTask(work, record(consumer_offset_sync_ms="40"))
    async with running(task):
        await asyncio.sleep(0.25)
    assert 4 <= work.runs <= 7


async def test_a_slow_run_is_followed_by_a_pause() -> None:
    work = FakeWork()
    task = LinkTask(work, record(consumer_offset_sync_ms="1000"))
    config = link_tasks.config_of(record(consumer_offset_sync_ms="1000"))
    assert task._pause_s(config, 0.2) == pytest.approx(0.8)
    assert task._pause_s(config, 1.6) == pytest.approx(0.8)
    assert task._pause_s(config, 60) == pytest.approx(1.0)


async def test_what_cannot_run_with_its_configs_says_so_before_the_first_run() -> None:
    work = FakeWork()
    task = LinkTask(work, record(consumer_offset_group_filters="none"))
    assert task.view().errors == [NO_FILTER]
    async with running(task):
        await asyncio.sleep(0.02)
        assert work.runs == 0
        task.follow(record())
        await until(lambda: work.runs == 1)
    assert state(task) is TaskState.ACTIVE


async def test_a_changed_config_wakes_it_and_an_equal_one_does_not() -> None:
    work = FakeWork()
    task = LinkTask(work, record())
    async with running(task):
        await until(lambda: work.runs == 1)
        task.follow(record())
        await asyncio.sleep(0.02)
        assert work.runs == 1
        task.follow(record(consumer_offset_sync_ms="50000"))
        await until(lambda: work.runs == 2)
        task.follow(record(consumer_offset_sync_enable="false"))
        await until(lambda: state(task) is TaskState.NOT_CONFIGURED)


async def test_part_of_a_run_that_failed_is_shown_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_tasks, "BACKOFF_S", (0.05, 60.0))
    work = FakeWork([[ODD]])
    task = LinkTask(work, record())
    async with running(task):
        await until(lambda: work.runs == 1)
        await until(lambda: state(task) is TaskState.IN_ERROR)
        assert list(task.view().errors) == [ODD]
        await until(lambda: work.runs == 2)
        await until(lambda: state(task) is TaskState.ACTIVE)
    assert not task.view().errors


async def test_failures_in_a_row_are_further_and_further_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_tasks, "BACKOFF_S", (0.01, 60.0))
    work = FakeWork([[ODD]] * 5)
    task = LinkTask(work, record())
    async with running(task):
        await until(lambda: work.runs == 2)
        await asyncio.sleep(0.05)
        assert work.runs == 2
        # Whoever mends the configs does not have to wait for it.
        task.follow(record(consumer_offset_sync_ms="50000"))
        await until(lambda: work.runs >= 3)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KafkaError(30, "OffsetFetch of group g"), "AUTHORIZATION_ERROR", "OffsetFetch of group g"),
        (KafkaError(29, "Metadata of topic t"), "AUTHORIZATION_ERROR", "Metadata of topic t"),
        (KafkaError(15, "FindCoordinator"), "INTERNAL_ERROR", "FindCoordinator"),
        (AuthenticationFailed("the broker refuses it"), "AUTHENTICATION_ERROR", "the broker refuses it"),
        (ConnectFailed("refused"), "BOOTSTRAP_TCP_CONNECTION_FAILED_ERROR", "refused"),
        (ConnectionClosed("gone"), "BOOTSTRAP_TCP_CONNECTION_FAILED_ERROR", "gone"),
        (TimeoutError(), "TIMEOUT_ERROR", "no answer in time"),
        (LinkError(503, 50003, "the state is away"), "INTERNAL_ERROR", "the state is away"),
        (ZeroDivisionError("secret"), "INTERNAL_ERROR", "ZeroDivisionError: see the gateway's log"),
    ],
)
def test_what_is_shown_of_an_exception(error: Exception, code: str, text: str) -> None:
    shown = error_of(error)
    assert shown.error_code == code
    assert text in shown.error_message
    assert "secret" not in shown.error_message


async def test_no_exception_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_tasks, "BACKOFF_S", (0.01,))
    work = FakeWork([ZeroDivisionError("a bug"), ConnectFailed("refused")])
    task = LinkTask(work, record())
    async with running(task):
        await until(lambda: work.runs == 3)
        await until(lambda: state(task) is TaskState.ACTIVE)


async def test_a_run_that_hangs_ends_at_its_deadline() -> None:
    work = FakeWork()
    work.free.clear()
    task = LinkTask(work, record(), deadline_s=0.05)
    async with running(task):
        await until(lambda: state(task) is TaskState.IN_ERROR)
    (shown,) = task.view().errors
    assert shown == TaskError("TIMEOUT_ERROR", "no answer within 0.05 s")


async def test_runs_never_overlap_and_one_more_is_a_run_of_its_own() -> None:
    work = FakeWork([[], [ODD]])
    work.free.clear()
    task = LinkTask(work, record())
    async with running(task):
        await until(lambda: work.at_work == 1)
        once_more = asyncio.create_task(task.run_once())
        await asyncio.sleep(0.02)
        assert work.runs == 1
        work.free.set()
        assert list(await once_more) == [ODD]
    assert (work.runs, work.most_at_work) == (2, 1)


async def test_it_can_be_cancelled_at_work_and_run_again() -> None:
    work = FakeWork()
    work.free.clear()
    task = LinkTask(work, record())
    async with running(task):
        await until(lambda: work.at_work == 1)
    assert work.at_work == 0
    work.free.set()
    assert not await task.run_once()


async def test_a_paused_link_holds_it_back() -> None:
    work, held = FakeWork(), [TaskState.LINK_PAUSED]
    task = LinkTask(work, record(), held_back=lambda: held[0] if held else None)
    async with running(task):
        await asyncio.sleep(0.02)
        assert (state(task), work.runs) == (TaskState.LINK_PAUSED, 0)
        held.clear()
        task.wake()
        await until(lambda: work.runs == 1)
    assert state(task) is TaskState.ACTIVE


async def test_not_all_of_a_thousand_errors_are_shown() -> None:
    work = FakeWork([[ODD] * 1000])
    task = LinkTask(work, record())
    assert len(await task.run_once()) == link_tasks.MAX_ERRORS
    assert len(task.view().errors) == link_tasks.MAX_ERRORS


async def test_another_gateways_task_runs_here_only_when_it_is_asked_for() -> None:
    work = FakeWork()
    task = LinkTask(work, record(), is_ours=lambda: False)
    async with running(task):
        await asyncio.sleep(0.02)
        assert work.runs == 0
        # Whoever ends a mirror topic has it synced, whichever gateway does so from time to time.
        assert not await task.run_once_if_on()
    assert work.runs == 1
    off = LinkTask(work, record(consumer_offset_sync_enable="false"), is_ours=lambda: False)
    assert not await off.run_once_if_on()
    assert work.runs == 1
