"""What is kept in the state while mirrors are copied, and what becomes of their topics."""

import time
from collections.abc import AsyncIterator

import pytest
from kio.schema.errors import ErrorCode

from gateway.links.mirror_notes import MirrorNotes, Note, payloads_of
from gateway.state.records import FillerPayload, MirrorRecord, MirrorStatus, State
from gateway.upstreams.errors import KafkaError
from tests.fakes.kafka import FakeKafka
from tests.gateway.links.lab import KEY, cluster_of, record


class Lab:
    """Two clusters and a state."""

    def __init__(self, own: FakeKafka, other: FakeKafka) -> None:
        self.own, self.other = own, other
        self.cluster, self.source = cluster_of(self.own), cluster_of(self.other)
        self.state = State()
        self.notes = MirrorNotes(self.cluster, self.write)

    async def write(self, change: object) -> None:
        self.state = self.state.with_changes(change(self.state))  # type: ignore[operator]  # it is a function

    @property
    def record(self) -> MirrorRecord:
        return self.state.mirrors["t"]

    def configs(self) -> dict[str, str]:
        return self.own.topics["t"].configs


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    own, other = FakeKafka(cluster_id="own"), FakeKafka(cluster_id="other")
    await own.start()
    await other.start()
    lab = Lab(own, other)
    await lab.cluster.start()
    lab.own.create("t")
    lab.other.create("t", configs={"cleanup.policy": "compact"})
    lab.state = State().with_changes([record()])
    yield lab
    for cluster in (lab.cluster, lab.source):
        await cluster.close()
    for broker in (lab.own, lab.other):
        await broker.close()


async def test_notes(lab: Lab) -> None:
    payload = FillerPayload(count=1, size_bytes=2, sha256=b"3")
    mirror = lab.record
    await lab.notes.noted([Note(mirror, {0: 5, 1: 7}, {0: [(1, 0)]}, [payload])])
    await lab.notes.noted([Note(mirror, {0: 3, 2: 1}, {1: [(2, 9)]}, [payload])])
    assert lab.record.log_starts == {0: 5, 1: 7, 2: 1}, "a log never begins before where it did"
    assert lab.record.source_epochs == {0: [(1, 0)], 1: [(2, 9)]}
    assert lab.record.filler_payloads == (payload,)


async def test_notes_of_another_mirror_are_dropped(lab: Lab) -> None:
    another = lab.record.model_copy(update={"producer_id": 1})
    gone = record("gone")
    await lab.notes.noted([Note(another, {0: 5}), Note(gone, {0: 5})])
    await lab.notes.keep(another)
    assert lab.record.log_starts == {}


async def test_a_gateway_that_is_behind_forgets_no_epoch(lab: Lab) -> None:
    mirror = lab.record
    await lab.notes.noted([Note(mirror, epochs={0: [(3, 0), (4, 10)]})])
    await lab.notes.noted([Note(mirror, epochs={0: [(4, 10), (7, 20)]})])
    assert lab.record.source_epochs == {0: [(4, 10), (7, 20)]}, "what precedes the position is of no use"
    await lab.notes.noted([Note(mirror, epochs={0: [(3, 0), (4, 12)]})])
    assert lab.record.source_epochs == {0: [(3, 0), (4, 10), (7, 20)]}


def test_payloads_are_those_of_the_format() -> None:
    assert [each.count for each in payloads_of(KEY)] == [100_000, 10_000, 1_000]


async def test_a_source_that_grew(lab: Lab) -> None:
    await lab.notes.grown(lab.record, 3)
    assert len(lab.own.topics["t"].logs) == 3
    assert lab.record.num_partitions == 3


async def test_somebody_else_has_added_the_partitions(lab: Lab) -> None:
    topic = lab.own.topics["t"]
    topic.logs += [type(topic.logs[0])(1), type(topic.logs[0])(1)]
    await lab.notes.grown(lab.record, 3)
    assert len(topic.logs) == 3
    assert lab.record.num_partitions == 3


async def test_partitions_that_cannot_be_added(lab: Lab) -> None:
    del lab.own.topics["t"]
    with pytest.raises(KafkaError) as refused:
        await lab.notes.grown(lab.record, 3)
    assert refused.value.code is ErrorCode.unknown_topic_or_partition
    assert lab.record.num_partitions == 1


async def test_compaction_and_back(lab: Lab) -> None:
    await lab.notes.compact(lab.record, lab.source)
    assert lab.configs()["cleanup.policy"] == "compact,delete"
    assert lab.record.compacted
    await lab.notes.keep(lab.record)
    assert lab.configs()["cleanup.policy"] == "delete"
    assert not lab.record.compacted


async def test_a_source_that_is_not_compacted_any_more(lab: Lab) -> None:
    lab.other.topics["t"].configs["cleanup.policy"] = "delete"
    await lab.notes.compact(lab.record, lab.source)
    assert "cleanup.policy" not in lab.configs()
    assert not lab.record.compacted


@pytest.mark.parametrize(
    ("policy", "status", "paused_s", "told"),
    [
        ("compact", "PAUSED", 7_200, True),
        ("compact,delete", "PAUSED", 7_200, True),
        ("compact", "PAUSED", 1_800, False),
        ("delete", "PAUSED", 7_200, False),
        ("compact", "ACTIVE", 7_200, False),
    ],
)
async def test_a_pause_that_was_too_long(
    lab: Lab, policy: str, status: str, paused_s: int, told: bool
) -> None:
    lab.configs()["delete.retention.ms"] = "3600000"
    since = time.time_ns() // 1_000_000 - paused_s * 1000
    mirror = record(configs={"cleanup.policy": policy}, status=MirrorStatus(status), state_time_ms=since)
    text = await lab.notes.missed_deletions(mirror)
    assert (text is not None) is told
    if text:
        assert "paused for 2.0 hours, longer than delete.retention.ms (1.0 hours)" in text


async def test_a_pause_of_a_topic_that_does_not_tell(lab: Lab) -> None:
    gone = record("gone", configs={"cleanup.policy": "compact"}, status=MirrorStatus.PAUSED, state_time_ms=0)
    assert "(24.0 hours)" in str(await lab.notes.missed_deletions(gone))
