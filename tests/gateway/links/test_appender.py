"""Appending: what each answer means, and that nothing is sent again before the log was looked at."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from gateway.links import appender as module
from gateway.links.appender import Appender
from gateway.links.log_check import LogCheck
from gateway.links.partition import MirrorPartition, Phase
from gateway.state.records import MirrorStatus, MirrorTopicError
from protocol.api_keys import ApiKey
from protocol.record_batches import BatchView, read_batches
from protocol.records import Record, build_batch
from tests.fakes.kafka import NO_ANSWER, FakeKafka
from tests.gateway.links.lab import KEY, PID, LinkLab, contents, hurry, link_lab, until


def batch(offset: int, count: int = 1, size: int = 10) -> BatchView:
    records = [Record(offset + i, 1_000 + offset + i, b"k", bytes(size)) for i in range(count)]
    return next(iter(read_batches(bytearray(build_batch(records)))))


def ready(lab: LinkLab, *counts: int, name: str = "t", index: int = 0, size: int = 10) -> MirrorPartition:
    """A partition that is trusted, with batches of so many records queued."""
    p = lab.on_board(name, index)
    p.trust(lab.log(name, index).end)
    for count in counts:
        p.enqueue(batch(p.fetch_offset, count, size))
    return p


def start(lab: LinkLab) -> None:
    lab.tasks.spawn(Appender(lab.board, lab.to_destination, KEY).run(1), name="append")


def produced(lab: LinkLab) -> list[Any]:
    """The Produce requests that came."""
    return [request for _, request in lab.destination.of_kind(ApiKey.PRODUCE)]


def kinds(broker: FakeKafka) -> list[str]:
    """What was asked of the destination about its logs, in order."""
    names = {ApiKey.PRODUCE: "produce", ApiKey.LIST_OFFSETS: "end", ApiKey.FETCH: "tail"}
    asked = [names[ApiKey(key)] for key, _ in broker.asked if key in names]
    return [kind for i, kind in enumerate(asked) if kind == "produce" or asked[i - 1 : i] != [kind]]


@pytest.mark.parametrize("newest", [9, 13])
async def test_batches_land_at_their_offsets(newest: int) -> None:
    async with link_lab() as lab:
        lab.destination.versions[ApiKey.PRODUCE] = (3, newest)
        lab.mirror(partitions=2)
        first, second = ready(lab, 3, 2, 1), ready(lab, 1, index=1)
        start(lab)
        await until(lambda: first.position == 6 and second.position == 1)
        assert [r.offset for r in contents(lab.log())] == list(range(6))
        (stored,) = lab.log().views()
        assert (stored.producer_id, stored.producer_epoch, stored.base_sequence) == (PID, 0, 0)
        assert lab.destination.count(ApiKey.PRODUCE) == 1, "many partitions in one request"
        assert first.sending is None


async def test_it_waits_and_is_woken() -> None:
    async with link_lab() as lab:
        lab.mirror()
        p = ready(lab)
        start(lab)
        await asyncio.sleep(0.02)
        assert not produced(lab)
        p.enqueue(batch(0))
        lab.board.wake_append[1].set()
        await until(lambda: p.position == 1, 4)
        assert lab.board.wake_fetch[1].is_set(), "there is room for more"


async def test_one_batch_at_a_time() -> None:
    release = asyncio.Event()

    async def hold(*_: Any) -> None:
        await release.wait()

    async with link_lab() as lab:
        lab.mirror(partitions=2)
        p = ready(lab, 1, size=20_000)
        p.enqueue(batch(1, 1, 20_000))
        lab.destination.fault(ApiKey.PRODUCE, hold)
        start(lab)
        await until(lambda: produced(lab))
        ready(lab, 1, index=1)
        lab.board.wake_append[1].set()
        await asyncio.sleep(0.05)
        assert len(produced(lab)) == 1
        assert p.sending == 1
        release.set()
        await until(lambda: p.position == 2)
        assert [r.offset for r in contents(lab.log())] == [0, 1]


async def test_a_request_has_a_size_and_everybody_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_BYTES", 1)
    async with link_lab() as lab:
        lab.mirror(partitions=3)
        every = [ready(lab, 1, 1, 1, index=i, size=20_000) for i in range(3)]
        start(lab)
        await until(lambda: all(p.position == 3 for p in every))
        served = [request.topic_data[0].partition_data for request in produced(lab)]
        assert [len(partitions) for partitions in served] == [1] * 9
        assert {partitions[0].index for partitions in served[:5]} == {0, 1, 2}


async def test_another_base_offset_is_a_foreign_writer() -> None:
    async with link_lab() as lab:
        lab.mirror()
        p = ready(lab, 2)
        lab.log().write(1)
        start(lab)
        error, text = await lab.failure()
        assert error is MirrorTopicError.ILLEGAL_STATE
        assert "foreign writer: the record of source offset 0 was appended at 1" in text
        assert p.sending is None


@pytest.mark.parametrize("code", [2, 32, 43, 76, 87], ids=lambda code: ErrorCode(code).name)
async def test_what_is_refused_for_good_fails_the_mirror(code: int) -> None:
    async with link_lab() as lab:
        lab.mirror()
        ready(lab, 2)
        lab.log().produce_errors.append(code)
        start(lab)
        error, text = await lab.failure()
        assert error is MirrorTopicError.ILLEGAL_STATE
        assert f"refuses the batch at offset 0 with {module.REFUSED_FOR_GOOD[code]}: because" in text
        assert lab.destination.count(ApiKey.PRODUCE) == 1


@pytest.mark.parametrize(
    "code", [3, 6, 7, 19, 20, 29, 45, 46, 47, 100], ids=lambda code: ErrorCode(code).name
)
async def test_any_other_refusal_is_a_doubt(code: int) -> None:
    async with link_lab() as lab:
        lab.mirror()
        p = ready(lab, 2)
        lab.log().produce_errors.append(code)
        start(lab)
        before = time.monotonic()
        await until(lambda: p.phase is Phase.DOUBT)
        assert p.sending is None
        assert p.not_before > before
        assert not p.queue
        assert lab.board.wake_resolve[1].is_set()
        assert lab.board.wake_metadata.is_set()
        await asyncio.sleep(0.02)
        assert lab.destination.count(ApiKey.PRODUCE) == 1, "nothing is sent in doubt"


async def test_repeated_refusals_wait_longer() -> None:
    async with link_lab() as lab:
        lab.mirror()
        waits = []
        start(lab)
        for _ in range(4):
            lab.log().produce_errors.append(29)
            p = ready(lab, 1)
            lab.board.wake_append[1].set()
            await until(lambda p=p: p.phase is Phase.DOUBT)  # type: ignore[misc]
            waits.append(p.not_before - time.monotonic())
            p.not_before = 0.0
        assert waits == sorted(waits)
        assert waits[0] < 0.15 < 0.8 < waits[-1]
        p = ready(lab, 1)
        lab.board.wake_append[1].set()
        await until(lambda: p.position == 1)
        assert p.refusals == 0


@pytest.mark.parametrize("code", [10, 18])
async def test_a_merge_that_is_too_large_is_tried_in_halves(code: int) -> None:
    async with link_lab() as lab:
        lab.mirror()
        p = ready(lab, 1, 1)
        lab.log().produce_errors.append(code)
        start(lab)
        await until(lambda: p.phase is Phase.DOUBT)
        assert p.merge_halvings == 1
        assert p.mirror.failure is None


async def test_a_topic_that_takes_only_small_batches_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source's `max.message.bytes` may be less than what is merged."""
    hurry(monkeypatch, RETRY_DELAY_S=0.01, BACKOFF_S=(0.01,))
    limit = 300

    def small_only(_: Any, request: Any) -> Any:
        (data,) = request.topic_data[0].partition_data
        if len(data.records) > limit:
            lab.log().produce_errors.append(10)

    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(*[1] * 40)
        lab.destination.fault(ApiKey.PRODUCE, *[small_only] * 100)
        lab.run()
        await lab.mirrored()
        assert contents(lab.log()) == contents(here[0])


@pytest.mark.parametrize("code", [10, 18])
async def test_a_single_batch_that_is_too_large_fails_the_mirror(code: int) -> None:
    async with link_lab() as lab:
        lab.mirror()
        ready(lab, 3)
        lab.log().produce_errors.append(code)
        start(lab)
        _, text = await lab.failure()
        assert f"refuses the batch at offset 0 with {module.TOO_LARGE[code]}: because" in text


async def test_no_answer_for_a_partition_is_a_doubt() -> None:
    def leave_out_the_first(header: Any, request: Any) -> Any:
        answer = lab.destination.usual(header, request)
        topic = answer.responses[0]
        rest = replace(topic, partition_responses=tuple(p for p in topic.partition_responses if p.index))
        return replace(answer, responses=(rest,))

    async with link_lab() as lab:
        lab.mirror(partitions=2)
        first, second = ready(lab, 2), ready(lab, 2, index=1)
        lab.destination.fault(ApiKey.PRODUCE, leave_out_the_first)
        start(lab)
        await until(lambda: second.position == 2)
        assert first.phase is Phase.DOUBT


async def test_after_a_lost_connection_the_log_is_looked_at_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request may have been done or not, at once or late: the log knows."""
    hurry(monkeypatch, LOSS_DELAY_S=0.2, RETRY_DELAY_S=0.01)

    def do_it_and_die(header: Any, request: Any) -> Any:
        lab.log().produce(next(iter(read_batches(request.topic_data[0].partition_data[0].records))))
        lab.destination.cut()
        return NO_ANSWER

    def die(*_: Any) -> Any:
        lab.destination.cut()
        return NO_ANSWER

    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(2, 2, size=20_000)
        lab.destination.fault(ApiKey.PRODUCE, do_it_and_die, die)
        lab.run()
        await lab.mirrored()
        assert contents(lab.log()) == contents(here[0])
        asked = kinds(lab.destination)
        # The first look is at an empty log, which has no tail.
        assert asked == ["end", "produce", "end", "tail", "produce", "end", "tail", "produce"]


async def test_a_loss_waits_for_what_may_still_be_queued_at_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hurry(monkeypatch, LOSS_DELAY_S=0.3)

    def die(*_: Any) -> Any:
        lab.destination.cut()
        return NO_ANSWER

    async with link_lab() as lab:
        lab.mirror()
        p = ready(lab, 1)
        lab.destination.fault(ApiKey.PRODUCE, die)
        start(lab)
        await until(lambda: p.phase is Phase.DOUBT)
        assert p.not_before - time.monotonic() > 0.2


async def test_so_does_one_that_is_lost_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause or a change of leader in the middle must not shorten the wait."""
    hurry(monkeypatch, LOSS_DELAY_S=0.3)
    asked = asyncio.Event()

    async def hold(*_: Any) -> Any:
        asked.set()
        return NO_ANSWER

    async with link_lab() as lab:
        lab.mirror()
        p = ready(lab, 1)
        lab.destination.fault(ApiKey.PRODUCE, hold)
        start(lab)
        await asked.wait()
        lab.alter(status=MirrorStatus.PAUSED)
        lab.alter(status=MirrorStatus.ACTIVE)
        assert p.phase is Phase.DOUBT
        assert p.sending == 1, "it may still come: looking at the log proves nothing"
        lab.destination.cut()
        await until(lambda: p.sending is None)
        assert p.not_before - time.monotonic() > 0.2


async def test_a_doubt_during_an_append_outlives_its_success() -> None:
    release, asked = asyncio.Event(), asyncio.Event()

    async def hold(*_: Any) -> None:
        asked.set()
        await release.wait()

    async with link_lab() as lab:
        lab.mirror()
        p = ready(lab, 2)
        lab.destination.fault(ApiKey.PRODUCE, hold)
        start(lab)
        lab.tasks.spawn(LogCheck(lab.board, lab.to_destination).run(1), name="look")
        await asked.wait()
        p.doubt(0.0)
        lab.board.wake_resolve[1].set()
        await asyncio.sleep(0.1)
        assert not lab.destination.of_kind(ApiKey.LIST_OFFSETS), "not while the append is under way"
        release.set()
        await until(lambda: p.phase is Phase.READY, 2)
        assert p.position == 2
        assert lab.destination.of_kind(ApiKey.LIST_OFFSETS)


async def test_an_answer_to_a_mirror_that_is_gone_changes_nothing() -> None:
    release, asked = asyncio.Event(), asyncio.Event()

    async def hold(*_: Any) -> None:
        asked.set()
        await release.wait()

    async with link_lab() as lab:
        lab.mirror()
        p = ready(lab, 2)
        lab.destination.fault(ApiKey.PRODUCE, hold)
        start(lab)
        await asked.wait()
        del lab.events.records["t"]
        lab.update()
        release.set()
        await until(lambda: p.sending is None)
        assert (p.phase, p.position) == (Phase.FAILED, 0)


async def test_a_silent_broker_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, REQUEST_TIMEOUT_S=0.1)
    async with link_lab() as lab:
        lab.mirror()
        p = ready(lab, 1)
        lab.destination.fault(ApiKey.PRODUCE, lambda *_: NO_ANSWER)
        start(lab)
        await until(lambda: p.phase is Phase.DOUBT)
        assert lab.board.wake_metadata.is_set()
        await lab.destination.wait_for_connections(0)


async def test_the_obstacle_fails_the_mirror_once_what_precedes_it_is_there() -> None:
    async with link_lab() as lab:
        lab.mirror()
        p = ready(lab, 2, 1, size=20_000)
        p.obstacle = (MirrorTopicError.ILLEGAL_STATE, "a marker")
        start(lab)
        assert await lab.failure() == (MirrorTopicError.ILLEGAL_STATE, "a marker")
        assert lab.log().end == 3


async def test_the_barrier_is_the_last_thing() -> None:
    async with link_lab() as lab:
        lab.mirror(status=MirrorStatus.PENDING_STOPPED, stop_offsets={0: 3})
        p = ready(lab, 3)
        before_ms = time.time_ns() // 1_000_000
        start(lab)
        await until(lambda: p.phase is Phase.DONE)
        assert lab.board.wake_metadata.is_set()
        barrier = lab.log().views()[-1]
        assert (barrier.base_offset, barrier.producer_epoch, barrier.base_sequence) == (3, 1, 0)
        assert barrier.max_timestamp >= before_ms, "an old one would be forgotten at once"
        assert (lab.log().end, p.position) == (4, 3)


async def test_whatever_goes_wrong_leaves_a_doubt_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "produce", broken)
    async with link_lab() as lab:
        lab.mirror()
        p = ready(lab, 1)
        task = lab.tasks.spawn(Appender(lab.board, lab.to_destination, KEY).run(1), name="append")
        await asyncio.wait({task})
        assert isinstance(task.exception(), ZeroDivisionError)
        assert (p.phase, p.sending) == (Phase.DOUBT, None)
        await lab.destination.wait_for_connections(0)


async def test_a_slow_replica_holds_up_only_its_own_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.01, BACKOFF_S=(0.01,))
    async with link_lab() as lab:
        lab.mirror(partitions=2)
        slow, quick = ready(lab, 1), ready(lab, 1, index=1)
        lab.log().produce_errors.append(7)
        appender = Appender(lab.board, lab.to_destination, KEY)
        lab.tasks.spawn(appender.run(1), name="append")
        lab.tasks.spawn(appender.run_slow(1), name="append slowly")
        await until(lambda: slow.phase is Phase.DOUBT and quick.position == 1)
        slow.trust(0)
        asked, release = asyncio.Event(), asyncio.Event()

        async def hold(*_: Any) -> None:
            asked.set()
            await release.wait()

        lab.destination.fault(ApiKey.PRODUCE, hold)
        slow.enqueue(batch(0))
        lab.board.wake_append[1].set()
        await asked.wait()
        timeouts = [request.timeout.total_seconds() for request in produced(lab)]
        assert timeouts == [2, 10]
        for offset in (1, 2):
            quick.enqueue(batch(offset))
            lab.board.wake_append[1].set()
            await until(lambda offset=offset: quick.position == offset + 1)  # type: ignore[misc]
        assert slow.position == 0
        release.set()
        await until(lambda: slow.position == 1)


async def test_what_came_into_doubt_while_a_connection_was_made_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An empty queue would be taken for one that waits for its barrier."""
    async with link_lab() as lab:
        lab.mirror()
        p = ready(lab, 1)
        connect = lab.to_destination.connect

        async def doubting(*arguments: Any, **settings: Any) -> Any:
            p.doubt(time.monotonic() + 60)
            return await connect(*arguments, **settings)

        monkeypatch.setattr(lab.to_destination, "connect", doubting)
        start(lab)
        await until(lambda: p.phase is Phase.DOUBT)
        await asyncio.sleep(0.05)
        assert not produced(lab)
        assert lab.log().end == 0
