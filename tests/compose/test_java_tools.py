"""Kafka's console tools against a real broker."""

from collections.abc import Callable

import pytest

from compose.java_tools import ToolFailed, client_properties, run_tool
from compose.kafka import KafkaCluster
from tests.conftest import Clusters


@pytest.fixture(scope="module")
def cluster(clusters: Clusters) -> KafkaCluster:
    return clusters("4.3.0", security="SASL_SSL")


@pytest.fixture
def properties(cluster: KafkaCluster) -> dict[str, str]:
    return client_properties(
        "SASL_SSL",
        ca_file=cluster.authority.ca_file,
        mechanism="SCRAM-SHA-512",
        user="alice",
        password=cluster.wanted.users["alice"],
    )


def test_console_producer_and_consumer(
    cluster: KafkaCluster, properties: dict[str, str], unique_name: Callable[[], str]
) -> None:
    topic, where = unique_name(), cluster.bootstrap
    run_tool("kafka-topics", where, "--create", "--topic", topic, "--partitions", "1", properties=properties)

    run_tool(
        "kafka-console-producer", where, "--topic", topic, properties=properties, stdin="one\ntwo\nthree\n"
    )
    options = ("--topic", topic, "--from-beginning", "--max-messages", "3", "--timeout-ms", "20000")
    output = run_tool("kafka-console-consumer", where, *options, properties=properties)

    assert output.stdout.split() == ["one", "two", "three"]


def test_performance_tools(
    cluster: KafkaCluster, properties: dict[str, str], unique_name: Callable[[], str]
) -> None:
    topic, where = unique_name(), cluster.bootstrap
    cluster.create_topic(topic)

    produced = ("--topic", topic, "--num-records", "500", "--record-size", "100", "--throughput", "-1")
    output = run_tool("kafka-producer-perf-test", where, *produced, properties=properties)
    assert "500 records sent" in output.stdout

    consumed = ("--topic", topic, "--num-records", "500", "--timeout", "20000")
    output = run_tool("kafka-consumer-perf-test", where, *consumed, properties=properties)
    assert ", 500, " in output.stdout


@pytest.mark.parametrize(
    ("tool", "arguments", "text"),
    [
        ("kafka-consumer-groups", ("--list",), ""),
        ("kafka-configs", ("--describe", "--entity-type", "brokers", "--entity-name", "1"), "broker 1"),
        ("kafka-get-offsets", ("--exclude-internal-topics",), ""),
    ],
)
def test_admin_tools(
    tool: str, arguments: tuple[str, ...], text: str, cluster: KafkaCluster, properties: dict[str, str]
) -> None:
    assert text in run_tool(tool, cluster.bootstrap, *arguments, properties=properties).stdout


def test_a_failure_has_the_output(cluster: KafkaCluster, properties: dict[str, str]) -> None:
    missing = ("--describe", "--topic", "no-such-topic")

    with pytest.raises(ToolFailed, match="no-such-topic"):
        run_tool("kafka-topics", cluster.bootstrap, *missing, properties=properties)
