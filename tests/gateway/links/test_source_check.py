"""Leader epochs of the source: recorded before their first batch is appended, compared after every change."""

import asyncio

import pytest

from gateway.state.records import MirrorTopicError
from protocol.api_keys import ApiKey
from protocol.headers import RequestHeader
from tests.gateway.links.lab import LinkLab, contents, hurry, link_lab, until


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.01, METADATA_INTERVAL_S=0.05, INTERVAL_S=0.05)


def recorded(lab: LinkLab) -> list[tuple[int, int]]:
    return lab.events.records["t"].source_epochs.get(0, [])


async def failed(lab: LinkLab) -> tuple[MirrorTopicError, str]:
    mirror = lab.replicator.mirrors["t"]
    await until(lambda: mirror.failure is not None)
    assert mirror.failure is not None
    return mirror.failure


async def test_epochs_are_recorded_before_their_records_are_appended(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        (here,) = lab.mirror()
        here.lead(3)
        here.write(2)
        here.lead(4)
        here.write(3)
        held = asyncio.Event()
        noted = lab.events.noted

        async def hold(notes: object) -> None:
            await held.wait()
            await noted(notes)  # type: ignore[arg-type]  # passed on

        monkeypatch.setattr(lab.replicator._log_starts, "_note", hold)
        lab.run()
        await until(lambda: lab.partition().queue)
        await asyncio.sleep(0.05)
        assert lab.log().end == 0
        held.set()
        await lab.mirrored()
        assert recorded(lab) == [(3, 0), (4, 2)]
        here.lead(7)
        here.write(1)
        await lab.mirrored()
        assert recorded(lab) == [(4, 2), (7, 5)], "only the last one before the position is of use"
        assert contents(lab.log()) == contents(here)


async def test_what_precedes_a_new_epoch_is_appended_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        (here,) = lab.mirror(source_epochs={0: [(3, 0)]})
        here.lead(3)
        here.write(2, 2)
        here.lead(4)
        here.write(3)
        lab.events.failures.extend([TimeoutError()] * 3)
        lab.run()
        await until(lambda: lab.log().end >= 4)
        await lab.mirrored()


@pytest.mark.parametrize("again", [2, 9])
async def test_a_source_that_lost_records_while_nobody_looked(
    monkeypatch: pytest.MonkeyPatch, again: int
) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        (here,) = lab.mirror()
        here.lead(1)
        here.write(5)
        lab.run()
        await lab.mirrored()
        lab.alter(status="PAUSED")
        # An unclean leader without the last batch, and its log grows on.
        here.batches.clear()
        here.write(3)
        here.lead(2)
        here.write(again)
        lab.alter(status="ACTIVE")
        error, text = await failed(lab)
        assert error is MirrorTopicError.UNEXPECTED_TRUNCATION
        assert "its leader epoch 1 ends at 3, but the mirror has its records of epoch 1 up to 5" in text
        assert lab.log().end == 5


async def test_a_change_of_leader_that_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        (here,) = lab.mirror()
        here.lead(1)
        here.write(5)
        lab.run()
        await lab.mirrored()
        for epoch in (2, 3, 9):
            here.lead(epoch)
            here.write(2)
            await lab.mirrored()
        assert lab.replicator.mirrors["t"].failure is None


async def test_epochs_that_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        (here,) = lab.mirror(source_topic_id=None)
        here.lead(5)
        here.write(2)
        lab.run()
        await lab.mirrored()
        here.epochs = [(5, 0)]
        here.write(2, partition_leader_epoch=0)
        error, text = await failed(lab)
        assert error is MirrorTopicError.NON_MONOTONIC_SOURCE_EPOCH
        assert "offset 2 has the leader epoch 0" in text


@pytest.mark.parametrize("same", [True, False])
async def test_without_epochs_the_last_record_is_compared(
    monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        (here,) = lab.mirror()
        here.write(5)
        lab.run()
        await lab.mirrored()
        p = lab.partition()
        # As after a start.
        p.tail = p.checked_epoch = None
        if not same:
            here.batches.clear()
            here.write(7, size=11)
        p.doubt(0)
        if same:
            here.write(1)
            await lab.mirrored()
            return
        error, text = await failed(lab)
        assert error is MirrorTopicError.UNEXPECTED_TRUNCATION
        assert "the source has another record at offset 4" in text


async def test_a_source_that_has_compacted_the_last_record(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        (here,) = lab.mirror()
        here.write(2, 1)
        lab.run()
        await lab.mirrored()
        p = lab.partition()
        p.tail = p.checked_epoch = None
        del here.batches[1]
        here.write(1)
        here.batches[-1] = (3).to_bytes(8) + here.batches[-1][8:]
        p.doubt(0)
        await until(lambda: lab.log().end == 4)


async def test_a_refusal_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        (here,) = lab.mirror()
        here.lead(1)
        here.write(3)
        lab.run()
        await lab.mirrored()

        def refuse(header: RequestHeader, request: object) -> object:
            here.leader = 9
            answer = lab.source.usual(header, request)
            here.leader = 1
            return answer

        lab.source.fault(ApiKey.OFFSET_FOR_LEADER_EPOCH, refuse, refuse)
        here.lead(2)
        here.write(1)
        await lab.mirrored()
        assert len(lab.source.of_kind(ApiKey.OFFSET_FOR_LEADER_EPOCH)) == 3
