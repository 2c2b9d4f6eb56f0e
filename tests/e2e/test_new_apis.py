"""What came with Kafka 4, used through the gateway.

Share groups (KIP-932) and the new consumer groups (KIP-848) by Java, streams groups (KIP-1071) by raw
requests, and what Java's AdminClient shows of a cluster.
"""

from __future__ import annotations

import subprocess
import tempfile
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from compose.kafka import DEFAULT_VERSION, ROOT, KafkaCluster
from compose.local import FAST_START, java_command
from compose.settings import properties_text
from protocol.api_keys import ApiKey
from tests.e2e.clients import Librdkafka
from tests.e2e.front import NODE_IDS, Access, Front
from tests.e2e.raw_client import RawClient, make
from tests.e2e.watched import WatchedFront
from tests.e2e.workload import eventually, in_log

Names = Callable[[], str]
_PROGRAM = Path(__file__).with_name("NewApis.java")
_STREAMS = Path(__file__).with_name("CountWords.java")
_STREAMS_JARS = ROOT / "build" / "kafka-streams" / DEFAULT_VERSION
COUNT = 20
SECOND = timedelta(seconds=1)


def run_java(access: Access, *arguments: str) -> dict[str, str]:
    """What the program says, by name."""
    with tempfile.NamedTemporaryFile("w", suffix=".properties") as settings:
        settings.write(properties_text(access.java() | {"bootstrap.servers": access.bootstrap}))
        settings.flush()
        command = java_command(
            DEFAULT_VERSION, str(_PROGRAM), settings.name, *arguments, options=("-Xmx256m", *FAST_START)
        )
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def test_java_uses_all_that_is_new(
    breakable: KafkaCluster, watched: WatchedFront, unique_name: Names
) -> None:
    topic, group = unique_name(), unique_name()
    breakable.create_topic(topic)
    access = watched.access()
    Librdkafka(access).produce(topic, [b"value-%d" % number for number in range(COUNT)])
    said = run_java(access, topic, group, str(COUNT))
    assert said == {
        # Everything is where the gateway is.
        "nodes": "[{}]".format(", ".join(watched.access(node_id).bootstrap for node_id in NODE_IDS)),
        "leader": "localhost",
        "listeners": "null true",
        "log.retention.hours": "168",
        "quorum.voters": "3",
        "config.resources": "true",
        "transactions": "true",
        "features": "[eligible.leader.replicas.version, group.version, metadata.version, share.version, "
        "streams.version, transaction.version]",
        # One record was given back once.
        "share.members": "1",
        "share.values": f"{COUNT} {COUNT}",
        "share.again": "true",
        "share.altered": "1",
        "share.deleted": "true",
        "consumer.values": str(COUNT),
        "consumer.group": "Consumer 1",
        "consumer.offset": f"[OffsetAndMetadata{{offset={COUNT}, leaderEpoch=0, metadata=''}}]",
        # A client resolves its own patterns; a broker resolves none.
        "pattern.values": str(COUNT),
        "expression": "InvalidRegularExpression",
        "controllers": "MismatchedEndpointTypeException",
    }
    assert not watched.addresses_told()


@pytest.mark.soak
@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once_v2"])
def test_a_kafka_streams_application(front: Front, unique_name: Names, guarantee: str) -> None:
    """Of the new protocol, with internal topics, and by transactions without AddPartitionsToTxn (KIP-890)."""
    words, counts, name = unique_name(), unique_name(), unique_name()
    for topic in (words, counts):
        front.kafka.create_topic(topic, 2)
    access = front.access("sasl")
    Librdkafka(access).produce(words, [b"apple"] * 50 + [b"bread"] * 30)
    with tempfile.TemporaryDirectory() as directory:
        settings = Path(directory) / "streams.properties"
        more = {
            "application.id": name,
            "bootstrap.servers": access.bootstrap,
            "group.protocol": "streams",
            "processing.guarantee": guarantee,
            "replication.factor": "1",
            "state.dir": directory,
        }
        settings.write_text(properties_text(access.java() | more))
        command = java_command(
            DEFAULT_VERSION,
            str(_STREAMS),
            str(settings),
            words,
            counts,
            options=("-Xmx256m", *FAST_START),
            more_jars=_STREAMS_JARS,
        )
        log = Path(directory) / "log"
        with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as running:
            try:
                expected = {b"apple 50", b"bread 30"}
                eventually(lambda: expected <= set(in_log(front.kafka, counts)), 60)
            except BaseException:
                print(log.read_text())
                raise
            finally:
                running.terminate()


@pytest.fixture
def client(front: Front) -> Any:
    with front.access("plain", 1).connect() as connected:
        yield connected


def found_coordinator(client: RawClient, group: str) -> bool:
    request = make(ApiKey.FIND_COORDINATOR, 6, key_type=0, coordinator_keys=(group,))
    return bool(client.call(request).coordinators[0].error_code == ErrorCode.none)


def streams_heartbeat(group: str, member: str, epoch: int, **fields: Any) -> Any:
    tasks: dict[str, Any] = dict.fromkeys(("active_tasks", "standby_tasks", "warmup_tasks"))
    return make(
        ApiKey.STREAMS_GROUP_HEARTBEAT,
        0,
        group_id=group,
        member_id=member,
        member_epoch=epoch,
        rebalance_timeout=30 * SECOND,
        **tasks | fields,
    )


def test_a_streams_group_gets_its_tasks_and_internal_topics(
    client: RawClient, front: Front, unique_name: Names
) -> None:
    topic, group, member = unique_name(), unique_name(), str(uuid.uuid4())
    front.kafka.create_topic(topic, 2)
    eventually(lambda: found_coordinator(client, group))
    changelog = f"{group}-store-changelog"
    subtopology = {
        "subtopology_id": "0",
        "source_topics": (topic,),
        "state_changelog_topics": [{"name": changelog, "partitions": 0, "replication_factor": 1}],
    }
    joining = {
        "process_id": "process",
        "client_tags": (),
        "topology": {"epoch": 1, "subtopologies": [subtopology]},
        **dict.fromkeys(("active_tasks", "standby_tasks", "warmup_tasks"), ()),
    }
    answer = client.call(streams_heartbeat(group, member, 0, **joining))
    assert answer.error_code == ErrorCode.none, answer

    def assigned() -> Any:
        nonlocal answer
        answer = client.call(streams_heartbeat(group, member, answer.member_epoch))
        assert answer.error_code == ErrorCode.none, answer
        return answer.active_tasks

    tasks = answer.active_tasks or eventually(assigned)
    assert [(each.subtopology_id, each.partitions) for each in tasks] == [("0", (0, 1))]
    described = client.call(make(ApiKey.STREAMS_GROUP_DESCRIBE, 0, group_ids=(group,))).groups[0]
    assert [each.member_id for each in described.members] == [member]
    # The broker makes the topics that a topology needs.
    eventually(lambda: changelog in front.kafka.admin.list_topics(timeout=5).topics)
    left = client.call(streams_heartbeat(group, member, -1))
    assert left.error_code == ErrorCode.none


@pytest.mark.parametrize("regex", [".*", "_causeway.*", " ", "("])
def test_regular_expressions_for_the_broker_are_refused(
    client: RawClient, front: Front, unique_name: Names, regex: str
) -> None:
    """A broker would resolve them with the gateway's rights (peers' users found whole clusters in them)."""
    group, member = unique_name(), str(uuid.uuid4())
    eventually(lambda: found_coordinator(client, group))
    joining = {
        "group_id": group,
        "member_id": member,
        "rebalance_timeout": 30 * SECOND,
        "subscribed_topic_names": None,
        "topic_partitions": [],
    }
    refused = client.call(make(ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, subscribed_topic_regex=regex, **joining))
    assert refused.error_code == ErrorCode.invalid_regular_expression
    # Nor of a member that joined without one.
    plain = {**joining, "subscribed_topic_names": ()}
    joined = client.call(make(ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, subscribed_topic_regex="", **plain))
    assert joined.error_code == ErrorCode.none, joined
    later = {**joining, "member_epoch": joined.member_epoch, "topic_partitions": None}
    refused = client.call(make(ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, subscribed_topic_regex=regex, **later))
    assert refused.error_code == ErrorCode.invalid_regular_expression
    subtopology = {"subtopology_id": "0", "source_topics": (), "source_topic_regex": (regex,)}
    topology = {"epoch": 0, "subtopologies": [subtopology]}
    refused = client.call(streams_heartbeat(group, member, 0, topology=topology))
    assert refused.error_code == ErrorCode.invalid_request
    # The brokers have seen none of them.
    described = client.call(make(ApiKey.CONSUMER_GROUP_DESCRIBE, 1, group_ids=(group,))).groups[0]
    assert [each.subscribed_topic_regex for each in described.members] == [""]


def test_no_config_of_a_broker_tells_where_it_listens(front: Front) -> None:
    received = bytearray()
    node = front.kafka.nodes[0]
    with front.access("plain", 1).connect(tap=received.extend) as client:
        for version in range(1, 5):
            resource = {"resource_type": 4, "resource_name": "1", "configuration_keys": None}
            more: dict[str, Any] = {"include_synonyms": True}
            if version >= 3:
                more["include_documentation"] = True
            answer = client.call(make(ApiKey.DESCRIBE_CONFIGS, version, resources=[resource], **more))
            shown = {each.name: each for each in answer.results[0].configs}
            assert len(shown) > 200
            assert shown["num.io.threads"].value == "4"
            assert shown["listeners"].value is None
            assert shown["listeners"].is_sensitive
    # The documentation that goes with them has 127.0.0.1 in an example.
    for port in (node.port, node.internal_port):
        assert b"%d" % port not in received
