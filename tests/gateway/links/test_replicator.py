"""The whole replicator between two fakes: copying, promote and failover, a state that is away."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from gateway.links import leaders
from gateway.links.appender import Appender
from gateway.links.partition import Phase
from gateway.state.records import MirrorStatus, MirrorTopicError
from protocol.api_keys import ApiKey
from protocol.record_batches import encode_batch
from tests.fakes.kafka import NO_ANSWER, FakeKafka, Log
from tests.gateway.links.lab import LinkLab, contents, hurry, link_lab, until

STOPPING = MirrorStatus.PENDING_STOPPED


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter waits, of which none is what a test is about."""
    hurry(
        monkeypatch,
        RETRY_DELAY_S=0.01,
        METADATA_INTERVAL_S=0.1,
        BACKOFF_S=(0.01, 0.05),
        LOSS_DELAY_S=0.05,
        SETTLE_RETRY_S=0.02,
        LOOP_RETRY_S=0.02,
    )
    monkeypatch.setattr(leaders, "SOURCE_PATIENCE_S", 0.05)


def told(lab: LinkLab, what: str) -> list[Any]:
    """What was reported of that kind."""
    return [value for kind, value in lab.events.told if kind == what]


async def stopped(lab: LinkLab) -> dict[int, int]:
    """Where the mirror has stopped."""
    await until(lambda: told(lab, "stopped"))
    (ends,) = told(lab, "stopped")
    return dict(ends)


async def test_it_copies_what_is_there_and_what_comes() -> None:
    async with link_lab() as lab:
        here = lab.mirror(partitions=2)
        here[0].write(1, 3, 500)
        here[1].write(2)
        lab.run()
        await lab.mirrored()
        here[1].write(4, 1)
        await lab.mirrored()
        for index in range(2):
            assert contents(lab.log(index=index)) == contents(here[index])


async def test_it_goes_on_where_the_log_ends() -> None:
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(2, 2)
        lab.run()
        await lab.mirrored()
        await lab.tasks.close()
        here[0].write(3)
    async with link_lab(source=FakeKafka(topics=lab.source.topics)) as again:
        again.destination.topics = lab.destination.topics
        again.mirror()
        again.run()
        await again.mirrored()
        assert contents(again.log()) == contents(here[0])
        assert again.destination.count(ApiKey.PRODUCE) == 1


async def test_a_mirror_added_later() -> None:
    async with link_lab() as lab:
        lab.run()
        await asyncio.sleep(0.02)
        lab.mirror("a")[0].write(2)
        await lab.mirrored("a")
        lab.mirror("b")[0].write(3)
        await lab.mirrored("b")


async def test_partitions_follow_their_leaders() -> None:
    async with link_lab() as lab:
        second = FakeKafka(2, cluster_id="there", topics=lab.destination.topics)
        await second.start()
        lab.destination.brokers[2] = ("127.0.0.1", second.port)
        here = lab.mirror()
        here[0].write(2)
        lab.run()
        await lab.mirrored()
        lab.log().leader = 2
        here[0].write(2)
        await lab.mirrored()
        assert second.count(ApiKey.PRODUCE) == 1
        assert contents(lab.log()) == contents(here[0])
        await lab.tasks.close()
        await second.close()


async def test_pause_and_resume() -> None:
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(2)
        lab.run()
        await lab.mirrored()
        lab.alter(status=MirrorStatus.PAUSED)
        here[0].write(2)
        await asyncio.sleep(0.1)
        assert lab.log().end == 2
        lab.alter(status=MirrorStatus.ACTIVE)
        await lab.mirrored()
        assert contents(lab.log()) == contents(here[0])


async def test_a_pause_with_an_append_under_way() -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def hold(*_: Any) -> None:
        asked.set()
        await release.wait()

    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(2)
        lab.destination.fault(ApiKey.PRODUCE, hold)
        lab.run()
        await asked.wait()
        lab.alter(status=MirrorStatus.PAUSED)
        lab.alter(status=MirrorStatus.ACTIVE)
        here[0].write(2)
        await asyncio.sleep(0.05)
        assert len(lab.destination.of_kind(ApiKey.PRODUCE)) == 1
        release.set()
        await lab.mirrored()
        assert contents(lab.log()) == contents(here[0])


async def test_a_source_nobody_reads_from_is_not_known_to_be_away() -> None:
    async with link_lab() as lab:
        lab.mirror()
        lab.run()
        await lab.source.close()
        await until(lambda: lab.replicator.source_down_since is not None)
        assert lab.replicator.source_error
        lab.alter(status=MirrorStatus.PAUSED)
        await until(lambda: lab.replicator.source_down_since is None)


# --- the end ------------------------------------------------------------------------------------------


async def test_a_promote_ends_where_the_source_ended() -> None:
    async with link_lab() as lab:
        here = lab.mirror(partitions=3)
        here[0].write(2, 3)
        here[1].write(4)
        here[1].stable = 0
        lab.run()
        await until(lambda: lab.log().end == 5)
        lab.alter(status=STOPPING)
        assert await stopped(lab) == {0: 5, 1: 0, 2: 0}
        assert told(lab, "stopping") == [{0: 5, 1: 0, 2: 0}]
        for index, end in {0: 5, 1: 0, 2: 0}.items():
            barrier = lab.log(index=index).views()[-1]
            assert (barrier.base_offset, barrier.producer_epoch, barrier.count) == (end, 1, 1)


async def test_a_promote_with_records_flowing_reports_where_the_barriers_are() -> None:
    async with link_lab() as lab:
        here = lab.mirror()
        lab.run()

        async def flow() -> None:
            while True:
                here[0].write(1)
                await asyncio.sleep(0.002)

        flowing = asyncio.create_task(flow())
        await until(lambda: lab.log().end > 10)
        lab.alter(status=STOPPING)
        (end,) = (await stopped(lab)).values()
        flowing.cancel()
        assert lab.log().end == end + 1
        assert contents(lab.log())[:-1] == contents(here[0])[:end]


async def test_a_promote_of_a_paused_mirror_copies_first() -> None:
    async with link_lab() as lab:
        here = lab.mirror(status=MirrorStatus.PAUSED)
        here[0].write(5)
        lab.run()
        await asyncio.sleep(0.05)
        lab.alter(status=STOPPING)
        assert await stopped(lab) == {0: 5}
        assert contents(lab.log())[:-1] == contents(here[0])


async def test_a_promote_waits_for_a_source_that_is_behind() -> None:
    """A new leader may not know yet what all have; that it lost records is for the fetcher to find out."""
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(5, 5)
        lab.run()
        await lab.mirrored()
        here[0].high_watermark = 5
        lab.alter(status=STOPPING)
        await asyncio.sleep(0.1)
        assert not lab.events.told
        here[0].high_watermark = None
        assert await stopped(lab) == {0: 10}


async def test_a_promote_of_a_truncated_source_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, BELIEF_S=0.1)
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(5, 5)
        lab.run()
        await lab.mirrored()
        del here[0].batches[1]
        lab.alter(status=STOPPING)
        await until(lambda: told(lab, "failed"))
        ((error, _),) = told(lab, "failed")
        assert error is MirrorTopicError.UNEXPECTED_TRUNCATION


async def test_a_promote_waits_for_every_leader() -> None:
    async with link_lab() as lab:
        here = lab.mirror(partitions=2)
        lab.run()
        await until(lambda: lab.partition(index=1).phase is Phase.READY)
        here[1].leader = -1
        await until(lambda: lab.partition(index=1).source_leader is None)
        lab.alter(status=STOPPING)
        await asyncio.sleep(0.1)
        assert not lab.events.told
        here[1].leader = 1
        assert await stopped(lab) == {0: 0, 1: 0}


async def test_a_failover_ends_where_the_mirror_is() -> None:
    async with link_lab() as lab:
        here = lab.mirror()
        here[0].write(5)
        lab.run()
        await lab.mirrored()
        await lab.source.close()
        lab.alter(status=STOPPING, failover=True)
        assert await stopped(lab) == {0: 5}
        assert contents(lab.log())[:-1] == contents(here[0])


async def test_a_failover_does_not_wait_for_a_source_that_hangs() -> None:
    async with link_lab() as lab:
        lab.mirror()[0].write(5)
        lab.run()
        await lab.mirrored()
        for key in (ApiKey.METADATA, ApiKey.FETCH, ApiKey.LIST_OFFSETS, ApiKey.API_VERSIONS):
            lab.source.handlers[key] = lambda *_: None
        before = time.monotonic()
        lab.alter(status=STOPPING, failover=True)
        assert await stopped(lab) == {0: 5}
        assert time.monotonic() - before < 2


async def test_a_failover_waits_for_the_append_under_way() -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def hold(*_: Any) -> None:
        asked.set()
        await release.wait()

    async with link_lab() as lab:
        lab.mirror()[0].write(5)
        lab.destination.fault(ApiKey.PRODUCE, hold)
        lab.run()
        await asked.wait()
        lab.alter(status=STOPPING, failover=True)
        await asyncio.sleep(0.05)
        assert not lab.events.told
        release.set()
        assert await stopped(lab) == {0: 5}


async def test_a_promote_that_has_ended_in_part_becomes_a_failover() -> None:
    """One partition has its barrier, the other waits for a source that is gone."""
    async with link_lab() as lab:
        here = lab.mirror(partitions=2)
        here[0].write(2)
        here[1].write(2, 3)
        lab.run()
        await lab.mirrored()
        here[1].write(4)
        here[1].fetch_errors.extend([6] * 1_000)
        lab.alter(status=STOPPING)
        await until(lambda: lab.partition().phase is Phase.DONE)
        assert told(lab, "stopping") == [{0: 2, 1: 9}]
        await lab.source.close()
        lab.alter(failover=True, stop_offsets=None)
        assert await stopped(lab) == {0: 2, 1: 5}
        assert [lab.log(index=i).end for i in range(2)] == [3, 6]


async def test_a_barrier_that_was_written_before_a_crash_is_found() -> None:
    async with link_lab() as lab:
        lab.mirror()[0].write(5)
        lab.run()
        await lab.mirrored()
        lab.events.failures.extend([RuntimeError("the state is away")] * 3)
        lab.alter(status=STOPPING)
        await until(lambda: not lab.events.failures)
        await lab.tasks.close()
    async with link_lab(source=FakeKafka(topics=lab.source.topics)) as again:
        again.destination.topics = lab.destination.topics
        again.mirror(status=STOPPING, stop_offsets={0: 5})
        if again.log().end == 5:
            again.log().write(1, producer_id=4711, producer_epoch=1, base_sequence=0)
        again.run()
        assert await stopped(again) == {0: 5}
        assert again.destination.count(ApiKey.PRODUCE) == 0
        assert again.log().end == 6


async def test_a_lost_answer_to_the_barrier() -> None:
    def do_it_and_die(header: Any, request: Any) -> Any:
        lab.destination.usual(header, request)
        lab.destination.cut()
        return NO_ANSWER

    async with link_lab() as lab:
        lab.mirror()[0].write(5)
        lab.run()
        await lab.mirrored()
        lab.destination.fault(ApiKey.PRODUCE, do_it_and_die)
        lab.alter(status=STOPPING)
        assert await stopped(lab) == {0: 5}
        assert lab.log().end == 6


async def test_changes_elsewhere_do_not_disturb_a_barrier_under_way() -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def hold(*_: Any) -> None:
        asked.set()
        await release.wait()

    async with link_lab() as lab:
        lab.mirror()[0].write(5)
        lab.run()
        await lab.mirrored()
        lab.destination.fault(ApiKey.PRODUCE, hold)
        lab.alter(status=STOPPING, failover=True)
        await asked.wait()
        lab.mirror("other")
        release.set()
        assert await stopped(lab) == {0: 5}
        assert lab.log().end == 6


async def test_an_end_that_lacks_a_partition_is_decided_anew() -> None:
    async with link_lab() as lab:
        here = lab.mirror(partitions=2, status=STOPPING, stop_offsets={0: 2})
        here[0].write(2)
        here[1].write(3)
        lab.run()
        assert await stopped(lab) == {0: 2, 1: 3}


# --- a state that cannot be written -------------------------------------------------------------------


@pytest.mark.parametrize("failover", [False, True])
async def test_what_the_state_does_not_take_is_reported_again(failover: bool) -> None:
    async with link_lab() as lab:
        lab.mirror()[0].write(5)
        lab.run()
        await lab.mirrored()
        lab.events.failures.append(RuntimeError("the state is away"))
        lab.alter(status=STOPPING, failover=failover)
        await until(lambda: told(lab, "stopping"))
        lab.events.failures.append(RuntimeError("the state is away"))
        assert await stopped(lab) == {0: 5}


async def test_a_failure_is_reported_until_the_state_has_it() -> None:
    async with link_lab() as lab:
        lab.mirror()[0].write_unknown(2)
        lab.events.failures.extend([RuntimeError("the state is away")] * 2)
        lab.run()
        await until(lambda: told(lab, "failed"))
        assert not lab.events.failures
        assert lab.events.records["t"].status == "FAILED"


async def test_a_failure_that_a_pause_hides_is_reported_at_the_resume() -> None:
    async with link_lab() as lab:
        lab.mirror()[0].write_unknown(2)
        lab.events.failures.extend([RuntimeError("the state is away")] * 1_000)
        lab.run()
        await until(lambda: len(lab.events.failures) < 1_000)
        lab.alter(status=MirrorStatus.PAUSED)
        lab.events.failures.clear()
        await asyncio.sleep(0.1)
        assert not lab.events.told
        lab.alter(status=MirrorStatus.ACTIVE)
        await until(lambda: told(lab, "failed"))


async def test_one_failed_mirror_leaves_the_others_alone() -> None:
    async with link_lab() as lab:
        lab.mirror("bad")[0].write_unknown(2)
        here = lab.mirror("good")
        lab.run()
        await until(lambda: told(lab, "failed"))
        here[0].write(3)
        await lab.mirrored("good")


# --- robustness ---------------------------------------------------------------------------------------


async def test_a_loop_that_dies_of_the_unforeseen_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    real = Appender.run

    async def run(self: Any, node_id: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError
        await real(self, node_id)

    monkeypatch.setattr(Appender, "run", run)
    async with link_lab() as lab:
        lab.mirror()[0].write(2)
        lab.run()
        await lab.mirrored()
        assert calls == 2


async def test_records_that_are_not_what_their_batch_claims_are_for_the_broker_to_judge() -> None:
    """Batches with a valid checksum and no records in them, as only a broken or hostile source has them."""
    empty = encode_batch(
        b"",
        1,
        attributes=0,
        base_timestamp=0,
        max_timestamp=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
    )
    async with link_lab() as lab:
        here = lab.mirror()
        for _ in range(3):
            here[0].append(empty)
        lab.log().produce_errors.append(87)
        lab.run()
        await until(lambda: told(lab, "failed"))
        ((_, text),) = told(lab, "failed")
        assert "INVALID_RECORD" in text


async def test_everything_ends_with_it() -> None:
    async with link_lab() as lab:
        lab.mirror()[0].write(2)
        lab.run()
        await lab.mirrored()
        await lab.tasks.close()
        await lab.from_source.close()
        await lab.to_destination.close()
        await lab.source.wait_for_connections(0)
        await lab.destination.wait_for_connections(0)
        assert len(asyncio.all_tasks()) <= 1 + len(lab.source.connections) + len(lab.destination.connections)


async def test_partitions_that_the_source_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.01, METADATA_INTERVAL_S=0.05)
    async with link_lab() as lab:
        (here,) = lab.mirror()
        here.write(2)
        lab.run()
        await lab.mirrored()
        for topics in (lab.source.topics, lab.destination.topics):
            topics["t"].logs.append(Log(1))
        lab.source.topics["t"].logs[1].write(3)
        await lab.mirrored()
        assert ("grown", 2) in lab.events.told
        assert lab.log(index=1).end == 3


async def test_a_compacted_mirror_that_meets_a_record_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.01, METADATA_INTERVAL_S=0.05, COMPACT_RETRY_S=0.1)
    async with link_lab() as lab:
        (here,) = lab.mirror(configs={"cleanup.policy": "compact"})
        here.write(2)
        lab.run()
        await until(lambda: ("compact", "here") in lab.events.told)
        lab.log().produce_errors.append(87)
        here.write(1)
        await lab.mirrored()
        assert [what for what, _ in lab.events.told][:2] == ["compact", "keep"]
        assert lab.replicator.mirrors["t"].failure is None
