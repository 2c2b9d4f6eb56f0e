"""Random source logs, faults on both sides: each record is at its offset in the mirror, else a filler."""

from __future__ import annotations

import asyncio
import random

import pytest

from protocol.codecs import Codec
from protocol.records import Record, build_batch, iterate_records
from tests.fakes.kafka import Log
from tests.gateway.links.lab import KEY, LinkLab, contents, hurry, link_lab, until


class Writer:
    """Appends to a source log what a broker may hold, and keeps what a consumer is to be given."""

    def __init__(self, log: Log, seed: int) -> None:
        self.log = log
        self.random = random.Random(seed)
        self.expected: dict[int, Record] = {}
        self._epoch = 0
        self._open: dict[int, tuple[int, list[Record]]] = {}
        log.lead(0)

    def step(self) -> None:
        """One action."""
        actions = [self._plain, self._holes, self._stamped, self._begin, self._end, self._lead, self._delete]
        self.random.choices(actions, weights=[4, 3, 1, 4, 4, 1, 1])[0]()
        # Nothing is stable from the first open transaction on.
        self.log.stable = min((first for first, _ in self._open.values()), default=None)

    def finish(self) -> None:
        """Ends what is open."""
        while self._open:
            self._end()
        self.log.stable = None

    def _records(self, count: int, gap: int = 0) -> list[Record]:
        offset = 0
        records: list[Record] = []
        for _ in range(count):
            offset += self.random.randint(0, gap) if records else 0
            value = self.random.choice([None, self.random.randbytes(self.random.choice([5, 300, 20_000]))])
            key = self.random.choice([None, b"k%d" % offset])
            records.append(Record(offset, self.random.randrange(1_000, 2_000), key, value))
            offset += 1
        return records

    def _append(self, records: list[Record], **attributes: object) -> list[Record]:
        base = self.log.end
        codec = self.random.choice(list(Codec))
        batch = build_batch(records, codec=codec, partition_leader_epoch=self._epoch, **attributes)  # type: ignore[arg-type]  # build_batch's own
        self.log.append(batch)
        stored = [record._replace(offset=base + record.offset) for record in records]
        if attributes.get("log_append_time"):
            stamp = max(record.timestamp for record in records)
            stored = [record._replace(timestamp=stamp) for record in stored]
        return stored

    def _keep(self, records: list[Record]) -> None:
        self.expected.update({record.offset: record for record in records})

    def _plain(self) -> None:
        self._keep(self._append(self._records(self.random.choice([1, 1, 3, 50]))))

    def _holes(self) -> None:
        self._keep(
            self._append(self._records(self.random.randint(1, 20), gap=self.random.choice([1, 5, 200])))
        )

    def _stamped(self) -> None:
        self._keep(self._append(self._records(4), log_append_time=True))

    def _begin(self) -> None:
        producer_id = self.random.randrange(3)
        first, records = self._open.get(producer_id, (self.log.end, []))
        more = self._append(
            self._records(self.random.randint(1, 5)),
            transactional=True,
            producer_id=producer_id,
            producer_epoch=0,
        )
        self._open[producer_id] = first, records + more

    def _end(self) -> None:
        if not self._open:
            return
        producer_id = self.random.choice(list(self._open))
        first, records = self._open.pop(producer_id)
        commit = self.random.random() < 0.6
        key = b"\0\0\0" + bytes([commit])
        self._append(
            [Record(0, 1_500, key, bytes(6))],
            transactional=True,
            control=True,
            producer_id=producer_id,
            producer_epoch=0,
        )
        if commit:
            self._keep(records)
        else:
            self.log.aborted.append((producer_id, first, self.log.end - 1))

    def _lead(self) -> None:
        self._epoch += self.random.randint(1, 3)
        self.log.lead(self._epoch)

    def _delete(self) -> None:
        stable = self.log.end if self.log.stable is None else self.log.stable
        self.log.start = self.random.randint(self.log.start, stable)


def break_something(lab: LinkLab, chosen: random.Random) -> None:
    """A fault that passes."""
    there = lab.log()
    match chosen.randrange(6):
        case 0:
            lab.destination.cut()
        case 1:
            lab.source.cut()
        case 2:
            there.produce_errors.append(chosen.choice([6, 7, 19, 45]))
        case 3:
            there.start = 0
        case 4:
            lab.partition().doubt(0)
        case 5:
            lab.events.failures.append(TimeoutError())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("remembers", [True, False])
async def test_random_logs(monkeypatch: pytest.MonkeyPatch, seed: int, remembers: bool) -> None:
    hurry(
        monkeypatch,
        RETRY_DELAY_S=0.01,
        METADATA_INTERVAL_S=0.05,
        INTERVAL_S=0.02,
        REPAIR_INTERVAL_S=0.05,
        LOSS_DELAY_S=0.02,
        LOOP_RETRY_S=0.01,
        BACKOFF_S=(0.01,),
    )
    async with link_lab() as lab:
        (here,) = lab.mirror()
        there = lab.log()
        there.remembers = remembers
        writer, chosen = Writer(here, seed), random.Random(seed)
        lab.run()
        for _ in range(40):
            writer.step()
            if chosen.random() < 0.3:
                break_something(lab, chosen)
            await asyncio.sleep(0.005)
        writer.finish()
        await until(lambda: there.end == here.end and there.start == here.start, 30)
        assert lab.replicator.mirrors["t"].failure is None
        found = {record.offset: record for record in contents(there) if record.offset >= here.start}
        assert sorted(found) == list(range(here.start, here.end))
        data = {offset: record for offset, record in found.items() if record.key != KEY}
        assert data == {o: record for o, record in writer.expected.items() if o >= here.start}
        for batch in there.views():
            assert batch.verify_crc()
            assert batch.base_sequence == batch.base_offset
            if any(record.key == KEY for record in iterate_records(batch)):
                assert batch.codec in (Codec.NONE, Codec.ZSTD)
