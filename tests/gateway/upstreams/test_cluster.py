"""Finding the brokers of a cluster, and keeping connections to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from kio.schema.errors import ErrorCode
from structlog.testing import capture_logs

from gateway.upstreams import admin
from gateway.upstreams.cluster import Cluster, DialConnector
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.dialer import Security
from gateway.upstreams.errors import ClusterIdMismatch, ConnectFailed, KafkaError
from gateway.upstreams.metadata import nested_class
from gateway.upstreams.topic_configs import TopicConfig
from gateway.wire import ConnectionClosed
from protocol.api_keys import ApiKey
from protocol.errors import UnsupportedVersion
from protocol.headers import RequestHeader
from protocol.messages import decode_request, request_class, response_class
from tests.fakes.broker import FakeBroker
from tests.gateway.upstreams.test_dialer import black_hole

Start = Callable[..., Awaitable[FakeBroker]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts brokers of one cluster, which know of each other."""
    running: list[FakeBroker] = []

    async def starter(node_id: int, *, port: int = 0, **settings: Any) -> FakeBroker:
        broker = await FakeBroker(node_id, **settings).start(port=port)
        running.append(broker)
        addresses = {other.node_id: ("127.0.0.1", other.port) for other in running}
        for other in running:
            other.brokers = dict(addresses)
        return broker

    yield starter
    for broker in running:
        await broker.close()


@pytest.fixture
async def opened() -> AsyncIterator[list[BrokerConnection]]:
    """Connections to close at the end."""
    connections: list[BrokerConnection] = []
    yield connections
    for connection in connections:
        connection.abort()
        await connection.wait_closed()


def connector(*brokers: FakeBroker, **settings: Any) -> DialConnector:
    return DialConnector(
        [broker.bootstrap for broker in brokers], Security(), connect_timeout_s=2, **settings
    )


@pytest.fixture
async def cluster_of() -> AsyncIterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(*brokers: FakeBroker, **settings: Any) -> Cluster:
        made.append(Cluster(connector(*brokers, **settings)))
        return made[-1]

    yield make
    for cluster in made:
        await cluster.close()
        await cluster.close()


# --- the connector ----------------------------------------------------------------------------------


async def test_a_node_is_found_through_any_other(start: Start, opened: list[BrokerConnection]) -> None:
    one, two = await start(1), await start(2)
    dialer = connector(one)
    opened.append(await dialer.connect(2))
    assert opened[0].node_id == 2
    assert opened[0].peer == two.bootstrap
    opened.append(await dialer.connect(2))
    # Known now: nobody else is asked.
    assert len(one.connections) == 1


async def test_any_broker_will_do(start: Start, opened: list[BrokerConnection]) -> None:
    brokers = [await start(node_id) for node_id in (1, 2, 3)]
    dialer = connector(*brokers)
    opened += [await dialer.connect(None) for _ in range(6)]
    assert [broker.open_connections for broker in brokers] == [2, 2, 2]
    await brokers[0].close()
    opened += [await dialer.connect(None) for _ in range(6)]
    loads = [broker.open_connections for broker in brokers]
    assert sum(loads) == 10
    assert loads[0] == 0
    assert min(loads[1:]) >= 4


async def test_dead_bootstrap_servers_are_passed_over(start: Start, opened: list[BrokerConnection]) -> None:
    one, dead = await start(1), await start(9)
    await dead.close()
    one.brokers = {1: ("127.0.0.1", one.port)}
    opened.append(await connector(dead, one).connect(None))
    assert opened[0].peer == one.bootstrap


async def test_silent_bootstrap_servers_do_not_hold_up_the_others(
    start: Start, opened: list[BrokerConnection]
) -> None:
    loop = asyncio.get_running_loop()
    one = await start(1)
    with black_hole() as first, black_hole() as second:
        dialer = DialConnector(
            [("127.0.0.1", first), ("127.0.0.1", second), one.bootstrap], Security(), connect_timeout_s=30
        )
        began = loop.time()
        opened.append(await dialer.connect(None))
        assert loop.time() - began < 10
        assert opened[0].peer == one.bootstrap
        # From now on those that were silent come last.
        assert ("127.0.0.1", one.port) not in dialer._failed_at
        assert len(dialer._failed_at) >= 1


async def test_where_the_brokers_are(start: Start, opened: list[BrokerConnection]) -> None:
    one = await start(1)
    dialer = connector(one)
    assert dialer.addresses() == [one.bootstrap]
    one.brokers = {1: ("127.0.0.1", one.port), 2: ("::1", 9092)}
    opened.append(await dialer.connect(None))
    assert dialer.addresses() == [one.bootstrap, "[::1]:9092"]


async def test_nobody_is_dialled_twice_for_nothing(start: Start, opened: list[BrokerConnection]) -> None:
    one, two = await start(1), await start(2)
    opened.append(await connector(one, two).connect(None))
    assert one.open_connections + two.open_connections == 1


async def test_nobody_answers(start: Start) -> None:
    one, two = await start(1), await start(2)
    await one.close()
    await two.close()
    with pytest.raises(ConnectFailed) as caught:
        await connector(one, two).connect(None)
    assert one.bootstrap in str(caught.value)
    assert two.bootstrap in str(caught.value)
    with pytest.raises(ConnectFailed):
        await connector(one, two).connect(1)


async def test_unknown_nodes(start: Start) -> None:
    one = await start(1)
    dialer = connector(one)
    for _ in range(5):
        with pytest.raises(ConnectFailed, match="no broker 7"):
            await dialer.connect(7)
    # Asked for a broker that is not there, it does not ask the cluster again and again.
    assert len(one.connections) == 1


async def test_a_broker_that_moved_is_found_again(start: Start, opened: list[BrokerConnection]) -> None:
    one, two = await start(1), await start(2)
    dialer = connector(one)
    opened.append(await dialer.connect(2))
    await two.close()
    dialer._refreshed_at = float("-inf")
    moved = await start(2)
    opened.append(await dialer.connect(2))
    assert opened[1].peer == moved.bootstrap != two.bootstrap


async def test_a_broker_that_is_down_is_told_as_such(start: Start, opened: list[BrokerConnection]) -> None:
    one, two = await start(1), await start(2)
    dialer = connector(one)
    opened.append(await dialer.connect(2))
    await two.close()
    dialer._refreshed_at = float("-inf")
    failures = await asyncio.gather(*(dialer.connect(2) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(failure, ConnectFailed) and two.bootstrap in str(failure) for failure in failures)
    # Twenty who miss it look for it once.
    assert len(one.connections) == 2
    await one.close()
    dialer._refreshed_at = float("-inf")
    with pytest.raises(ConnectFailed, match=two.bootstrap):
        await dialer.connect(2)


async def test_brokers_that_swapped_their_addresses(start: Start, opened: list[BrokerConnection]) -> None:
    one, two = await start(1), await start(2)
    dialer = connector(one)
    opened.append(await dialer.connect(2))
    swapped = {1: ("127.0.0.1", two.port), 2: ("127.0.0.1", one.port)}
    one.brokers = two.brokers = swapped
    opened.append(await dialer.connect(2))
    assert opened[1].peer == one.bootstrap


async def test_a_broker_that_left_with_its_address_taken(start: Start) -> None:
    one, two = await start(1), await start(2)
    dialer = connector(one)
    (await dialer.connect(2)).abort()
    one.brokers = two.brokers = {1: ("127.0.0.1", two.port)}
    with pytest.raises(ConnectFailed, match="no broker 2"):
        await dialer.connect(2)
    await two.wait_for_connections(0)


async def test_the_first_connection_decides_which_cluster_it_is(
    start: Start, opened: list[BrokerConnection]
) -> None:
    one, stranger = await start(1), await start(1, cluster_id="cluster-b")
    one.brokers = {1: ("127.0.0.1", one.port)}
    dialer = connector(one, stranger)
    dialer._turn = 1
    opened.append(await dialer.connect(None))
    assert dialer.cluster_id == "cluster-a"
    await one.close()
    with capture_logs() as logs, pytest.raises(ClusterIdMismatch, match=r"belongs to cluster cluster-b"):
        await dialer.connect(None)
    assert {"event": "upstream.wrong_cluster", "log_level": "critical"}.items() <= logs[0].items()


async def test_two_first_connections_to_two_clusters(start: Start, opened: list[BrokerConnection]) -> None:
    """Neither was known when the dialling began: the one that is late is refused all the same."""
    one, other = await start(1), await FakeBroker(2, cluster_id="cluster-b").start()
    dialer = connector(one, other)
    results = await asyncio.gather(dialer.connect(None), dialer.connect(None), return_exceptions=True)
    for result in results:
        assert isinstance(result, BrokerConnection), result
        opened.append(result)
    # Whoever came second found the other cluster refused, and went on to the one that is known.
    assert len({each.peer for each in opened}) == 1
    await other.close()


async def test_the_right_one_of_mixed_bootstrap_servers(start: Start, opened: list[BrokerConnection]) -> None:
    right = await start(1)
    wrong = await FakeBroker(1, cluster_id="cluster-b").start()
    dialer = connector(wrong, right, expected_cluster_id="cluster-a")
    with capture_logs() as logs:
        opened += [await dialer.connect(None) for _ in range(4)]
    assert {each.peer for each in opened} == {right.bootstrap}
    assert [line["event"] for line in logs] == ["upstream.wrong_cluster"]
    assert logs[0]["log_level"] == "critical"
    # It was asked who it is, and nothing else.
    assert {request.api_key for request in wrong.requests} <= {ApiKey.API_VERSIONS, ApiKey.METADATA}
    await wrong.wait_for_connections(0)
    await wrong.close()


async def test_an_expected_cluster(start: Start) -> None:
    one = await start(1)
    with pytest.raises(ClusterIdMismatch):
        await connector(one, expected_cluster_id="other").connect(None)


def test_a_cluster_needs_a_bootstrap_server() -> None:
    with pytest.raises(ValueError, match="bootstrap"):
        DialConnector([], Security())
    with pytest.raises(ValueError, match="host:port"):
        DialConnector(["kafka"], Security())


# --- requests ---------------------------------------------------------------------------------------


def list_offsets_answer(header: RequestHeader, body: bytes) -> Any:
    """Offset 5 for every partition asked for."""
    request = decode_request(header.api_key, header.api_version, body)
    response: Any = response_class(header.api_key, header.api_version)
    return response(
        throttle_time=timedelta(),
        topics=tuple(
            nested_class(response, "ListOffsetsTopicResponse")(
                name=topic.name,
                partitions=tuple(
                    nested_class(response, "ListOffsetsPartitionResponse")(
                        partition_index=partition.partition_index, error_code=ErrorCode.none, offset=5
                    )
                    for partition in topic.partitions
                ),
            )
            for topic in request.topics
        ),
    )


async def test_the_cluster_id_is_known_after_start(start: Start, cluster_of: Callable[..., Cluster]) -> None:
    one = await start(1)
    cluster = cluster_of(one)
    ids = [cluster.cluster_id]
    await cluster.start()
    assert [*ids, cluster.cluster_id] == [None, "cluster-a"]
    metadata = await cluster.metadata(None)
    assert metadata.controller_id == 1
    assert metadata.brokers == {1: ("127.0.0.1", one.port)}


async def test_one_connection_per_broker_is_kept(start: Start, cluster_of: Callable[..., Cluster]) -> None:
    one, two = await start(1), await start(2)
    two.handlers[ApiKey.LIST_OFFSETS] = list_offsets_answer
    cluster = cluster_of(one)
    key = ("t", 0)
    answers = await asyncio.gather(*(admin.list_offsets(cluster, 2, {key: -1}) for _ in range(20)))
    assert answers == [{key: 5}] * 20
    assert len(two.connections) == 1
    two.connections[0].abort()
    assert await admin.list_offsets(cluster, 2, {key: -1}) == {key: 5}
    assert len(two.connections) == 2


async def test_only_idempotent_requests_are_repeated(
    start: Start, cluster_of: Callable[..., Cluster]
) -> None:
    one = await start(1)
    cluster = cluster_of(one)
    await cluster.start()
    calls = 0

    def hang_up_first(header: RequestHeader, body: bytes) -> Any:
        nonlocal calls
        calls += 1
        if calls % 2:
            one.connections[-1].abort()
            return None
        return one.metadata(header, body)

    one.handlers[ApiKey.METADATA] = lambda header, body: (
        hang_up_first(header, body) if len(one.connections) == 1 else one.metadata(header, body)
    )
    await cluster.metadata([])
    assert calls == 1
    assert len(one.connections) == 2
    one.handlers[ApiKey.INIT_PRODUCER_ID] = lambda header, body: one.connections[-1].abort()

    message: Any = request_class(ApiKey.INIT_PRODUCER_ID, 0)
    with pytest.raises(ConnectionClosed):
        await cluster.request(message(transactional_id=None, transaction_timeout=timedelta()))
    assert one.count(ApiKey.INIT_PRODUCER_ID) == 1


async def test_a_cluster_that_changed_under_us(start: Start, cluster_of: Callable[..., Cluster]) -> None:
    one = await start(1)
    cluster = cluster_of(one)
    await cluster.start()
    one.cluster_id = "cluster-b"
    with capture_logs() as logs, pytest.raises(ClusterIdMismatch):
        await cluster.metadata([])
    assert logs[0]["event"] == "upstream.wrong_cluster"
    with pytest.raises(ClusterIdMismatch):
        await cluster.metadata([])


async def test_after_close_nothing_is_dialled(start: Start) -> None:
    one = await start(1)
    cluster = Cluster(connector(one))
    await cluster.start()
    await cluster.close()
    await cluster.close()
    with pytest.raises(ConnectFailed, match="closed"):
        await cluster.metadata([])
    await one.wait_for_connections(0)


async def test_close_while_dialling(start: Start) -> None:
    one = await start(1)
    go_on = asyncio.Event()

    async def slow(header: RequestHeader, body: bytes) -> Any:
        await go_on.wait()
        return one.api_versions(header, body)

    one.handlers[ApiKey.API_VERSIONS] = slow
    cluster = Cluster(connector(one))
    starting = asyncio.create_task(cluster.start())
    await one.wait_for_requests(1)
    await cluster.close()
    go_on.set()
    with pytest.raises(ConnectFailed, match="closed"):
        await starting
    await one.wait_for_connections(0)


def created(header: RequestHeader, body: bytes, code: ErrorCode = ErrorCode.none) -> Any:
    request = decode_request(header.api_key, header.api_version, body)
    response: Any = response_class(header.api_key, header.api_version)
    return response(
        throttle_time=timedelta(),
        topics=tuple(
            nested_class(response, "CreatableTopicResult")(
                name=topic.name, error_code=code, error_message="because", configs=None
            )
            for topic in request.topics
        ),
    )


async def test_the_controller_is_looked_for(start: Start, cluster_of: Callable[..., Cluster]) -> None:
    one, two = await start(1), await start(2)
    one.controller_id = two.controller_id = 1

    def not_me(header: RequestHeader, body: bytes) -> Any:
        one.controller_id = two.controller_id = 2
        return created(header, body, ErrorCode.not_controller)

    one.handlers[ApiKey.CREATE_TOPICS] = not_me
    two.handlers[ApiKey.CREATE_TOPICS] = created
    assert await admin.create_topic(cluster_of(one), "t", 3) is None
    assert (one.count(ApiKey.CREATE_TOPICS), two.count(ApiKey.CREATE_TOPICS)) == (1, 1)


async def test_a_controller_that_is_down_is_waited_for(
    start: Start, cluster_of: Callable[..., Cluster]
) -> None:
    one, two = await start(1), await start(2)
    await two.close()
    one.controller_id = 2
    one.handlers[ApiKey.CREATE_TOPICS] = created
    creating = asyncio.create_task(admin.create_topic(cluster_of(one), "t", 3))
    await asyncio.sleep(0.3)
    assert not creating.done()
    one.controller_id = -1  # between two controllers any broker is asked
    await creating
    assert one.count(ApiKey.CREATE_TOPICS) == 1


async def test_a_controller_that_stays_away_is_told(start: Start, cluster_of: Callable[..., Cluster]) -> None:
    one, two = await start(1), await start(2)
    await two.close()
    one.controller_id = 2
    with pytest.raises(ConnectFailed):
        await cluster_of(one).controller_request(lambda connection: None, timeout_s=0.3)
    one.controller_id = 1
    one.handlers[ApiKey.CREATE_TOPICS] = lambda header, body: created(header, body, ErrorCode.not_controller)
    with pytest.raises(KafkaError, match="NOT_CONTROLLER"):
        await admin.create_topic(cluster_of(one), "t", 3, timeout_s=-4.7)


# --- admin ------------------------------------------------------------------------------------------


async def test_errors_of_partitions_are_raised(start: Start, cluster_of: Callable[..., Cluster]) -> None:
    one = await start(1)

    def moved(header: RequestHeader, body: bytes) -> Any:
        response: Any = response_class(header.api_key, header.api_version)
        partition = nested_class(response, "ListOffsetsPartitionResponse")(
            partition_index=4, error_code=ErrorCode.not_leader_or_follower
        )
        topic = nested_class(response, "ListOffsetsTopicResponse")(name="t", partitions=(partition,))
        return response(throttle_time=timedelta(), topics=(topic,))

    one.handlers[ApiKey.LIST_OFFSETS] = moved
    with pytest.raises(KafkaError, match=r"NOT_LEADER_OR_FOLLOWER.*t-4 at broker 1") as caught:
        await admin.list_offsets(cluster_of(one), 1, {("t", 4): admin.LATEST})
    assert caught.value.code == 6
    one.handlers[ApiKey.LIST_OFFSETS] = list_offsets_answer
    assert await admin.list_offsets(cluster_of(one), 1, {}) == {}


async def test_partitions_left_out_are_an_error(start: Start, cluster_of: Callable[..., Cluster]) -> None:
    one = await start(1)
    one.handlers[ApiKey.LIST_OFFSETS] = lambda header, body: response_class(2, header.api_version)(
        throttle_time=timedelta(), topics=()
    )
    with pytest.raises(KafkaError, match="left out t-0"):
        await admin.list_offsets(cluster_of(one), 1, {("t", 0): admin.LATEST})


async def test_a_timestamp_that_the_broker_does_not_know(
    start: Start, cluster_of: Callable[..., Cluster]
) -> None:
    one = await start(1)
    with pytest.raises(UnsupportedVersion):
        await admin.list_offsets(cluster_of(one), 1, {("t", 0): -4})


async def test_producer_ids_are_asked_for_until_there_is_one(
    start: Start, cluster_of: Callable[..., Cluster]
) -> None:
    one = await start(1)
    codes = [ErrorCode.coordinator_load_in_progress, ErrorCode.coordinator_not_available, ErrorCode.none]

    def answer(header: RequestHeader, body: bytes) -> Any:
        return response_class(header.api_key, header.api_version)(
            throttle_time=timedelta(), error_code=codes.pop(0), producer_id=77, producer_epoch=0
        )

    one.handlers[ApiKey.INIT_PRODUCER_ID] = answer
    cluster = cluster_of(one)
    assert await admin.init_producer_id(cluster) == 77
    codes[:] = [ErrorCode.cluster_authorization_failed]
    with pytest.raises(KafkaError, match="CLUSTER_AUTHORIZATION_FAILED"):
        await admin.init_producer_id(cluster)
    codes[:] = [ErrorCode.not_controller]
    with pytest.raises(KafkaError, match="NOT_CONTROLLER"):
        await admin.init_producer_id(cluster, timeout_s=0.1)


async def test_topic_errors_carry_the_brokers_words(start: Start, cluster_of: Callable[..., Cluster]) -> None:
    one = await start(1)
    one.handlers[ApiKey.CREATE_TOPICS] = lambda header, body: created(
        header, body, ErrorCode.topic_already_exists
    )
    with pytest.raises(KafkaError, match=r"TOPIC_ALREADY_EXISTS.*CreateTopics t: because"):
        await admin.create_topic(cluster_of(one), "t", 1)
    one.handlers[ApiKey.CREATE_TOPICS] = lambda header, body: response_class(19, header.api_version)(
        throttle_time=timedelta(), topics=()
    )
    with pytest.raises(KafkaError, match="0 results"):
        await admin.create_topic(cluster_of(one), "t", 1)


def test_configs_know_whose_they_are() -> None:
    config = TopicConfig("1", 1, is_default=False, sensitive=False, read_only=False)
    assert config.own
    assert not config._replace(source=5).own
