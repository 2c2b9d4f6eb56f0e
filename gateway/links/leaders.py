"""Who leads which partition on either side, and whether the topics are still the ones that were linked."""

import asyncio
import time
from typing import Final

from gateway.links.board import BELIEF_S, RETRY_DELAY_S, TRANSPORT_ERRORS, Board
from gateway.links.partition import Mirror
from gateway.state.records import MirrorTopicError
from gateway.tasks import Tasks
from gateway.upstreams.cluster import Cluster, TopicMetadata
from gateway.upstreams.errors import KafkaError

UNKNOWN_TOPIC: Final = 3
# A source that does not answer must not hold up the destination: a failover needs no source.
SOURCE_PATIENCE_S: Final = 1.0

# The error that a mirror fails with if it stays, and its text.
Oddity = tuple[MirrorTopicError, str]


class Leaders:
    """Keeps the leaders of a link's partitions."""

    def __init__(self, board: Board, source: Cluster, destination: Cluster, tasks: Tasks) -> None:
        self._board = board
        self._source = source
        self._destination = destination
        self._tasks = tasks
        self._asking: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Ask both sides; what cannot be asked stays as it was, and a slow source answers later."""
        if self._asking is None or self._asking.done():
            self._asking = self._tasks.spawn(self._refresh_source(), name="ask the source")
        asking = self._asking
        await self._refresh_destination()
        await asyncio.wait({asking}, timeout=SOURCE_PATIENCE_S)
        if not asking.done():
            asking.add_done_callback(lambda _: self._board.wake_metadata.set())

    async def _refresh_source(self) -> None:
        mirrors = [m for m in self._board.mirrors.values() if m.running and not m.record.failover]
        if not mirrors:
            return
        try:
            topics = (await self._source.metadata([m.record.source_topic_name for m in mirrors])).topics
        except TRANSPORT_ERRORS as error:
            self._board.source_is_down(error)
            return
        self._board.source_is_up()
        for mirror in mirrors:
            self._check_source(mirror, topics.get(mirror.record.source_topic_name))
        self._board.index()

    async def _refresh_destination(self) -> None:
        mirrors = [mirror for mirror in self._board.mirrors.values() if mirror.running]
        try:
            topics = (await self._destination.metadata([m.record.mirror_topic_name for m in mirrors])).topics
        except TRANSPORT_ERRORS as error:
            self._board.log.warning("destination_unreachable", error=str(error))
            return
        for mirror in mirrors:
            self._check_destination(mirror, topics.get(mirror.record.mirror_topic_name))
        self._board.index()

    def _check_source(self, mirror: Mirror, topic: TopicMetadata | None) -> None:
        if topic is None or topic.error_code not in (0, UNKNOWN_TOPIC):
            if topic is not None:
                name = mirror.record.source_topic_name
                refusal = KafkaError(topic.error_code, f"Metadata of source topic '{name}'")
                mirror.source_refuses(str(refusal), time.monotonic())
            return
        mirror.source_refuses(None, 0)
        oddity = _odd_source(mirror, topic)
        if oddity is None:
            mirror.source_odd_since = None
            mirror.source_partitions = len(topic.partitions)
            for partition in mirror.partitions:
                leader = topic.partitions.get(partition.index)
                partition.source_leader = leader.leader if leader and leader.leader >= 0 else None
                partition.source_epoch = leader.leader_epoch if leader else -1
            return
        # One broker may be behind the others. What is fetched by name meanwhile may be another topic's; what
        # is queued already is still appended.
        for partition in mirror.partitions:
            partition.source_leader = None
            partition.generation += 1
        mirror.source_odd_since = mirror.source_odd_since or time.monotonic()
        if time.monotonic() - mirror.source_odd_since > BELIEF_S:
            self._board.fail(mirror, *oddity)

    def _check_destination(self, mirror: Mirror, topic: TopicMetadata | None) -> None:
        if topic is None or topic.error_code not in (0, UNKNOWN_TOPIC):
            return
        oddity = _odd_destination(mirror, topic)
        if oddity is None:
            mirror.destination_odd_since = None
        else:
            mirror.destination_odd_since = mirror.destination_odd_since or time.monotonic()
            if time.monotonic() - mirror.destination_odd_since > BELIEF_S:
                self._board.fail(mirror, *oddity)
        for partition in mirror.partitions:
            leader = topic.partitions.get(partition.index) if oddity is None else None
            node_id = leader.leader if leader and leader.leader >= 0 else None
            if node_id != partition.destination_leader:
                partition.doubt(time.monotonic() + RETRY_DELAY_S)
            partition.destination_leader = node_id


def _odd_source(mirror: Mirror, topic: TopicMetadata) -> Oddity | None:
    record = mirror.record
    name = record.source_topic_name
    if topic.error_code:
        return MirrorTopicError.SOURCE_TOPIC_MAY_BE_DELETED, f"source topic '{name}' does not exist any more"
    if record.source_topic_id is not None and topic.topic_id not in (None, record.source_topic_id):
        ids = f"its id was {record.source_topic_id}, now it is {topic.topic_id}"
        return MirrorTopicError.SOURCE_TOPIC_ID_CHANGED, f"source topic '{name}' was recreated: {ids}"
    if len(topic.partitions) < record.num_partitions:
        numbers = f"{len(topic.partitions)} partitions, the mirror topic {record.num_partitions}"
        return MirrorTopicError.SOURCE_PARTITIONS_DECREASED, f"source topic '{name}' has {numbers}"
    return None


def _odd_destination(mirror: Mirror, topic: TopicMetadata) -> Oddity | None:
    record = mirror.record
    name = record.mirror_topic_name
    if topic.error_code:
        return MirrorTopicError.ILLEGAL_STATE, f"mirror topic '{name}' was deleted"
    if topic.topic_id not in (None, record.topic_id):
        ids = f"its id was {record.topic_id}, now it is {topic.topic_id}"
        return MirrorTopicError.ILLEGAL_STATE, f"mirror topic '{name}' was recreated by somebody else: {ids}"
    if len(topic.partitions) < record.num_partitions:
        numbers = f"{len(topic.partitions)} partitions instead of {record.num_partitions}"
        return MirrorTopicError.ILLEGAL_STATE, f"mirror topic '{name}' has {numbers}"
    return None
