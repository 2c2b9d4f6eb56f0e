"""ConsumerOffsetSync on real clusters: what groups commit at the source is where they go on here."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from gateway.upstreams.cluster import Cluster, DialConnector
from gateway.upstreams.dialer import Security
from gateway.upstreams.groups import Committed, commit_offsets, find_coordinators
from tests.conftest import Clusters, has_failed
from tests.e2e.group_lab import (
    ALL_GROUPS,
    SYNC,
    after_runs,
    at,
    becomes,
    commit,
    committed,
    metric,
    offsets,
    task,
)
from tests.e2e.link_lab import LinkLab, produce, two_clusters, until

Name = Callable[[], str]
StartLab = Callable[..., LinkLab]


@pytest.fixture
def start_lab(request: pytest.FixtureRequest) -> Iterator[StartLab]:
    """Starts labs that end with the test."""
    labs: list[LinkLab] = []

    def start(*arguments: object, **settings: object) -> LinkLab:
        labs.append(LinkLab(*arguments, **settings))  # type: ignore[arg-type]  # LinkLab's own
        return labs[-1]

    yield start
    for lab in labs:
        lab.close(failed=has_failed(request))


@pytest.fixture(scope="module")
def lab(clusters: Clusters) -> Iterator[LinkLab]:
    """A reversed link with offset sync between two clusters of 4.3.0 that the tests of this module share."""
    lab = LinkLab(*two_clusters(clusters), configs=SYNC)
    yield lab
    lab.save_logs()
    lab.close()


def mirrored(lab: LinkLab, name: str, partitions: int = 2, records: int = 200) -> str:
    """A mirror topic with records, the same number in each partition."""
    lab.source.create_topic(name, partitions)
    produce(lab.source, name, records * partitions, partitions)
    lab.create_mirror(name)
    lab.wait_mirrored(name, partitions)
    return name


def test_groups_of_both_kinds(lab: LinkLab, unique_name: Name) -> None:
    topic = mirrored(lab, unique_name())
    classic, newer = unique_name(), unique_name()
    for group, more in ((classic, {}), (newer, {"group.protocol": "consumer"})):
        consumer = Consumer(
            {
                **at(lab.source),
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                **more,
            }
        )
        consumer.subscribe([topic])
        seen = 0
        while seen < 400:
            message = consumer.poll(1)
            assert message is None or message.error() is None
            seen += message is not None
        consumer.commit(
            offsets=[TopicPartition(topic, 0, 150), TopicPartition(topic, 1, 7)], asynchronous=False
        )
        # Its members are there, at the source: that hinders nobody.
        becomes(lab, group, {(topic, 0): 150, (topic, 1): 7})
        consumer.close()
    assert task(lab)["state"] == "ACTIVE"
    for group, more in ((classic, {}), (newer, {"group.protocol": "consumer"})):
        consumer = Consumer({**lab.client_config, "group.id": group, "auto.offset.reset": "error", **more})
        consumer.subscribe([topic])
        found = {0: 10**9, 1: 10**9}
        deadline = time.monotonic() + 20
        while sum(o < 10**9 for o in found.values()) < 2 and time.monotonic() < deadline:
            message = consumer.poll(1)
            if message is not None:
                assert message.error() is None
                p = message.partition() or 0
                found[p] = min(found[p], message.offset() or 0)
        consumer.close()
        assert found == {0: 150, 1: 7}


def test_metadata_and_going_back(lab: LinkLab, unique_name: Name) -> None:
    topic, group = mirrored(lab, unique_name()), unique_name()
    commit(at(lab.source), group, {(topic, 0): 120, (topic, 1): 60}, metadata="AQAAAYl1é")
    becomes(lab, group, {(topic, 0): 120, (topic, 1): 60})
    assert committed(lab.destination, group) == committed(lab.source, group)
    assert committed(lab.destination, group)[topic, 0][1].startswith("AQAAAYl1é")
    # The source's own commit goes back, and on.
    commit(at(lab.source), group, {(topic, 0): 20})
    becomes(lab, group, {(topic, 0): 20, (topic, 1): 60})
    commit(at(lab.source), group, {(topic, 0): 190})
    becomes(lab, group, {(topic, 0): 190, (topic, 1): 60})


def test_only_what_the_mirror_holds(lab: LinkLab, unique_name: Name) -> None:
    topic, other, group = mirrored(lab, unique_name()), unique_name(), unique_name()
    lab.source.create_topic(other, 1)
    produce(lab.source, other, 10, 1)
    # No mirror of it; beyond the end of the source, as after an unclean election; at its end.
    commit(at(lab.source), group, {(other, 0): 5, (topic, 0): 100_000, (topic, 1): 200})
    becomes(lab, group, {(topic, 0): 200, (topic, 1): 200})
    lab.alter("pause", topic)
    produce(lab.source, topic, 100, 2)
    commit(at(lab.source), group, {(topic, 1): 250})
    after_runs(lab)
    assert offsets(lab.destination, group) == {(topic, 0): 200, (topic, 1): 200}, "the mirror ends there"
    lab.alter("resume", topic)
    becomes(lab, group, {(topic, 0): 250, (topic, 1): 250})


def test_a_group_that_goes_on_here_is_left_alone(lab: LinkLab, unique_name: Name) -> None:
    topic, other = mirrored(lab, unique_name()), unique_name()
    lab.destination.create_topic(other, 1)
    simple, member, elsewhere = unique_name(), unique_name(), unique_name()
    for group in (simple, member, elsewhere):
        commit(at(lab.source), group, {(topic, 0): 100})
        becomes(lab, group, {(topic, 0): 100})
    # By assign(), never a member of anything; and by a member.
    commit(lab.client_config, simple, {(topic, 0): 30})
    consumer = Consumer({**lab.client_config, "group.id": member, "enable.auto.commit": False})
    consumer.subscribe([topic])
    until(lambda: consumer.poll(0.5) is not None, 20, "a member reads")
    # A topic that is no mirror is nobody's business.
    commit(lab.client_config, elsewhere, {(other, 0): 0})
    after_runs(lab)
    consumer.close()
    for group in (simple, member, elsewhere):
        commit(at(lab.source), group, {(topic, 0): 150, (topic, 1): 10})
    becomes(lab, elsewhere, {(other, 0): 0, (topic, 0): 150, (topic, 1): 10})
    after_runs(lab)
    assert offsets(lab.destination, simple) == {(topic, 0): 30}
    assert offsets(lab.destination, member) == {(topic, 0): 100}
    # So it stays, whoever looks after the link.
    lab.destination_gateway.restart()
    becomes(lab, elsewhere, {(other, 0): 0, (topic, 0): 150, (topic, 1): 10})
    commit(at(lab.source), elsewhere, {(topic, 0): 151})
    becomes(lab, elsewhere, {(other, 0): 0, (topic, 0): 151, (topic, 1): 10})
    assert offsets(lab.destination, simple) == {(topic, 0): 30}
    assert offsets(lab.destination, member) == {(topic, 0): 100}


def test_only_stable_commits_of_transactions(lab: LinkLab, unique_name: Name) -> None:
    topic, group, output = mirrored(lab, unique_name()), unique_name(), unique_name()
    lab.source.create_topic(output, 1)
    commit(at(lab.source), group, {(topic, 0): 10})
    becomes(lab, group, {(topic, 0): 10})
    producer = Producer({**at(lab.source), "transactional.id": unique_name()})
    consumer = Consumer({**at(lab.source), "group.id": group})
    producer.init_transactions(20)
    for end in (producer.abort_transaction, producer.commit_transaction):
        producer.begin_transaction()
        producer.produce(output, b"result")
        producer.send_offsets_to_transaction(
            [TopicPartition(topic, 0, 90)], consumer.consumer_group_metadata(), 20
        )
        after_runs(lab)
        assert offsets(lab.destination, group) == {(topic, 0): 10}, "nobody knows how it ends"
        end(20)
    consumer.close()
    becomes(lab, group, {(topic, 0): 90})
    assert task(lab)["state"] == "ACTIVE"


def test_positions_at_and_among_fillers(lab: LinkLab, unique_name: Name) -> None:
    topic, group = unique_name(), unique_name()
    lab.source.create_topic(topic, 1)
    producer = Producer({**at(lab.source), "transactional.id": unique_name()})
    producer.init_transactions(20)
    # Aborted, committed, aborted: five records and a marker each, of which the mirror has the middle ones.
    for end in (producer.abort_transaction, producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        for i in range(5):
            producer.produce(topic, b"%d" % i)
        producer.flush(20)
        end(20)
    lab.create_mirror(topic)
    lab.wait_mirrored(topic, 1)
    for position, following in ((2, 6), (11, None), (14, None), (18, None)):
        commit(at(lab.source), group, {(topic, 0): position})
        becomes(lab, group, {(topic, 0): position})
        consumer = Consumer({**lab.client_config, "group.id": f"{group}-{position}"})
        consumer.assign([TopicPartition(topic, 0, position)])
        message = consumer.poll(10 if following is not None else 1)
        assert (None if message is None else message.offset()) == following
        consumer.close()


def test_the_last_sync_is_at_the_promote(clusters: Clusters, start_lab: StartLab, unique_name: Name) -> None:
    hourly = {**SYNC, "consumer.offset.sync.ms": "3600000"}
    lab = start_lab(
        *two_clusters(clusters, apart=True),
        shape="dialled",
        configs=hourly,
    )
    topic, group = mirrored(lab, unique_name(), 1), unique_name()
    commit(at(lab.source), group, {(topic, 0): 77})
    lab.alter("promote", topic)
    until(lambda: lab.status(topic) == "STOPPED", 20, "promoted")
    assert offsets(lab.destination, group) == {(topic, 0): 77}
    commit(at(lab.source), group, {(topic, 0): 99})
    # Another topic's promote has everything synced once more, but for this one.
    second = mirrored(lab, unique_name(), 1)
    commit(at(lab.source), group, {(second, 0): 5})
    lab.alter("promote", second)
    until(lambda: lab.status(second) == "STOPPED", 20, "promoted")
    assert offsets(lab.destination, group) == {(topic, 0): 77, (second, 0): 5}


@pytest.mark.parametrize(("source", "destination"), [("2.4.1", "3.9.1")])
def test_filters_and_prefixes(
    clusters: Clusters, start_lab: StartLab, unique_name: Name, source: str, destination: str
) -> None:
    filters = {
        "groupFilters": [
            {"name": "in-", "patternType": "PREFIXED", "filterType": "INCLUDE"},
            {"name": "alone", "patternType": "LITERAL", "filterType": "INCLUDE"},
            {"name": "in-but", "patternType": "PREFIXED", "filterType": "EXCLUDE"},
        ]
    }
    configs = {
        **SYNC,
        "consumer.offset.group.filters": json.dumps(filters),
        "cluster.link.prefix": "eu.",
        "consumer.group.prefix.enable": "true",
    }
    lab = start_lab(
        clusters(source, config={"log.retention.hours": "168"}),
        clusters(destination, config={"log.retention.hours": "169"}),
        shape="dialled",
        configs=configs,
    )
    topic = unique_name()
    lab.source.create_topic(topic, 1)
    produce(lab.source, topic, 50, 1)
    lab.create_mirror(topic)
    for group in ("in-1", "alone", "in-but-out", "out", "alone-not"):
        commit(at(lab.source), group, {(topic, 0): 40})
    for group in ("in-1", "alone"):
        becomes(lab, f"eu.{group}", {(f"eu.{topic}", 0): 40})
    after_runs(lab)
    for group in ("eu.in-but-out", "eu.out", "eu.alone-not", "in-1", "alone"):
        assert not offsets(lab.destination, group)


def test_without_filters_nothing_is_synced_and_the_task_says_so(
    clusters: Clusters, start_lab: StartLab
) -> None:
    configs = {**SYNC, "consumer.offset.group.filters": ""}
    lab = start_lab(
        *two_clusters(clusters, apart=True),
        shape="dialled",
        configs=configs,
    )
    shown = task(lab)
    assert shown["state"] == "IN_ERROR"
    assert shown["errors"][0]["error_code"] == "MISCONFIGURATION_ERROR"
    assert ALL_GROUPS not in str(shown)


@pytest.mark.soak
def test_a_thousand_groups_of_fifty_partitions_in_one_interval(
    clusters: Clusters, start_lab: StartLab, unique_name: Name
) -> None:
    groups, partitions = 1_000, 50
    lab = start_lab(*two_clusters(clusters, apart=True), configs=SYNC)
    topic = mirrored(lab, unique_name(), partitions, 100)
    prefix = unique_name()
    names = [f"{prefix}-{i}" for i in range(groups)]
    # The first group of a cluster has to wait for the topic of all groups.
    commit(at(lab.source), f"{prefix}-first", {(topic, 0): 1})

    async def commit_all(offset: int) -> float:
        """Commit for every group at the source; how long that took, in seconds."""
        cluster = Cluster(DialConnector([lab.source.internal_bootstrap], Security()))
        began = time.monotonic()
        nodes = await find_coordinators(cluster, names)
        wanted = {(topic, p): Committed(offset) for p in range(partitions)}
        for name in names:
            node_id = nodes[name]
            assert isinstance(node_id, int)
            assert not await commit_offsets(cluster, node_id, name, wanted)
        await cluster.close()
        return time.monotonic() - began

    series = f'causeway_group_offsets_committed_total{{link="{lab.link}"}}'
    for offset in (40, 90):
        before = metric(lab, series)
        took_s = asyncio.run(commit_all(offset))
        began = time.monotonic()
        until(lambda: metric(lab, series) >= before + groups * partitions, 60, f"all of them: {task(lab)}")  # noqa: B023
        print(f"{groups} groups, {groups * partitions} offsets: committed at the source in {took_s:.1f} s,")
        print(f"all of them at the mirror {time.monotonic() - began:.1f} s later")
        assert offsets(lab.destination, names[-1]) == {(topic, p): offset for p in range(partitions)}
    seconds = f'causeway_link_task_seconds{{link="{lab.link}",task="ConsumerOffsetSync"}}'
    after_runs(lab)
    quiet_s = metric(lab, seconds)
    commit(at(lab.source), names[0], {(topic, 0): 95})
    began = time.monotonic()
    becomes(lab, names[0], {(topic, p): 95 if p == 0 else 90 for p in range(partitions)})
    print(f"a run without changes takes {quiet_s:.2f} s;")
    print(f"one commit was here {time.monotonic() - began:.2f} s later")
    assert quiet_s < 30
