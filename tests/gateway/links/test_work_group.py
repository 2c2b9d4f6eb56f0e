"""Membership in the group that shares the work: what is held, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from kio.schema.errors import ErrorCode

from gateway.links import work_group
from gateway.links.lease import LEASE_S, Lease, Unlimited, now_s
from gateway.links.work_group import WorkGroup
from gateway.links.work_plan import NOTHING, SLOTS, Holding, slot_of_tasks
from gateway.upstreams.cluster import LINGER_ZERO_USER_TIMEOUT_MS, Cluster, DialConnector
from gateway.upstreams.dialer import Security
from protocol.api_keys import ApiKey
from tests.fakes.group import FakeCoordinator
from tests.gateway.links.lab import until

ALL = frozenset(range(SLOTS))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter waits, of which none is what a test is about."""
    monkeypatch.setattr(work_group, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(work_group, "RETRY_S", 0.02)


class Gateway:
    """A member, and what it was told to release."""

    def __init__(self, coordinator: FakeCoordinator, name: str) -> None:
        connector = DialConnector([f"127.0.0.1:{coordinator.port}"], Security(), connect_timeout_s=5)
        self.cluster = Cluster(connector)
        self.group = WorkGroup(self.cluster, name, self.release)
        self.told: list[Holding] = []
        self.free = asyncio.Event()
        self.free.set()
        self.task: asyncio.Task[None] | None = None

    async def release(self, holding: Holding) -> None:
        self.told.append(holding)
        await self.free.wait()

    @property
    def slots(self) -> frozenset[int]:
        """What it may work on now."""
        return self.group.holding.of("any") if self.group.lease.valid else frozenset()

    def start(self) -> Gateway:
        self.task = asyncio.get_running_loop().create_task(self.group.run())
        return self

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task
            self.task = None


@asynccontextmanager
async def gateways(count: int) -> AsyncIterator[tuple[FakeCoordinator, list[Gateway]]]:
    """A coordinator and members that run."""
    coordinator = FakeCoordinator()
    await coordinator.start()
    members = [Gateway(coordinator, f"gateway {i}").start() for i in range(count)]
    try:
        yield coordinator, members
    finally:
        for member in members:
            member.free.set()
            await member.stop()
            await member.cluster.close()
        await coordinator.close()


async def all_is_shared(members: list[Gateway]) -> None:
    """Returns when everything is held, by one each."""
    await until(lambda: frozenset().union(*(member.slots for member in members)) == ALL)
    assert sum(len(member.slots) for member in members) == SLOTS


async def test_one_alone_has_everything() -> None:
    async with gateways(1) as (_, (one,)):
        assert one.slots == NOTHING.of("any")
        await until(lambda: one.slots == ALL)
        assert one.group.trouble is None
        assert one.group.holds_tasks("link")
        assert not one.group.is_left_out("link")


async def test_three_share_and_the_rest_goes_on_without_one() -> None:
    async with gateways(3) as (coordinator, members):
        await all_is_shared(members)
        assert {len(member.slots) for member in members} == {SLOTS // 3}
        assert sum(member.group.holds_tasks("link") for member in members) == 1
        assert slot_of_tasks("link") in next(m for m in members if m.group.holds_tasks("link")).slots
        gone = members.pop()
        await gone.stop()
        await gone.group.leave()
        assert gone.slots == frozenset()
        assert len(coordinator.members) == 2
        await all_is_shared(members)
        await gone.cluster.close()


async def test_nobody_gets_what_another_has_not_let_go() -> None:
    async with gateways(1) as (coordinator, members):
        (one,) = members
        await until(lambda: one.slots == ALL)
        one.free.clear()
        two = Gateway(coordinator, "two").start()
        members.append(two)
        await until(lambda: len(one.slots) == SLOTS // 2)
        await until(lambda: two.group.lease.valid)
        await asyncio.sleep(0.2)
        assert two.slots == frozenset()
        one.free.set()
        await all_is_shared(members)


async def test_the_lease_ends_without_heartbeats_and_comes_back_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(work_group, "LEASE_S", 0.3)
    async with gateways(1) as (coordinator, (one,)):
        await until(lambda: one.slots == ALL)
        await asyncio.sleep(0.5)
        assert one.slots == ALL
        coordinator.answers.clear()
        await until(lambda: not one.group.lease.valid, 1)
        await until(lambda: one.told[-1] == NOTHING, 1)
        assert one.group.holding == NOTHING
        coordinator.answers.set()
        await until(lambda: one.slots == ALL)


async def test_one_that_was_taken_for_dead_drops_everything_and_joins_anew() -> None:
    async with gateways(1) as (coordinator, (one,)):
        await until(lambda: one.slots == ALL)
        coordinator.expel("member-1")
        await until(lambda: NOTHING in one.told)
        await until(lambda: one.slots == ALL)
        assert list(coordinator.members) == ["member-2"]


@pytest.mark.parametrize(
    ("api_key", "code"),
    [
        (ApiKey.FIND_COORDINATOR, ErrorCode.coordinator_not_available),
        (ApiKey.JOIN_GROUP, ErrorCode.not_coordinator),
        (ApiKey.JOIN_GROUP, ErrorCode.unknown_member_id),
        (ApiKey.SYNC_GROUP, ErrorCode.rebalance_in_progress),
        (ApiKey.SYNC_GROUP, ErrorCode.unknown_member_id),
        (ApiKey.SYNC_GROUP, ErrorCode.coordinator_load_in_progress),
        (ApiKey.HEARTBEAT, ErrorCode.not_coordinator),
        (ApiKey.HEARTBEAT, ErrorCode.illegal_generation),
        (ApiKey.HEARTBEAT, ErrorCode.rebalance_in_progress),
    ],
)
async def test_what_a_coordinator_says_is_no_reason_to_stay_away(api_key: ApiKey, code: ErrorCode) -> None:
    async with gateways(1) as (coordinator, (one,)):
        coordinator.errors[api_key] = [code]
        await until(lambda: not coordinator.errors[api_key])
        await until(lambda: one.slots == ALL and one.group.trouble is None)


async def test_a_group_that_may_not_be_joined_is_said_to_be_the_trouble() -> None:
    async with gateways(1) as (coordinator, (one,)):
        coordinator.errors[ApiKey.JOIN_GROUP] = [ErrorCode.group_authorization_failed] * 3
        await until(lambda: "GROUP_AUTHORIZATION_FAILED" in (one.group.trouble or ""))
        assert one.slots == frozenset()
        await until(lambda: one.slots == ALL)


async def test_a_link_is_left_to_who_reaches_its_source() -> None:
    async with gateways(2) as (_, members):
        await all_is_shared(members)
        one, two = members
        one.group.cannot_reach(frozenset({"link"}))
        await until(lambda: two.group.holding.of("link") == ALL)
        assert one.group.is_left_out("link")
        assert not two.group.is_left_out("link")
        assert not one.group.is_left_out("another")
        one.group.cannot_reach(frozenset())
        await until(lambda: not one.group.is_left_out("link"))
        await all_is_shared(members)


async def test_it_works_on_while_others_are_waited_for() -> None:
    async with gateways(1) as (coordinator, (one,)):
        await until(lambda: one.slots == ALL)
        # One that has begun to join, and is not heard of again.
        joiner = Gateway(coordinator, "half")
        coordinator.members["half"] = type(coordinator.members["member-1"])(b"")
        coordinator.joining = True
        await asyncio.sleep(0.3)
        assert one.slots == ALL
        coordinator.expel("half")
        await asyncio.sleep(0.1)
        assert one.slots == ALL
        await joiner.cluster.close()


async def test_leaving_survives_a_coordinator_that_is_gone() -> None:
    async with gateways(1) as (coordinator, (one,)):
        await until(lambda: one.slots == ALL)
        await one.stop()
        await coordinator.close()
        await one.group.leave()
        assert one.slots == frozenset()


def test_a_lease_that_has_ended_is_not_extended() -> None:
    clock = [100.0]
    lease = Lease(lambda: clock[0])
    assert lease.left_s == 0
    assert not lease.give(100.0)
    assert lease.give(105.0)
    lease.extend(103.0)
    assert lease.left_s == 5.0
    clock[0] = 104.0
    lease.extend(110.0)
    assert lease.left_s == 6.0
    clock[0] = 110.0
    lease.extend(120.0)
    assert not lease.valid
    lease.give(120.0)
    lease.end()
    assert lease.left_s == 0
    assert Unlimited().valid
    assert now_s() > 0


def test_a_lease_ends_before_the_work_is_given_away() -> None:
    assert LEASE_S < work_group.SESSION_S < work_group.REBALANCE_S
    # And what was sent within it is delivered, or dropped by the kernel, before.
    assert LEASE_S + LINGER_ZERO_USER_TIMEOUT_MS / 1000 < work_group.SESSION_S
