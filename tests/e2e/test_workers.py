"""`workers: 2`: to clients two processes are one gateway, whichever of them dies; links find the first."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from compose.gateway_process import GatewayProcess
from compose.kafka import KafkaCluster
from tests.conftest import Clusters
from tests.e2e.clients import Aiokafka, Librdkafka
from tests.e2e.conftest import Fronts
from tests.e2e.front import Front
from tests.e2e.java_clients import Java
from tests.e2e.link_lab import LinkLab, produce, two_clusters, until
from tests.e2e.workload import Consuming, Producing, check, eventually

Names = Callable[[], str]
TWO = {"workers": 2}


def workers_of(gateway: GatewayProcess) -> list[int]:
    """The process ids of a gateway's workers, first come first."""
    children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def has_another(gateway: GatewayProcess, ended: int) -> bool:
    """Whether a new worker took the place of one that has ended."""
    workers = workers_of(gateway)
    return ended not in workers and len(workers) == 2


def waiting_for(gateway: GatewayProcess) -> list[str]:
    """What /readyz says."""
    try:
        with urllib.request.urlopen(f"{gateway.admin_url}/readyz", timeout=10) as answer:
            body = json.load(answer)
    except urllib.error.HTTPError as error:
        body = json.load(error)
    except OSError as error:
        return [str(error)]
    return list(body["waiting_for"])


def metric(gateway: GatewayProcess, name: str) -> dict[str, float]:
    """The sum of a metric's series, by worker."""
    with urllib.request.urlopen(f"{gateway.admin_url}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    values: dict[str, float] = {}
    for labels, value in re.findall(rf"^{name}\{{(.*)\}} (\S+)$", page, re.MULTILINE):
        (worker,) = re.findall(r'worker="(\d+)"', labels)
        values[worker] = values.get(worker, 0) + float(value)
    return values


@pytest.fixture
def front(own_front: Fronts, kafka_430: KafkaCluster) -> Front:
    """A gateway of two workers in front of the shared broker."""
    config = {"super_users": ["User:ANONYMOUS"], **TWO}
    return own_front(kafka_430, ways=("sasl", "plain"), config=config)


def test_clients_work_through_two_workers(front: Front, kafka_430: KafkaCluster, unique_name: Names) -> None:
    assert len(workers_of(front.gateway)) == 2
    access = front.access("sasl")
    values = [b"%d" % number for number in range(50)]
    for library in (Librdkafka(access), Aiokafka(access), Java(access)):
        topic = unique_name()
        kafka_430.create_topic(topic, 4)
        library.produce(topic, values[:25], idempotent=True)
        library.transact(topic, unique_name(), [(values[25:], True), ([b"aborted"], False)])
        assert sorted(library.consume(topic, unique_name(), 50)) == sorted(values)
    # The kernel spreads connections by hash; these are some dozens.
    assert set(metric(front.gateway, "causeway_connections_total")) == {"0", "1"}
    assert metric(front.gateway, "causeway_worker_up") == {"0": 1, "1": 1}
    assert all(value > 0 for value in metric(front.gateway, "causeway_connections_total").values())


def test_a_user_made_in_one_worker_is_known_in_all(front: Front, kafka_430: KafkaCluster) -> None:
    request = urllib.request.Request(
        f"{front.gateway.admin_url}/causeway/v1/users",
        data=json.dumps({"name": "carol", "password": "carols-secret"}).encode(),
        method="POST",
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=30).close()
    access = front.access("sasl")

    def let_in() -> bool:
        try:
            access.connect(user="carol", password="carols-secret").close()
        except PermissionError:
            return False
        return True

    eventually(let_in, within_s=5)
    # So many new connections meet both workers.
    assert all(let_in() for _ in range(20))


def test_clients_go_on_when_a_worker_is_killed(
    front: Front, kafka_430: KafkaCluster, unique_name: Names
) -> None:
    gateway, topic = front.gateway, unique_name()
    kafka_430.create_topic(topic, 6)
    first, second = workers_of(gateway)
    access = front.access("sasl")
    with Consuming(access, topic, unique_name()) as consuming, Producing(access, topic) as one:
        one.more()
        for pid in (second, first):
            os.kill(pid, signal.SIGKILL)
            one.more()
            eventually(partial(has_another, gateway, pid))
            eventually(lambda: not waiting_for(gateway))
            one.more()
        one.stop()
        consuming.has(one.delivered)
    assert gateway.running
    check(kafka_430, topic, one)
    ended = [event for event in gateway.log_events() if event["event"] == "worker.ended"]
    assert {(event["worker"], event["how"]) for event in ended} == {(0, "by SIGKILL"), (1, "by SIGKILL")}
    assert gateway.terminate() == 0


def test_readiness_speaks_for_all_workers(front: Front) -> None:
    gateway = front.gateway
    # The first answers; the second is frozen and cannot.
    (second,) = [pid for pid in workers_of(gateway) if pid != workers_of(gateway)[0]]
    os.kill(second, signal.SIGSTOP)
    try:
        eventually(lambda: waiting_for(gateway) == ["worker 1 does not answer"])
        assert metric(gateway, "causeway_worker_up") == {"0": 1, "1": 0}
    finally:
        os.kill(second, signal.SIGCONT)
    eventually(lambda: not waiting_for(gateway))


@pytest.fixture
def lab(clusters: Clusters) -> Iterator[LinkLab]:
    """A reversed link to a gateway of two workers."""
    lab = LinkLab(
        *two_clusters(clusters),
        destination_settings=TWO,
    )
    yield lab
    lab.save_logs()
    lab.close()


def test_a_link_finds_the_worker_that_takes_it(lab: LinkLab, unique_name: Names) -> None:
    topic = unique_name()
    lab.source.create_topic(topic, 3)
    produce(lab.source, topic, 500, 3)
    lab.create_mirror(topic)
    lab.wait_mirrored(topic, 3)
    # Its topic was made when both knew of it.
    assert not [
        event for event in lab.destination_gateway.log_events() if event["event"] == "workers.not_heard"
    ]
    gateway = lab.destination_gateway
    first = workers_of(gateway)[0]
    os.kill(first, signal.SIGKILL)
    until(lambda: has_another(gateway, first), 30, "the first worker is started again")
    until(lambda: not waiting_for(gateway), 30, "the gateway has its links again")
    produce(lab.source, topic, 500, 3, start=500)
    lab.wait_mirrored(topic, 3)
    assert lab.compare(topic, 3) == 1000
