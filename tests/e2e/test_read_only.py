"""Mirror topics of a real link are read-only for clients; all else at the same gateway is as it was."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from certs.make_certs import TestAuthority
from compose.kafka import KafkaCluster
from protocol.api_keys import ApiKey
from protocol.api_versions import FORWARDED
from tests.e2e.clients import Aiokafka, Client, KafkaPython, Kcat, Librdkafka, ProduceFailed
from tests.e2e.front import Front, Way
from tests.e2e.java_clients import Java
from tests.e2e.link_lab import rest
from tests.e2e.raw_client import RawClient, batch, make, produce
from tests.e2e.raw_log import RawBroker
from tests.e2e.workload import eventually

Names = Callable[[], str]
LINK = "read-only"
SECOND = timedelta(seconds=1)
RECORDS = [b"record-%d" % number for number in range(50)]
INVALID = ErrorCode.invalid_request
CLIENTS: tuple[type[Client], ...] = (Java, Librdkafka, Aiokafka, KafkaPython, Kcat)
every_client = pytest.mark.parametrize("kind", CLIENTS, ids=lambda kind: kind.name)


def read_only(topic: str, what: str = "append records to") -> str:
    return f"Cannot {what} read-only mirror topic '{topic}'"


def versions(api_key: int) -> range:
    lowest, highest = FORWARDED[api_key]
    return range(lowest, highest + 1)


@dataclass
class Linked:
    """A source, and a destination behind a gateway whose link dials the source."""

    source: KafkaCluster
    front: Front

    @property
    def links(self) -> str:
        """The REST path of the destination's links."""
        return f"/clusters/{self.front.kafka.cluster_id}/links"

    def mirror(self, topic: str) -> str:
        """Makes a topic of RECORDS at the source and its mirror; returns its name when all is copied."""
        self.source.create_topic(topic)
        with RawClient(self.address(self.source)) as broker:
            eventually(lambda: not outcome(broker.call(produce(9, {topic: batch(*RECORDS)})))[topic][0])
        rest(self.front.gateway, "POST", f"{self.links}/{LINK}/mirrors", {"source_topic_name": topic})
        eventually(lambda: self.holds(topic) == RECORDS)
        return topic

    def holds(self, topic: str) -> list[bytes | None]:
        """What the destination has of the topic."""
        with RawBroker(self.front.kafka.internal_bootstrap) as broker:
            try:
                return [record.value for record in broker.records(topic, 0)]
            except RuntimeError:
                return []

    @staticmethod
    def address(kafka: KafkaCluster) -> tuple[str, int]:
        """Where a broker listens without asking who it is."""
        return kafka.nodes[0].host, kafka.nodes[0].internal_port

    def mirrors(self) -> set[str]:
        """The mirror topics that the gateway shows."""
        answer = rest(self.front.gateway, "GET", f"{self.links}/{LINK}/mirrors")
        return {mirror["mirror_topic_name"] for mirror in answer["data"]}


@pytest.fixture(scope="module")
def linked(
    request: pytest.FixtureRequest, kafka_391: KafkaCluster, authority: TestAuthority
) -> Iterator[Linked]:
    failed_before = request.session.testsfailed
    with KafkaCluster.start() as destination:
        front = Front(destination, authority, name="read-only")
        try:
            here = Linked(kafka_391, front)
            configs = [{"name": "bootstrap.servers", "value": kafka_391.internal_bootstrap}]
            body = {"source_cluster_id": kafka_391.cluster_id, "configs": configs}
            rest(front.gateway, "POST", f"{here.links}?link_name={LINK}", body)
            yield here
        finally:
            front.close(keep_log=request.session.testsfailed > failed_before)


@pytest.fixture(scope="module")
def mirror(linked: Linked) -> str:
    """A mirror that all tests may try to write to."""
    return linked.mirror(f"mirror-{uuid.uuid4().hex[:8]}")


@pytest.fixture(autouse=True)
def stays_as_it_is(linked: Linked, mirror: str) -> Iterator[None]:
    yield
    assert linked.holds(mirror) == RECORDS


@pytest.fixture
def plain(linked: Linked, unique_name: Names) -> str:
    """A topic that is no mirror."""
    name = unique_name()
    linked.front.kafka.create_topic(name)
    return name


@pytest.fixture
def client(linked: Linked) -> Iterator[RawClient]:
    with linked.front.access("plain", 1).connect() as connected:
        yield connected


def ids(client: RawClient, *topics: str) -> dict[str, uuid.UUID]:
    answer = client.call(make(ApiKey.METADATA, 12, topics=[{"name": topic} for topic in topics]))
    return {topic.name: topic.topic_id for topic in answer.topics}


def outcome(answer: Any) -> dict[Any, tuple[ErrorCode, str | None, int]]:
    """Error, message and base offset for each topic of a Produce response."""
    return {
        getattr(topic, "name", None) or topic.topic_id: (
            ErrorCode(partition.error_code),
            getattr(partition, "error_message", None),
            partition.base_offset,
        )
        for topic in answer.responses
        for partition in topic.partition_responses
    }


# --- Produce ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", versions(ApiKey.PRODUCE))
def test_produce_is_refused_and_what_goes_with_it_is_not(
    client: RawClient, linked: Linked, mirror: str, plain: str, version: int
) -> None:
    name: Mapping[str, Any] = ids(client, mirror, plain) if version >= 13 else {mirror: mirror, plain: plain}
    refusal = (INVALID, read_only(mirror) if version >= 8 else None, -1)
    only = client.call(produce(version, {name[mirror]: batch(b"x")}))
    assert outcome(only) == {name[mirror]: refusal}
    for number, order in enumerate(((mirror, plain), (plain, mirror))):
        both = client.call(produce(version, {name[topic]: batch(b"x") for topic in order}))
        assert outcome(both) == {name[mirror]: refusal, name[plain]: (ErrorCode.none, None, number)}
    assert linked.holds(plain) == [b"x", b"x"]


@pytest.mark.parametrize("version", [3, 9, 12])
def test_without_acknowledgements_the_connection_ends(
    linked: Linked, mirror: str, plain: str, version: int
) -> None:
    with linked.front.access("plain", 1).connect() as client:
        client.send(produce(version, {mirror: batch(b"x"), plain: batch(b"y")}, acks=0))
        assert client.is_closed()
    eventually(lambda: linked.holds(plain) == [b"y"])


def squeezed(error: BaseException) -> str:
    """Its text in one spelling: INVALID_REQUEST, InvalidRequestError and "Invalid request" are the same."""
    return str(error).lower().replace("_", "").replace(" ", "")


@every_client
def test_a_stock_client_is_told_why(
    kind: type[Client], linked: Linked, mirror: str, unique_name: Names
) -> None:
    client = kind(linked.front.access("sasl"))
    for idempotent in (False, True):
        with pytest.raises(ProduceFailed) as refused:
            client.produce(mirror, [b"x"], idempotent=idempotent)
        if kind in {Java, KafkaPython}:
            assert read_only(mirror) in str(refused.value)
        else:
            # These show the error code only.
            assert "invalidrequest" in squeezed(refused.value)
    assert client.consume(mirror, unique_name(), len(RECORDS)) == RECORDS


@every_client
def test_no_transaction_writes_to_it(
    kind: type[Client], linked: Linked, mirror: str, plain: str, unique_name: Names
) -> None:
    client = kind(linked.front.access("mtls"))
    transactional_id = unique_name()
    with pytest.raises(ProduceFailed):
        client.transact(mirror, transactional_id, [([b"x"], True)])
    # The same id goes on elsewhere.
    client.transact(plain, transactional_id, [([b"y"], True)])
    assert client.consume(plain, unique_name(), 1) == [b"y"]


# --- other requests -----------------------------------------------------------------------------------------


def test_add_partitions_to_a_transaction(client: RawClient, mirror: str, plain: str) -> None:
    for version in versions(ApiKey.ADD_PARTITIONS_TO_TXN):
        topics = [{"name": name, "partitions": (0,)} for name in (plain, mirror)]
        answer = client.call(
            make(
                ApiKey.ADD_PARTITIONS_TO_TXN,
                version,
                v3_and_below_transactional_id="somebody",
                v3_and_below_topics=topics,
            )
        )
        assert {
            topic.name: topic.results_by_partition[0].partition_error_code
            for topic in answer.results_by_topic_v3_and_below
        } == {plain: ErrorCode.operation_not_attempted, mirror: INVALID}


def test_delete_records(client: RawClient, linked: Linked, mirror: str, plain: str) -> None:
    client.call(produce(9, {plain: batch(b"x", b"y", b"z")}))
    for before, version in enumerate(versions(ApiKey.DELETE_RECORDS)):
        part = [{"partition_index": 0, "offset": before + 1}]
        topics = [{"name": name, "partitions": part} for name in (mirror, plain)]
        answer = client.call(make(ApiKey.DELETE_RECORDS, version, topics=topics, timeout=10 * SECOND))
        assert {topic.name: topic.partitions[0].error_code for topic in answer.topics} == {
            mirror: INVALID,
            plain: ErrorCode.none,
        }
    assert linked.holds(plain) == []


def test_create_partitions(client: RawClient, linked: Linked, mirror: str, plain: str) -> None:
    for before, version in enumerate(versions(ApiKey.CREATE_PARTITIONS)):
        topics = [{"name": name, "count": before + 2, "assignments": None} for name in (mirror, plain)]
        answer = client.call(make(ApiKey.CREATE_PARTITIONS, version, topics=topics, timeout=10 * SECOND))
        assert {topic.name: (topic.error_code, topic.error_message) for topic in answer.results} == {
            mirror: (INVALID, read_only(mirror, "create partitions of")),
            plain: (ErrorCode.none, None),
        }
    found = linked.front.kafka.admin.list_topics(timeout=10).topics
    assert len(found[mirror].partitions) == 1
    assert len(found[plain].partitions) == len(versions(ApiKey.CREATE_PARTITIONS)) + 1


def altered(answer: Any) -> dict[str, tuple[ErrorCode, str]]:
    return {each.resource_name: (each.error_code, each.error_message or "") for each in answer.responses}


def alter(api_key: int, version: int, *resources: tuple[str, dict[str, str]]) -> Any:
    extra = {"config_operation": 0} if api_key == ApiKey.INCREMENTAL_ALTER_CONFIGS else {}
    wanted = [
        {
            "resource_type": 2,
            "resource_name": topic,
            "configs": [{"name": name, "value": value, **extra} for name, value in configs.items()],
        }
        for topic, configs in resources
    ]
    return make(api_key, version, resources=wanted)


@pytest.mark.parametrize(
    "config", ["retention.ms", "cleanup.policy", "compression.type", "max.message.bytes"]
)
def test_configs_that_the_link_relies_on(
    client: RawClient, linked: Linked, mirror: str, plain: str, config: str
) -> None:
    value = {"cleanup.policy": "compact", "compression.type": "gzip"}.get(config, "123456")
    before = Librdkafka(linked.front.access("sasl")).describe_config(mirror, config)
    for api_key in (ApiKey.ALTER_CONFIGS, ApiKey.INCREMENTAL_ALTER_CONFIGS):
        for version in versions(api_key):
            changes = {config: value, "segment.ms": "10000000"}
            answer = altered(client.call(alter(api_key, version, (mirror, changes), (plain, changes))))
            assert answer[plain] == (ErrorCode.none, "")
            code, why = answer[mirror]
            assert code == INVALID
            assert f"Cannot modify mirror topic {mirror} because" in why
            assert config in why
    assert Librdkafka(linked.front.access("sasl")).describe_config(mirror, config) == before


def test_other_configs(client: RawClient, linked: Linked, mirror: str) -> None:
    for version in versions(ApiKey.INCREMENTAL_ALTER_CONFIGS):
        request = alter(ApiKey.INCREMENTAL_ALTER_CONFIGS, version, (mirror, {"segment.ms": "20000000"}))
        assert altered(client.call(request)) == {mirror: (ErrorCode.none, "")}
    librdkafka = Librdkafka(linked.front.access("sasl"))
    eventually(lambda: librdkafka.describe_config(mirror, "segment.ms") == "20000000")


@pytest.mark.parametrize("way", ["sasl", "mtls"])
def test_groups_read_and_commit(way: Way, linked: Linked, mirror: str, unique_name: Names) -> None:
    for kind in (Librdkafka, Aiokafka, KafkaPython):
        client, group = kind(linked.front.access(way)), unique_name()
        assert client.consume(mirror, group, 20) == RECORDS[:20]
        assert client.consume(mirror, group, 30) == RECORDS[20:]


# --- its end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_id", [False, True], ids=["by name", "by id"])
def test_a_deleted_mirror_is_forgotten(
    client: RawClient, linked: Linked, unique_name: Names, by_id: bool
) -> None:
    topic = linked.mirror(unique_name())
    assert outcome(client.call(produce(9, {topic: batch(b"x")})))[topic][0] == INVALID
    if by_id:
        wanted: dict[str, Any] = {"topics": [{"name": None, "topic_id": ids(client, topic)[topic]}]}
    else:
        wanted = {"topics": [{"name": topic, "topic_id": None}]}
    answer = client.call(make(ApiKey.DELETE_TOPICS, 6, timeout=10 * SECOND, **wanted))
    assert answer.responses[0].error_code == ErrorCode.none
    eventually(lambda: topic not in linked.mirrors())
    # Its name is free: an ordinary topic, which anybody may write to.
    librdkafka = Librdkafka(linked.front.access("sasl"))
    eventually(lambda: topic not in linked.front.kafka.admin.list_topics(timeout=10).topics)
    librdkafka.create_topic(topic, 1)
    librdkafka.produce(topic, [b"mine"])
    assert linked.holds(topic) == [b"mine"]


def test_another_gateway_refuses_too(linked: Linked, mirror: str, authority: TestAuthority) -> None:
    other = Front(linked.front.kafka, authority, ways=("plain",), name="another")
    try:
        with other.access("plain", 1).connect() as client:
            topic_id = ids(client, mirror)[mirror]
            assert outcome(client.call(produce(13, {topic_id: batch(b"x")})))[topic_id][0] == INVALID
            assert outcome(client.call(produce(9, {mirror: batch(b"x")})))[mirror][0] == INVALID
    finally:
        other.close()
