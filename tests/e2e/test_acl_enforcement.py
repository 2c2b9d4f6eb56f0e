"""ACLs on every request: the same answers as a broker's, and revocation on connections that are there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from compose.kafka import KafkaCluster
from protocol.acls import Acl, Operation, PatternType, Permission, ResourceType
from protocol.api_keys import ApiKey
from protocol.api_versions import ANSWERED_HERE, FORWARDED
from protocol.authorize import is_judged
from tests.conftest import Clusters
from tests.e2e.acl_comparison import (
    BROKER,
    USERS,
    ComparedGateway,
    broker_side,
    compare,
    create_acls,
    masked,
)
from tests.e2e.acl_script import SCRIPT
from tests.e2e.raw_client import RawClient, batch, make, produce
from tests.e2e.workload import eventually

Names = Callable[[], str]
READ, WRITE, DESCRIBE, CREATE = Operation.READ, Operation.WRITE, Operation.DESCRIBE, Operation.CREATE
WAIT = timedelta(milliseconds=400)


@pytest.fixture(scope="module")
def opened(clusters: Clusters) -> KafkaCluster:
    """A broker without an authorizer, with all kinds of groups."""
    return clusters(config=dict(BROKER))


@pytest.fixture(scope="module")
def gateway(opened: KafkaCluster) -> Iterator[ComparedGateway]:
    running = ComparedGateway(opened)
    yield running
    running.close()


def grant(topic: str, *operations: Operation, user: str = "denied") -> list[Acl]:
    return [
        Acl(
            ResourceType.TOPIC,
            PatternType.LITERAL,
            topic,
            f"User:{user}",
            "*",
            operation,
            Permission.ALLOW,
        )
        for operation in operations
    ]


def revoke(client: RawClient, topic: str) -> None:
    wanted = {
        "resource_type_filter": int(ResourceType.TOPIC),
        "resource_name_filter": topic,
        "pattern_type_filter": int(PatternType.LITERAL),
        "principal_filter": None,
        "host_filter": None,
        "operation": int(Operation.ANY),
        "permission_type": int(Permission.ANY),
    }
    with client:
        (result,) = client.call(make(ApiKey.DELETE_ACLS, 3, filters=[wanted])).filter_results
    assert not result.error_code
    assert result.matching_acls


def test_answers_as_a_broker_does(clusters: Clusters, gateway: ComparedGateway) -> None:
    """The first and the last version of every API, as super user, allowed, in part, denied, by pattern."""
    real = clusters(security="SASL_PLAINTEXT", authorizer=True, users=USERS, config=dict(BROKER))
    found = compare(broker_side(real), gateway.side(), SCRIPT, step=100)
    assert not found.differences, "\n".join(map(str, found.differences))
    assert found.cases >= 440
    # All but telemetry, which brokers have with a plug-in only, and ACLs and users, which are the gateway's.
    ours = {ApiKey.DESCRIBE_ACLS, ApiKey.CREATE_ACLS, ApiKey.DELETE_ACLS}
    telemetry = {ApiKey.GET_TELEMETRY_SUBSCRIPTIONS, ApiKey.PUSH_TELEMETRY}
    assert set(SCRIPT) == set(FORWARDED) - ours - telemetry
    assert all(is_judged(key) for key in (*FORWARDED, *ANSWERED_HERE) if key not in {17, 18, 36})


def fetch(topics: list[str], session: tuple[int, int], **fields: Any) -> Any:
    partitions = [{"partition": 0, "partition_max_bytes": 100_000, "current_leader_epoch": -1}]
    return make(
        ApiKey.FETCH,
        12,
        replica_id=-1,
        min_bytes=1,
        max_bytes=1 << 20,
        topics=[{"topic": topic, "partitions": partitions} for topic in topics],
        session_id=session[0],
        session_epoch=session[1],
        **{"max_wait": WAIT, **fields},
    )


def codes(response: Any) -> dict[str, ErrorCode]:
    return {topic.topic: topic.partitions[0].error_code for topic in response.responses}


def test_a_revocation_acts_within_a_fetch_session(
    gateway: ComparedGateway, opened: KafkaCluster, unique_name: Names
) -> None:
    """Also for topics that the fetches do not name, and without a loop of answers at once."""
    first, second = unique_name(), unique_name()
    for topic in (first, second):
        opened.create_topic(topic)
        create_acls(gateway.connect("admin"), grant(topic, READ))
    with gateway.connect("denied") as client:
        begun = eventually(lambda: begin(client, [first, second]))
        session = begun.session_id
        assert session
        # Nothing has changed: a request that names nothing, an answer that has nothing.
        assert not client.call(fetch([], (session, 1))).responses
        revoke(gateway.connect("admin"), first)
        since, epoch = time.monotonic(), 2
        while codes(client.call(fetch([], (session, epoch)))).get(first) is None:
            assert time.monotonic() - since < 1.0
            epoch += 1
        answer = client.call(fetch([], (session, epoch + 1)))
        assert codes(answer)[first] == ErrorCode.topic_authorization_failed
        assert codes(answer)[second] == ErrorCode.none
        assert answer.session_id == session
        # Records that come now are not for this client.
        with gateway.connect("admin") as admin:
            admin.call(produce(9, {first: batch(b"secret"), second: batch(b"open")}))
        answer = client.call(fetch([], (session, epoch + 2)))
        fetched = {topic.topic: topic.partitions[0].records for topic in answer.responses}
        assert not fetched[first]
        assert fetched[second]
        # Nothing is left: it keeps its session, and waits as long as it would.
        revoke(gateway.connect("admin"), second)
        eventually(lambda: is_refused(client, session, epoch + 3))
        asked = time.monotonic()
        answer = client.call(fetch([], (session, epoch + 3 + REFUSED_AT[0])))
        assert time.monotonic() - asked >= WAIT.total_seconds() * 0.9
        assert answer.session_id == session
        assert set(codes(answer).values()) == {ErrorCode.topic_authorization_failed}
        # Allowed again: it is to begin anew.
        for topic in (first, second):
            create_acls(gateway.connect("admin"), grant(topic, READ))
        epoch += 4 + REFUSED_AT[0]
        assert client.call(fetch([], (session, epoch))).error_code == ErrorCode.fetch_session_id_not_found
        assert set(codes(client.call(fetch([first, second], (session, 0)))).values()) == {ErrorCode.none}


REFUSED_AT = [0]


def is_refused(client: RawClient, session: int, epoch: int) -> bool:
    answer = client.call(fetch([], (session, epoch + REFUSED_AT[0])))
    REFUSED_AT[0] += 1
    return set(codes(answer).values()) == {ErrorCode.topic_authorization_failed}


def begin(client: RawClient, topics: list[str]) -> Any:
    answer = client.call(fetch(topics, (0, 0)))
    return answer if set(codes(answer).values()) == {ErrorCode.none} else None


def test_a_forged_epoch_hides_nothing(
    gateway: ComparedGateway, opened: KafkaCluster, unique_name: Names
) -> None:
    """A fetch that the broker would refuse must not take a topic out of what is judged."""
    topic, other = unique_name(), unique_name()
    for each in (topic, other):
        opened.create_topic(each)
        create_acls(gateway.connect("admin"), grant(each, READ))
    with gateway.connect("denied") as client:
        session = eventually(lambda: begin(client, [topic, other])).session_id
        forget = [{"topic": topic, "partitions": (0,)}]
        forged = client.call(fetch([], (session, 77), forgotten_topics_data=forget))
        assert forged.error_code == ErrorCode.invalid_fetch_session_epoch
        revoke(gateway.connect("admin"), topic)
        with gateway.connect("admin") as admin:
            admin.call(produce(9, {topic: batch(b"secret")}))
        answer = client.call(fetch([], (session, 1)))
        assert codes(answer)[topic] == ErrorCode.topic_authorization_failed
        assert not [part.records for each in answer.responses for part in each.partitions if part.records]
        # Nor may one client go on with what another one began.
        with gateway.connect("denied") as stranger:
            answer = stranger.call(fetch([], (session, 2)))
            assert answer.error_code == ErrorCode.fetch_session_id_not_found


def test_naming_a_topic_to_forget_hides_nothing(
    gateway: ComparedGateway, opened: KafkaCluster, unique_name: Names
) -> None:
    """A broker sends what a fetch that begins a session names, whatever it names to forget."""
    topic = unique_name()
    opened.create_topic(topic)
    asked = fetch([topic], (0, 0), forgotten_topics_data=[{"topic": topic, "partitions": (0,)}])
    node = opened.nodes[0]
    with RawClient((node.host, node.port)) as broker:
        broker.call(produce(9, {topic: batch(b"secret")}))
        assert broker.call(asked).responses[0].partitions[0].records
    with gateway.connect("denied") as client:
        answer = client.call(asked)
        assert codes(answer) == {topic: ErrorCode.topic_authorization_failed}
        assert not answer.responses[0].partitions[0].records


def test_records_that_come_after_a_revocation_are_not_delivered(
    gateway: ComparedGateway, opened: KafkaCluster, unique_name: Names
) -> None:
    """To a fetch that was waiting at the broker when its right was taken back."""
    topic = unique_name()
    opened.create_topic(topic)
    create_acls(gateway.connect("admin"), grant(topic, READ))
    with gateway.connect("denied") as client, gateway.connect("admin") as admin:
        eventually(lambda: begin(client, [topic]))
        client.send(fetch([topic], (0, -1), max_wait=timedelta(seconds=20)))
        time.sleep(0.3)
        revoke(gateway.connect("admin"), topic)
        admin.call(produce(9, {topic: batch(b"secret")}))
        answer = client.receive()
        assert codes(answer) == {topic: ErrorCode.topic_authorization_failed}
        assert not answer.responses[0].partitions[0].records


def test_what_may_not_be_created_is_not_created(
    gateway: ComparedGateway, opened: KafkaCluster, unique_name: Names
) -> None:
    """By Metadata of any version: a broker would create it with the gateway's rights."""
    for version in (0, 3, 4, 9, 13):
        mine, hidden = unique_name(), unique_name()
        acls = grant(mine, DESCRIBE, CREATE) + grant(hidden, DESCRIBE)
        create_acls(gateway.connect("admin"), acls)
        fields = {"allow_auto_topic_creation": True} if version >= 4 else {}
        with gateway.connect("denied") as client:
            asked = make(ApiKey.METADATA, version, topics=[{"name": mine}, {"name": hidden}], **fields)
            answer = client.call(asked)
            found = {topic.name: topic.error_code for topic in answer.topics}
            assert found[hidden] == ErrorCode.topic_authorization_failed, (version, found)
            eventually(partial(exists, opened, mine))
        assert not exists(opened, hidden)


def exists(cluster: KafkaCluster, topic: str) -> bool:
    return topic in cluster.admin.list_topics(timeout=5).topics


def test_acks_0_is_cut_off_when_something_is_refused(
    gateway: ComparedGateway, opened: KafkaCluster, unique_name: Names
) -> None:
    mine, foreign = unique_name(), unique_name()
    for topic in (mine, foreign):
        opened.create_topic(topic)
    create_acls(gateway.connect("admin"), grant(mine, WRITE))
    with gateway.connect("denied") as client:
        client.send(produce(9, {mine: batch(b"in"), foreign: batch(b"out")}, acks=0))
        assert client.is_closed()
    eventually(lambda: end_of(opened, mine) == 1)
    assert end_of(opened, foreign) == 0


def test_the_audit_says_who_was_refused_what(
    gateway: ComparedGateway, opened: KafkaCluster, unique_name: Names
) -> None:
    topic = unique_name()
    opened.create_topic(topic)
    with gateway.connect("denied") as client:
        client.call(fetch([topic], (0, -1)))
    with pytest.raises(PermissionError):
        RawClient(gateway.address, user="denied", password="a wrong one")
    told = [json.loads(line) for line in gateway.audit_file.read_text().splitlines()]
    (line,) = [each for each in told if each.get("resource") == topic]
    assert line["timestamp"]
    assert {name: line[name] for name in line if name not in {"timestamp", "correlation_id"}} == {
        "event": "audit.decision",
        "level": "info",
        "result": "denied",
        "api": "FETCH",
        "listener": "users",
        "principal": "User:denied",
        "host": "127.0.0.1",
        "operation": "READ",
        "resource_type": "TOPIC",
        "resource": topic,
        "by": "default",
    }
    assert [each for each in told if each["event"] == "audit.login"]
    assert "a wrong one" not in gateway.audit_file.read_text()


def end_of(cluster: KafkaCluster, topic: str) -> int:
    node = cluster.nodes[0]
    with RawClient((node.host, node.port)) as client:
        asked = [{"name": topic, "partitions": [{"partition_index": 0, "timestamp": -1}]}]
        answer = client.call(make(ApiKey.LIST_OFFSETS, 7, replica_id=-1, topics=asked))
        return int(answer.topics[0].partitions[0].offset)


def test_masking_leaves_what_counts() -> None:
    answer = make(ApiKey.METADATA, 4, topics=[{"name": "b"}, {"name": "a"}])
    assert masked(answer)["topics"] == [{"name": "a"}, {"name": "b"}]
