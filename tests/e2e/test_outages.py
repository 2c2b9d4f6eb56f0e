"""Brokers and gateways go and come back while stock clients work: they go on, nothing is lost or doubled."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from compose.kafka import KafkaCluster, KafkaNode
from tests.e2e.conftest import Fronts
from tests.e2e.front import Front
from tests.e2e.java_clients import Java
from tests.e2e.watched import WatchedFront
from tests.e2e.workload import Consuming, Producing, check, eventually, in_log, in_sync

Names = Callable[[], str]
JAVA_RECORDS = 10_000
# Longer than it takes a controller to miss a broker, shorter than clients wait for an answer.
FROZEN_S = 6


# --- brokers ------------------------------------------------------------------------------------------------


def stop(node: KafkaNode, producing: Producing) -> None:
    node.stop()
    producing.more()
    node.start()


def kill(node: KafkaNode, producing: Producing) -> None:
    node.kill()
    producing.more()
    node.start()


def freeze(node: KafkaNode, producing: Producing) -> None:
    node.pause()
    time.sleep(FROZEN_S)
    node.resume()
    producing.more()


Outage = Callable[[KafkaNode, Producing], None]


def go_through(kafka: KafkaCluster, watched: WatchedFront, name: Names, outages: list[Outage]) -> None:
    """Has a producer and a consumer group live through outages of one broker after the other."""
    topic, access = name(), watched.access()
    kafka.create_topic(topic, 6, config={"min.insync.replicas": "2"})
    with (
        Consuming(access, topic, name()) as consuming,
        Producing(access, topic) as producing,
    ):
        producing.more()
        for number, outage in enumerate(outages):
            outage(kafka.nodes[number % len(kafka.nodes)], producing)
            eventually(lambda: in_sync(kafka, topic))
            producing.more()
        producing.stop()
        consuming.has(producing.delivered)
    check(kafka, topic, producing)
    # Who leads, and where that is, was asked and told all the time.
    assert all(len(relay.received) > 1000 for relay in watched.relays[1:])
    assert not watched.addresses_told()


def test_brokers_stop_die_and_freeze(
    breakable: KafkaCluster, watched: WatchedFront, unique_name: Names
) -> None:
    java, topic = Java(watched.access()), unique_name()
    breakable.create_topic(topic, 3, config={"min.insync.replicas": "2"})
    sizes = ("--num-records", str(JAVA_RECORDS), "--record-size", "100", "--throughput", "500")
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(java.tool, "kafka-producer-perf-test", "--topic", topic, *sizes, acks="all")
        go_through(breakable, watched, unique_name, [stop, kill, freeze])
        assert f"{JAVA_RECORDS} records sent" in sent.result().stdout
    assert len(in_log(breakable, topic)) == JAVA_RECORDS


@pytest.mark.soak
def test_brokers_go_thirty_times(breakable: KafkaCluster, watched: WatchedFront, unique_name: Names) -> None:
    outages: list[Outage] = [stop, kill, freeze] * 10
    random.shuffle(outages)
    go_through(breakable, watched, unique_name, outages)


# --- gateways -----------------------------------------------------------------------------------------------


def terminated(front: Front) -> None:
    assert front.gateway.terminate() == 0


def killed(front: Front) -> None:
    front.gateway.kill()


def end_gateways(front: Front, elsewhere: int, name: Names, ends: Sequence[Callable[[Front], None]]) -> None:
    """Ends and starts a gateway, whose bootstrap port is `elsewhere` from the first time on."""
    kafka = front.kafka
    topic, group = name(), name()
    kafka.create_topic(topic, 3)
    access = front.access("sasl")
    (listener,) = front.gateway.config["listeners"]
    # Newer clients forget all brokers when none answers, and begin anew at the bootstrap port (KIP-899).
    older: dict[str, Any] = {"metadata.recovery.strategy": "none"}
    with (
        Consuming(access, topic, group, **older) as consuming,
        Producing(access, topic, **older) as producing,
    ):
        producing.more()
        consuming.has({0})
        # From now on nobody is at the bootstrap port that they were told of.
        listener |= {"broker_port": front.ports["sasl"][1], "port": elsewhere}
        for end in ends:
            end(front)
            time.sleep(0.5)
            front.gateway.start()
            producing.more()
        producing.stop()
        consuming.has(producing.delivered)
    check(kafka, topic, producing)


def test_clients_that_know_only_broker_ports_find_a_gateway_that_is_back(
    kafka_430: KafkaCluster, own_front: Fronts, unique_name: Names, free_ports: Callable[[], range]
) -> None:
    front = own_front(kafka_430, ways=("sasl",))
    end_gateways(front, free_ports()[0], unique_name, [terminated, killed])


@pytest.mark.soak
def test_a_gateway_ends_twenty_times(
    kafka_430: KafkaCluster, own_front: Fronts, unique_name: Names, free_ports: Callable[[], range]
) -> None:
    front = own_front(kafka_430, ways=("sasl",))
    end_gateways(front, free_ports()[0], unique_name, [terminated, killed] * 10)
