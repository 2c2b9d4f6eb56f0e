from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from gateway import byte_budget
from gateway.byte_budget import Account, ByteBudget

MIB = 1 << 20


@pytest.fixture(autouse=True)
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_budget, "_ONE_READ_BYTES", MIB)


@dataclass(eq=False)
class Wire:
    """Something to hold back."""

    account: Account
    held: int = 0
    held_back: bool = False

    def hold_back(self, held_back: bool) -> None:
        self.held_back = held_back

    def take(self, mib: int) -> None:
        self.held += mib * MIB
        self.account.change(self, mib * MIB)

    def give(self, mib: int | None = None) -> None:
        size = self.held if mib is None else mib * MIB
        self.held -= size
        self.account.change(self, -size)


def waits(wire: Wire) -> bool:
    return wire.held_back


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_below_the_limit_nobody_is_held_back() -> None:
    budget = ByteBudget(10 * MIB)
    wires = [Wire(budget.open()) for _ in range(10)]
    for wire in wires:
        wire.take(1)
    assert budget.used_bytes == 10 * MIB
    assert not any(wire.held_back for wire in wires)
    for wire in wires:
        wire.give()
    assert budget.used_bytes == 0


async def test_above_it_one_has_the_turn_and_the_others_wait_until_there_is_room() -> None:
    full: list[int] = []
    budget = ByteBudget(10 * MIB, on_full=lambda: full.append(1))
    first, second, third = (Wire(budget.open()) for _ in range(3))
    first.take(9)
    second.take(2)
    third.take(1)
    # The one that went over it has the turn: one frame may be larger than all the budget.
    assert [wire.held_back for wire in (first, second, third)] == [False, False, True]
    second.take(50)
    assert not second.held_back
    assert (budget.waiting, len(full)) == (1, 1)
    first.take(1)
    assert waits(first)
    second.give()
    assert budget.used_bytes == 11 * MIB
    # Nobody has given enough back: the turn goes to who has waited longest.
    assert [wire.held_back for wire in (first, second, third)] == [True, False, False]
    third.give()
    assert not waits(first)
    first.give()
    assert (budget.used_bytes, budget.waiting) == (0, 0)


async def test_a_turn_covers_both_connections_of_a_session() -> None:
    budget = ByteBudget(10 * MIB)
    other = Wire(budget.open())
    other.take(9)
    account = budget.open()
    request, response = Wire(account), Wire(account)
    request.take(5)
    response.take(5)
    assert not request.held_back
    assert not response.held_back
    other.take(1)
    assert other.held_back
    request.give()
    assert other.held_back
    response.give()
    assert not other.held_back


async def test_who_waits_is_let_go_on_when_others_give_back_a_part() -> None:
    budget = ByteBudget(10 * MIB)
    champion, big, waiting = (Wire(budget.open()) for _ in range(3))
    big.take(8)
    champion.take(3)
    waiting.take(1)
    assert waits(waiting)
    big.give(6)
    async with asyncio.timeout(2):
        while waits(waiting):
            await asyncio.sleep(0.01)


async def test_a_turn_ends_with_its_session() -> None:
    budget = ByteBudget(10 * MIB)
    stuck, champion, waiting = (Wire(budget.open()) for _ in range(3))
    stuck.take(11)
    champion.take(1)
    waiting.take(1)
    assert [wire.held_back for wire in (stuck, champion, waiting)] == [False, True, True]
    stuck.give()
    stuck.account.leave(stuck)
    assert not waits(champion)


async def test_who_goes_on_for_ever_gives_the_turn_away_between_two_requests() -> None:
    clock = Clock()
    budget = ByteBudget(10 * MIB, clock=clock)
    # Holds the budget and does nothing, as the client of a slow broker.
    pinned, busy, waiting = (Wire(budget.open()) for _ in range(3))
    pinned.take(10)
    busy.take(1)
    waiting.take(1)
    assert waits(waiting)
    await asyncio.sleep(0.1)
    assert waits(waiting)
    clock.now += 2
    async with asyncio.timeout(2):
        while waits(waiting):
            await asyncio.sleep(0.01)
    # Its own turn is over: the next that it takes makes it wait.
    busy.take(1)
    assert waits(busy)


async def test_who_leaves_while_waiting_is_forgotten() -> None:
    budget = ByteBudget(10 * MIB)
    champion, leaving = Wire(budget.open()), Wire(budget.open())
    champion.take(11)
    leaving.take(1)
    assert budget.waiting == 1
    leaving.give()
    leaving.account.leave(leaving)
    assert budget.waiting == 0


@pytest.mark.parametrize("seed", range(5))
async def test_everything_gets_through_whatever_the_order(seed: int) -> None:
    rng = random.Random(seed)
    budget = ByteBudget(20 * MIB)
    highest = 0

    async def session(frames: int) -> None:
        nonlocal highest
        account = budget.open()
        wire = Wire(account)
        for _ in range(frames):
            for _ in range(rng.choice((1, 4, 15, 40))):
                while wire.held_back:
                    await asyncio.sleep(0.002)
                wire.take(1)
                highest = max(highest, budget.used_bytes)
                await asyncio.sleep(0)
            wire.give()
            await asyncio.sleep(0)
        account.leave(wire)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(session(3))
    assert (budget.used_bytes, budget.waiting) == (0, 0)
    # The limit, one whole frame of who had the turn, and one piece of each of the others.
    assert highest <= (20 + 2 * 40 + 20) * MIB
