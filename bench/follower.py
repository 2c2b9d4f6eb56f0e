"""A Kafka follower as a link's yardstick: how fast a replica that was assigned anew has all of a topic."""

from __future__ import annotations

import datetime
import os
import socket
import struct
from pathlib import Path
from typing import Final

from confluent_kafka.cimpl import NewTopic
from kio.schema.alter_partition_reassignments.v0.request import (
    AlterPartitionReassignmentsRequest,
    ReassignablePartition,
    ReassignableTopic,
)
from kio.schema.types import BrokerId, TopicName
from kio.static.primitive import i32, i32Timedelta

from bench.watch import Sample, watch
from compose.kafka import KafkaCluster
from protocol.api_keys import ApiKey
from protocol.headers import encode_request_header, response_body_offset
from protocol.messages import decode_response, encode_request

_LEADER: Final = 1
_FOLLOWER: Final = 2
_VERSION: Final = 0
_TIMEOUT: Final = i32Timedelta.parse(datetime.timedelta(seconds=30))


class Follower:
    """Two brokers: the first has the topics, the second gets a replica of one at a time."""

    def __init__(self, cluster: KafkaCluster, partitions: int) -> None:
        self.cluster = cluster
        self._partitions = partitions

    def create_topic(self, topic: str) -> None:
        """Makes a topic that only the first broker has."""
        wanted = NewTopic(topic, self._partitions, replica_assignment=[[_LEADER]] * self._partitions)
        self.cluster.admin.create_topics([wanted])[topic].result(30)

    def catch_up(self, topic: str, records: int) -> Sample:
        """Has the second broker catch up with a topic of so many records, then forget it again."""
        os.sync()
        wanted = self._bytes(topic, _LEADER)
        self._assign(topic, [_LEADER, _FOLLOWER])
        seconds, _, _ = watch(lambda: self._bytes(topic, _FOLLOWER), wanted, None)
        self._assign(topic, [_LEADER])
        return Sample(seconds, records, None)

    def _bytes(self, topic: str, node_id: int) -> int:
        data = Path(str(self.cluster.directory)) / f"broker-{node_id}" / "data"  # type: ignore[attr-defined]
        return sum(
            segment.stat().st_size
            for partition in range(self._partitions)
            for segment in (data / f"{topic}-{partition}").glob("*.log")
        )

    def _assign(self, topic: str, replicas: list[int]) -> None:
        partitions = tuple(
            ReassignablePartition(partition_index=i32(p), replicas=tuple(map(BrokerId, replicas)))
            for p in range(self._partitions)
        )
        request = AlterPartitionReassignmentsRequest(
            timeout=_TIMEOUT, topics=(ReassignableTopic(name=TopicName(topic), partitions=partitions),)
        )
        key = ApiKey.ALTER_PARTITION_REASSIGNMENTS
        frame = encode_request_header(key, _VERSION, 1, "bench") + encode_request(request)
        node = self.cluster.nodes[0]
        with socket.create_connection((node.host, node.internal_port), timeout=60) as connection:
            connection.sendall(struct.pack(">i", len(frame)) + frame)
            with connection.makefile("rb") as answers:
                (size,) = struct.unpack(">i", answers.read(4))
                answer = answers.read(size)
        response = decode_response(key, _VERSION, answer[response_body_offset(key, _VERSION, answer) :])
        errors = [p.error_code for t in response.responses for p in t.partitions if p.error_code]
        if response.error_code or errors:
            raise RuntimeError(f"not reassigned: {response.error_code!r} {errors}")
