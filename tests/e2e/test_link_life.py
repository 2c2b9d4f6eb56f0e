"""What changes while a link is at work: its configs, its topics' configs, which topics there are."""

import json
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from compose.kafka import KafkaCluster
from tests.conftest import Clusters
from tests.e2e.link_lab import LINK_PASSWORD, LINK_USER, LinkLab, Refused, produce, two_clusters, until

Name = Callable[[], str]
JAAS = "org.apache.kafka.common.security.plain.PlainLoginModule required username='{}' password='{}';"


@pytest.fixture(scope="module")
def lab(clusters: Clusters) -> Iterator[LinkLab]:
    """A reversed link between two clusters of 4.3.0 that the tests of this module share."""
    lab = LinkLab(*two_clusters(clusters))
    lab.configure({"topic.config.sync.ms": "1000", "metadata.max.age.ms": "1000"})
    yield lab
    lab.save_logs()
    lab.close()


def configs(admin: AdminClient, topic: str) -> dict[str, str]:
    """All configs of a topic, as this client is told."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    found = admin.describe_configs([resource])[resource].result(20)
    return {name: entry.value for name, entry in found.items()}


def alter_configs(admin: AdminClient, topic: str, changes: Mapping[str, str | None]) -> None:
    """KafkaException if it is refused."""
    entries = [
        ConfigEntry(
            name,
            value or "",
            incremental_operation=AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET,
        )
        for name, value in changes.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin.incremental_alter_configs([resource])[resource].result(20)


def mirrored(lab: LinkLab, topic: str, config: Mapping[str, str] | None = None) -> str:
    """A mirror topic with a few records."""
    lab.source.create_topic(topic, 1, config=config)
    produce(lab.source, topic, 100, 1)
    lab.create_mirror(topic)
    lab.wait_mirrored(topic, 1)
    return topic


def test_configs_of_topics_follow_their_source(lab: LinkLab, unique_name: Name) -> None:
    topic = mirrored(lab, unique_name(), {"retention.ms": "3600000", "segment.bytes": "2097152"})
    at_source, at_brokers = lab.source.admin, lab.destination.admin
    at_gateway = AdminClient(dict(lab.client_config.items()))
    held = configs(at_brokers, topic)
    assert (held["retention.ms"], held["segment.bytes"]) == ("-1", "2097152")
    source, shown = configs(at_source, topic), configs(at_gateway, topic)
    assert {name for name in held if held[name] != shown[name]} >= {"retention.ms"}
    assert {name for name in shown if shown[name] != source[name]} <= {"min.insync.replicas"}
    fixed: dict[str, str | None] = {
        "retention.ms": "5",
        "cleanup.policy": "compact",
        "max.message.bytes": "5",
    }
    for name, value in fixed.items():
        with pytest.raises(
            KafkaException, match=f"Cannot modify mirror topic {topic} because '{name}' are set"
        ):
            alter_configs(at_gateway, topic, {name: value})
    alter_configs(at_gateway, topic, {"min.insync.replicas": "1", "segment.ms": "7200000"})
    alter_configs(
        at_source, topic, {"retention.ms": "7200000", "segment.bytes": None, "max.message.bytes": "2000000"}
    )
    until(lambda: configs(at_brokers, topic)["max.message.bytes"] == "2000000", 20, "synced")
    until(lambda: configs(at_gateway, topic)["retention.ms"] == "7200000", 20, "shown")
    now = configs(at_brokers, topic)
    assert now["segment.bytes"] == configs(at_source, topic)["segment.bytes"]
    assert (now["retention.ms"], now["segment.ms"]) == ("-1", "7200000")
    assert lab.task("TopicConfigsSync") == {
        "task_name": "TopicConfigsSync",
        "state": "ACTIVE",
        "errors": [],
    }
    alter_configs(at_brokers, topic, {"retention.ms": "1"})
    until(lambda: configs(at_brokers, topic)["retention.ms"] == "-1", 20, "put right")
    lab.alter("promote", topic)
    until(lambda: lab.status(topic) == "STOPPED", 20, "promoted")
    assert configs(at_gateway, topic)["retention.ms"] == "7200000"
    assert configs(at_brokers, topic)["retention.ms"] == "7200000"


def test_topics_become_mirrors_by_themselves(lab: LinkLab, unique_name: Name) -> None:
    name = unique_name()
    wanted, taken, excluded = f"{name}-a", f"{name}-taken", f"{name}-x"
    filters = [
        {"name": name, "patternType": "PREFIXED", "filterType": "INCLUDE"},
        {"name": excluded, "patternType": "LITERAL", "filterType": "EXCLUDE"},
    ]
    lab.destination.create_topic(taken, 1)
    lab.configure(
        {
            "auto.create.mirror.topics.enable": "true",
            "auto.create.mirror.topics.filters": json.dumps({"topicFilters": filters}),
        }
    )
    for topic in (excluded, taken, wanted):
        lab.source.create_topic(topic, 2)
    produce(lab.source, wanted, 100, 2)
    until(lambda: lab.status(wanted) == "ACTIVE", 20, "made")
    lab.wait_mirrored(wanted, 2)
    assert lab.compare(wanted, 2) == 100
    until(lambda: lab.task("AutoCreateMirror")["state"] == "IN_ERROR", 20, "told")
    assert f"Topic '{taken}' is there already" in lab.task("AutoCreateMirror")["errors"][0]["error_message"]
    assert lab.status(excluded) == ""
    lab.configure({"auto.create.mirror.topics.enable": "false"})
    assert lab.task("AutoCreateMirror")["state"] == "NOT_CONFIGURED"
    assert lab.status(wanted) == "ACTIVE"


def test_a_link_is_paused_and_gets_other_credentials(lab: LinkLab, unique_name: Name) -> None:
    topic = mirrored(lab, unique_name())
    lab.configure({"cluster.link.paused": "true"})
    assert (lab.describe()["link_state"], lab.status(topic)) == ("PAUSED", "LINK_PAUSED")
    produce(lab.source, topic, 100, 1)
    assert "Set cluster.link.paused" in lab.alter("promote", topic)["error_message"]
    time.sleep(1)
    assert lab.end_of(lab.destination, topic, 1) == 100
    lab.configure({"cluster.link.paused": None})
    lab.wait_mirrored(topic, 1)
    lab.configure({"sasl.jaas.config": JAAS.format(LINK_USER, "wrong")}, source_half=True)
    produce(lab.source, topic, 100, 1)
    until(lambda: lab.status(topic) == "SOURCE_UNAVAILABLE", 20, "locked out")
    assert lab.describe()["link_state"] == "UNAVAILABLE"
    lab.configure({"sasl.jaas.config": JAAS.format(LINK_USER, LINK_PASSWORD)}, source_half=True)
    lab.wait_mirrored(topic, 1)
    assert lab.compare(topic, 1) == 300
    with pytest.raises(Refused, match="cannot be changed once the link exists"):
        lab.configure({"link.mode": "SOURCE"})


def test_a_deleted_source_topic_is_told_and_its_mirror_can_be_kept(lab: LinkLab, unique_name: Name) -> None:
    topic = mirrored(lab, unique_name())
    delete(lab.source, topic)
    until(lambda: lab.status(topic) == "FAILED", 30, "told")
    assert lab.mirror(topic)["mirror_topic_error"] == "SOURCE_TOPIC_MAY_BE_DELETED"
    assert lab.alter("failover", topic)["error_code"] == 400
    assert lab.alter("failover", topic, "?force=true")["error_code"] is None
    until(lambda: lab.status(topic) == "STOPPED", 20, "an ordinary topic")
    produce(lab.destination, topic, 1, 1)
    # The mirror's records, the barrier, and one of a client's.
    assert lab.end_of(lab.destination, topic, 1) == 102


def delete(cluster: KafkaCluster, topic: str) -> None:
    """Delete a topic, and wait until nobody sees it."""
    cluster.admin.delete_topics([topic])[topic].result(20)
    until(lambda: topic not in cluster.admin.list_topics(timeout=10).topics, 10, "deleted")
