"""The state topic itself: created with one compacted partition, checked if it exists, asked for its end."""

import datetime
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from kio.schema.create_topics.v5.request import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from kio.schema.describe_configs.v2.request import DescribeConfigsRequest, DescribeConfigsResource
from kio.schema.errors import ErrorCode
from kio.schema.list_offsets.v5.request import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from kio.schema.metadata.v9.request import MetadataRequest as MetadataRequestV9
from kio.schema.metadata.v9.request import MetadataRequestTopic as MetadataRequestTopicV9
from kio.schema.metadata.v10.request import MetadataRequest as MetadataRequestV10
from kio.schema.metadata.v10.request import MetadataRequestTopic as MetadataRequestTopicV10
from kio.schema.types import BrokerId, TopicName
from kio.static.primitive import i8, i16, i32, i32Timedelta, i64

from gateway.state.kafka_client import ClusterError, KafkaClient, check

_TOPIC_RESOURCE: Final = i8(2)
_CREATE_TIMEOUT: Final = i32Timedelta.parse(datetime.timedelta(seconds=5))
_LATEST: Final = i64(-1)
_READ_COMMITTED: Final = i8(1)


class StateTopicError(Exception):
    """The state topic cannot be used, and waiting will not help; the text says what to do."""


@dataclass(frozen=True, slots=True)
class TopicShape:
    """What the cluster says of the topic; the id is None before Kafka 2.8."""

    topic_id: UUID | None
    partitions: int


class StateTopic:
    """The topic as its cluster sees it. Every method may raise ClusterError."""

    def __init__(self, topic: str, replication_factor: int | None, client: KafkaClient) -> None:
        self.name = topic
        self._replication_factor = replication_factor
        self._client = client

    async def ensure(self) -> TopicShape:
        """Creates the topic unless it exists, and checks its shape. StateTopicError."""
        async with self._client.exclusive():
            shape = await self._find()
            if shape is None:
                await self._create()
                shape = await self._find()
                if shape is None:
                    raise ClusterError(f"topic {self.name} was created, but the broker does not show it yet")
            policy = await self._cleanup_policy()
        if shape.partitions != 1:
            raise StateTopicError(
                f"topic {self.name} has {shape.partitions} partitions instead of 1: something else made it;"
                " delete it if it holds nothing that you need"
            )
        if policy != "compact":
            raise StateTopicError(
                f"topic {self.name} has cleanup.policy={policy}; set it to compact, or the state gets lost"
            )
        return shape

    async def find(self) -> TopicShape | None:
        """The topic's shape, None if there is no such topic."""
        async with self._client.exclusive():
            return await self._find()

    async def stable_end(self) -> int:
        """The offset behind the last committed record, asked of the leader: KIP-98's last stable offset."""
        async with self._client.exclusive() as client:
            leader_id, leader_epoch = await find_leader(client, self.name)
            asked = ListOffsetsPartition(
                partition_index=i32(0), current_leader_epoch=i32(leader_epoch), timestamp=_LATEST
            )
            request = ListOffsetsRequest(
                replica_id=BrokerId(-1),
                isolation_level=_READ_COMMITTED,
                topics=(ListOffsetsTopic(name=TopicName(self.name), partitions=(asked,)),),
            )
            answer = (await client.send(request, node_id=leader_id)).topics[0].partitions[0]
            check(answer.error_code, f"asking for the end of topic {self.name}")
            return int(answer.offset)

    async def _find(self) -> TopicShape | None:
        found = (await _metadata(self._client, self.name)).topics[0]
        if found.error_code is ErrorCode.unknown_topic_or_partition:
            return None
        check(found.error_code, f"describing topic {self.name}")
        return TopicShape(getattr(found, "topic_id", None), len(found.partitions))

    async def _create(self) -> None:
        metadata = await _metadata(self._client, self.name)
        copies = self._replication_factor or min(3, len(metadata.brokers))
        configs = {
            "cleanup.policy": "compact",
            "min.insync.replicas": "2" if copies >= 3 else "1",
            # A gateway reads all of it when it starts: compact early rather than late.
            "segment.bytes": str(16 * 1024 * 1024),
            "unclean.leader.election.enable": "false",
        }
        wish = CreatableTopic(
            name=TopicName(self.name),
            num_partitions=i32(1),
            replication_factor=i16(copies),
            assignments=(),
            configs=tuple(CreatableTopicConfig(name=name, value=value) for name, value in configs.items()),
        )
        request = CreateTopicsRequest(topics=(wish,), timeout=_CREATE_TIMEOUT)
        result = (await self._client.send(request, node_id=metadata.controller_id)).topics[0]
        if result.error_code is not ErrorCode.topic_already_exists:
            doing = f"creating topic {self.name} with {copies} replicas: {result.error_message}"
            check(result.error_code, doing)

    async def _cleanup_policy(self) -> str | None:
        resource = DescribeConfigsResource(
            resource_type=_TOPIC_RESOURCE, resource_name=self.name, configuration_keys=("cleanup.policy",)
        )
        result = (await self._client.send(DescribeConfigsRequest(resources=(resource,)))).results[0]
        check(result.error_code, f"describing the configs of topic {self.name}: {result.error_message}")
        value: str | None = result.configs[0].value
        return value


async def find_leader(client: KafkaClient, topic: str) -> tuple[int, int]:
    """Broker id and epoch of the leader of the topic's only partition. ClusterError."""
    found = (await _metadata(client, topic)).topics[0]
    check(found.error_code, f"describing topic {topic}")
    partition = found.partitions[0]
    check(partition.error_code, f"looking for the leader of topic {topic}")
    return partition.leader_id, partition.leader_epoch


async def _metadata(client: KafkaClient, topic: str) -> Any:
    name = TopicName(topic)
    answer = await client.send(
        MetadataRequestV10(
            topics=(MetadataRequestTopicV10(topic_id=None, name=name),),
            allow_auto_topic_creation=False,
            include_cluster_authorized_operations=False,
            include_topic_authorized_operations=False,
        ),
        MetadataRequestV9(
            topics=(MetadataRequestTopicV9(name=name),),
            allow_auto_topic_creation=False,
            include_cluster_authorized_operations=False,
            include_topic_authorized_operations=False,
        ),
    )
    client.check_cluster(answer.cluster_id)
    return answer
