"""The gateway's own topics, group and transactional id do not exist for clients, whatever they send.

Every API that could name one is tried in every version that is forwarded; before and after, the brokers
themselves are asked what there is, and it must be the same.
"""

from __future__ import annotations

import dataclasses
import json
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from kio.schema.errors import ErrorCode

from compose.kafka import KafkaCluster
from protocol.api_keys import ApiKey
from protocol.api_versions import FORWARDED
from tests.e2e.clients import Kcat, Librdkafka
from tests.e2e.front import Front
from tests.e2e.raw_client import RawClient, batch, make, produce
from tests.e2e.raw_log import RawBroker
from tests.e2e.workload import eventually

Names = Callable[[], str]
Fields = dict[str, Any]
STATE, WORK = "_causeway-state", "_causeway-work"
NAME = b"_causeway"
UNKNOWN_TOPIC, UNKNOWN_ID = ErrorCode.unknown_topic_or_partition, ErrorCode.unknown_topic_id
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def kafka(kafka_430: KafkaCluster, front: Front) -> Iterator[KafkaCluster]:
    """A cluster with all that is to be hidden; what no gateway makes yet is made here."""
    if WORK not in kafka_430.admin.list_topics(timeout=10).topics:
        kafka_430.create_topic(WORK, 4)
    offsets = ConsumerGroupTopicPartitions(WORK, [TopicPartition(WORK, 0, 0)])
    kafka_430.admin.alter_consumer_group_offsets([offsets])[WORK].result(10)
    # The transactional id is known to the brokers after the first write.
    add_user(front, f"witness-{uuid.uuid4().hex}")
    yield kafka_430
    # After all this the state can still be written.
    add_user(front, f"witness-{uuid.uuid4().hex}")


def add_user(front: Front, name: str) -> None:
    request = urllib.request.Request(
        f"{front.gateway.admin_url}/causeway/v1/users",
        json.dumps({"name": name, "password": "secret"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 201


@pytest.fixture(scope="module")
def state_id(kafka: KafkaCluster) -> uuid.UUID:
    with asked_directly(kafka) as broker:
        (topic,) = broker.call(make(ApiKey.METADATA, 12, topics=[{"name": STATE}])).topics
    assert isinstance(topic.topic_id, uuid.UUID)
    return topic.topic_id


def asked_directly(kafka: KafkaCluster) -> RawClient:
    node = kafka.nodes[0]
    return RawClient((node.host, node.internal_port))


def everything(kafka: KafkaCluster) -> list[Any]:
    """All that must not change: topics, ids, configs, what is in the log, group, transactional id."""
    with asked_directly(kafka) as broker:
        topics = broker.call(make(ApiKey.METADATA, 12, topics=None)).topics
        resource = {"resource_type": 2, "resource_name": STATE, "configuration_keys": None}
        configs = broker.call(make(ApiKey.DESCRIBE_CONFIGS, 4, resources=[resource])).results
        transactions = broker.call(make(ApiKey.DESCRIBE_TRANSACTIONS, 0, transactional_ids=(STATE,)))
        groups = broker.call(make(ApiKey.DESCRIBE_GROUPS, 5, groups=(WORK,)))
        group = {"group_id": WORK, "topics": None}
        offsets = broker.call(make(ApiKey.OFFSET_FETCH, 8, groups=[group]))
    with RawBroker(kafka.internal_bootstrap) as raw:
        batches = [(b.base_offset, b.count, b.producer_epoch) for b in raw.batches(STATE, 0)]
    ours = {topic.name: topic for topic in topics if topic.name.startswith("_causeway")}
    return [ours, configs, transactions, groups, offsets, batches]


@pytest.fixture(autouse=True)
def nothing_reaches_them(kafka: KafkaCluster, front: Front) -> Iterator[None]:
    before = everything(kafka)
    yield
    assert everything(kafka) == before
    # Whoever had fenced our transactional id, or filled our topic with what we cannot read, is noticed here.
    assert front.gateway.is_ready()


@pytest.fixture
def client(front: Front) -> Iterator[RawClient]:
    with front.access("plain", 1).connect() as connected:
        yield connected


@pytest.fixture
def topic(kafka: KafkaCluster, unique_name: Names) -> str:
    name = unique_name()
    kafka.create_topic(name)
    return name


def versions(api_key: int, lowest: int = 0) -> range:
    return range(max(lowest, FORWARDED[api_key][0]), FORWARDED[api_key][1] + 1)


def error_codes(answer: Any) -> set[ErrorCode]:
    """All error codes that an answer holds, at whatever depth."""
    found: set[ErrorCode] = set()
    for field in dataclasses.fields(answer):
        value = getattr(answer, field.name)
        if isinstance(value, ErrorCode):
            found.add(value)
        for each in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(each):
                found |= error_codes(each)
    return found


# --- records ------------------------------------------------------------------------------------------------


def produced(answer: Any) -> dict[Any, ErrorCode]:
    return {
        getattr(topic, "name", None) or topic.topic_id: topic.partition_responses[0].error_code
        for topic in answer.responses
    }


def test_produce(client: RawClient, kafka: KafkaCluster, topic: str, state_id: uuid.UUID) -> None:
    for version in versions(ApiKey.PRODUCE):
        if version < 13:
            wanted: dict[Any, ErrorCode] = {STATE: UNKNOWN_TOPIC, WORK: UNKNOWN_TOPIC, topic: ErrorCode.none}
        else:
            (found,) = client.call(make(ApiKey.METADATA, 12, topics=[{"name": topic}])).topics
            wanted = {state_id: UNKNOWN_ID, found.topic_id: ErrorCode.none}
        # A word of ours in a record is nobody's business.
        answer = client.call(produce(version, dict.fromkeys(wanted, batch(b"_causeway-state"))))
        assert produced(answer) == wanted
        only = next(iter(wanted))
        assert produced(client.call(produce(version, {only: batch(b"x")}))) == {only: wanted[only]}
    with RawBroker(kafka.internal_bootstrap) as broker:
        assert len(list(broker.records(topic, 0))) == len(versions(ApiKey.PRODUCE))


def test_produce_without_acknowledgement(front: Front, kafka: KafkaCluster, topic: str) -> None:
    for version in (3, 9, 12):
        with front.access("plain", 1).connect() as client:
            client.send(produce(version, {STATE: batch(b"x"), topic: batch(b"y")}, acks=0))
            assert client.is_closed()
    with RawBroker(kafka.internal_bootstrap) as broker:
        eventually(lambda: len(list(broker.records(topic, 0))) == 3)


def test_produce_in_a_transaction_of_ours(client: RawClient, topic: str) -> None:
    for version in (3, 9, 12):
        records = batch(b"x", producer_id=0, producer_epoch=0, base_sequence=0, transactional=True)
        answer = client.call(produce(version, {topic: records}, transactional_id=STATE))
        assert produced(answer) == {topic: ErrorCode.transactional_id_authorization_failed}


def fetch(version: int, *topics: Any, **fields: Any) -> Any:
    more = {} if version >= 15 else {"replica_id": -1}
    name = "topic_id" if version >= 13 else "topic"
    wanted = [
        {name: topic, "partitions": [{"partition": 0, "partition_max_bytes": 1 << 20}]} for topic in topics
    ]
    return make(ApiKey.FETCH, version, max_wait=timedelta(0), topics=wanted, **more, **fields)


def fetched(answer: Any) -> dict[Any, tuple[ErrorCode, bool]]:
    return {
        getattr(topic, "topic", None) or topic.topic_id: (part.error_code, bool(part.records))
        for topic in answer.responses
        for part in topic.partitions
    }


def test_fetch(client: RawClient, topic: str, state_id: uuid.UUID) -> None:
    client.call(produce(9, {topic: batch(b"x")}))
    (found,) = client.call(make(ApiKey.METADATA, 12, topics=[{"name": topic}])).topics
    for version in versions(ApiKey.FETCH):
        names = (topic, STATE) if version < 13 else (found.topic_id, state_id)
        refused = UNKNOWN_TOPIC if version < 13 else UNKNOWN_ID
        answer = client.call(fetch(version, *names))
        assert fetched(answer) == {names[0]: (ErrorCode.none, True), names[1]: (refused, False)}


@pytest.mark.parametrize("version", [7, 12, 13, 18])
def test_fetch_in_a_session(client: RawClient, topic: str, state_id: uuid.UUID, version: int) -> None:
    (found,) = client.call(make(ApiKey.METADATA, 12, topics=[{"name": topic}])).topics
    names = (topic, STATE) if version < 13 else (found.topic_id, state_id)
    first = client.call(fetch(version, names[0], session_epoch=0))
    assert first.session_id
    more = client.call(fetch(version, names[1], session_id=first.session_id, session_epoch=1))
    assert not any(records for _, records in fetched(more).values())
    again = client.call(fetch(version, session_id=first.session_id, session_epoch=2))
    assert names[1] not in fetched(again)
    # A session that begins with what does not exist.
    both = client.call(fetch(version, *names, session_epoch=0))
    assert not fetched(both)[names[1]][1]
    if both.session_id:
        assert not fetched(client.call(fetch(version, session_id=both.session_id, session_epoch=1)))


# --- requests about topics ----------------------------------------------------------------------------------

PART: Fields = {"partition_index": 0}
TOPIC_REQUESTS: dict[int, Callable[[int, str], Fields]] = {
    ApiKey.LIST_OFFSETS: lambda version, name: {
        "topics": [{"name": name, "partitions": [{**PART, "timestamp": -1}]}],
        "replica_id": -1,
    },
    ApiKey.OFFSET_FOR_LEADER_EPOCH: lambda version, name: {
        "topics": [{"topic": name, "partitions": [{"partition": 0}]}]
    },
    ApiKey.CREATE_TOPICS: lambda version, name: {
        "topics": [{"name": f"{name}-new", "num_partitions": 1, "replication_factor": 1}]
    },
    ApiKey.DELETE_TOPICS: lambda version, name: (
        ({"topic_names": (name,)} if version < 6 else {"topics": [{"name": name, "topic_id": None}]})
        | {"timeout": SECOND}
    ),
    ApiKey.DELETE_RECORDS: lambda version, name: {
        "topics": [{"name": name, "partitions": [{**PART, "offset": -1}]}],
        "timeout": SECOND,
    },
    ApiKey.CREATE_PARTITIONS: lambda version, name: {
        "topics": [{"name": name, "count": 9, "assignments": None}],
        "timeout": SECOND,
    },
    ApiKey.DESCRIBE_CONFIGS: lambda version, name: {
        "resources": [{"resource_type": 2, "resource_name": name, "configuration_keys": None}]
    },
    ApiKey.ALTER_CONFIGS: lambda version, name: {
        "resources": [
            {
                "resource_type": 2,
                "resource_name": name,
                "configs": [{"name": "cleanup.policy", "value": "delete"}],
            }
        ]
    },
    ApiKey.INCREMENTAL_ALTER_CONFIGS: lambda version, name: {
        "resources": [
            {
                "resource_type": 2,
                "resource_name": name,
                "configs": [{"name": "retention.ms", "config_operation": 0, "value": "1"}],
            }
        ]
    },
    ApiKey.ELECT_LEADERS: lambda version, name: {
        "topic_partitions": [{"topic": name, "partitions": (0,)}],
        "timeout": SECOND,
    },
    ApiKey.ALTER_PARTITION_REASSIGNMENTS: lambda version, name: {
        "topics": [{"name": name, "partitions": [{**PART, "replicas": (1,)}]}]
    },
    ApiKey.DESCRIBE_PRODUCERS: lambda version, name: {"topics": [{"name": name, "partition_indexes": (0,)}]},
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: lambda version, name: {"topics": [{"name": name}]},
    ApiKey.ADD_PARTITIONS_TO_TXN: lambda version, name: {
        "v3_and_below_transactional_id": "somebody",
        "v3_and_below_topics": [{"name": name, "partitions": (0,)}],
    },
    ApiKey.OFFSET_COMMIT: lambda version, name: {
        "group_id": "somebody",
        "topics": [{"name": name, "partitions": [{**PART, "committed_offset": 5, "committed_metadata": ""}]}],
    },
    ApiKey.OFFSET_DELETE: lambda version, name: {
        "group_id": "somebody",
        "topics": [{"name": name, "partitions": [PART]}],
    },
    ApiKey.ALTER_SHARE_GROUP_OFFSETS: lambda version, name: {
        "group_id": "somebody",
        "topics": [{"topic_name": name, "partitions": [{**PART, "start_offset": 0}]}],
    },
    ApiKey.DELETE_SHARE_GROUP_OFFSETS: lambda version, name: {
        "group_id": "somebody",
        "topics": [{"topic_name": name}],
    },
    ApiKey.STREAMS_GROUP_HEARTBEAT: lambda version, name: {
        "group_id": "somebody",
        "member_id": str(uuid.uuid4()),
        "rebalance_timeout": SECOND,
        "topology": {"subtopologies": [{"subtopology_id": "0", "source_topics": (name,)}]},
        **dict.fromkeys(("active_tasks", "standby_tasks", "warmup_tasks", "client_tags"), ()),
        "process_id": "somebody",
    },
}
# By name up to here; later versions name topics by id.
LAST_BY_NAME = {ApiKey.OFFSET_COMMIT: 9}


@pytest.mark.parametrize("api_key", TOPIC_REQUESTS, ids=lambda key: ApiKey(key).name)
def test_a_request_about_a_topic_of_ours(client: RawClient, api_key: int) -> None:
    for version in versions(api_key):
        if version > LAST_BY_NAME.get(ApiKey(api_key), version):
            continue
        for name in (STATE, WORK):
            answer = client.call(make(api_key, version, **TOPIC_REQUESTS[api_key](version, name)))
            codes = error_codes(answer) - {ErrorCode.none}
            assert codes, (version, answer)
            assert not codes & {ErrorCode.unknown_server_error}, (version, answer)


def test_topics_by_id(client: RawClient, state_id: uuid.UUID, unique_name: Names) -> None:
    answers = [
        client.call(make(ApiKey.METADATA, version, topics=[{"topic_id": state_id, "name": None}]))
        for version in versions(ApiKey.METADATA, 12)
    ]
    by_id: Fields = {"topic_id": state_id}
    answers += [
        client.call(make(ApiKey.DELETE_TOPICS, 6, topics=[{**by_id, "name": None}], timeout=SECOND)),
        client.call(
            make(
                ApiKey.OFFSET_COMMIT,
                10,
                group_id=unique_name(),
                topics=[{**by_id, "partitions": [{**PART, "committed_metadata": ""}]}],
            )
        ),
    ]
    for answer in answers:
        assert error_codes(answer) - {ErrorCode.none} == {UNKNOWN_ID}
        assert NAME not in repr(answer).encode()


def test_a_share_session(client: RawClient, state_id: uuid.UUID, unique_name: Names) -> None:
    for version in versions(ApiKey.SHARE_FETCH):
        wanted = {
            "group_id": unique_name(),
            "member_id": str(uuid.uuid4()),
            "topics": [{"topic_id": state_id, "partitions": [PART]}],
        }
        answer = client.call(make(ApiKey.SHARE_FETCH, version, max_records=10, **wanted))
        # UNKNOWN_SERVER_ERROR for one; so says a broker of any id that it does not know.
        assert error_codes(answer) - {ErrorCode.none}
        assert not any(partition.records for topic in answer.responses for partition in topic.partitions)
        acknowledged = client.call(
            make(ApiKey.SHARE_ACKNOWLEDGE, version, **wanted | {"share_session_epoch": 1})
        )
        assert error_codes(acknowledged) - {ErrorCode.none}


def test_metadata(client: RawClient) -> None:
    for version in versions(ApiKey.METADATA):
        some = {"allow_auto_topic_creation": True} if version >= 4 else {}
        (named,) = client.call(make(ApiKey.METADATA, version, topics=[{"name": STATE}], **some)).topics
        assert named.error_code in {UNKNOWN_TOPIC, ErrorCode.invalid_topic_exception}
        assert not named.partitions
        every = client.call(make(ApiKey.METADATA, version, topics=[] if version == 0 else None))
        assert every.topics
        assert NAME not in repr(every).encode()


# --- groups and transactions --------------------------------------------------------------------------------


def members(version: int, lowest: int) -> Fields:
    return {"members": [{"member_id": "m"}]} if version >= lowest else {"member_id": "m"}


# What a client may be told: as of a group or an id that does not exist. Nothing of this may touch ours.
GROUP_REQUESTS: dict[int, Callable[[int], Fields]] = {
    ApiKey.OFFSET_COMMIT: lambda version: {
        "group_id": WORK,
        "topics": [{"name": "t", "partitions": [{**PART, "committed_offset": 7, "committed_metadata": ""}]}]
        if version < 10
        else [],
    },
    ApiKey.OFFSET_FETCH: lambda version: (
        {"groups": [{"group_id": WORK, "topics": None}]}
        if version >= 8
        else {"group_id": WORK, "topics": None if version >= 2 else []}
    ),
    ApiKey.JOIN_GROUP: lambda version: (
        {
            "group_id": WORK,
            "session_timeout": 10 * SECOND,
            "protocol_type": "consumer",
            "protocols": [{"name": "range"}],
        }
        | ({"rebalance_timeout": SECOND} if version >= 1 else {})
    ),
    ApiKey.SYNC_GROUP: lambda version: {"group_id": WORK, "member_id": "m"},
    ApiKey.HEARTBEAT: lambda version: {"group_id": WORK, "member_id": "m"},
    ApiKey.LEAVE_GROUP: lambda version: {"group_id": WORK, **members(version, 3)},
    ApiKey.DESCRIBE_GROUPS: lambda version: {"groups": (WORK,)},
    ApiKey.DELETE_GROUPS: lambda version: {"groups_names": (WORK,)},
    ApiKey.OFFSET_DELETE: lambda version: {
        "group_id": WORK,
        "topics": [{"name": WORK, "partitions": [PART]}],
    },
    ApiKey.CONSUMER_GROUP_DESCRIBE: lambda version: {"group_ids": (WORK,)},
    ApiKey.CONSUMER_GROUP_HEARTBEAT: lambda version: {
        "group_id": WORK,
        "member_id": str(uuid.uuid4()),
        "rebalance_timeout": SECOND,
        "subscribed_topic_names": (STATE, WORK),
        "topic_partitions": [],
    },
    ApiKey.SHARE_GROUP_HEARTBEAT: lambda version: {
        "group_id": WORK,
        "member_id": str(uuid.uuid4()),
        "subscribed_topic_names": (STATE, WORK),
    },
    ApiKey.SHARE_GROUP_DESCRIBE: lambda version: {"group_ids": (WORK,)},
    ApiKey.STREAMS_GROUP_DESCRIBE: lambda version: {"group_ids": (WORK,)},
    ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS: lambda version: {"groups": [{"group_id": WORK, "topics": None}]},
    ApiKey.INIT_PRODUCER_ID: lambda version: {"transactional_id": STATE, "transaction_timeout": SECOND},
    ApiKey.ADD_PARTITIONS_TO_TXN: lambda version: {
        "v3_and_below_transactional_id": STATE,
        "v3_and_below_topics": [{"name": "t", "partitions": (0,)}],
    },
    ApiKey.ADD_OFFSETS_TO_TXN: lambda version: {"transactional_id": STATE, "group_id": WORK},
    ApiKey.END_TXN: lambda version: {"transactional_id": STATE},
    ApiKey.TXN_OFFSET_COMMIT: lambda version: {
        "transactional_id": STATE,
        "group_id": WORK,
        "topics": [{"name": WORK, "partitions": [{**PART, "committed_metadata": ""}]}],
    },
    ApiKey.DESCRIBE_TRANSACTIONS: lambda version: {"transactional_ids": (STATE,)},
}


@pytest.mark.parametrize("api_key", GROUP_REQUESTS, ids=lambda key: ApiKey(key).name)
def test_a_request_about_our_group_or_transaction(front: Front, api_key: int, state_id: uuid.UUID) -> None:
    for version in versions(api_key):
        if api_key == ApiKey.JOIN_GROUP and 0 < version < 4:
            # They would wait for the member that version 0 has left behind.
            continue
        with front.access("plain", 1).connect() as client:
            answer = client.call(make(api_key, version, **GROUP_REQUESTS[api_key](version)))
        # Of what ours hold, nothing is told: neither members, nor offsets, nor ids of topics.
        assert state_id.bytes.hex() not in repr(answer).replace("-", "")
        if api_key == ApiKey.OFFSET_FETCH:
            groups = answer.groups if version >= 8 else [answer]
            assert not any(group.topics for group in groups)


def test_the_producer_id_of_our_transactions_is_not_told(client: RawClient, kafka: KafkaCluster) -> None:
    with asked_directly(kafka) as broker:
        (ours,) = broker.call(
            make(ApiKey.DESCRIBE_TRANSACTIONS, 0, transactional_ids=(STATE,))
        ).transaction_states
    assert ours.producer_id >= 0
    for version in versions(ApiKey.INIT_PRODUCER_ID):
        wanted = {"transactional_id": STATE, "transaction_timeout": SECOND}
        answer = client.call(make(ApiKey.INIT_PRODUCER_ID, version, **wanted))
        assert answer.error_code == ErrorCode.transactional_id_authorization_failed
        assert answer.producer_id == -1
    # Not with what only we can know either.
    for version in versions(ApiKey.END_TXN):
        ending = {"transactional_id": STATE, "producer_id": ours.producer_id}
        end = client.call(make(ApiKey.END_TXN, version, producer_epoch=ours.producer_epoch, **ending))
        assert end.error_code != ErrorCode.none


# --- lists --------------------------------------------------------------------------------------------------

LISTS: dict[int, Fields] = {
    ApiKey.METADATA: {"topics": None},
    ApiKey.LIST_GROUPS: {},
    ApiKey.LIST_TRANSACTIONS: {},
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: {"topics": []},
    ApiKey.DESCRIBE_LOG_DIRS: {"topics": None},
    ApiKey.LIST_PARTITION_REASSIGNMENTS: {"topics": None},
    ApiKey.ELECT_LEADERS: {"topic_partitions": None, "timeout": SECOND},
}


@pytest.mark.parametrize("api_key", LISTS, ids=lambda key: ApiKey(key).name)
def test_a_list_of_everything(client: RawClient, api_key: int, state_id: uuid.UUID) -> None:
    lowest = 1 if api_key == ApiKey.METADATA else 0
    for version in versions(api_key, lowest):
        client.send(make(api_key, version, **LISTS[api_key]))
        frame = client.receive_frame()
        assert NAME not in frame
        assert state_id.bytes not in frame


def test_what_only_looks_like_ours_is_the_clients(client: RawClient, unique_name: Names) -> None:
    name = f"my_causeway-{unique_name()}"
    topic = {"name": name, "num_partitions": 1, "replication_factor": 1}
    created = client.call(make(ApiKey.CREATE_TOPICS, 7, topics=[topic], timeout=10 * SECOND))
    assert error_codes(created) == {ErrorCode.none}
    deleted = client.call(make(ApiKey.DELETE_TOPICS, 5, topic_names=(name,), timeout=10 * SECOND))
    assert error_codes(deleted) == {ErrorCode.none}
    assert name in repr(deleted)


# --- stock clients, and after all this ----------------------------------------------------------------------


def test_stock_clients_see_nothing(front: Front, topic: str, unique_name: Names) -> None:
    access = front.access("sasl")
    assert NAME not in Kcat(access).run("-L")
    librdkafka = Librdkafka(access)
    assert not any(name.startswith("_causeway") for name in librdkafka.list_groups())
    librdkafka.produce(topic, [b"seen"])
    # A pattern is resolved by the client, from what it is shown.
    assert librdkafka.consume(f"^(_causeway.*|{topic})", unique_name(), 1) == [b"seen"]
