"""Transactions at the source that hold a mirror up are named, after a while."""

import asyncio

import pytest

from gateway.links.partition import OpenTransaction
from protocol.api_keys import ApiKey
from tests.gateway.links.lab import LinkLab, hurry, link_lab, until


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.01, METADATA_INTERVAL_S=0.05, INTERVAL_S=0.02, PATIENCE_S=0.1)


async def held_up(lab: LinkLab) -> tuple[OpenTransaction, ...]:
    await until(lambda: lab.partition().open_transactions)
    return lab.partition().open_transactions


async def test_the_producer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    hurry(monkeypatch, PATIENCE_S=1.0)
    async with link_lab() as lab:
        (here,) = lab.mirror()
        here.write(3, 2)
        here.stable = 3
        here.open = [(77, 1_234, 3), (78, 5_678, -1)]
        lab.run()
        await until(lambda: lab.log().end == 3)
        await asyncio.sleep(0.05)
        assert not lab.partition().open_transactions, "not worth a word yet"
        (found,) = await held_up(lab)
        assert (found.partition, found.start_offset, found.producer_id) == (0, 3, 77)
        assert (found.last_write_ms, lab.partition().lag) == (1_234, 0)
        assert found.waiting_s >= 1
        here.stable = None
        await until(lambda: not lab.partition().open_transactions)
        await until(lambda: lab.log().end == 5)


async def test_a_source_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        del lab.source.versions[ApiKey.DESCRIBE_PRODUCERS]
        (here,) = lab.mirror()
        here.write(3, 2)
        here.stable = 3
        lab.run()
        (found,) = await held_up(lab)
        assert (found.start_offset, found.producer_id, found.last_write_ms) == (3, None, None)
