"""What the loops of a link share."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from gateway.links.board import BACKOFF_S, Board, backoff_s, drop, wait_for
from gateway.links.partition import Phase
from gateway.state.records import MirrorStatus, MirrorTopicError
from tests.gateway.links.lab import record
from tests.gateway.links.test_partition import batch

TOPIC_ID = "11112222-3333-4444-5555-666677778888"


def board_of(**changes: Any) -> Board:
    board = Board("l")
    board.update([record(partitions=2, topic_id=TOPIC_ID, **changes)])
    return board


async def test_waiting_ends_with_the_event_or_the_time() -> None:
    event = asyncio.Event()
    event.set()
    await wait_for(event, 60)
    assert not event.is_set(), "the next wait is for the next event"
    before = time.monotonic()
    await wait_for(event, 0.02)
    assert 0.01 < time.monotonic() - before < 1


async def test_a_cancellation_is_not_lost_to_the_event() -> None:
    """What loops for ever has to end when its link goes, whatever else happens in that moment."""

    async def loop() -> None:
        while True:
            await wait_for(event, 60)

    event = asyncio.Event()
    task = asyncio.create_task(loop())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    event.set()
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=1)
    task.cancel()
    assert done


def test_waits_grow_up_to_a_bound() -> None:
    assert [backoff_s(n) for n in range(1, 8)] == [*BACKOFF_S, BACKOFF_S[-1], BACKOFF_S[-1]]


def test_dropping_nothing() -> None:
    drop(None)


async def test_partitions_are_sorted_by_their_leaders() -> None:
    board = board_of()
    first, second = board.mirrors["t"].partitions
    assert (dict(board.by_source), dict(board.by_destination)) == ({}, {})
    first.source_leader, first.destination_leader = 1, 2
    second.source_leader, second.destination_leader = 1, None
    wake = board.wake_fetch[1], board.wake_append[2], board.wake_resolve[2]
    board.index()
    assert board.by_source == {1: [first, second]}
    assert board.by_destination == {2: [first]}
    assert all(event.is_set() for event in wake)


async def test_progress_outlives_changes_of_the_record() -> None:
    board = board_of()
    p = board.mirrors["t"].partitions[0]
    p.trust(7)
    board.update([record(partitions=2, topic_id=TOPIC_ID, state_time_ms=9)])
    assert board.mirrors["t"].partitions[0] is p
    assert (p.phase, p.position) == (Phase.READY, 7)
    assert board.mirrors["t"].record.state_time_ms == 9
    assert board.wake_metadata.is_set()


async def test_a_mirror_made_anew_knows_nothing() -> None:
    board = board_of()
    old = board.mirrors["t"].partitions[0]
    old.trust(7)
    board.update([record(partitions=2, topic_id=TOPIC_ID, producer_id=5)])
    new = board.mirrors["t"].partitions[0]
    assert (new.phase, new.position) == (Phase.DOUBT, 0)
    assert old.phase is Phase.FAILED, "what is under way for it changes nothing any more"


async def test_a_mirror_that_is_gone_is_stopped() -> None:
    board = board_of()
    p = board.mirrors["t"].partitions[0]
    p.trust(7)
    p.enqueue(batch(7, 1))
    board.update([])
    assert not board.mirrors
    assert (p.phase, len(p.queue)) == (Phase.FAILED, 0)


@pytest.mark.parametrize("status", [MirrorStatus.PAUSED, MirrorStatus.STOPPED, MirrorStatus.FAILED])
async def test_what_does_not_run_is_in_doubt_when_it_runs_again(status: MirrorStatus) -> None:
    board = board_of()
    p = board.mirrors["t"].partitions[0]
    p.trust(7)
    p.enqueue(batch(7, 1))
    board.update([record(partitions=2, topic_id=TOPIC_ID, status=status)])
    assert (p.phase, len(p.queue)) == (Phase.DOUBT, 0)


async def test_a_decided_end_reaches_the_partitions() -> None:
    board = board_of()
    first, second = board.mirrors["t"].partitions
    first.trust(0)
    first.enqueue(batch(0, 5))
    first.enqueue(batch(5, 5))
    stopping = record(
        partitions=2, topic_id=TOPIC_ID, status=MirrorStatus.PENDING_STOPPED, stop_offsets={0: 5}
    )
    board.update([stopping])
    assert (first.stop_offset, first.fetch_offset, second.stop_offset) == (5, 5, None)


async def test_a_failover_forgets_the_end_that_a_promote_had() -> None:
    """Nothing is fetched any more, so that end may never be reached."""
    board = board_of(status=MirrorStatus.PENDING_STOPPED, stop_offsets={0: 500, 1: 500})
    p = board.mirrors["t"].partitions[0]
    p.trust(100)
    p.enqueue(batch(100, 5))
    stopping = record(partitions=2, topic_id=TOPIC_ID, status=MirrorStatus.PENDING_STOPPED, failover=True)
    board.update([stopping])
    assert (p.stop_offset, len(p.queue), p.fetch_offset) == (None, 0, 100)


async def test_the_first_failure_is_the_one_that_is_told() -> None:
    board = board_of()
    mirror = board.mirrors["t"]
    board.wake_metadata.clear()
    board.fail(mirror, MirrorTopicError.ILLEGAL_STATE, "first")
    board.fail(mirror, MirrorTopicError.UNKNOWN, "second")
    assert mirror.failure == (MirrorTopicError.ILLEGAL_STATE, "first")
    assert {p.phase for p in mirror.partitions} == {Phase.FAILED}
    assert board.wake_metadata.is_set()


async def test_how_long_the_source_has_been_away() -> None:
    board = Board("l")
    board.source_is_down(OSError("cable"))
    since = board.source_down_since
    board.source_is_down(OSError("plug"))
    assert (board.source_down_since, board.source_error) == (since, "plug")
    board.source_is_up()
    assert (board.source_down_since, board.source_error) == (None, None)
