"""Lags as metrics: in records and in seconds, of what is copied."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from gateway import observe
from gateway.links.partition import MAX_ENDS, Mirror, MirrorPartition
from gateway.state.records import MirrorStatus
from tests.gateway.links.lab import record, until
from tests.gateway.links.link_lab import LINK, LinksLab, be_quick, links_lab


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LinksLab]:
    """A link that dials."""
    be_quick(monkeypatch)
    async with links_lab() as lab:
        await lab.make_link()
        yield lab


def value(what: str, topic: str = "t", partition: int = 0) -> float | None:
    labels = {"link": LINK, "topic": topic, "partition": str(partition)}
    return observe.registry.get_sample_value(f"causeway_mirror_lag_{what}", labels)


def topics(status: str) -> float | None:
    labels = {"link": LINK, "status": status}
    return observe.registry.get_sample_value("causeway_mirror_topics", labels)


def since(p: MirrorPartition) -> float | None:
    return p.behind_since


def partition() -> MirrorPartition:
    return MirrorPartition(Mirror(record()), 0)


def test_a_lag_in_time_is_that_of_the_oldest_missing_record() -> None:
    p = partition()
    p.source_ends_at(0, 0, 10.0)
    assert since(p) is None
    for now, end in ((11.0, 5), (12.0, 9), (12.1, 12), (13.0, 12)):
        p.source_ends_at(end, end, now)
    assert since(p) == 11.0
    p.position = 5
    assert since(p) == 12.0
    p.position = 11
    assert since(p) == 12.0, "of what came right after it is known that it came no earlier"
    p.position = 12
    assert since(p) is None


def test_a_long_backlog_takes_no_more_room_and_is_never_made_less_of() -> None:
    p = partition()
    for i in range(1, 10_000):
        p.source_ends_at(i, i, float(i))
        assert len(p._ends) <= MAX_ENDS
    for position in (0, 17, 5_000, 9_998):
        p.position = position
        first = since(p)
        assert first is not None
        assert first <= position + 1
    p.position = 9_999
    assert since(p) is None


async def test_lags_come_and_go(lab: LinksLab) -> None:
    await lab.make_mirror()
    await until(lambda: value("records") == 0)
    assert value("seconds") == 0
    assert topics("ACTIVE") == 1
    lab.own.fault(0, lambda *_: asyncio.sleep(0.4))
    lab.other.topics["t"].logs[0].write(3)
    await until(lambda: value("records") == 3)
    await asyncio.sleep(0.1)
    assert (value("seconds") or 0) > 0.05
    await until(lambda: value("records") == 0)
    assert value("seconds") == 0


async def test_a_lag_grows_while_nobody_can_tell(lab: LinksLab) -> None:
    await lab.make_mirror()
    await lab.make_mirror("paused")
    await lab.alter("pause", "paused")
    await asyncio.sleep(0.1)
    assert (value("seconds", "paused") or 0) > 0.05
    await lab.alter_configs(**{"cluster.link.paused": "true"})
    await asyncio.sleep(0.1)
    assert (value("seconds") or 0) > 0.05
    assert (topics("LINK_PAUSED"), topics("PAUSED"), topics("ACTIVE")) == (1, 1, None)
    await lab.alter_configs(**{"cluster.link.paused": "false"})
    await until(lambda: value("seconds") == 0)
    await lab.other.close()
    began = time.monotonic()
    await until(lambda: (value("seconds") or 0) > 0.2)
    assert time.monotonic() - began > 0.1


async def test_what_has_ended_has_no_lag(lab: LinksLab) -> None:
    await lab.make_mirror()
    await lab.alter("failover")
    await lab.becomes(MirrorStatus.STOPPED)
    assert value("records") is None
    assert topics("STOPPED") == 1
    await lab.links.close()
    assert topics("STOPPED") is None
