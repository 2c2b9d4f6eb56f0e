"""ConsumerOffsetSync between two clusters of fakes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from gateway.links import link_tasks, offset_sync
from gateway.links.link_tasks import LinkTask
from gateway.links.local_groups import local_group
from gateway.links.requests import CreateMirror, TaskError, TaskState, TaskView
from gateway.state.records import GroupRecord, LocalReason, MirrorStatus
from gateway.state.store import StateUnavailable
from protocol.api_keys import ApiKey
from tests.fakes.groups import FakeGroup, FakeGroups
from tests.gateway.links.lab import until
from tests.gateway.links.link_lab import LINK, LinksLab, be_quick, links_lab

ALL = {"groupFilters": [{"name": "*", "patternType": "LITERAL", "filterType": "INCLUDE"}]}
SYNC = {
    "consumer.offset.sync.enable": "true",
    "consumer.offset.sync.ms": "3600000",
    "consumer.offset.group.filters": json.dumps(ALL),
}

DENIED = ErrorCode.group_authorization_failed


@dataclass
class SyncLab:
    """A link with a mirror topic `t` of two partitions, three records in each."""

    links: LinksLab
    source: FakeGroups
    here: FakeGroups

    @property
    def task(self) -> LinkTask:
        tasks = self.links.links._runtimes[LINK].link_tasks
        return next(task for task in tasks if task.name == "ConsumerOffsetSync")

    @property
    def link_id(self) -> str:
        return self.links.store.state.links[LINK].cluster_link_id

    @property
    def local(self) -> dict[str, GroupRecord]:
        return {
            g.group: g for g in self.links.store.state.groups.values() if g.cluster_link_id == self.link_id
        }

    def view(self) -> TaskView:
        return self.task.view()

    async def sync(self) -> list[TaskError]:
        return list(await self.task.run_once())


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SyncLab]:
    be_quick(monkeypatch)
    monkeypatch.setattr(offset_sync, "STABLE_RETRY_S", (0.01, 0.01))
    # What a test did not ask for does not run in between.
    monkeypatch.setattr(link_tasks, "BACKOFF_S", (3600.0,))
    async with links_lab() as links:
        lab = SyncLab(links, FakeGroups(links.other), FakeGroups(links.own))
        await make(lab)
        yield lab


async def make(lab: SyncLab, **configs: str) -> None:
    """The link and its mirror topic."""
    await lab.links.make_link(**{**SYNC, **configs})
    await lab.links.make_mirror(partitions=2)
    await knows_its_ends(lab, "t")


async def knows_its_ends(lab: SyncLab, topic: str) -> None:
    """Returns when the replicator knows what was appended."""
    replicator = lab.links.links._runtimes[LINK].replicator
    assert replicator is not None
    mirrors = replicator.mirrors
    await until(lambda: topic in mirrors and all(p.position == 3 for p in mirrors[topic].partitions))


async def test_offsets_are_taken_over_as_they_are(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 2, ("t", 1): 0, ("other", 0): 9}, metadata="meta", epoch=7)
    lab.source.put("h", {("t", 0): 3})
    assert not await lab.sync()
    assert lab.here.groups["g"].offsets == {("t", 0): (2, "meta", -1), ("t", 1): (0, "meta", -1)}
    assert lab.here.get("h") == {("t", 0): 3}
    assert "other" not in lab.here.groups
    assert lab.view() == TaskView("ConsumerOffsetSync", TaskState.ACTIVE, [])
    assert not lab.local


async def test_the_source_is_only_read(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 2})
    await lab.sync()
    lab.here.put("g", {("t", 0): 1}, epoch=3)
    await lab.sync()
    harmless = {ApiKey.METADATA, ApiKey.LIST_GROUPS, ApiKey.OFFSET_FETCH}
    groups_apis = {
        ApiKey.FIND_COORDINATOR,
        ApiKey.OFFSET_COMMIT,
        ApiKey.LIST_GROUPS,
        ApiKey.OFFSET_FETCH,
        ApiKey.DESCRIBE_GROUPS,
    }
    asked = {key for key, _ in lab.links.other.asked}
    assert asked & groups_apis <= harmless
    fetches = [request for _, request in lab.links.other.of_kind(ApiKey.OFFSET_FETCH)]
    assert all(request.require_stable for request in fetches)


async def test_what_has_not_changed_costs_the_destination_nothing(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 2})
    await lab.sync()
    lab.links.own.asked.clear()
    assert not await lab.sync()
    assert not lab.links.own.of_kind(ApiKey.OFFSET_FETCH, ApiKey.OFFSET_COMMIT, ApiKey.FIND_COORDINATOR)
    lab.source.put("g", {("t", 0): 3})
    await lab.sync()
    assert lab.here.get("g") == {("t", 0): 3}


async def test_deleted_offsets_come_back(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 2})
    await lab.sync()
    del lab.here.groups["g"]
    for _ in range(offset_sync.WHOLE_EVERY_RUNS):
        await lab.sync()
    assert lab.here.get("g") == {("t", 0): 2}


async def test_back_as_the_source_went_back(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 3})
    await lab.sync()
    lab.source.put("g", {("t", 0): 1})
    await lab.sync()
    assert lab.here.get("g") == {("t", 0): 1}


async def test_never_behind_what_somebody_did_here(lab: SyncLab) -> None:
    lab.here.put("g", {("t", 0): 3})
    lab.source.put("g", {("t", 0): 1, ("t", 1): 2})
    await lab.sync()
    assert lab.here.get("g") == {("t", 0): 3, ("t", 1): 2}
    assert not lab.local


async def test_a_leader_epoch_gives_a_local_commit_away(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 1})
    await lab.sync()
    lab.here.put("g", {("t", 0): 2}, epoch=0)
    lab.source.put("g", {("t", 0): 3})
    await lab.sync()
    assert lab.here.get("g") == {("t", 0): 2}
    assert lab.local["g"].reason is LocalReason.COMMITTED


async def test_offsets_are_within_the_mirror(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 1_000, ("t", 1): 3, ("t", 9): 1})
    await lab.sync()
    assert lab.here.get("g") == {("t", 0): 3, ("t", 1): 3}


async def test_a_log_that_begins_later(lab: SyncLab) -> None:
    for log in lab.links.other.topics["t"].logs:
        log.start = 2
    await until(lambda: lab.links.store.state.mirrors["t"].log_starts == {0: 2, 1: 2})
    lab.source.put("g", {("t", 0): 0, ("t", 1): 2})
    await lab.sync()
    assert lab.here.get("g") == {("t", 0): 2, ("t", 1): 2}


async def test_members_here_make_it_local(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 2})
    lab.here.groups["g"] = FakeGroup(state="Stable")
    lab.here.groups["elsewhere"] = FakeGroup(state="Stable")
    assert not await lab.sync()
    assert {name: record.reason for name, record in lab.local.items()} == {"g": LocalReason.MEMBERS}
    lab.here.groups["g"].state = "Empty"
    await lab.sync()
    assert not lab.here.get("g")


async def test_members_that_came_after_the_look(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 2})
    lab.here.commit_error = 25
    assert not await lab.sync()
    assert lab.local["g"].reason is LocalReason.MEMBERS


async def test_a_local_group_is_left_alone(lab: SyncLab) -> None:
    marked = local_group(lab.link_id, "g", LocalReason.MOVED)
    await lab.links.store.update(lambda _: [marked])
    lab.source.put("g", {("t", 0): 2})
    await lab.sync()
    assert not lab.here.commits


async def test_a_commit_that_the_state_announces_right_before_ours(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 3})
    # Not read yet by this gateway.
    lab.links.store.foresee(
        local_group(lab.link_id, "g", LocalReason.COMMITTED, {"t": {0: 1}}),
    )
    await lab.sync()
    assert not lab.here.commits


async def test_a_commit_that_falls_between_our_look_and_ours(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 3, ("t", 1): 2})

    def meanwhile(*_: Any) -> None:
        # Their commit, which ours overwrites; and the state says so.
        lab.links.store.foresee(local_group(lab.link_id, "g", LocalReason.COMMITTED, {"t": {0: 1}}))

    lab.links.own.fault(ApiKey.OFFSET_COMMIT, meanwhile)
    await lab.sync()
    assert lab.here.get("g") == {("t", 0): 1, ("t", 1): 2}, "theirs stands"
    assert lab.local["g"].reason is LocalReason.COMMITTED
    lab.source.put("g", {("t", 0): 2, ("t", 1): 3})
    await lab.sync()
    assert lab.here.get("g") == {("t", 0): 1, ("t", 1): 2}


async def test_what_they_committed_later_is_not_put_back(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 3})

    def meanwhile(*_: Any) -> None:
        lab.links.store.foresee(local_group(lab.link_id, "g", LocalReason.COMMITTED, {"t": {0: 1}}))

    def later(*_: Any) -> None:
        lab.here.put("g", {("t", 0): 2})

    lab.links.own.fault(ApiKey.OFFSET_COMMIT, meanwhile)
    # The first look at the destination is for the plan.
    lab.links.own.fault(ApiKey.OFFSET_FETCH, lambda *_: None, later)
    await lab.sync()
    assert lab.here.get("g") == {("t", 0): 2}


async def test_unstable_offsets_wait(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 2})
    lab.source.groups["g"].unstable = 1
    assert not await lab.sync()
    assert lab.here.get("g") == {("t", 0): 2}, "it became stable within the run"
    lab.source.put("g", {("t", 0): 3})
    lab.source.groups["g"].unstable = 3
    assert not await lab.sync()
    assert lab.here.get("g") == {("t", 0): 2}
    assert not await lab.sync()
    assert lab.here.get("g") == {("t", 0): 3}


async def test_a_group_that_may_not_be_read_is_named_and_the_others_go_on(lab: SyncLab) -> None:
    for name in ("a", "denied", "z"):
        lab.source.put(name, {("t", 0): 2})
    lab.source.groups["denied"].error_code = 30
    (error,) = await lab.sync()
    assert error.error_code == "AUTHORIZATION_ERROR"
    assert "denied" in error.error_message
    assert "DESCRIBE" in error.error_message
    assert (lab.here.get("a"), lab.here.get("z")) == ({("t", 0): 2}, {("t", 0): 2})
    assert lab.view().state is TaskState.IN_ERROR


async def test_no_group_to_be_seen_at_all(lab: SyncLab) -> None:
    assert not await lab.sync()

    def denied(header: Any, request: Any) -> Any:
        answer = lab.links.other.usual(header, request)
        groups = tuple(type(g)(group_id=g.group_id, topics=(), error_code=DENIED) for g in answer.groups)
        return type(answer)(throttle_time=answer.throttle_time, groups=groups)

    lab.links.other.fault(ApiKey.OFFSET_FETCH, denied)
    (error,) = await lab.sync()
    assert error.error_code == "AUTHORIZATION_ERROR"
    assert not lab.source.groups, "asking makes no group"


@pytest.mark.parametrize(("code", "again"), [(16, True), (12, False)])
async def test_a_broker_that_refuses_a_commit(lab: SyncLab, code: int, again: bool) -> None:
    lab.source.put("g", {("t", 0): 2})
    lab.here.commit_error = code
    (error,) = await lab.sync()
    assert "OffsetCommit of group g for t-0" in error.error_message
    lab.links.own.asked.clear()
    lab.here.commit_error = 0
    assert not await lab.sync()
    assert lab.here.get("g") == {("t", 0): 2}
    assert bool(lab.links.own.of_kind(ApiKey.FIND_COORDINATOR)) is again


async def test_what_is_no_consumers_group_is_left_out(lab: SyncLab) -> None:
    for name, kind in (("connect", "connect"), ("streams", "streams"), ("simple", "")):
        lab.source.put(name, {("t", 0): 1})
        lab.source.groups[name].protocol_type = kind
    lab.source.put("share", {("t", 0): 1})
    lab.source.groups["share"].type = "Share"
    lab.source.put("_causeway-work", {("t", 0): 1})
    await lab.sync()
    assert set(lab.here.groups) == {"streams", "simple"}


async def test_a_thousand_groups_are_few_requests(lab: SyncLab) -> None:
    for i in range(1_000):
        lab.source.put(f"g{i}", {("t", 0): i % 3, ("t", 1): 2})
    lab.links.other.asked.clear()
    assert not await lab.sync()
    assert len(lab.here.groups) == 1_000
    assert len(lab.links.other.of_kind(ApiKey.OFFSET_FETCH)) == 20
    assert all(
        len(request.groups) <= offset_sync.GROUPS_AT_ONCE
        for _, request in lab.links.other.of_kind(ApiKey.OFFSET_FETCH)
    )
    assert len(lab.links.own.of_kind(ApiKey.FIND_COORDINATOR)) <= 21


@pytest.mark.parametrize("highest", [7, 5, 3, 2])
async def test_brokers_that_know_one_group_per_request(lab: SyncLab, highest: int) -> None:
    for kafka in (lab.links.other, lab.links.own):
        kafka.versions[ApiKey.OFFSET_FETCH] = (1, highest)
        kafka.versions[ApiKey.FIND_COORDINATOR] = (0, 3)
        kafka.versions[ApiKey.OFFSET_COMMIT] = (2, highest)
        kafka.versions[ApiKey.LIST_GROUPS] = (0, min(highest, 4) - 1)
        kafka.cut()
    for name in ("a", "b"):
        lab.source.put(name, {("t", 0): 2}, metadata="m")
    for _ in range(3):
        await lab.sync()
    assert (lab.here.get("a"), lab.here.get("b")) == ({("t", 0): 2}, {("t", 0): 2})


async def test_a_state_that_is_away(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 2})
    lab.links.store.failure = StateUnavailable("the state is away")
    (error,) = await lab.sync()
    assert error == TaskError("INTERNAL_ERROR", "the state is away")
    assert not lab.here.commits
    lab.links.store.failure = None
    assert not await lab.sync()
    assert lab.here.get("g") == {("t", 0): 2}


async def test_promote_syncs_once_more_and_then_never(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 2})
    await lab.links.alter("promote")
    await lab.links.becomes(MirrorStatus.STOPPED)
    assert lab.here.get("g") == {("t", 0): 2}
    lab.source.put("g", {("t", 0): 3})
    await lab.sync()
    assert lab.here.get("g") == {("t", 0): 2}


async def test_failover_asks_the_source_nothing(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 2})
    await lab.links.other.close()
    await lab.links.alter("failover")
    await lab.links.becomes(MirrorStatus.STOPPED)
    assert not lab.here.commits


async def test_a_promote_is_not_held_up_by_what_waiting_does_not_mend(lab: SyncLab) -> None:
    lab.source.put("denied", {("t", 0): 2})
    lab.source.groups["denied"].error_code = 30
    await lab.links.alter("promote")
    await lab.links.becomes(MirrorStatus.STOPPED)


async def test_local_groups_that_are_gone_here_are_forgotten(lab: SyncLab) -> None:
    old = local_group(lab.link_id, "gone", LocalReason.COMMITTED).model_copy(update={"since_ms": 1})
    new = local_group(lab.link_id, "new", LocalReason.COMMITTED)
    there = local_group(lab.link_id, "there", LocalReason.COMMITTED).model_copy(update={"since_ms": 1})
    await lab.links.store.update(lambda _: [old, new, there])
    lab.here.put("there", {("t", 0): 1})
    for _ in range(offset_sync.WHOLE_EVERY_RUNS + 1):
        await lab.sync()
    assert set(lab.local) == {"new", "there"}


async def test_deleting_a_link_forgets_its_groups(lab: SyncLab) -> None:
    await lab.links.store.update(lambda _: [local_group(lab.link_id, "g", LocalReason.MOVED)])
    await lab.links.links.delete_link(LINK, force=True, validate_only=False)
    assert not lab.links.store.state.groups


async def test_filters_that_include_nothing(lab: SyncLab) -> None:
    work = lab.links.links._runtimes[LINK].offset_sync
    assert work is not None
    for configs, text in (
        ({"consumer.offset.group.filters": ""}, "includes no group"),
        ({"consumer.group.prefix.enable": "true"}, "no cluster.link.prefix"),
    ):
        record = lab.links.store.state.links[LINK]
        config = link_tasks.config_of(record.model_copy(update={"configs": {**record.configs, **configs}}))
        (problem,) = work.problems(config)
        assert problem.error_code == "MISCONFIGURATION_ERROR"
        assert text in problem.error_message


async def test_names_here_may_have_the_links_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    be_quick(monkeypatch)
    async with links_lab() as links:
        lab = SyncLab(links, FakeGroups(links.other), FakeGroups(links.own))
        lab.source.put("g", {("t", 0): 2})
        for log in links.other.create("t", 1).logs:
            log.write(3)
        await links.make_link(
            **{**SYNC, "cluster.link.prefix": "eu.", "consumer.group.prefix.enable": "true"}
        )
        await links.links.create_mirror(LINK, CreateMirror("t"))
        await knows_its_ends(lab, "eu.t")
        await lab.sync()
        assert lab.here.get("eu.g") == {("eu.t", 0): 2}
        assert "g" not in lab.here.groups
