"""Moving a group between two clusters of fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from gateway.links import link_tasks
from gateway.links.errors import LinkError
from gateway.links.group_moves import GroupMoves, MoveResult
from gateway.links.local_groups import local_group
from gateway.state.records import LocalReason
from protocol.api_keys import ApiKey
from tests.fakes.groups import FakeGroups
from tests.gateway.links.lab import until
from tests.gateway.links.link_lab import LINK, be_quick, links_lab
from tests.gateway.links.test_offset_sync import SyncLab, make


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SyncLab]:
    """Offset sync is off: a move needs neither its switch nor its filters."""
    be_quick(monkeypatch)
    monkeypatch.setattr(link_tasks, "BACKOFF_S", (3600.0,))
    async with links_lab() as links:
        lab = SyncLab(links, FakeGroups(links.other), FakeGroups(links.own))
        await make(lab, **{"consumer.offset.sync.enable": "false"})
        yield lab


def moves(lab: SyncLab) -> GroupMoves:
    return lab.links.links.groups


async def move(lab: SyncLab, name: str = "g", *, validate_only: bool = False) -> MoveResult:
    (result,) = await moves(lab).move(LINK, [name], validate_only=validate_only)
    return result


def refusal(result: MoveResult) -> tuple[str, bool]:
    assert result.error_code == 400
    return result.error_message or "", result.retriable


async def test_a_group_that_has_stopped_is_moved(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 2, ("t", 1): 3, ("other", 0): 1})
    before = await moves(lab).groups(LINK, ["g"])
    assert [(p.partition, p.source_offset, p.lag, p.missing) for p in before[0].partitions] == [
        (0, 2, 1, 0),
        (1, 3, 0, 0),
    ]
    assert before[0].other_topics == ["other"]
    assert (await move(lab)).error_code is None
    assert lab.here.get("g") == {("t", 0): 2, ("t", 1): 3}
    assert lab.local["g"].reason is LocalReason.MOVED
    # Again is no harm, and writes nothing over what the group does here.
    lab.here.put("g", {("t", 0): 3})
    assert (await move(lab)).error_code is None
    assert lab.here.get("g")["t", 0] == 3


async def test_a_dry_run_does_nothing(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 2})
    assert (await move(lab, validate_only=True)).error_code is None
    assert not lab.here.groups
    assert not lab.local


async def test_members_at_the_source_are_waited_for(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 2})
    lab.source.groups["g"].state = "Stable"
    (view,) = await moves(lab).groups(LINK, ["g"])
    assert [(m.member_id, m.client_id) for m in view.source_members] == [("g-1", "app")]
    text, retriable = refusal(await move(lab))
    assert "still has 1 member(s) at the source" in text
    assert retriable
    lab.source.groups["g"].state = "Empty"
    assert (await move(lab)).error_code is None


async def test_a_mirror_that_is_behind_is_waited_for(lab: SyncLab) -> None:
    await lab.links.alter("pause")
    lab.links.other.topics["t"].logs[0].write(5)
    lab.source.put("g", {("t", 0): 8})
    text, retriable = refusal(await move(lab))
    assert "has to catch up: partition 0 ends at 3 here, group 'g' is at 8" in text
    assert retriable
    assert not lab.here.groups
    await lab.links.alter("resume")
    replicator = lab.links.links._runtimes[LINK].replicator
    assert replicator is not None
    await until(lambda: replicator.mirrors["t"].partitions[0].position == 8)
    assert (await move(lab)).error_code is None
    assert lab.here.get("g") == {("t", 0): 8}


@pytest.mark.parametrize("reason", [LocalReason.COMMITTED, LocalReason.MEMBERS])
async def test_what_goes_on_here_already(lab: SyncLab, reason: LocalReason) -> None:
    lab.source.put("g", {("t", 0): 2})
    await lab.links.store.update(lambda _: [local_group(lab.link_id, "g", reason)])
    text, retriable = refusal(await move(lab))
    assert "goes on here already" in text
    assert not retriable
    # Told otherwise, it can be moved.
    (followed,) = await moves(lab).follow(LINK, ["g"])
    assert followed.error_code is None
    assert (await move(lab)).error_code is None
    (again,) = await moves(lab).follow(LINK, ["unknown"])
    assert again.error_code == 400


async def test_groups_that_cannot_be_moved(lab: SyncLab) -> None:
    assert "is not at the source" in refusal(await move(lab, "nobody"))[0]
    lab.source.put("elsewhere", {("other", 0): 2})
    assert "committed nothing of a mirrored topic" in refusal(await move(lab, "elsewhere"))[0]
    lab.source.put("g", {("t", 0): 2})
    lab.here.put("g", {("t", 0): 1})
    lab.here.groups["g"].state = "Stable"
    assert "has members here already" in refusal(await move(lab))[0]
    lab.here.groups["g"].state = "Empty"
    lab.here.put("g", {("t", 0): 3})
    assert "is further here than at the source" in refusal(await move(lab))[0]


async def test_a_group_that_comes_back_while_it_is_moved(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 2})

    def comes_back(*_: object) -> None:
        lab.source.put("g", {("t", 0): 3})

    lab.links.own.fault(ApiKey.OFFSET_COMMIT, comes_back)
    text, retriable = refusal(await move(lab))
    assert "has gone on at the source meanwhile" in text
    assert retriable
    assert not lab.local
    assert (await move(lab)).error_code is None
    assert lab.here.get("g") == {("t", 0): 3}


async def test_only_groups_of_the_filters_are_listed(lab: SyncLab) -> None:
    lab.source.put("g", {("t", 0): 2})
    lab.source.put("elsewhere", {("other", 0): 2})
    assert [view.group for view in await moves(lab).groups(LINK)] == ["g"]
    asked: Sequence[str] = ["elsewhere", "nobody"]
    assert [view.group for view in await moves(lab).groups(LINK, asked)] == ["elsewhere"]


async def test_links_without_groups(lab: SyncLab) -> None:
    with pytest.raises(LinkError) as unknown:
        await moves(lab).groups("nobody")
    assert unknown.value.status == 404
    await lab.links.other.close()
    with pytest.raises(LinkError) as away:
        await moves(lab).groups(LINK)
    assert away.value.status == 503
