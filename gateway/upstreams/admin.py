"""Requests that links make now and then: offsets, producer ids, topics and their configs.

Supports ListOffsets 2 to 11, DeleteRecords 0 to 2, OffsetForLeaderEpoch 2 to 4, InitProducerId 0 to 6,
CreateTopics 4 to 7 (KIP-464), DeleteTopics 1 to 6, CreatePartitions 0 to 3, DescribeProducers 0 (KIP-664),
IncrementalAlterConfigs 0 to 1 (KIP-339). Each may raise KafkaError and what `Cluster`
raises.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from kio.schema.errors import ErrorCode

from gateway.upstreams.cluster import Cluster
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import KafkaError
from gateway.upstreams.metadata import nested_class
from protocol.api_keys import ApiKey
from protocol.messages import request_class

TopicPartition: TypeAlias = tuple[str, int]

# ListOffsets' special timestamps; the later ones came with the versions below.
LATEST: Final = -1
EARLIEST: Final = -2
_NEEDED_VERSION: Final = {-3: 7, -4: 8, -5: 9, -6: 11}
_TOPIC: Final = 2  # ConfigResource.Type
_SET, _DELETE = 0, 1  # AlterConfigOp.OpType
_RETRY_DELAY_S: Final = 0.2
# So that a broker that runs out of time can still say so.
_BROKER_MARGIN_S: Final = 5.0
_TRY_LATER: Final = {
    ErrorCode.coordinator_load_in_progress,
    ErrorCode.coordinator_not_available,
    ErrorCode.not_controller,
    ErrorCode.request_timed_out,
}


async def list_offsets(
    target: Cluster | BrokerConnection,
    node_id: int,
    timestamps: Mapping[TopicPartition, int],
    isolation: int = 0,
    replica_id: int = -1,
    *,
    timeout_s: float = 30,
) -> dict[TopicPartition, int]:
    """The offsets for timestamps (ms, LATEST, EARLIEST) from the leader `node_id`; -1 where there is none.

    `isolation` 1 is read_committed. With a `replica_id` that no broker has, LATEST is the log end
    instead of the high watermark.
    """

    def message(connection: BrokerConnection) -> Any:
        lowest = max((_NEEDED_VERSION.get(timestamp, 2) for timestamp in timestamps.values()), default=2)
        version = connection.pick_version(ApiKey.LIST_OFFSETS, lowest, 11)
        request = request_class(ApiKey.LIST_OFFSETS, version)
        partition_class = nested_class(request, "ListOffsetsPartition")
        topics = defaultdict(list)
        for (topic, partition), timestamp in timestamps.items():
            topics[topic].append(partition_class(partition_index=partition, timestamp=timestamp))
        return request(
            replica_id=replica_id,
            isolation_level=isolation,
            topics=tuple(
                nested_class(request, "ListOffsetsTopic")(name=topic, partitions=tuple(partitions))
                for topic, partitions in topics.items()
            ),
            **({"timeout": timedelta(seconds=timeout_s)} if version >= 10 else {}),
        )

    if isinstance(target, Cluster):
        response = await target.request(message, node_id=node_id, timeout_s=timeout_s, idempotent=True)
    else:
        response = await target.request(message(target), timeout_s=timeout_s)
    offsets: dict[TopicPartition, int] = {}
    for topic in response.topics:
        for partition in topic.partitions:
            where = f"ListOffsets of {topic.name}-{partition.partition_index} at broker {node_id}"
            _raise_for(partition.error_code, where)
            offsets[topic.name, int(partition.partition_index)] = int(partition.offset)
    for name, index in timestamps.keys() - offsets.keys():
        raise KafkaError(
            ErrorCode.unknown_server_error, f"ListOffsets: broker {node_id} left out {name}-{index}"
        )
    return offsets


async def epoch_ends(
    connection: BrokerConnection, epochs: Mapping[TopicPartition, tuple[int, int]], *, timeout_s: float = 30
) -> dict[TopicPartition, tuple[int, int, int]]:
    """Error code, leader epoch and end offset for each leader epoch asked for (KIP-101, KIP-320).

    `epochs` are the leader epoch that the broker is thought to have, and the one that is asked for. The epoch
    in the answer is the latest not above that one; -1 if the broker cannot tell.
    """
    version = connection.pick_version(ApiKey.OFFSET_FOR_LEADER_EPOCH, 2, 4)
    request = request_class(ApiKey.OFFSET_FOR_LEADER_EPOCH, version)
    partition_class = nested_class(request, "OffsetForLeaderPartition")
    topics = defaultdict(list)
    for (topic, partition), (current, wanted) in epochs.items():
        topics[topic].append(
            partition_class(partition=partition, current_leader_epoch=current, leader_epoch=wanted)
        )
    topic_class = nested_class(request, "OffsetForLeaderTopic")
    response = await connection.request(
        request(
            topics=tuple(topic_class(topic=name, partitions=tuple(each)) for name, each in topics.items()),
            **({"replica_id": -1} if version >= 3 else {}),
        ),
        timeout_s=timeout_s,
    )
    return {
        (topic.topic, int(p.partition)): (int(p.error_code), int(p.leader_epoch), int(p.end_offset))
        for topic in response.topics
        for p in topic.partitions
    }


async def delete_records(
    cluster: Cluster, node_id: int, offsets: Mapping[TopicPartition, int], *, timeout_s: float = 30
) -> dict[TopicPartition, int]:
    """Deletes what is below these offsets, at the leader `node_id`; the offsets at which the logs begin.

    Partitions whose deletion is refused are left out; KafkaError if all are.
    """

    def message(connection: BrokerConnection) -> Any:
        request = request_class(ApiKey.DELETE_RECORDS, connection.pick_version(ApiKey.DELETE_RECORDS, 0, 2))
        partition_class = nested_class(request, "DeleteRecordsPartition")
        topics = defaultdict(list)
        for (topic, partition), offset in offsets.items():
            topics[topic].append(partition_class(partition_index=partition, offset=offset))
        topic_class = nested_class(request, "DeleteRecordsTopic")
        named = (topic_class(name=name, partitions=tuple(each)) for name, each in topics.items())
        return request(topics=tuple(named), timeout=timedelta(seconds=timeout_s))

    response = await cluster.request(
        message, node_id=node_id, timeout_s=timeout_s + _BROKER_MARGIN_S, idempotent=True
    )
    starts: dict[TopicPartition, int] = {}
    refusal: KafkaError | None = None
    for topic in response.topics:
        for partition in topic.partitions:
            where = f"DeleteRecords of {topic.name}-{partition.partition_index} at broker {node_id}"
            if partition.error_code == ErrorCode.none:
                starts[topic.name, int(partition.partition_index)] = int(partition.low_watermark)
            else:
                refusal = KafkaError(partition.error_code, where)
    if refusal is not None and not starts:
        raise refusal
    return starts


async def init_producer_id(cluster: Cluster, *, timeout_s: float = 30) -> int:
    """A new producer id without a transactional id, from any broker."""

    def message(connection: BrokerConnection) -> Any:
        version = connection.pick_version(ApiKey.INIT_PRODUCER_ID, 0, 6)
        # The timeout is read for transactional producers only.
        return request_class(ApiKey.INIT_PRODUCER_ID, version)(
            transactional_id=None, transaction_timeout=timedelta(minutes=1)
        )

    deadline = time.monotonic() + timeout_s
    while True:
        # Asked twice, the cluster gives two ids, of which one is never used: no harm.
        response = await cluster.request(message, timeout_s=timeout_s, idempotent=True)
        if response.error_code not in _TRY_LATER or time.monotonic() + _RETRY_DELAY_S > deadline:
            _raise_for(response.error_code, "InitProducerId")
            return int(response.producer_id)
        await asyncio.sleep(_RETRY_DELAY_S)


async def create_topic(
    cluster: Cluster,
    name: str,
    partitions: int,
    replication_factor: int = -1,
    configs: Mapping[str, str] | None = None,
    *,
    timeout_s: float = 30,
) -> UUID | None:
    """Makes a topic, -1 for the broker's replication factor, and returns its id; None before 2.8."""

    def message(connection: BrokerConnection) -> Any:
        request = request_class(ApiKey.CREATE_TOPICS, connection.pick_version(ApiKey.CREATE_TOPICS, 4, 7))
        config_class = nested_class(request, "CreatableTopicConfig")
        topic = nested_class(request, "CreatableTopic")(
            name=name,
            num_partitions=partitions,
            replication_factor=replication_factor,
            assignments=(),
            configs=tuple(config_class(name=key, value=value) for key, value in (configs or {}).items()),
        )
        return request(topics=(topic,), timeout=timedelta(seconds=timeout_s))

    response = await cluster.controller_request(message, timeout_s=timeout_s + _BROKER_MARGIN_S)
    result = _only(response.topics, f"CreateTopics {name}")
    _raise_for(result.error_code, f"CreateTopics {name}", result.error_message)
    topic_id: UUID | None = getattr(result, "topic_id", None)
    return topic_id


async def delete_topic(cluster: Cluster, name: str, *, timeout_s: float = 30) -> None:
    """Deletes a topic."""

    def message(connection: BrokerConnection) -> Any:
        version = connection.pick_version(ApiKey.DELETE_TOPICS, 1, 6)
        request = request_class(ApiKey.DELETE_TOPICS, version)
        timeout = timedelta(seconds=timeout_s)
        if version < 6:
            return request(topic_names=(name,), timeout=timeout)
        return request(
            topics=(nested_class(request, "DeleteTopicState")(name=name, topic_id=None),), timeout=timeout
        )

    response = await cluster.controller_request(message, timeout_s=timeout_s + _BROKER_MARGIN_S)
    result = _only(response.responses, f"DeleteTopics {name}")
    _raise_for(result.error_code, f"DeleteTopics {name}", getattr(result, "error_message", None))


async def create_partitions(cluster: Cluster, name: str, count: int, *, timeout_s: float = 30) -> None:
    """Has a topic have `count` partitions, more than it has."""

    def message(connection: BrokerConnection) -> Any:
        request = request_class(
            ApiKey.CREATE_PARTITIONS, connection.pick_version(ApiKey.CREATE_PARTITIONS, 0, 3)
        )
        topic = nested_class(request, "CreatePartitionsTopic")(name=name, count=count, assignments=None)
        return request(topics=(topic,), timeout=timedelta(seconds=timeout_s), validate_only=False)

    response = await cluster.controller_request(message, timeout_s=timeout_s + _BROKER_MARGIN_S)
    result = _only(response.results, f"CreatePartitions {name}")
    _raise_for(result.error_code, f"CreatePartitions {name}", result.error_message)


class ActiveProducer(NamedTuple):
    """A producer with a transaction open in a partition; `last_write_ms` is the time of its last append."""

    producer_id: int
    last_write_ms: int
    start_offset: int


async def open_transactions(
    cluster: Cluster, node_id: int, partitions: Sequence[TopicPartition], *, timeout_s: float = 30
) -> dict[TopicPartition, list[ActiveProducer]]:
    """The producers that have a transaction open in these partitions, which `node_id` leads."""

    def message(connection: BrokerConnection) -> Any:
        version = connection.pick_version(ApiKey.DESCRIBE_PRODUCERS, 0, 0)
        request = request_class(ApiKey.DESCRIBE_PRODUCERS, version)
        topics = defaultdict(list)
        for topic, partition in partitions:
            topics[topic].append(partition)
        topic_class = nested_class(request, "TopicRequest")
        return request(
            topics=tuple(
                topic_class(name=name, partition_indexes=tuple(each)) for name, each in topics.items()
            )
        )

    response = await cluster.request(message, node_id=node_id, timeout_s=timeout_s, idempotent=True)
    found: dict[TopicPartition, list[ActiveProducer]] = {}
    for topic in response.topics:
        for partition in topic.partitions:
            where = f"DescribeProducers of {topic.name}-{partition.partition_index} at broker {node_id}"
            _raise_for(partition.error_code, where, partition.error_message)
            found[topic.name, int(partition.partition_index)] = [
                ActiveProducer(
                    int(p.producer_id), _milliseconds(p.last_timestamp), int(p.current_txn_start_offset)
                )
                for p in partition.active_producers
                if p.current_txn_start_offset >= 0
            ]
    return found


def _milliseconds(value: Any) -> int:
    return int(value) if isinstance(value, int) else round(value.timestamp() * 1000)


async def alter_topic_configs(
    cluster: Cluster, topic: str, configs: Mapping[str, str | None], *, timeout_s: float = 30
) -> None:
    """Sets configs of a topic, or takes them off it where the value is None; others stay."""

    def message(connection: BrokerConnection) -> Any:
        version = connection.pick_version(ApiKey.INCREMENTAL_ALTER_CONFIGS, 0, 1)
        request = request_class(ApiKey.INCREMENTAL_ALTER_CONFIGS, version)
        config_class = nested_class(request, "AlterableConfig")
        resource = nested_class(request, "AlterConfigsResource")(
            resource_type=_TOPIC,
            resource_name=topic,
            configs=tuple(
                config_class(name=name, config_operation=_DELETE if value is None else _SET, value=value)
                for name, value in configs.items()
            ),
        )
        return request(resources=(resource,), validate_only=False)

    response = await cluster.controller_request(message, timeout_s=timeout_s)
    result = _only(response.responses, f"IncrementalAlterConfigs of topic {topic}")
    _raise_for(result.error_code, f"IncrementalAlterConfigs of topic {topic}", result.error_message)


def _only(results: Sequence[Any], what: str) -> Any:
    if len(results) != 1:
        raise KafkaError(ErrorCode.unknown_server_error, f"{what}: {len(results)} results for one request")
    return results[0]


def _raise_for(code: ErrorCode, what: str, message: str | None = None) -> None:
    if code != ErrorCode.none:
        raise KafkaError(code, f"{what}: {message}" if message else what)
