"""Two gateways in front of one cluster restart in turn under load: nothing is lost, doubled or left unread.

Clients are stock, with default retries: an idempotent producer and a consumer group of Java and of librdkafka
each. The gateways are either two in one bootstrap list, or share one address behind a balancer, as with a
Service of Kubernetes.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from compose.java_tools import ToolOutput, run_tool
from compose.kafka import KafkaCluster
from compose.ports import lease_ports
from tests.e2e.balancer import Balancer
from tests.e2e.conftest import Fronts
from tests.e2e.front import NODE_IDS, Access, Front
from tests.e2e.workload import Consuming, Producing, check, in_log

Names = Callable[[], str]
JAVA_PER_S = 300
# Longer than a restart with its drain may take on a busy machine.
ROUND_S = 10


@dataclass(frozen=True)
class Pair:
    """Two gateways, and how clients reach them: `bootstrap` is what they are told."""

    fronts: tuple[Front, Front]
    access: Access
    bootstrap: str

    def java(self, name: str, *arguments: str, timeout_s: float, **settings: str) -> ToolOutput:
        """Runs one of Kafka's tools through the gateways."""
        properties = self.access.java() | {key.replace("_", "."): value for key, value in settings.items()}
        return run_tool(name, self.bootstrap, *arguments, properties=properties, timeout_s=timeout_s)

    def restart_in_turn(self) -> None:
        """Each drains, ends, and is ready again before the other does."""
        for front in self.fronts:
            assert front.gateway.terminate() == 0
            front.gateway.start()


@pytest.fixture
def bootstrap_list(own_front: Fronts, kafka_430: KafkaCluster) -> Pair:
    """Two gateways with addresses of their own; clients know both."""
    fronts = (own_front(kafka_430, ways=("sasl",)), own_front(kafka_430, ways=("sasl",), name="front-2"))
    access = fronts[0].access("sasl")
    return Pair(fronts, access, ",".join(front.access("sasl").bootstrap for front in fronts))


@pytest.fixture
def balanced(own_front: Fronts, kafka_430: KafkaCluster) -> Iterator[Pair]:
    """Two gateways that advertise the addresses of a balancer in front of them."""
    with ExitStack() as stack:
        lease = lease_ports(1 + len(NODE_IDS))
        stack.callback(lease.release)
        listener = {"advertised_port": lease[0], "advertised_broker_port": lease[1]}
        first = own_front(kafka_430, ways=("sasl",), listener=listener)
        second = own_front(kafka_430, ways=("sasl",), listener=listener, name="front-2")
        for port, *behind in zip(lease.ports, first.ports["sasl"], second.ports["sasl"], strict=True):
            stack.enter_context(Balancer(port, [("127.0.0.1", each) for each in behind]))
        access = replace(first.access("sasl"), port=lease[0])
        yield Pair((first, second), access, access.bootstrap)


def go_through(pair: Pair, kafka: KafkaCluster, name: Names, restarts: int) -> None:
    """Has the clients of both kinds live through so many rolling restarts."""
    topic, java_topic = name(), name()
    for each in (topic, java_topic):
        kafka.create_topic(each, 6)
    settings: dict[str, Any] = {"bootstrap.servers": pair.bootstrap}
    records = JAVA_PER_S * ROUND_S * restarts
    patience_s = 120.0 + 2 * ROUND_S * restarts
    with ThreadPoolExecutor(2) as pool:
        with (
            Consuming(pair.access, topic, name(), **settings) as consuming,
            Producing(pair.access, topic, **settings) as producing,
        ):
            producing.more()
            sent = pool.submit(
                pair.java,
                "kafka-producer-perf-test",
                *("--topic", java_topic, "--num-records", str(records)),
                *("--record-size", "100", "--throughput", str(JAVA_PER_S)),
                timeout_s=patience_s,
                acks="all",
            )
            read = consume_in_java(pool, pair, java_topic, name(), records, patience_s)
            for _ in range(restarts):
                began = time.monotonic()
                pair.restart_in_turn()
                producing.more()
                time.sleep(max(0.0, began + ROUND_S - time.monotonic()))
            producing.stop()
            consuming.has(producing.delivered)
        output = sent.result()
        assert f"{records} records sent" in output.stdout, output
        assert "ERROR" not in output.stderr
        # One each, whatever was sent again: the tool's records are all alike, so their number is what counts.
        assert len(in_log(kafka, java_topic)) == records
        assert consumed(read.result()) == records
    check(kafka, topic, producing)
    # What was read again after a rebalance had not been committed; all was read.
    assert set(Counter(consuming.numbers)) == producing.delivered


def consume_in_java(
    pool: ThreadPoolExecutor, pair: Pair, topic: str, group: str, records: int, timeout_s: float
) -> Future[ToolOutput]:
    """A console consumer in a group, in the background: it ends when it has so many records."""
    arguments: Sequence[str] = (
        *("--topic", topic, "--group", group, "--from-beginning"),
        *("--max-messages", str(records), "--timeout-ms", str(int(timeout_s * 1000))),
        *("--formatter-property", "print.offset=true", "--formatter-property", "print.partition=true"),
        *("--formatter-property", "print.value=false"),
    )
    return pool.submit(pair.java, "kafka-console-consumer", *arguments, timeout_s=timeout_s + 30)


def consumed(output: ToolOutput) -> int:
    """How many different records a console consumer has read."""
    return len(set(re.findall(r"^Partition:\d+\tOffset:\d+", output.stdout, re.MULTILINE)))


def test_two_gateways_of_one_bootstrap_list_restart_in_turn(
    bootstrap_list: Pair, kafka_430: KafkaCluster, unique_name: Names
) -> None:
    go_through(bootstrap_list, kafka_430, unique_name, restarts=1)


def test_two_gateways_behind_one_address_restart_in_turn(
    balanced: Pair, kafka_430: KafkaCluster, unique_name: Names
) -> None:
    go_through(balanced, kafka_430, unique_name, restarts=1)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["bootstrap_list", "balanced"])
def test_rolling_restarts_for_long(
    kind: str, request: pytest.FixtureRequest, kafka_430: KafkaCluster, unique_name: Names
) -> None:
    go_through(request.getfixturevalue(kind), kafka_430, unique_name, restarts=15)
