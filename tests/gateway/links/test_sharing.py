"""Two replicators of one link that have half of its partitions each, and what becomes of appends then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.links import elsewhere, leaders
from gateway.links.lease import Lease, Unlimited, now_s
from gateway.links.partition import MirrorPartition, Phase
from gateway.links.replicator import Replicator
from gateway.links.work_plan import EVERYTHING, SLOTS, Slots
from gateway.state.records import MirrorStatus
from protocol.api_keys import ApiKey
from tests.fakes.kafka import NO_ANSWER
from tests.gateway.links.lab import KEY, LinkLab, contents, hurry, link_lab, until

STOPPING = MirrorStatus.PENDING_STOPPED
EVEN: Slots = frozenset(range(0, SLOTS, 2))
ODD: Slots = frozenset(range(1, SLOTS, 2))
ALL = EVERYTHING.of("l")


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
        HANDOVER_PATIENCE_S=0.2,
    )
    monkeypatch.setattr(leaders, "SOURCE_PATIENCE_S", 0.05)
    monkeypatch.setattr(elsewhere, "INTERVAL_S", 0.05)
    monkeypatch.setattr(elsewhere, "STOPPING_INTERVAL_S", 0.02)


@asynccontextmanager
async def two(lease: Lease | None = None) -> AsyncIterator[tuple[LinkLab, Replicator]]:
    """A lab, whose replicator has the even slots, and one that has the others; both run."""
    async with link_lab() as lab:
        if lease is not None:
            lab.replicator._board.lease = lease
        other = Replicator("l", lab.from_source, lab.to_destination, KEY, lab.events, Unlimited())
        await lab.replicator.hold(EVEN)
        await other.hold(ODD)

        def update() -> None:
            lab.update()
            other.update(list(lab.events.records.values()))

        lab.events.changed = update
        lab.run()
        lab.tasks.spawn(other.run(), name="the other")
        yield lab, other


def partitions(replicator: Replicator) -> list[MirrorPartition]:
    """Those of the only mirror."""
    return list(replicator.mirrors["t"].partitions)


async def test_each_copies_its_half_and_both_know_of_all() -> None:
    async with two() as (lab, other):
        here = lab.mirror(partitions=4)
        lab.events.changed()
        for index, log in enumerate(here):
            log.write(index + 1)
        await lab.mirrored()
        for index in range(4):
            assert contents(lab.log(index=index)) == contents(here[index])
        for replicator in (lab.replicator, other):
            await until(
                lambda replicator=replicator: (
                    [  # type: ignore[misc]
                        (p.position, p.lag, p.known) for p in partitions(replicator)
                    ]
                    == [(i + 1, 0, True) for i in range(4)]
                )
            )
        assert [p.held for p in partitions(other)] == [not p.held for p in partitions(lab.replicator)]
        assert lab.destination.count(ApiKey.PRODUCE) <= 4


@pytest.mark.parametrize("failover", [False, True])
async def test_a_promote_needs_the_barriers_of_both(failover: bool) -> None:
    async with two() as (lab, _):
        here = lab.mirror(partitions=3)
        lab.events.changed()
        for log in here:
            log.write(2)
        await lab.mirrored()
        lab.alter(status=STOPPING, failover=failover)
        lab.events.changed()
        await until(lambda: [what for what, _ in lab.events.told if what == "stopped"])
        assert [what for what, _ in lab.events.told] == ["stopping", "stopped"]
        assert lab.events.told[-1][1] == dict.fromkeys(range(3), 2)
        assert [lab.log(index=i).end for i in range(3)] == [3, 3, 3]


async def test_what_moves_goes_on_at_the_other() -> None:
    async with two() as (lab, other):
        here = lab.mirror(partitions=2)
        lab.events.changed()
        here[0].write(3)
        here[1].write(3)
        await lab.mirrored()
        await lab.replicator.hold(frozenset())
        await other.hold(ALL)
        here[0].write(4)
        here[1].write(4)
        await lab.mirrored()
        assert all(p.phase is not Phase.READY for p in partitions(lab.replicator))
        assert [contents(lab.log(index=i)) for i in range(2)] == [contents(log) for log in here]


async def test_what_is_under_way_is_waited_for_and_then_given_up() -> None:
    async with two() as (lab, other):
        here = lab.mirror(partitions=2)
        lab.events.changed()
        await until(lambda: all(p.phase is Phase.READY for p in partitions(lab.replicator) if p.held))
        lab.destination.fault(ApiKey.PRODUCE, lambda *_: NO_ANSWER)
        mine = next(p for p in partitions(lab.replicator) if p.held)
        here[mine.index].write(1)
        await until(lambda: mine.sending is not None)
        async with asyncio.timeout(2):
            await lab.replicator.hold(frozenset())
        assert mine.sending is None
        await other.hold(ALL)
        await lab.mirrored()


async def test_nothing_is_sent_after_the_lease() -> None:
    lease = Lease()
    lease.give(now_s() + 60)
    async with two(lease) as (lab, _):
        here = lab.mirror(partitions=2)
        lab.events.changed()
        await until(lambda: all(p.phase is Phase.READY for p in partitions(lab.replicator) if p.held))
        mine = next(p for p in partitions(lab.replicator) if p.held)
        lease.end()
        here[mine.index].write(1)
        here[1 - mine.index].write(1)
        await until(lambda: lab.log(index=1 - mine.index).end == 1)
        await asyncio.sleep(0.2)
        assert lab.log(index=mine.index).end == 0
        lease.give(now_s() + 60)
        await lab.replicator.hold(EVEN)
        lab.replicator._board.wake_append[1].set()
        await lab.mirrored()
