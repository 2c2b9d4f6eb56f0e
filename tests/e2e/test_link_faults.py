"""Gateways and brokers are killed while records flow; afterwards the mirror is the source, record for record.

The short forms run by default, the ten rounds of each kind with `make soak`.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer

from compose.kafka import KafkaCluster
from tests.conftest import Clusters, has_failed
from tests.e2e.link_lab import CODECS, LinkLab, delete_records, produce, two_clusters, until
from tests.e2e.random_log import RandomLog

PARTITIONS = 6
STEP = 2_500
THREE_DAYS_S = 3 * 86_400
# A killed broker is back sooner when the controller gives up on it sooner.
QUICK = {
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "log.retention.hours": "720",
}
# So that a broker forgets a producer of old records all the time.
FORGETFUL = {**QUICK, "producer.id.expiration.check.interval.ms": "2000"}
PAUSED = "paused "
KINDS = ("destination gateway", "source gateway", "destination broker", "source broker")


@pytest.fixture
def fragile(request: pytest.FixtureRequest, own_cluster: Clusters) -> Iterator[LinkLab]:
    """A reversed link whose gateways and brokers may be killed."""
    lab = LinkLab(own_cluster("4.3.0", config=QUICK), own_cluster("4.3.0", config=FORGETFUL))
    yield lab
    lab.close(failed=has_failed(request))


def strike(lab: LinkLab, kind: str) -> None:
    """SIGKILL one process, and start it again after a moment; or SIGSTOP it past a broker's checks."""
    if kind.startswith(PAUSED):
        kind = kind.removeprefix(PAUSED)
        gateway = lab.destination_gateway if kind.startswith("destination") else lab.source_gateway
        cluster = lab.destination if kind.startswith("destination") else lab.source
        paused = gateway if kind.endswith("gateway") else random.choice(cluster.nodes)
        assert paused is not None
        paused.pause()
        time.sleep(4)
        paused.resume()
        return
    if kind.endswith("gateway"):
        gateway = lab.destination_gateway if kind.startswith("destination") else lab.source_gateway
        assert gateway is not None
        gateway.kill()
        time.sleep(random.uniform(0, 1))
        gateway.start(wait=False)
        return
    cluster = lab.destination if kind.startswith("destination") else lab.source
    node = random.choice(cluster.nodes)
    node.kill()
    time.sleep(random.uniform(0, 1))
    node.start()


def in_background(work: Callable[[], None]) -> Callable[[], None]:
    """Run in a thread; what is returned joins it and raises what it raised."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> None:
        thread.join()
        if failure:
            raise failure[0]

    return join


def flow(
    cluster: KafkaCluster, topic: str, count: int, age_s: float, go_on: Callable[[], bool] = lambda: False
) -> int:
    """Produce at least `count` records in steps, with every codec and all sizes of batches; how many."""
    sent = step = 0
    while sent < count or go_on():
        produce(
            cluster,
            topic,
            STEP,
            PARTITIONS,
            codecs=[CODECS[step % len(CODECS)]],
            batch_records=random.choice([1, 5, 100, 1_000]),
            age_s=age_s,
        )
        sent += STEP
        step += 1
    return sent


def run_faults(lab: LinkLab, topic: str, kinds: list[str], *, age_s: float, count: int = 50_000) -> None:
    """Strike at random moments while records flow, then wait for the mirror and compare everything."""
    lab.source.create_topic(topic, PARTITIONS)
    lab.create_mirror(topic)
    striking = threading.Event()
    striking.set()
    sent: list[int] = []
    join = in_background(lambda: sent.append(flow(lab.source, topic, count, age_s, striking.is_set)))
    for kind in kinds:
        time.sleep(random.uniform(0.2, 2))
        strike(lab, kind)
    striking.clear()
    join()
    for gateway in lab.gateways:
        gateway.wait_ready()
    lab.wait_mirrored(topic, PARTITIONS, timeout_s=120)
    # A late append of a dead owner would come now.
    time.sleep(2)
    # A source that is killed may have one twice: it too forgets a producer whose records are old.
    assert lab.compare(topic, PARTITIONS) >= sent[0]
    assert lab.status(topic) == "ACTIVE"


@pytest.mark.parametrize("age_s", [0, THREE_DAYS_S], ids=["fresh", "three days old"])
def test_everything_is_killed_twice(fragile: LinkLab, unique_name: Callable[[], str], age_s: float) -> None:
    kinds = list(KINDS) * 2
    random.shuffle(kinds)
    print("strikes:", kinds)
    run_faults(fragile, unique_name(), kinds, age_s=age_s)


def run_random_log(lab: LinkLab, topic: str, kinds: list[str], *, seconds: float, age_s: float) -> None:
    """Strike while a random log is written, then wait for the mirror and compare everything."""
    seed = random.randrange(1 << 32)
    print("seed:", seed, "strikes:", kinds)
    lab.source.create_topic(topic, 3)
    log = RandomLog(lab.source, topic, 3, seed, age_s=age_s)
    lab.create_mirror(topic)
    striking = threading.Event()
    striking.set()
    join = in_background(lambda: log.run(seconds, striking.is_set))
    for kind in kinds:
        time.sleep(seconds / len(kinds) / 2 + random.uniform(0, 1))
        strike(lab, kind)
    striking.clear()
    join()
    for gateway in lab.gateways:
        gateway.wait_ready()
    lab.wait_mirrored(topic, 3, timeout_s=120)
    for p in range(3):
        raw = lab.raw(lab.destination, topic, p)
        # A source that is killed may have forgotten what was deleted: it is deleted again.
        again = max(raw.log_start(topic, p), lab.raw(lab.source, topic, p).log_start(topic, p))
        delete_records(lab.source, topic, again, p)
        until(lambda raw=raw, p=p, again=again: raw.log_start(topic, p) == again, 60, "the same start")  # type: ignore[misc]
    time.sleep(2)
    equal = lab.compare(topic, 3)
    counts = f"records={log.records} equal={equal} transactional={log.transactional}"
    print(f"{counts} faults={len(kinds)} findings=0")
    assert equal > 0
    assert lab.status(topic) == "ACTIVE"


@pytest.mark.parametrize(
    "age_s",
    [pytest.param(0, id="fresh", marks=pytest.mark.soak), pytest.param(THREE_DAYS_S, id="three days old")],
)
def test_a_random_log_while_everything_is_killed(
    fragile: LinkLab, unique_name: Callable[[], str], age_s: float
) -> None:
    pauses = ["destination broker", "destination gateway"] if age_s else []
    kinds = [*KINDS, *(PAUSED + kind for kind in pauses)]
    random.shuffle(kinds)
    run_random_log(fragile, unique_name(), kinds, seconds=10, age_s=age_s)


@pytest.mark.soak
@pytest.mark.parametrize("age_s", [0, THREE_DAYS_S], ids=["fresh", "three days old"])
def test_random_logs_for_long(fragile: LinkLab, unique_name: Callable[[], str], age_s: float) -> None:
    for _ in range(5):
        kinds = [*KINDS, *(PAUSED + kind for kind in KINDS)]
        random.shuffle(kinds)
        run_random_log(fragile, unique_name(), kinds, seconds=60, age_s=age_s)


@pytest.mark.soak
@pytest.mark.parametrize("age_s", [0, THREE_DAYS_S], ids=["fresh", "three days old"])
@pytest.mark.parametrize("kind", KINDS)
def test_ten_kills(fragile: LinkLab, unique_name: Callable[[], str], kind: str, age_s: float) -> None:
    for _ in range(10):
        run_faults(fragile, unique_name(), [kind], age_s=age_s)


def new_mirrors(lab: LinkLab, name: str, rounds: int, partitions: int = 100) -> None:
    """Mirrors of many partitions, each started while its leaders come up: every one begins with offset 0."""
    for i in range(rounds):
        topic = f"{name}-{i}"
        lab.source.create_topic(topic, partitions)
        produce(lab.source, topic, partitions * 30, partitions, linger_ms=50, batch_records=5)
        lab.create_mirror(topic)
        lab.wait_mirrored(topic, partitions, timeout_s=60)
        assert lab.compare(topic, partitions) == partitions * 30
        for cluster in (lab.source, lab.destination):
            cluster.admin.delete_topics([topic])[topic].result(30)


@pytest.fixture(scope="module")
def steady(clusters: Clusters) -> Iterator[LinkLab]:
    """A dialled link between clusters that nobody kills."""
    lab = LinkLab(*two_clusters(clusters), shape="dialled")
    yield lab
    lab.save_logs()
    lab.close()


def test_new_mirrors_of_a_hundred_partitions(steady: LinkLab, unique_name: Callable[[], str]) -> None:
    new_mirrors(steady, unique_name(), rounds=2)


@pytest.mark.soak
def test_twenty_new_mirrors_of_a_hundred_partitions(steady: LinkLab, unique_name: Callable[[], str]) -> None:
    new_mirrors(steady, unique_name(), rounds=20)


def test_two_replicators_for_one_partition(
    request: pytest.FixtureRequest, clusters: Clusters, unique_name: Callable[[], str]
) -> None:
    lab = LinkLab(*two_clusters(clusters, apart=True), shape="dialled")
    try:
        topic = unique_name()
        lab.source.create_topic(topic, PARTITIONS)
        lab.create_mirror(topic)
        lab.second_destination_gateway()
        flow(lab.source, topic, 20_000, 0)
        lab.wait_mirrored(topic, PARTITIONS)
        time.sleep(1)
        assert lab.compare(topic, PARTITIONS) == 20_000
        assert lab.status(topic) == "ACTIVE"
    finally:
        lab.close(failed=has_failed(request))


def write_around(lab: LinkLab, topic: str, count: int = 1) -> None:
    """Write to the mirror topic directly at its broker."""
    producer = Producer({"bootstrap.servers": lab.destination.internal_bootstrap})
    for _ in range(count):
        producer.produce(topic, b"foreign", partition=0)
    assert producer.flush(20) == 0


def test_a_foreign_writer_while_the_gateway_runs(steady: LinkLab, unique_name: Callable[[], str]) -> None:
    topic = unique_name()
    steady.source.create_topic(topic, 1)
    produce(steady.source, topic, 100, 1)
    steady.create_mirror(topic)
    steady.wait_mirrored(topic, 1)
    write_around(steady, topic)
    produce(steady.source, topic, 10, 1)
    until(lambda: steady.status(topic) == "FAILED", 20, "noticed")
    assert "foreign writer" in steady.failure(topic)


@pytest.mark.parametrize("count", [1, 7])
def test_a_foreign_writer_while_the_gateway_is_stopped(
    request: pytest.FixtureRequest, clusters: Clusters, unique_name: Callable[[], str], count: int
) -> None:
    lab = LinkLab(*two_clusters(clusters, apart=True), shape="dialled")
    try:
        topic = unique_name()
        lab.source.create_topic(topic, 1)
        produce(lab.source, topic, 100, 1)
        lab.create_mirror(topic)
        lab.wait_mirrored(topic, 1)
        lab.destination_gateway.terminate()
        write_around(lab, topic, count)
        lab.destination_gateway.start()
        # At the next start, without anything to append.
        until(lambda: lab.status(topic) == "FAILED", 20, "noticed")
        assert "foreign writer" in lab.failure(topic)
        assert "producer id -1" in lab.failure(topic)
        assert lab.end_of(lab.destination, topic, 1) == 100 + count, "nothing was written behind it"
    finally:
        lab.close(failed=has_failed(request))
