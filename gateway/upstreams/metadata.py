"""What a cluster says of itself: its id, controller, brokers and topics.

Supports Metadata 5 to 13 (KIP-430, KIP-516, KIP-1102), hence brokers from 1.0 on; topic ids from 2.8 on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from kio.schema.errors import ErrorCode

from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import KafkaError
from protocol.api_keys import ApiKey
from protocol.messages import request_class


@dataclass(frozen=True, slots=True)
class PartitionMetadata:
    """A partition; `leader` is a node id, -1 for none; `leader_epoch` is -1 before 2.1."""

    error_code: ErrorCode
    leader: int
    leader_epoch: int
    replicas: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TopicMetadata:
    """A topic, or the error in its place; `topic_id` is None before 2.8."""

    error_code: ErrorCode
    topic_id: UUID | None
    partitions: Mapping[int, PartitionMetadata]
    is_internal: bool


@dataclass(frozen=True, slots=True)
class ClusterMetadata:
    """One answer to Metadata; `brokers` are the addresses by node id, `controller_id` is -1 for none."""

    cluster_id: str | None
    controller_id: int
    brokers: Mapping[int, tuple[str, int]]
    topics: Mapping[str, TopicMetadata]


def metadata_request(connection: BrokerConnection, topics: Sequence[str] | None) -> Any:
    """A request about these topics, all (None) or none (empty); it makes no topics. UnsupportedVersion."""
    version = connection.pick_version(ApiKey.METADATA, 5, 13)
    request = request_class(ApiKey.METADATA, version)
    topic = nested_class(request, "MetadataRequestTopic")
    # From version 10 on a topic may be named by its id instead.
    by_name: dict[str, Any] = {"topic_id": None} if version >= 10 else {}
    fields: dict[str, Any] = {"allow_auto_topic_creation": False}
    if version >= 8:
        fields["include_topic_authorized_operations"] = False
        if version <= 10:
            fields["include_cluster_authorized_operations"] = False
    named = None if topics is None else tuple(topic(name=name, **by_name) for name in topics)
    return request(topics=named, **fields)


def read_metadata(response: Any) -> ClusterMetadata:
    """From a response of any version; KafkaError if it is an error as a whole."""
    error_code = getattr(response, "error_code", ErrorCode.none)
    if error_code != ErrorCode.none:
        raise KafkaError(error_code, "Metadata")
    return ClusterMetadata(
        cluster_id=response.cluster_id,
        controller_id=int(response.controller_id),
        brokers={int(broker.node_id): (broker.host, int(broker.port)) for broker in response.brokers},
        topics={topic.name: _topic(topic) for topic in response.topics if topic.name is not None},
    )


def _topic(topic: Any) -> TopicMetadata:
    return TopicMetadata(
        error_code=topic.error_code,
        topic_id=getattr(topic, "topic_id", None),
        partitions={
            int(partition.partition_index): PartitionMetadata(
                error_code=partition.error_code,
                leader=int(partition.leader_id),
                leader_epoch=int(getattr(partition, "leader_epoch", -1)),
                replicas=tuple(map(int, partition.replica_nodes)),
            )
            for partition in topic.partitions
        },
        is_internal=topic.is_internal,
    )


def nested_class(request: type, name: str) -> Any:
    """kio's class of a part of a request, in the version of that request."""
    return vars(sys.modules[request.__module__])[name]
