"""Moving consumers: they stop at the source and go on at the destination's gateway, and nothing is lost."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from confluent_kafka import Consumer, Producer

from compose.kafka import ROOT
from tests.conftest import Clusters
from tests.e2e.group_lab import SYNC, after_runs, at, becomes, commit, offsets
from tests.e2e.link_lab import LinkLab, produce, two_clusters, until
from tests.e2e.movers import MOVERS, at_destination, at_source

Name = Callable[[], str]
PARTITIONS = 3


@pytest.fixture(scope="module")
def lab(clusters: Clusters) -> Iterator[LinkLab]:
    """A reversed link with offset sync that these tests share."""
    lab = LinkLab(*two_clusters(clusters), configs=SYNC)
    yield lab
    lab.save_logs()
    lab.close()


class Writing:
    """Numbered records to the source's partitions in turn, until stopped."""

    def __init__(self, lab: LinkLab, topic: str, pause_s: float = 0.01) -> None:
        self._producer = Producer({**at(lab.source), "linger.ms": 5, "enable.idempotence": True})
        self._topic = topic
        self._pause_s = pause_s
        self._stopped = threading.Event()
        self.count = 0
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        while not self._stopped.is_set():
            for _ in range(10):
                self._producer.produce(self._topic, b"%d" % self.count, partition=self.count % PARTITIONS)
                self.count += 1
            self._producer.poll(0)
            time.sleep(self._pause_s)

    def stop(self) -> int:
        """How many there are; all of them are written."""
        self._stopped.set()
        self._thread.join(20)
        assert self._producer.flush(60) == 0
        return self.count


def causeway(lab: LinkLab, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A command to the destination's gateway."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments, "--url", lab.destination_gateway.admin_url],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


@dataclass
class Move:
    """One group's way from one cluster to the other."""

    client: str
    group: str
    count: int
    extra: int
    first: list[bytes]


def move_round(lab: LinkLab, topic: str, names: Sequence[str], name: Name, dice: random.Random) -> None:
    """Groups of these clients stop at the source while it is written to, are moved, and read on here."""
    writing = Writing(lab, topic)
    try:

        def begin(client: str) -> Move:
            consume, reads_on = MOVERS[client]
            count, extra = dice.randrange(100, 400), dice.randrange(1, 50) if reads_on else 0
            group = f"{name()}-{client}"
            return Move(client, group, count, extra, consume(at_source(lab), topic, group, count, extra))

        with ThreadPoolExecutor(len(names)) as pool:
            moves = list(pool.map(begin, names))
        for move in moves:
            assert len(move.first) == move.count + move.extra, move.client
        causeway(lab, "group", "move", *(move.group for move in moves), "--link", lab.link)
    finally:
        total = writing.stop()
    written = {b"%d" % i for i in range(total)}

    def go_on(move: Move) -> list[bytes]:
        left = total - move.count
        return MOVERS[move.client][0](at_destination(lab), topic, move.group, left, 0)

    with ThreadPoolExecutor(len(names)) as pool:
        for move, rest in zip(moves, pool.map(go_on, moves), strict=True):
            before, repeated = set(move.first), set(move.first) & set(rest)
            lost = written - before - set(rest)
            # What was read and not committed comes again, and nothing else does.
            assert (len(lost), repeated) == (0, set(move.first[move.count :])), move.client
            assert len(rest) == len(set(rest)) == total - move.count, move.client


def mirror(lab: LinkLab, topic: str) -> None:
    lab.source.create_topic(topic, PARTITIONS)
    lab.create_mirror(topic)


def test_consumers_of_every_kind_move(lab: LinkLab, unique_name: Name) -> None:
    topic = unique_name()
    mirror(lab, topic)
    move_round(lab, topic, list(MOVERS), unique_name, random.Random(7))


@pytest.mark.soak
def test_twenty_rounds_of_moves(lab: LinkLab, unique_name: Name) -> None:
    dice = random.Random(11)
    for _ in range(20):
        topic = unique_name()
        mirror(lab, topic)
        move_round(lab, topic, list(MOVERS), unique_name, dice)


def test_a_move_waits_for_the_last_member(lab: LinkLab, unique_name: Name) -> None:
    topic, group = unique_name(), unique_name()
    mirror(lab, topic)
    produce(lab.source, topic, 300, PARTITIONS)
    settings = {**at(lab.source), "group.id": group, "auto.offset.reset": "earliest"}
    # Two of them: the second leaves the first with everything, by a rebalance.
    consumers = [Consumer({**settings, "client.id": f"app-{i}"}) for i in range(2)]
    seen: set[tuple[int, int]] = set()

    def read() -> bool:
        for consumer in consumers:
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                seen.add((message.partition() or 0, message.offset() or 0))
        return len(seen) == 300

    for consumer in consumers:
        consumer.subscribe([topic])
    until(read, 40, "both have read everything")
    consumers.pop().close()
    dry = causeway(lab, "group", "move", group, "--link", lab.link, "--dry-run", code=1)
    assert "still has 1 member(s) at the source: stop them first" in dry.stdout
    assert f"{group}: member " in dry.stdout
    assert "of client app-0" in dry.stdout
    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(causeway, lab, "group", "move", group, "--link", lab.link)
        time.sleep(2)
        assert not moving.done()
        consumers.pop().close()
        done = moving.result(60)
    assert f"bootstrap.servers={lab.client_config['bootstrap.servers']}" in done.stdout
    assert offsets(lab.destination, group) == offsets(lab.source, group)
    assert set(offsets(lab.destination, group)) == {(topic, p) for p in range(PARTITIONS)}
    commit(at(lab.source), group, {(topic, 0): 7})
    after_runs(lab)
    assert offsets(lab.destination, group) != offsets(lab.source, group)
    # Told otherwise, the link takes over again what the source's group does.
    causeway(lab, "group", "follow", group, "--link", lab.link)
    commit(at(lab.source), group, {(topic, p): 100 for p in range(PARTITIONS)})
    becomes(lab, group, {(topic, p): 100 for p in range(PARTITIONS)})


def test_the_articles_migration(lab: LinkLab, unique_name: Name) -> None:
    """Mirror the topic, stop the producer, promote, start the producer here; the consumer moves meanwhile."""
    topic, group = unique_name(), unique_name()
    mirror(lab, topic)
    writing = Writing(lab, topic)
    first = MOVERS["librdkafka"][0](at_source(lab), topic, group, 200, 0)
    total = writing.stop()
    ends = {p: lab.raw(lab.source, topic, p).last_stable_offset(topic, p) for p in range(PARTITIONS)}
    causeway(lab, "mirror", "promote", topic, "--link", lab.link, "--wait")
    assert lab.compare(topic, PARTITIONS, ends=ends) == total
    # The promote synced the group; nobody has to move it.
    producer = Producer(at_destination(lab).librdkafka())
    for i in range(total, total + 90):
        producer.produce(topic, b"%d" % i, partition=i % PARTITIONS)
    assert producer.flush(30) == 0
    rest = MOVERS["librdkafka"][0](at_destination(lab), topic, group, total + 90 - 200, 0)
    assert sorted(map(int, [*first, *rest])) == list(range(total + 90)), "each once, whichever cluster"


def test_a_failover_loses_what_it_says_and_nothing_else(lab: LinkLab, unique_name: Name) -> None:
    """The source is cut off while it is written to; the group goes on here with what was mirrored."""
    topic, group = unique_name(), unique_name()
    mirror(lab, topic)
    produce(lab.source, topic, 300, PARTITIONS)
    lab.wait_mirrored(topic, PARTITIONS)
    commit(at(lab.source), group, {(topic, p): 40 for p in range(PARTITIONS)})
    becomes(lab, group, {(topic, p): 40 for p in range(PARTITIONS)})
    assert lab.source_gateway is not None
    writing = Writing(lab, topic)
    try:
        until(lambda: writing.count > 500, 20, "the source is written to")
        lab.source_gateway.kill()
        total = writing.stop()
        done = causeway(lab, "mirror", "failover", topic, "--link", lab.link, "--wait")
        raw = [lab.raw(lab.destination, topic, p) for p in range(PARTITIONS)]
        # The last offset is the barrier's.
        ends = {p: raw[p].last_stable_offset(topic, p) - 1 for p in range(PARTITIONS)}
        held = sum(ends.values())
        assert 300 <= held < total + 300
        rest = MOVERS["librdkafka"][0](at_destination(lab), topic, group, held - 3 * 40, 0)
        assert len(rest) == held - 3 * 40
        for p in range(PARTITIONS):
            there = lab.raw(lab.source, topic, p).data(topic, p).records
            here = raw[p].data(topic, p).records
            wanted = {offset: each.value for offset, each in there.items() if offset < ends[p]}
            assert {o: each.value for o, each in here.items() if o < ends[p]} == wanted
        for line in done.stdout.splitlines():
            if " records of the source are not here" in line:
                # What is named begins where the mirror ends.
                partition = int(line.split("partition ")[1].split(":")[0])
                assert f"offsets {ends[partition]} to " in line
        named = [p for p in range(PARTITIONS) if f"{topic}: partition {p}: " in done.stdout]
        assert named or f"{topic}: nothing of what is known of the source is missing." in done.stdout
    finally:
        writing.stop()
        lab.source_gateway.start()
