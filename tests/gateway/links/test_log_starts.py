"""The beginnings of logs: runways, what is recorded before it is deleted, brokers that forget."""

import pytest

from gateway.links.log_starts import LogStarts
from gateway.state.records import MirrorStatus
from protocol.api_keys import ApiKey
from protocol.headers import RequestHeader
from tests.gateway.links.lab import KEY, LinkLab, contents, hurry, link_lab, until


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, RETRY_DELAY_S=0.01, METADATA_INTERVAL_S=0.05, INTERVAL_S=0.01, REPAIR_INTERVAL_S=0.05)


def deletions(lab: LinkLab) -> list[int]:
    found = lab.destination.of_kind(ApiKey.DELETE_RECORDS)
    return [p.offset for _, request in found for topic in request.topics for p in topic.partitions]


async def test_a_runway_is_built_and_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        (here,) = lab.mirror(log_starts={0: 25_000})
        here.start = 25_000
        here.write(3)
        lab.run()
        await lab.mirrored()
        await until(lambda: lab.log().start == 25_000)
        records = contents(lab.log())
        assert [r.offset for r in records] == list(range(25_003))
        assert {(r.key, r.timestamp) for r in records[:25_000]} == {(KEY, -1)}
        assert records[25_000:] == contents(here)
        assert not lab.events.told, "the state had it from the beginning"


async def test_what_the_source_deletes_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        (here,) = lab.mirror()
        here.write(5, 5)
        lab.run()
        await lab.mirrored()
        here.start = 5
        await until(lambda: lab.log().start == 5)
        assert lab.events.told == [("starts", {0: 5})]
        here.start = 10
        await until(lambda: lab.log().start == 10)
        assert deletions(lab) == [5, 10], "once each"


async def test_what_vanished_before_it_was_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        (here,) = lab.mirror(status=MirrorStatus.PAUSED)
        here.write(5, 5)
        here.start = 5
        lab.run()
        lab.alter(status=MirrorStatus.ACTIVE)
        await lab.mirrored()
        await until(lambda: lab.log().start == 5)
        assert contents(lab.log())[5:] == contents(here)[5:]


async def test_a_log_deleted_to_its_end_is_still_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        (here,) = lab.mirror(log_starts={0: 10})
        here.start = 10
        lab.log().write(10)
        lab.log().start = 10
        lab.run()
        await until(lambda: lab.partition().phase.name == "READY")
        assert lab.partition().position == 10


async def test_a_broker_that_forgets_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        (here,) = lab.mirror()
        here.write(5)
        lab.run()
        await lab.mirrored()
        here.start = 3
        await until(lambda: lab.log().start == 3)
        lab.log().start = 0
        await until(lambda: lab.log().start == 3)


async def test_a_refusal_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        (here,) = lab.mirror()
        here.write(5)
        lab.run()
        await lab.mirrored()
        lab.events.failures.append(TimeoutError())
        here.start = 3
        await until(lambda: lab.log().start == 3)


async def test_nobody_works_on_what_is_not_running(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        lab.mirror(status=MirrorStatus.PAUSED, log_starts={0: 3})[0].write(5)
        lab.log().write(5)
        p = lab.on_board()
        p.position, p.source_start = 5, 4
        lab.tasks.spawn(LogStarts(lab.board, lab.to_destination, lab.events.noted).run(), name="starts")
        await until(lambda: True)
        assert not deletions(lab)
        assert not lab.events.told


async def test_a_partition_whose_deletion_is_refused_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quick(monkeypatch)
    async with link_lab() as lab:
        here = lab.mirror(partitions=2)
        for log in here:
            log.write(5)
        lab.run()
        await lab.mirrored()
        usual = lab.destination.usual

        def refuse(header: RequestHeader, request: object) -> object:
            lab.log().leader = 9
            answer = usual(header, request)
            lab.log().leader = 1
            return answer

        lab.destination.fault(ApiKey.DELETE_RECORDS, *[refuse] * 5)
        here[0].start = here[1].start = 3
        await until(lambda: lab.log(index=1).start == 3)
        await until(lambda: lab.log().start == 3)
