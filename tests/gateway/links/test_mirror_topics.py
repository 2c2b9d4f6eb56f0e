"""Which topics clients may not write to, and that nobody writes before that is certain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import cast
from uuid import UUID, uuid4

import pytest

from gateway.links.mirror_topics import MirrorTopics
from gateway.links.topic_configs import HELD
from gateway.state.records import MirrorStatus
from gateway.state.store import StateUnavailable, Store
from protocol.api_keys import ApiKey
from tests.fakes.kafka import FakeKafka
from tests.fakes.store import FakeStore
from tests.gateway.links.lab import cluster_of, record


class Lab:
    """What sessions ask, with a cluster behind it."""

    def __init__(self, broker: FakeKafka, store: FakeStore, topics: MirrorTopics, deleted: list[str]) -> None:
        self.broker = broker
        self.store = store
        self.topics = topics
        self.deleted = deleted

    def asked(self) -> int:
        """How often the cluster was asked for topics."""
        return len([r for _, r in self.broker.of_kind(ApiKey.METADATA) if r.topics is None or r.topics])


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    broker = FakeKafka()
    await broker.start()
    cluster, store = cluster_of(broker), FakeStore()
    deleted: list[str] = []

    async def names_of(topic_ids: Collection[UUID]) -> dict[UUID, str]:
        found = (await cluster.metadata(None)).topics
        named = {each.topic_id: name for name, each in found.items() if each.topic_id is not None}
        return {topic_id: named[topic_id] for topic_id in topic_ids if topic_id in named}

    topics = MirrorTopics(
        cast("Store", store),
        cluster,
        names_of=names_of,
        max_staleness_s=30,
        on_deleted=deleted.append,
    )
    lab = Lab(broker, store, topics, deleted)
    yield lab
    await cluster.close()
    await broker.close()


def make(lab: Lab, name: str = "t") -> UUID:
    """A topic; its id."""
    topic_id = lab.broker.create(name).topic_id
    assert topic_id is not None
    return topic_id


@pytest.mark.parametrize("by_id", [False, True])
async def test_a_mirror_that_was_not_read_yet_is_known_before_the_first_produce(
    lab: Lab, by_id: bool
) -> None:
    topic_id = make(lab)
    lab.store.foresee(record(topic_id=topic_id))
    topic: str | UUID = topic_id if by_id else "t"
    await lab.topics.before_produce([topic])
    assert lab.topics.read_only_mirror(topic) == "t"


async def test_a_mirror_whose_id_is_not_recorded_yet_is_found_by_its_name(lab: Lab) -> None:
    """The record precedes the topic, but has its id only afterwards."""
    topic_id = make(lab)
    lab.store.foresee(record(topic_id=None))
    await lab.topics.before_produce([topic_id])
    assert lab.topics.read_only_mirror(topic_id) == "t"


async def test_nothing_is_written_to_an_id_that_has_no_name(lab: Lab) -> None:
    """Another broker may know the topic already, and it may be a mirror."""
    topic_id = uuid4()
    with pytest.raises(StateUnavailable, match=f"does not know topic id {topic_id}"):
        await lab.topics.before_produce([make(lab), topic_id])
    lab.broker.create("late").topic_id = topic_id
    lab.store.foresee(record("late", topic_id=None))
    await lab.topics.before_produce([topic_id])
    assert lab.topics.read_only_mirror(topic_id) == "late"


@pytest.mark.parametrize("by_id", [False, True])
async def test_what_is_known_costs_nothing(lab: Lab, by_id: bool) -> None:
    topic_id = make(lab)
    topic: str | UUID = topic_id if by_id else "t"
    assert not lab.topics.are_known([topic])
    await lab.topics.before_produce([topic])
    assert lab.topics.are_known([topic, topic])
    assert not lab.topics.are_known([topic, "another"])
    reads, asked = lab.store.reads, lab.asked()
    await lab.topics.before_produce([topic, topic])
    assert (lab.store.reads, lab.asked()) == (reads, asked)
    assert lab.topics.read_only_mirror(topic) is None


async def test_an_id_is_looked_up_between_two_reads(lab: Lab) -> None:
    await lab.topics.before_produce([make(lab)])
    assert lab.store.reads == 2
    await lab.topics.before_produce(["t"])
    assert lab.store.reads == 3


async def test_what_does_not_exist_is_not_known(lab: Lab) -> None:
    """It may become a mirror; and clients can think of more names than there is memory."""
    await lab.topics.before_produce(["t"])
    make(lab)
    lab.store.foresee(record())
    await lab.topics.before_produce(["t"])
    assert lab.topics.read_only_mirror("t") == "t"


async def test_a_state_that_cannot_be_read_stops_what_is_unknown(lab: Lab) -> None:
    topic_id = make(lab)
    lab.store.failure = StateUnavailable("away")
    for topic in ("t", topic_id):
        with pytest.raises(StateUnavailable):
            await lab.topics.before_produce([topic])
    lab.store.failure = None
    await lab.topics.before_produce(["t", topic_id])


async def test_a_stale_state_stops_what_is_known(lab: Lab) -> None:
    make(lab)
    await lab.topics.before_produce(["t"])
    lab.store.staleness_s = 30.0
    await lab.topics.before_produce(["t"])
    assert lab.topics.are_known(["t"])
    lab.store.staleness_s = 31.0
    assert not lab.topics.are_known(["t"])
    with pytest.raises(StateUnavailable, match="could not be read for 31 s: no Produce"):
        await lab.topics.before_produce(["t"])


@pytest.mark.parametrize("status", list(MirrorStatus))
async def test_only_a_stopped_mirror_is_writable(lab: Lab, status: MirrorStatus) -> None:
    topic_id = make(lab)
    lab.store.foresee(record(status=status, topic_id=topic_id))
    await lab.topics.before_produce(["t", topic_id])
    expected = None if status is MirrorStatus.STOPPED else "t"
    assert lab.topics.read_only_mirror("t") == expected
    assert lab.topics.read_only_mirror(topic_id) == expected
    assert bool(lab.topics.held_configs("t")) == (expected is not None)


async def test_held_configs(lab: Lab) -> None:
    lab.store.foresee(record())
    await lab.store.read_to_end()
    assert lab.topics.held_configs("t") == set(HELD) | {"max.message.bytes"}
    assert lab.topics.held_configs("other") == frozenset()


@pytest.mark.parametrize("by_id", [False, True])
async def test_a_deleted_topic_is_forgotten(lab: Lab, by_id: bool) -> None:
    topic_id = make(lab)
    lab.store.foresee(record(topic_id=topic_id))
    await lab.topics.before_produce(["t", topic_id])
    lab.topics.topic_deleted(topic_id if by_id else "t")
    assert lab.deleted == ["t"]
    reads = lab.store.reads
    await lab.topics.before_produce(["t"])
    assert lab.store.reads == reads + 1
    lab.broker.topics.clear()
    with pytest.raises(StateUnavailable):
        await lab.topics.before_produce([topic_id])


async def test_an_ordinary_topic_that_was_deleted(lab: Lab) -> None:
    topic_id = make(lab)
    await lab.topics.before_produce(["t", topic_id])
    lab.topics.topic_deleted("t")
    lab.topics.topic_deleted(uuid4())
    assert lab.deleted == []


async def test_a_mirror_is_known_by_the_id_in_its_record_too(lab: Lab) -> None:
    topic_id = uuid4()
    lab.store.foresee(record(topic_id=topic_id))
    await lab.store.read_to_end()
    assert lab.topics.read_only_mirror(topic_id) == "t"
    assert lab.topics.read_only_mirror(uuid4()) is None
