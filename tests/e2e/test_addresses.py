"""Clients are told the gateway's addresses only: every byte that they get is searched for the brokers'.

Raw requests in every version here; stock clients while leaders move are searched too, in `test_outages`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from compose.kafka import KafkaCluster
from protocol.api_keys import ApiKey
from protocol.api_versions import FORWARDED
from tests.e2e.conftest import Fronts
from tests.e2e.front import NODE_IDS, Front
from tests.e2e.raw_client import Closed, RawClient, batch, make, produce
from tests.e2e.relay import addresses_in
from tests.e2e.workload import eventually

Names = Callable[[], str]
NOT_LEADER = ErrorCode.not_leader_or_follower


@pytest.fixture(scope="module")
def spread(fronts: Fronts, breakable: KafkaCluster) -> Front:
    return fronts(breakable, ways=("plain",))


@pytest.fixture
def received(breakable: KafkaCluster) -> Iterator[bytearray]:
    """What a raw client was sent; searched at the end."""
    everything = bytearray()
    yield everything
    assert everything
    assert not addresses_in(everything, breakable)


@pytest.fixture
def topic(spread: Front, unique_name: Names) -> str:
    """A topic of one partition on one broker, of which all brokers know."""
    name = unique_name()
    spread.kafka.create_topic(name, copies=1)
    for node_id in NODE_IDS:
        eventually(partial(leader_of, spread, name, node_id))
    return name


def versions(api_key: int) -> range:
    lowest, highest = FORWARDED[api_key]
    return range(lowest, highest + 1)


def addresses(front: Front) -> dict[int, tuple[str, int]]:
    return {node_id: ("localhost", front.ports["plain"][1 + i]) for i, node_id in enumerate(NODE_IDS)}


def endpoints(entities: Any) -> dict[int, tuple[str, int]]:
    """Node id to address, of whatever a response calls its brokers."""
    found = {}
    for entity in entities:
        node_id = entity.broker_id if hasattr(entity, "broker_id") else entity.node_id
        found[int(node_id)] = (entity.host, int(entity.port))
    return found


def leader_of(front: Front, topic: str, asked: int | None = None) -> int:
    """The leader of partition 0 as one broker has it; 0 if it knows none."""
    with front.access("plain", asked).connect() as client:
        (found,) = client.call(make(ApiKey.METADATA, 12, topics=[{"name": topic}])).topics
    return max(found.partitions[0].leader_id, 0) if found.partitions else 0


def id_of(front: Front, topic: str) -> uuid.UUID:
    with front.access("plain").connect() as client:
        (found,) = client.call(make(ApiKey.METADATA, 12, topics=[{"name": topic}])).topics
    assert isinstance(found.topic_id, uuid.UUID)
    return found.topic_id


def test_metadata_and_describe_cluster(spread: Front, received: bytearray, topic: str) -> None:
    with spread.access("plain").connect(tap=received.extend) as client:
        for version in versions(ApiKey.METADATA):
            answer = client.call(make(ApiKey.METADATA, version, topics=[{"name": topic}]))
            assert endpoints(answer.brokers) == addresses(spread)
        for version in versions(ApiKey.DESCRIBE_CLUSTER):
            answer = client.call(make(ApiKey.DESCRIBE_CLUSTER, version))
            assert endpoints(answer.brokers) == addresses(spread)
        # The controllers are not for clients; a broker refuses to show them.
        answer = client.call(make(ApiKey.DESCRIBE_CLUSTER, 2, endpoint_type=2))
        assert endpoints(answer.brokers).items() <= addresses(spread).items()


def test_find_coordinator(spread: Front, received: bytearray, unique_name: Names) -> None:
    name = unique_name()
    with spread.access("plain").connect(tap=received.extend) as client:
        for version in versions(ApiKey.FIND_COORDINATOR):
            for key_type in (0, 1) if version >= 1 else (0,):
                wanted: dict[str, Any] = {"key_type": key_type} if version >= 1 else {}
                wanted |= {"coordinator_keys": (name,)} if version >= 4 else {"key": name}
                # The coordinators' topics are made when they are first asked for.
                found = eventually(
                    partial(coordinators, client, make(ApiKey.FIND_COORDINATOR, version, **wanted))
                )
                assert endpoints(found).items() <= addresses(spread).items()


def coordinators(client: RawClient, request: Any) -> list[Any]:
    answer = client.call(request)
    found = answer.coordinators if answer.__version__ >= 4 else [answer]
    return [each for each in found if each.error_code == ErrorCode.none]


def test_produce_and_fetch_at_another_broker(spread: Front, received: bytearray, topic: str) -> None:
    # KIP-951: the answer says who leads, and where that is.
    leader, topic_id = leader_of(spread, topic), id_of(spread, topic)
    expected = {leader: addresses(spread)[leader]}
    other = next(node_id for node_id in NODE_IDS if node_id != leader)
    with spread.access("plain", other).connect(tap=received.extend) as client:
        for version in versions(ApiKey.PRODUCE):
            answer = client.call(produce(version, {topic_id if version >= 13 else topic: batch(b"x")}))
            (refused,) = answer.responses[0].partition_responses
            assert refused.error_code == NOT_LEADER
            if version >= 10:
                assert refused.current_leader.leader_id == leader
                assert endpoints(answer.node_endpoints) == expected
        for version in versions(ApiKey.FETCH):
            answer = client.call(fetch(version, topic, topic_id))
            assert answer.responses[0].partitions[0].error_code == NOT_LEADER
            if version >= 16:
                assert endpoints(answer.node_endpoints) == expected


def fetch(version: int, topic: str, topic_id: uuid.UUID) -> Any:
    wanted = {"partition": 0, "partition_max_bytes": 1 << 20}
    name = {"topic_id": topic_id} if version >= 13 else {"topic": topic}
    more = {} if version >= 15 else {"replica_id": -1}
    return make(
        ApiKey.FETCH, version, max_wait=timedelta(0), topics=[{**name, "partitions": [wanted]}], **more
    )


# Requests with something in them, where a request about nothing would be told nothing.
CONTENT: dict[int, Callable[[int, str], dict[str, Any]]] = {
    ApiKey.PRODUCE: lambda version, topic: {"acks": -1},
    ApiKey.METADATA: lambda version, topic: {"topics": None} if version else {},
    ApiKey.DESCRIBE_CONFIGS: lambda version, topic: (
        {
            "resources": [
                {"resource_type": kind, "resource_name": name, "configuration_keys": None}
                for kind, name in ((2, topic), (4, "1"), (4, "2"), (4, ""))
            ],
            "include_synonyms": True,
        }
        | ({"include_documentation": True} if version >= 3 else {})
    ),
    ApiKey.DESCRIBE_LOG_DIRS: lambda version, topic: {"topics": None},
    ApiKey.LIST_PARTITION_REASSIGNMENTS: lambda version, topic: {"topics": None},
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: lambda version, topic: {"topics": [{"name": topic}]},
    ApiKey.DESCRIBE_QUORUM: lambda version, topic: {
        "topics": [{"topic_name": "__cluster_metadata", "partitions": [{"partition_index": 0}]}]
    },
    ApiKey.DESCRIBE_CLUSTER: lambda version, topic: (
        {"include_fenced_brokers": True} if version >= 2 else {"include_cluster_authorized_operations": True}
    ),
}


def test_nothing_that_is_forwarded_tells_an_address(spread: Front, received: bytearray, topic: str) -> None:
    answered = 0
    client = None
    for key in FORWARDED:
        for version in versions(key):
            if client is None:
                client = spread.access("plain", 1).connect(tap=received.extend)
            try:
                client.send(make(key, version, **(CONTENT[key](version, topic) if key in CONTENT else {})))
                client.receive_frame()
                answered += 1
            except Closed:
                client.close()
                client = None
    if client is not None:
        client.close()
    assert answered > 200


def test_share_fetch_at_another_broker(
    spread: Front, received: bytearray, topic: str, unique_name: Names
) -> None:
    leader, topic_id = leader_of(spread, topic), id_of(spread, topic)
    other = next(node_id for node_id in NODE_IDS if node_id != leader)
    group, member = unique_name(), str(uuid.uuid4())
    with spread.access("plain", other).connect(tap=received.extend) as client:
        for version in versions(ApiKey.SHARE_FETCH):
            request = make(
                ApiKey.SHARE_FETCH,
                version,
                group_id=group,
                member_id=member,
                share_session_epoch=0,
                max_records=10,
                topics=[{"topic_id": topic_id, "partitions": [{"partition_index": 0}]}],
            )
            answer = client.call(request)
            assert answer.responses[0].partitions[0].error_code == NOT_LEADER
            assert endpoints(answer.node_endpoints) == {leader: addresses(spread)[leader]}
