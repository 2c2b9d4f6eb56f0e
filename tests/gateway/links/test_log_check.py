"""Looking at a mirror partition's log: where it ends, who wrote the end, and when that cannot be told."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from gateway.links.log_check import LogCheck
from gateway.links.partition import Phase
from gateway.links.sink import sequence_of
from gateway.state.records import MirrorStatus, MirrorTopicError
from protocol.api_keys import ApiKey
from tests.fakes.kafka import NO_ANSWER, Log
from tests.gateway.links.lab import PID, LinkLab, hurry, link_lab, until


def start(lab: LinkLab) -> None:
    lab.tasks.spawn(LogCheck(lab.board, lab.to_destination).run(1), name="look")


def mirrored(log: Log, *counts: int) -> None:
    """Batches as the mirror writes them."""
    for count in counts:
        log.write(count, producer_id=PID, producer_epoch=0, base_sequence=sequence_of(log.end))


def barrier(log: Log) -> None:
    log.write(1, producer_id=PID, producer_epoch=1, base_sequence=0)


async def test_an_empty_log_is_trusted() -> None:
    async with link_lab() as lab:
        lab.mirror()
        p = lab.on_board()
        start(lab)
        await until(lambda: p.phase is Phase.READY)
        assert (p.position, p.fetch_offset) == (0, 0)
        assert not lab.destination.of_kind(ApiKey.FETCH)
        assert lab.board.wake_fetch[1].is_set()
        assert lab.board.wake_append[1].is_set()


@pytest.mark.parametrize("newest", [12, 13])
async def test_our_own_end_is_trusted(newest: int) -> None:
    async with link_lab() as lab:
        lab.destination.versions[ApiKey.FETCH] = (4, newest)
        lab.mirror(partitions=2)
        first, second = lab.on_board(), lab.on_board(index=1)
        second.source_leader = None
        mirrored(lab.log(), 3, 4)
        mirrored(lab.log(index=1), 1)
        start(lab)
        await until(lambda: first.phase is Phase.READY and second.phase is Phase.READY)
        assert (first.position, second.position) == (7, 1)
        (fetch, *_) = [request for _, request in lab.destination.of_kind(ApiKey.FETCH)]
        (asked,) = fetch.topics[0].partitions
        assert (asked.fetch_offset, fetch.isolation_level) == (6, 0)


async def test_the_log_end_is_the_leaders_and_not_what_consumers_see() -> None:
    async with link_lab() as lab:
        lab.mirror()
        p = lab.on_board()
        mirrored(lab.log(), 3, 2)
        lab.log().high_watermark = 3
        start(lab)
        await until(lambda: len(lab.destination.of_kind(ApiKey.LIST_OFFSETS)) >= 4)
        assert p.phase is Phase.DOUBT
        assert not lab.destination.of_kind(ApiKey.FETCH)
        lab.log().high_watermark = None
        await until(lambda: p.phase is Phase.READY)
        assert p.position == 5
        ids = {request.replica_id for _, request in lab.destination.of_kind(ApiKey.LIST_OFFSETS)}
        assert ids == {2_000_000_000, -1}


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ({"producer_id": 9, "producer_epoch": 0, "base_sequence": 3}, "has producer id 9"),
        ({}, "has producer id -1"),
        ({"producer_id": PID, "producer_epoch": 0, "base_sequence": 9}, "ends at sequence 10"),
        ({"producer_id": PID, "producer_epoch": 7, "base_sequence": 3}, "has producer epoch 7"),
    ],
)
async def test_a_foreign_end_fails_the_mirror(written: dict[str, int], reason: str) -> None:
    async with link_lab() as lab:
        lab.mirror()
        lab.on_board()
        mirrored(lab.log(), 3)
        lab.log().write(1, **written)
        start(lab)
        error, text = await lab.failure()
        assert error is MirrorTopicError.ILLEGAL_STATE
        assert reason in text
        assert "foreign writer" in text
        assert "delete and recreate the mirror topic" in text


async def test_the_barrier_ends_a_mirror_that_stops() -> None:
    async with link_lab() as lab:
        lab.mirror(status=MirrorStatus.PENDING_STOPPED, stop_offsets={0: 3})
        p = lab.on_board()
        mirrored(lab.log(), 3)
        barrier(lab.log())
        start(lab)
        await until(lambda: p.phase is Phase.DONE)
        assert p.position == 3
        assert lab.board.wake_metadata.is_set()


async def test_the_barrier_in_any_other_status_is_a_failure() -> None:
    async with link_lab() as lab:
        lab.mirror()
        lab.on_board()
        mirrored(lab.log(), 3)
        barrier(lab.log())
        start(lab)
        _, text = await lab.failure()
        assert "ends with the barrier of a promote, but the mirror topic is ACTIVE" in text


@pytest.mark.parametrize("status", [MirrorStatus.PAUSED, MirrorStatus.STOPPED, MirrorStatus.FAILED])
async def test_what_does_not_run_is_not_looked_at(status: MirrorStatus) -> None:
    async with link_lab() as lab:
        lab.mirror(status=status)
        p = lab.on_board()
        start(lab)
        await asyncio.sleep(0.05)
        assert p.phase is Phase.DOUBT
        assert not lab.destination.asked


async def test_it_waits_until_it_is_time() -> None:
    async with link_lab() as lab:
        lab.mirror()
        p = lab.on_board()
        due = time.monotonic() + 0.15
        p.not_before = due
        start(lab)
        await until(lambda: p.phase is Phase.READY)
        assert time.monotonic() >= due


async def test_one_partition_that_cannot_be_asked_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.02)
    async with link_lab() as lab:
        lab.mirror("gone")
        lab.mirror("moved")
        lab.mirror("fine")
        gone, moved, fine = lab.on_board("gone"), lab.on_board("moved"), lab.on_board("fine")
        del lab.destination.topics["gone"]
        lab.destination.topics["moved"].logs[0].leader = 2
        start(lab)
        await until(lambda: fine.phase is Phase.READY)
        assert (gone.phase, moved.phase) == (Phase.DOUBT, Phase.DOUBT)
        assert lab.board.wake_metadata.is_set()
        lab.destination.topics["moved"].logs[0].leader = 1
        await until(lambda: moved.phase is Phase.READY)


async def test_repeated_refusals_wait_longer() -> None:
    async with link_lab() as lab:
        lab.mirror()
        p = lab.on_board()
        lab.log().offset_errors.extend([29] * 3)
        start(lab)
        await until(lambda: p.failed_looks == 3)
        assert p.not_before - time.monotonic() > 0.3
        p.not_before = 0.0
        await until(lambda: p.phase is Phase.READY)
        assert p.failed_looks == 0


async def test_an_end_that_cannot_be_fetched_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.02, BELIEF_S=0.0)
    async with link_lab() as lab:
        lab.mirror()
        p = lab.on_board()
        mirrored(lab.log(), 3)
        lab.log().fetch_errors.extend([6, 6, 6])
        start(lab)
        await until(lambda: p.phase is Phase.READY)
        assert p.mirror.failure is None


async def test_an_end_that_is_gone_for_good_fails_the_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeleteRecords up to the end leaves nothing by which the writer could be known."""
    hurry(monkeypatch, RETRY_DELAY_S=0.02, BELIEF_S=0.1)
    async with link_lab() as lab:
        lab.mirror()
        p = lab.on_board()
        lab.log().start = 5
        start(lab)
        await until(lambda: p.tail_missing_since is not None)
        assert p.mirror.failure is None, "not at the first look"
        _, text = await lab.failure()
        assert "the last batch before the log's end at 5 is gone" in text


async def test_an_end_that_comes_back_is_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.02)
    async with link_lab() as lab:
        lab.mirror()
        p = lab.on_board()
        lab.log().start = 5
        start(lab)
        await until(lambda: p.tail_missing_since is not None)
        lab.log().start = 0
        mirrored(lab.log(), 5)
        await until(lambda: p.phase is Phase.READY)
        assert p.tail_missing_since is None


async def test_a_lost_connection_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.02)

    def die(*_: Any) -> Any:
        lab.destination.cut()
        return NO_ANSWER

    async with link_lab() as lab:
        lab.mirror()
        p = lab.on_board()
        mirrored(lab.log(), 3)
        lab.destination.fault(ApiKey.FETCH, die)
        start(lab)
        await until(lambda: p.phase is Phase.READY)
        assert p.position == 3


async def test_a_verdict_on_a_log_that_is_in_doubt_again_is_dropped() -> None:
    """A new leader may have another end."""
    asked, release = asyncio.Event(), asyncio.Event()

    async def hold(*_: Any) -> None:
        asked.set()
        await release.wait()

    async with link_lab() as lab:
        lab.mirror()
        p = lab.on_board()
        lab.log().write(3)
        lab.destination.fault(ApiKey.FETCH, hold)
        start(lab)
        await asked.wait()
        p.doubt(time.monotonic() + 60)
        release.set()
        await asyncio.sleep(0.05)
        assert p.mirror.failure is None


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("change", ["pause", "doubt", "delete", "leader"])
async def test_what_changes_during_a_look_makes_it_worthless(change: str, count: int) -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def hold(*_: Any) -> None:
        asked.set()
        await release.wait()

    async with link_lab() as lab:
        lab.mirror()
        p = lab.on_board()
        mirrored(lab.log(), *[count] * bool(count))
        lab.destination.fault(ApiKey.FETCH if count else ApiKey.LIST_OFFSETS, hold)
        start(lab)
        await asked.wait()
        match change:
            case "pause":
                lab.alter(status=MirrorStatus.PAUSED)
            case "doubt":
                p.doubt(time.monotonic() + 60)
            case "delete":
                lab.events.records.clear()
                lab.update()
            case "leader":
                p.doubt(time.monotonic() + 60)
                p.destination_leader = 2
                lab.board.index()
        release.set()
        await asyncio.sleep(0.05)
        assert p.phase is (Phase.FAILED if change == "delete" else Phase.DOUBT)
