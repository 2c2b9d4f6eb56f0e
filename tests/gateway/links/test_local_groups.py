"""Groups that go on here: seen where they commit, kept in the state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast
from uuid import UUID, uuid4

import pytest

from gateway.links import local_groups
from gateway.links.local_groups import LocalGroups, local_group
from gateway.state.records import (
    Delete,
    GroupRecord,
    LinkMode,
    LocalReason,
    MirrorStatus,
    Record,
    State,
    group_key,
)
from gateway.state.store import StateUnavailable, Store
from tests.fakes.links import LINK_ID, link_record, mirror_record
from tests.fakes.store import FakeStore

TOPIC_ID = uuid4()
ON = {"consumer.offset.sync.enable": "true"}


def setup_records(
    status: MirrorStatus = MirrorStatus.ACTIVE, *, failover: bool = False, **configs: str
) -> list[Record]:
    """A link and one mirror topic of it."""
    given = {name.replace("_", "."): value for name, value in configs.items()}
    link = link_record().model_copy(update={"configs": {**ON, **given}})
    mirror = mirror_record("t", status).model_copy(update={"topic_id": TOPIC_ID, "failover": failover})
    return [link, mirror]


class Lab:
    """Local groups over a store in memory."""

    def __init__(self, *records: Record) -> None:
        self.store = FakeStore()
        self.store.state = State().with_changes(records)
        self.local = LocalGroups(cast("Store", self.store))

    @property
    def groups(self) -> dict[str, GroupRecord]:
        return {record.group: record for record in self.local.of(LINK_ID)}


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    lab = Lab(*setup_records())
    yield lab
    await lab.local.close()


async def test_the_first_commit_of_a_mirror_topics_offset_makes_a_group_local(lab: Lab) -> None:
    await lab.local.before_commit("g", {"t": {0: 5, 1: 7}, "ordinary": {0: 1}})
    found = lab.groups["g"]
    assert (found.reason, found.offsets) == (LocalReason.COMMITTED, {"t": {0: 5, 1: 7}})
    before = lab.store.state
    await lab.local.before_commit("g", {"t": {0: 6}})
    assert lab.store.state is before, "the second costs no write"


async def test_topics_may_be_named_by_id(lab: Lab) -> None:
    await lab.local.before_commit("g", {TOPIC_ID: {0: 5}, uuid4(): {0: 9}})
    assert lab.groups["g"].offsets == {"t": {0: 5}}


@pytest.mark.parametrize("topic", ["ordinary", uuid4()])
async def test_other_topics_are_nobodys_business(lab: Lab, topic: str | UUID) -> None:
    await lab.local.before_commit("g", {topic: {0: 5}})
    assert not lab.groups


@pytest.mark.parametrize(
    ("records", "watched"),
    [
        (setup_records(MirrorStatus.PAUSED), True),
        (setup_records(MirrorStatus.PENDING_STOPPED), True),
        (setup_records(MirrorStatus.PENDING_STOPPED, failover=True), False),
        (setup_records(MirrorStatus.STOPPED), False),
        (setup_records(MirrorStatus.FAILED), False),
        (setup_records(consumer_offset_sync_enable="false"), False),
        ([link_record(mode=LinkMode.SOURCE).model_copy(update={"configs": ON}), setup_records()[1]], False),
        ([], False),
    ],
)
async def test_what_is_watched(records: list[Record], watched: bool) -> None:
    lab = Lab(*records)
    assert lab.local.watching is watched
    await lab.local.before_commit("g", {"t": {0: 5}})
    assert bool(lab.groups) is watched
    await lab.local.close()


async def test_a_prefix_is_part_of_the_name_only_where_groups_have_it() -> None:
    for switch, expected in (("true", {"eu.g"}), ("false", {"eu.g", "g"})):
        lab = Lab(*setup_records(cluster_link_prefix="eu.", consumer_group_prefix_enable=switch))
        for group in ("g", "eu.g"):
            await lab.local.before_commit(group, {"t": {0: 5}})
        assert set(lab.groups) == expected
        await lab.local.close()


async def test_many_at_once_are_few_writes(lab: Lab) -> None:
    lab.store.free.clear()
    commits = [asyncio.create_task(lab.local.before_commit(f"g{i}", {"t": {0: i}})) for i in range(100)]
    await asyncio.sleep(0.01)
    late = asyncio.create_task(lab.local.before_commit("late", {"t": {0: 1}}))
    await asyncio.sleep(0.01)
    assert lab.store.waiting == 1
    assert not any(commit.done() for commit in commits)
    lab.store.free.set()
    await asyncio.gather(*commits, late)
    assert set(lab.groups) == {"late", *(f"g{i}" for i in range(100))}


async def test_who_gives_up_takes_nobody_along(lab: Lab) -> None:
    lab.store.free.clear()
    first = asyncio.create_task(lab.local.before_commit("first", {"t": {0: 1}}))
    second = asyncio.create_task(lab.local.before_commit("second", {"t": {0: 1}}))
    await asyncio.sleep(0.01)
    first.cancel()
    lab.store.free.set()
    await second
    assert set(lab.groups) == {"first", "second"}


async def test_a_state_that_cannot_be_written_refuses_the_commit(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.store.failure = StateUnavailable("away")
    with pytest.raises(StateUnavailable, match="away"):
        await lab.local.before_commit("g", {"t": {0: 1}})
    lab.store.failure = None
    monkeypatch.setattr(local_groups, "WRITE_TIMEOUT_S", 0.02)
    lab.store.free.clear()
    with pytest.raises(StateUnavailable, match="not written within"):
        await lab.local.before_commit("g", {"t": {0: 1}})
    lab.store.free.set()
    await lab.local.before_commit("g", {"t": {0: 2}})
    assert "g" in lab.groups


async def test_a_link_that_is_gone_meanwhile_gets_no_groups(lab: Lab) -> None:
    lab.store.free.clear()
    commit = asyncio.create_task(lab.local.before_commit("g", {"t": {0: 1}}))
    await asyncio.sleep(0.01)
    lab.store.state = lab.store.state.with_changes([Delete("link", "hybrid")])
    lab.store.free.set()
    await commit
    assert not lab.store.state.groups


async def test_what_another_gateway_wrote_stays(lab: Lab) -> None:
    theirs = local_group(LINK_ID, "g", LocalReason.MOVED)
    lab.store.free.clear()
    commit = asyncio.create_task(lab.local.before_commit("g", {"t": {0: 1}}))
    await asyncio.sleep(0.01)
    lab.store.state = lab.store.state.with_changes([theirs])
    lab.store.free.set()
    await commit
    assert lab.groups["g"] == theirs


async def test_there_is_a_limit(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_groups, "MAX_PER_LINK", 2)
    for group in ("a", "b", "c"):
        await lab.local.before_commit(group, {"t": {0: 1}})
    assert set(lab.groups) == {"a", "b"}


async def test_only_what_is_meant_is_forgotten(lab: Lab) -> None:
    await lab.local.before_commit("g", {"t": {0: 1}})
    before = lab.groups["g"]
    renewed = before.model_copy(update={"since_ms": before.since_ms + 1})
    lab.store.state = lab.store.state.with_changes([renewed])
    await lab.local.forget([before])
    assert lab.groups == {"g": renewed}
    await lab.local.forget([renewed])
    assert not lab.groups
    assert lab.local.find(LINK_ID, "g") is None
    assert group_key(LINK_ID, "g") not in lab.store.state.groups
