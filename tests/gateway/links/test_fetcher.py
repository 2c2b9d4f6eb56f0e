"""Fetching: what is queued, what is not copied and why, and how long something odd is looked at first."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from gateway.links import fetcher as module
from gateway.links.fetcher import Fetcher
from gateway.links.partition import MirrorPartition
from gateway.state.records import MirrorStatus, MirrorTopicError
from protocol.api_keys import ApiKey
from protocol.dense_batches import FillerRun, Section
from protocol.record_batches import BatchView
from protocol.records import Record, build_batch
from tests.fakes.kafka import NO_ANSWER, FakeKafka, Log
from tests.gateway.links.lab import LinkLab, hurry, link_lab, until


def start(lab: LinkLab) -> None:
    lab.tasks.spawn(Fetcher(lab.board, lab.from_source).run(1), name="fetch")


def trusted(lab: LinkLab, name: str = "t", index: int = 0, *, at: int = 0) -> MirrorPartition:
    """A partition whose log was looked at."""
    p = lab.on_board(name, index)
    p.trust(at)
    return p


def fetches(lab: LinkLab) -> list[Any]:
    return [request for _, request in lab.source.of_kind(ApiKey.FETCH)]


def queued(p: MirrorPartition) -> list[int]:
    """Base offsets of what is queued."""
    return [batch.base_offset for batch in p.queue]


def raw(p: MirrorPartition) -> memoryview:
    """The bytes of what is queued first."""
    batch = p.queue[0]
    assert isinstance(batch, BatchView)
    return batch.raw


def hold_fetch(lab: LinkLab) -> tuple[asyncio.Event, asyncio.Event]:
    """Holds the next Fetch: set when it came, and to be set to release it."""
    asked, release = asyncio.Event(), asyncio.Event()

    async def hold(*_: Any) -> None:
        asked.set()
        await release.wait()

    lab.source.fault(ApiKey.FETCH, hold)
    return asked, release


@pytest.mark.parametrize("newest", [11, 12, 13])
async def test_it_queues_what_follows(newest: int) -> None:
    async with link_lab() as lab:
        lab.source.versions[ApiKey.FETCH] = (4, newest)
        here = lab.mirror(partitions=2)
        here[0].write(2, 3, 1)
        here[1].write(4)
        first, second = trusted(lab, at=2), trusted(lab, index=1)
        start(lab)
        await until(lambda: first.queue and second.queue)
        assert queued(first) == [2, 5]
        assert (first.fetch_offset, first.position, first.source_end, first.lag) == (6, 2, 6, 4)
        assert first.queued_bytes == sum(batch.size_bytes for batch in first.queue)
        assert queued(second) == [0]
        assert lab.board.wake_append[1].is_set()
        request = fetches(lab)[0]
        assert (request.replica_id, request.isolation_level) == (-1, 1)


async def test_nothing_beyond_the_last_stable_offset() -> None:
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(2, 3)
        here[0].stable = 2
        p = trusted(lab)
        start(lab)
        await until(lambda: p.queue)
        assert (queued(p), p.source_end) == ([0], 2)
        here[0].stable = None
        await until(lambda: p.fetch_offset == 5)


async def test_it_waits_until_something_is_wanted() -> None:
    async with link_lab() as lab:
        lab.mirror()[0].write(1)
        p = lab.on_board()
        start(lab)
        await asyncio.sleep(0.03)
        assert not fetches(lab)
        p.trust(0)
        lab.board.wake_fetch[1].set()
        await until(lambda: p.queue, 1)


async def test_full_queues_are_left_out_and_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async with link_lab() as lab:
        here = lab.mirror(partitions=2)
        full, other = trusted(lab), trusted(lab, index=1)
        here[0].write(3, 3)
        monkeypatch.setattr(module, "QUEUE_BYTES", 100)
        start(lab)
        await until(lambda: full.queue)
        count = len(fetches(lab))
        await until(lambda: len(fetches(lab)) > count + 1)
        last = fetches(lab)[-1]
        assert [p.partition for p in last.topics[0].partitions] == [1]
        assert last.max_wait.total_seconds() < 0.1, "one that is full is about to have room"
        here[1].write(1)
        await until(lambda: other.queue)
        assert full.fetch_offset == 6


async def test_the_memory_of_a_link_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUFFER_BYTES", 100)
    async with link_lab() as lab:
        here = lab.mirror(partitions=2)
        here[0].write(3)
        first, second = trusted(lab), trusted(lab, index=1)
        start(lab)
        await until(lambda: first.queue)
        here[1].write(1)
        await asyncio.sleep(0.05)
        count = len(fetches(lab))
        await asyncio.sleep(0.05)
        assert len(fetches(lab)) == count
        assert not second.queue or count == 2
        first.clear()
        await until(lambda: second.queue)


async def test_a_small_part_of_a_frame_does_not_keep_the_frame() -> None:
    async with link_lab() as lab:
        here = lab.mirror(partitions=2)
        here[0].write(1)
        here[1].write(1, size=100_000)
        small, large = trusted(lab), trusted(lab, index=1)
        asked, release = hold_fetch(lab)
        start(lab)
        await asked.wait()
        release.set()
        await until(lambda: small.queue and large.queue)
        pinned = memoryview(raw(small).obj).nbytes
        assert pinned <= module.PINNED_PART * small.queue[0].size_bytes
        frame = memoryview(raw(large).obj).nbytes
        assert frame > large.queue[0].size_bytes, "what fills the frame is not copied"


async def test_everybody_gets_to_be_first() -> None:
    async with link_lab() as lab:
        lab.mirror(partitions=3)
        for index in range(3):
            trusted(lab, index=index)
        start(lab)
        await until(lambda: len(fetches(lab)) >= 6)
        firsts = {request.topics[0].partitions[0].partition for request in fetches(lab)}
        assert firsts == {0, 1, 2}


@pytest.mark.parametrize("change", ["doubt", "trust", "delete"])
async def test_an_answer_to_an_older_fetch_is_dropped(change: str) -> None:
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(2, 3)
        p = trusted(lab)
        asked, release = hold_fetch(lab)
        start(lab)
        await asked.wait()
        match change:
            case "doubt":
                p.doubt(time.monotonic() + 60)
            case "trust":
                p.doubt(0)
                p.trust(2)
            case "delete":
                lab.events.records.clear()
                lab.update()
        release.set()
        if change == "trust":
            await until(lambda: p.queue)
            assert queued(p) == [2]
        else:
            await asyncio.sleep(0.05)
            assert not p.queue


# --- what cannot be copied ----------------------------------------------------------------------------


async def test_an_obstacle_fails_the_mirror() -> None:
    async with link_lab() as lab:
        lab.mirror()[0].write_unknown(2)
        trusted(lab)
        start(lab)
        error, text = await lab.failure()
        assert error is MirrorTopicError.UNSUPPORTED_MESSAGE_FORMAT
        assert text == (
            "partition 0: the batch at offset 0 is in a form that this version does not know: "
            "message format v2, codec 7"
        )


async def test_what_precedes_an_obstacle_is_queued_and_nothing_more_is_fetched() -> None:
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(2, 3)
        here[0].write_unknown(1)
        p = trusted(lab)
        start(lab)
        await until(lambda: p.obstacle is not None)
        assert (queued(p), p.mirror.failure) == ([0, 2], None)
        count = len(fetches(lab))
        await asyncio.sleep(0.05)
        assert len(fetches(lab)) == count


async def test_an_obstacle_waits_for_the_append_under_way() -> None:
    """That append may yet fail; then what it held is fetched again, and the obstacle met again."""
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(2)
        p = trusted(lab)
        start(lab)
        await until(lambda: p.queue)
        p.take(1 << 20, bytes(16), 0)
        here[0].write_unknown(1)
        await until(lambda: p.obstacle is not None)
        assert p.mirror.failure is None


def contents(p: MirrorPartition) -> list[tuple[type, int, int, int]]:
    """What is queued: its form, where it begins, how many offsets it has, its timestamp."""
    return [
        (type(each), each.base_offset, each.last_offset_delta + 1, each.max_timestamp) for each in p.queue
    ]


async def test_a_hole_between_batches_is_filled() -> None:
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(2, 3, 1)
        del here[0].batches[1]
        p = trusted(lab)
        start(lab)
        await until(lambda: p.fetch_offset == 6)
        assert contents(p) == [
            (BatchView, 0, 2, 1_001),
            (FillerRun, 2, 3, 1_001),
            (Section, 5, 1, 1_005),
        ]


async def test_a_hole_after_a_start_has_the_timestamp_of_what_is_there() -> None:
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(2, 3, 1)
        del here[0].batches[1]
        p = lab.on_board()
        p.trust(2, 77)
        start(lab)
        await until(lambda: p.fetch_offset == 6)
        assert contents(p)[0] == (FillerRun, 2, 3, 77)


def transaction(log: Log, producer_id: int, count: int, kind: int) -> None:
    """A whole transaction, with its marker; type 0 aborts it."""
    first = log.end
    log.write(count, transactional=True, producer_id=producer_id, producer_epoch=0)
    log.append(marker(producer_id, kind))
    if kind == 0:
        log.aborted.append((producer_id, first, log.end - 1))


def marker(producer_id: int, kind: int) -> bytes:
    record = Record(0, 500, bytes(2) + kind.to_bytes(2), bytes(6))
    return build_batch([record], producer_id=producer_id, producer_epoch=0, transactional=True, control=True)


async def test_transactions() -> None:
    async with link_lab() as lab:
        (log,) = lab.mirror()
        transaction(log, 7, 2, 1)
        transaction(log, 7, 3, 0)
        transaction(log, 8, 1, 1)
        p = trusted(lab)
        start(lab)
        await until(lambda: p.fetch_offset == log.end)
        assert contents(p) == [
            (BatchView, 0, 2, 1_001),
            (FillerRun, 2, 1, 500),
            *((FillerRun, 3 + i, 1, 1_003 + i) for i in range(3)),
            (FillerRun, 6, 1, 500),
            (BatchView, 7, 1, 1_007),
            (FillerRun, 8, 1, 500),
        ]


async def test_an_aborted_transaction_that_is_fetched_from_within() -> None:
    async with link_lab() as lab:
        (log,) = lab.mirror()
        for _ in range(3):
            log.write(2, transactional=True, producer_id=7, producer_epoch=0)
        log.append(marker(7, 0))
        log.aborted.append((7, 0, 6))
        log.from_start = True
        p = trusted(lab, at=3)
        start(lab)
        await until(lambda: p.fetch_offset == 7)
        assert [each[:3] for each in contents(p)] == [(FillerRun, o, 1) for o in range(3, 7)]


async def test_the_aborted_are_of_one_response() -> None:
    async with link_lab() as lab:
        (log,) = lab.mirror()
        transaction(log, 7, 1, 0)
        p = trusted(lab)
        start(lab)
        await until(lambda: p.fetch_offset == 2)
        transaction(log, 7, 1, 1)
        await until(lambda: p.fetch_offset == 4)
        assert contents(p)[2] == (BatchView, 2, 1, 1_002)


def flip(lab: LinkLab, index: int, times: int) -> None:
    """Makes the source send a batch with a wrong bit, so many times."""

    def spoil(header: Any, request: Any) -> Any:
        log = lab.source.topics["t"].logs[0]
        whole = log.batches[index]
        log.batches[index] = whole[:-1] + bytes([whole[-1] ^ 1])
        answer = lab.source.usual(header, request)
        log.batches[index] = whole
        return answer

    lab.source.fault(ApiKey.FETCH, *[spoil] * times)


async def test_a_corrupt_batch_is_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.01)
    async with link_lab() as lab:
        lab.mirror()[0].write(2, 3)
        p = trusted(lab)
        flip(lab, 1, 2)
        start(lab)
        await until(lambda: p.fetch_offset == 5)
        assert queued(p) == [0, 2]
        assert all(isinstance(batch, BatchView) and batch.verify_crc() for batch in p.queue)
        assert p.corrupt_fetches == 0


async def test_one_that_is_corrupt_thrice_fails_the_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.01)
    async with link_lab() as lab:
        lab.mirror()[0].write(2)
        trusted(lab)
        flip(lab, 0, 3)
        start(lab)
        _, text = await lab.failure()
        assert "what the source sends from offset 0 on is corrupt: the batch at offset 0 fails its" in text
        assert len(fetches(lab)) == 3


async def test_what_is_no_batch_fails_its_mirror_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.01)
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(2)
        here[0].garbage = bytes(8) + b"\0\0\0\1" + bytes(4) + b"\2"
        lab.mirror("fine")[0].write(1)
        p, fine = trusted(lab), trusted(lab, "fine")
        start(lab)
        await until(lambda: p.obstacle is not None and fine.queue)
        assert queued(p) == [0]
        assert "a record batch of magic 2 claims 1 bytes" in str(p.obstacle)
        assert lab.board.source_down_since is None, "the source is there"


async def test_batches_from_before_are_skipped() -> None:
    """A broker may give whole segments from wherever it likes, as long as they hold what was asked for."""
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(2, 3, 1)
        here[0].from_start = True
        p = trusted(lab, at=2)
        start(lab)
        await until(lambda: p.fetch_offset == 6)
        assert queued(p) == [2, 5]


async def test_a_corrupt_header_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong bit may look like a transaction: the checksum is asked first."""
    hurry(monkeypatch, RETRY_DELAY_S=0.01)

    def spoil(header: Any, request: Any) -> Any:
        log = lab.source.topics["t"].logs[0]
        whole = log.batches[0]
        log.batches[0] = whole[:22] + bytes([whole[22] | 0x10]) + whole[23:]
        answer = lab.source.usual(header, request)
        log.batches[0] = whole
        return answer

    async with link_lab() as lab:
        lab.mirror()[0].write(2)
        p = trusted(lab)
        lab.source.fault(ApiKey.FETCH, spoil)
        start(lab)
        await until(lambda: p.queue)
        assert p.mirror.failure is None


# --- offsets that are out of range --------------------------------------------------------------------


async def test_what_vanished_before_it_was_copied_is_filled() -> None:
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(5, 5)
        here[0].start = 5
        p = trusted(lab, at=2)
        start(lab)
        await until(lambda: p.fetch_offset == 10)
        assert contents(p) == [(FillerRun, 2, 3, -1), (BatchView, 5, 5, 1_009)]


async def test_what_vanished_is_filled_up_to_the_end_of_the_mirror() -> None:
    async with link_lab() as lab:
        here = lab.mirror(status=MirrorStatus.PENDING_STOPPED, stop_offsets={0: 4})
        here[0].write(5, 5)
        here[0].start = 5
        p = trusted(lab, at=2)
        start(lab)
        await until(lambda: p.queue)
        await asyncio.sleep(0.05)
        assert contents(p) == [(FillerRun, 2, 2, -1)]


async def test_a_hole_at_the_end_of_the_mirror() -> None:
    async with link_lab() as lab:
        here = lab.mirror(status=MirrorStatus.PENDING_STOPPED, stop_offsets={0: 4})
        here[0].write(2, 3, 1)
        del here[0].batches[1]
        p = trusted(lab)
        start(lab)
        await until(lambda: p.fetch_offset == 4)
        assert contents(p) == [(BatchView, 0, 2, 1_001), (FillerRun, 2, 2, 1_001)]


async def test_a_log_that_ends_before_the_mirror_is_believed_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.01, BELIEF_S=0.1)
    async with link_lab() as lab:
        lab.mirror()[0].write(5)
        p = trusted(lab, at=9)
        start(lab)
        await until(lambda: p.out_of_range_since is not None)
        assert p.mirror.failure is None
        error, text = await lab.failure()
        assert error is MirrorTopicError.UNEXPECTED_TRUNCATION
        assert "the source's log ends at 5, behind the mirror's 9" in text


async def test_a_leader_that_is_behind_for_a_moment_is_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.01)
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(9)
        here[0].high_watermark = 5
        p = trusted(lab, at=9)
        start(lab)
        await until(lambda: p.out_of_range_since is not None)
        here[0].high_watermark = None
        here[0].write(1)
        await until(lambda: p.queue)
        assert p.out_of_range_since is None


async def test_in_range_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.01)
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(3)
        here[0].fetch_errors.append(1)
        p = trusted(lab)
        start(lab)
        await until(lambda: p.queue)
        assert p.out_of_range_since is None


async def test_a_doubt_while_the_ends_are_asked_for_drops_the_verdict() -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def hold(*_: Any) -> None:
        asked.set()
        await release.wait()

    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(5, 5)
        here[0].start = 5
        p = trusted(lab)
        lab.source.fault(ApiKey.LIST_OFFSETS, hold)
        start(lab)
        await asked.wait()
        p.doubt(0)
        p.trust(5)
        release.set()
        await until(lambda: p.queue)
        assert p.mirror.failure is None


async def test_no_leader_to_ask_for_the_ends() -> None:
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(2)
        p = trusted(lab)
        asked, release = hold_fetch(lab)
        start(lab)
        await asked.wait()
        here[0].fetch_errors.append(1)
        p.source_leader = None
        release.set()
        await asyncio.sleep(0.05)
        assert not lab.source.of_kind(ApiKey.LIST_OFFSETS)


# --- faults -------------------------------------------------------------------------------------------


async def test_one_partition_that_is_refused_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with link_lab() as lab:
        lab.mirror("gone")
        lab.mirror("odd")[0].write(2)
        lab.mirror("fine")[0].write(2)
        gone, odd, fine = trusted(lab, "gone"), trusted(lab, "odd"), trusted(lab, "fine")
        del lab.source.topics["gone"]
        lab.source.topics["odd"].logs[0].start = 1
        lab.source.topics["odd"].logs[0].offset_errors.extend([29] * 50)
        start(lab)
        await until(lambda: fine.queue)
        assert gone.fetch_not_before > time.monotonic() - 0.5
        assert not odd.queue
        assert lab.board.wake_metadata.is_set()
        assert lab.board.source_down_since is None, "the source is there"


async def test_refusals_in_a_row_are_asked_for_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].fetch_errors.extend([29, 29, 29])
        p = trusted(lab)
        start(lab)
        await until(lambda: p.failed_fetches == 3)
        assert p.fetch_not_before - time.monotonic() > 0.3
        here[0].write(1)
        await until(lambda: p.queue)
        assert p.failed_fetches == 0


async def test_a_source_that_goes_and_comes_back() -> None:
    async with link_lab() as lab:
        here = lab.mirror()
        p = trusted(lab)
        start(lab)
        await until(lambda: fetches(lab))
        port = lab.source.port
        await lab.source.close()
        await until(lambda: lab.board.source_down_since is not None)
        assert lab.board.source_error
        assert lab.board.wake_metadata.is_set()
        again = await FakeKafka(cluster_id="here", topics=lab.source.topics).start(port=port)
        here[0].write(2)
        await until(lambda: p.queue)
        assert lab.board.source_down_since is None
        await again.close()


async def test_an_error_of_the_whole_fetch_counts_as_an_absence() -> None:
    def refuse(header: Any, request: Any) -> Any:
        return replace(lab.source.usual(header, request), error_code=ErrorCode.fetch_session_topic_id_error)

    async with link_lab() as lab:
        lab.mirror()
        trusted(lab)
        lab.source.fault(ApiKey.FETCH, refuse)
        start(lab)
        await until(lambda: "Fetch from the source" in str(lab.board.source_error))


async def test_a_silent_source_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, REQUEST_TIMEOUT_S=0.1)
    async with link_lab() as lab:
        lab.mirror()[0].write(1)
        p = trusted(lab)
        lab.source.fault(ApiKey.FETCH, lambda *_: NO_ANSWER)
        start(lab)
        await until(lambda: lab.board.source_down_since is not None)
        await until(lambda: p.queue)


async def test_nothing_beyond_a_decided_end() -> None:
    async with link_lab() as lab:
        lab.mirror(status=MirrorStatus.PENDING_STOPPED, stop_offsets={0: 5})[0].write(2, 3, 4)
        p = trusted(lab)
        start(lab)
        await until(lambda: p.queue)
        assert (queued(p), p.fetch_offset) == ([0, 2], 5)


async def test_what_was_not_asked_for_is_ignored() -> None:
    def another(header: Any, request: Any) -> Any:
        answer = lab.source.usual(header, request)
        topic = answer.responses[0]
        partition = replace(topic.partitions[0], partition_index=7)
        return replace(answer, responses=(replace(topic, partitions=(partition,)),))

    async with link_lab() as lab:
        lab.mirror()[0].write(1)
        p = trusted(lab)
        lab.source.fault(ApiKey.FETCH, another)
        start(lab)
        await until(lambda: p.queue)
        assert queued(p) == [0]
