"""Who leads what, and how long a topic may look like another before it is believed."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import uuid4

import pytest

from gateway.links import leaders as module
from gateway.links.leaders import Leaders
from gateway.links.partition import Mirror, Phase
from gateway.state.records import MirrorStatus, MirrorTopicError
from protocol.api_keys import ApiKey
from tests.fakes.kafka import NO_ANSWER, Log
from tests.gateway.links.lab import LinkLab, hurry, link_lab, until


def leaders(lab: LinkLab) -> Leaders:
    return Leaders(lab.board, lab.from_source, lab.to_destination, lab.tasks)


def mirror(lab: LinkLab, name: str = "t") -> Mirror:
    return lab.board.mirrors[name]


async def test_leaders_on_both_sides() -> None:
    async with link_lab() as lab:
        here = lab.mirror(partitions=3)
        here[1].leader = 7
        lab.log(index=2).leader = -1
        await leaders(lab).refresh()
        partitions = mirror(lab).partitions
        assert [p.source_leader for p in partitions] == [1, 7, 1]
        assert [p.destination_leader for p in partitions] == [1, 1, None]
        assert lab.board.by_source == {1: [partitions[0], partitions[2]], 7: [partitions[1]]}
        assert lab.board.by_destination == {1: partitions[:2]}
        assert mirror(lab).source_partitions == 3


async def test_what_does_not_run_is_not_asked_about() -> None:
    async with link_lab() as lab:
        lab.mirror("runs")
        lab.mirror("rests", status=MirrorStatus.PAUSED)
        await leaders(lab).refresh()
        for broker in (lab.source, lab.destination):
            (request,) = [r for _, r in broker.of_kind(ApiKey.METADATA) if r.topics]
            assert [topic.name for topic in request.topics] == ["runs"]


async def test_a_new_leader_of_the_destination_is_a_doubt() -> None:
    async with link_lab() as lab:
        lab.mirror()
        judge = leaders(lab)
        await judge.refresh()
        p = mirror(lab).partitions[0]
        p.trust(5)
        await judge.refresh()
        assert p.phase is Phase.READY, "the same leader"
        lab.log().leader = 2
        before = time.monotonic()
        await judge.refresh()
        phase: Phase = p.phase
        assert (phase, p.destination_leader) == (Phase.DOUBT, 2)
        assert p.not_before > before


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_side_that_cannot_be_asked_leaves_all_as_it_was(side: str) -> None:
    async with link_lab() as lab:
        lab.mirror()
        judge = leaders(lab)
        await judge.refresh()
        p = mirror(lab).partitions[0]
        p.trust(5)
        await getattr(lab, side).close()
        await judge.refresh()
        assert (p.source_leader, p.destination_leader, p.phase) == (1, 1, Phase.READY)
        assert (lab.board.source_down_since is not None) == (side == "source")


async def test_a_source_that_answers_is_up() -> None:
    async with link_lab() as lab:
        lab.mirror()
        lab.board.source_is_down(OSError("cable"))
        await leaders(lab).refresh()
        assert lab.board.source_down_since is None


async def test_a_source_that_hangs_does_not_hold_up_the_destination(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failover is asked for just then, and needs no source."""
    monkeypatch.setattr(module, "SOURCE_PATIENCE_S", 0.05)
    release = asyncio.Event()

    async def hold(*_: Any) -> None:
        await release.wait()

    async with link_lab() as lab:
        lab.mirror()
        await lab.from_source.start()
        lab.source.fault(ApiKey.METADATA, hold)
        judge = leaders(lab)
        before = time.monotonic()
        await judge.refresh()
        await judge.refresh()
        assert time.monotonic() - before < 1
        p = mirror(lab).partitions[0]
        assert (p.source_leader, p.destination_leader) == (None, 1)
        assert len([r for _, r in lab.source.of_kind(ApiKey.METADATA) if r.topics]) == 1, "asked once"
        lab.board.wake_metadata.clear()
        release.set()
        await until(lambda: p.source_leader == 1)
        await until(lab.board.wake_metadata.is_set)


async def test_nor_does_a_destination_that_hangs_hold_up_what_the_source_says() -> None:
    """What may be another topic's must not be fetched any more."""
    release = asyncio.Event()

    async def hold(*_: Any) -> None:
        await release.wait()

    async with link_lab() as lab:
        lab.mirror()
        judge = leaders(lab)
        await judge.refresh()
        assert lab.board.by_source
        recreate_source(lab)
        lab.destination.fault(ApiKey.METADATA, hold)
        asking = lab.tasks.spawn(judge.refresh(), name="refresh")
        await until(lambda: not lab.board.by_source)
        release.set()
        await asking


async def test_a_failover_does_not_ask_the_source() -> None:
    async with link_lab() as lab:
        lab.mirror(status=MirrorStatus.PENDING_STOPPED, failover=True)
        await leaders(lab).refresh()
        assert not lab.source.asked
        assert mirror(lab).partitions[0].destination_leader == 1


def delete_source(lab: LinkLab) -> None:
    del lab.source.topics["t"]


def recreate_source(lab: LinkLab) -> None:
    lab.source.topics["t"].topic_id = uuid4()


def shrink_source(lab: LinkLab) -> None:
    del lab.source.topics["t"].logs[1]


def delete_destination(lab: LinkLab) -> None:
    del lab.destination.topics["t"]


def recreate_destination(lab: LinkLab) -> None:
    lab.destination.topics["t"].topic_id = uuid4()


def shrink_destination(lab: LinkLab) -> None:
    del lab.destination.topics["t"].logs[1]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (delete_source, MirrorTopicError.SOURCE_TOPIC_MAY_BE_DELETED, "source topic 't' does not exist any"),
        (recreate_source, MirrorTopicError.SOURCE_TOPIC_ID_CHANGED, "source topic 't' was recreated: its id"),
        (shrink_source, MirrorTopicError.SOURCE_PARTITIONS_DECREASED, "has 1 partitions, the mirror topic 2"),
        (delete_destination, MirrorTopicError.ILLEGAL_STATE, "mirror topic 't' was deleted"),
        (recreate_destination, MirrorTopicError.ILLEGAL_STATE, "was recreated by somebody else: its id was"),
        (shrink_destination, MirrorTopicError.ILLEGAL_STATE, "has 1 partitions instead of 2"),
    ],
)
async def test_an_odd_topic_is_left_alone_at_once_and_believed_after_a_while(
    monkeypatch: pytest.MonkeyPatch, change: Any, error: MirrorTopicError, text: str
) -> None:
    hurry(monkeypatch, BELIEF_S=0.05)
    async with link_lab() as lab:
        lab.mirror(partitions=2)
        judge = leaders(lab)
        await judge.refresh()
        p = mirror(lab).partitions[0]
        p.trust(5)
        generation = p.generation
        change(lab)
        await judge.refresh()
        assert mirror(lab).failure is None, "one broker may be behind the others"
        assert p.generation > generation, "what is under way may concern another topic"
        if "source" in change.__name__:
            assert (p.source_leader, p.phase) == (None, Phase.READY)
        else:
            assert (p.destination_leader, p.phase) == (None, Phase.DOUBT)
        await asyncio.sleep(0.06)
        await judge.refresh()
        found = mirror(lab).failure
        assert found is not None
        assert found[0] is error
        assert text in found[1]


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_broker_that_was_behind_is_forgiven(monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    hurry(monkeypatch, BELIEF_S=0.05)
    async with link_lab() as lab:
        lab.mirror()
        judge = leaders(lab)
        topics = getattr(lab, side).topics
        topic = topics.pop("t")
        await judge.refresh()
        topics["t"] = topic
        await judge.refresh()
        p = mirror(lab).partitions[0]
        assert (p.source_leader, p.destination_leader) == (1, 1)
        await asyncio.sleep(0.06)
        topics.pop("t")
        await judge.refresh()
        assert mirror(lab).failure is None, "it is counted anew"


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_topic_without_verdict_changes_nothing(monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    """No permission, or no leader yet, says nothing about what the topic is."""
    hurry(monkeypatch, BELIEF_S=0.0)
    async with link_lab() as lab:
        lab.mirror()
        judge = leaders(lab)
        await judge.refresh()
        getattr(lab, side).topics["t"].error_code = 29
        await judge.refresh()
        await judge.refresh()
        p = mirror(lab).partitions[0]
        assert (p.source_leader, p.destination_leader) == (1, 1)
        assert mirror(lab).failure is None


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_brokers_that_tell_no_ids(monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    """A cluster in the middle of an upgrade from before 2.8."""
    hurry(monkeypatch, BELIEF_S=0.0)
    async with link_lab() as lab:
        lab.mirror()
        getattr(lab, side).versions[ApiKey.METADATA] = (5, 9)
        judge = leaders(lab)
        await judge.refresh()
        await judge.refresh()
        p = mirror(lab).partitions[0]
        assert (p.source_leader, p.destination_leader) == (1, 1)
        assert mirror(lab).failure is None


async def test_a_source_without_ids_when_it_was_linked_may_have_one_now() -> None:
    async with link_lab() as lab:
        lab.mirror(source_topic_id=None)
        await leaders(lab).refresh()
        assert mirror(lab).partitions[0].source_leader == 1


async def test_more_partitions_than_linked_are_seen_and_left_alone() -> None:
    async with link_lab() as lab:
        lab.mirror(partitions=2)
        lab.source.topics["t"].logs.append(Log(1))
        lab.destination.topics["t"].logs.append(Log(1))
        await leaders(lab).refresh()
        assert mirror(lab).source_partitions == 3
        assert len(mirror(lab).partitions) == 2
        assert mirror(lab).failure is None


async def test_a_silent_destination(monkeypatch: pytest.MonkeyPatch) -> None:
    async with link_lab() as lab:
        lab.mirror()
        await lab.to_destination.start()

        def die(*_: Any) -> Any:
            lab.destination.cut()
            return NO_ANSWER

        lab.destination.fault(ApiKey.METADATA, die, die)
        await leaders(lab).refresh()
        p = mirror(lab).partitions[0]
        assert (p.source_leader, p.destination_leader) == (1, None)
