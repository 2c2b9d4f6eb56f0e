"""Who leads which partition on either side, and whether the topics are still the ones that were linked."""

import time

from gateway.links.board import BELIEF_S, RETRY_DELAY_S, TRANSPORT_ERRORS, Board
from gateway.links.partition import Mirror
from gateway.state.records import MirrorTopicError
from gateway.upstreams.cluster import Cluster, TopicMetadata

UNKNOWN_TOPIC: int = 3


class Leaders:
    """Keeps the leaders of a link's partitions."""

    def __init__(self, board: Board, source: Cluster, destination: Cluster) -> None:
        self._board = board
        self._source = source
        self._destination = destination

    async def refresh(self) -> None:
        """Ask both sides; what cannot be asked stays as it was."""
        mirrors = [mirror for mirror in self._board.mirrors.values() if mirror.running]
        try:
            sources = (await self._source.metadata([m.record.source_topic_name for m in mirrors])).topics
            self._board.source_is_up()
        except TRANSPORT_ERRORS as error:
            self._board.source_is_down(error)
            sources = None
        try:
            own = (await self._destination.metadata([m.record.mirror_topic_name for m in mirrors])).topics
        except TRANSPORT_ERRORS as error:
            self._board.log.warning("destination_unreachable", error=str(error))
            own = None
        for mirror in mirrors:
            if sources is not None:
                self._check_source(mirror, sources.get(mirror.record.source_topic_name))
            if own is not None:
                self._check_destination(mirror, own.get(mirror.record.mirror_topic_name))
        self._board.index()

    def _check_source(self, mirror: Mirror, topic: TopicMetadata | None) -> None:
        record = mirror.record
        name = record.source_topic_name
        if record.failover:
            return
        if topic is None or topic.error_code:
            mirror.source_missing_since = mirror.source_missing_since or time.monotonic()
            if time.monotonic() - mirror.source_missing_since > BELIEF_S and topic and topic.error_code == 3:
                self._board.fail(
                    mirror,
                    MirrorTopicError.SOURCE_TOPIC_MAY_BE_DELETED,
                    f"source topic '{name}' does not exist any more",
                )
            return
        mirror.source_missing_since = None
        if record.source_topic_id is not None and topic.topic_id not in (None, record.source_topic_id):
            self._board.fail(
                mirror,
                MirrorTopicError.SOURCE_TOPIC_ID_CHANGED,
                f"source topic '{name}' was recreated: its id was {record.source_topic_id}, "
                f"now it is {topic.topic_id}",
            )
            return
        if len(topic.partitions) < record.num_partitions:
            self._board.fail(
                mirror,
                MirrorTopicError.SOURCE_PARTITIONS_DECREASED,
                f"source topic '{name}' has {len(topic.partitions)} partitions, "
                f"the mirror topic {record.num_partitions}",
            )
            return
        for partition in mirror.partitions:
            leader = topic.partitions.get(partition.index)
            partition.source_leader = leader.leader if leader and leader.leader >= 0 else None

    def _check_destination(self, mirror: Mirror, topic: TopicMetadata | None) -> None:
        record = mirror.record
        name = record.mirror_topic_name
        if topic is None or topic.error_code:
            mirror.destination_missing_since = mirror.destination_missing_since or time.monotonic()
            if (
                time.monotonic() - mirror.destination_missing_since > BELIEF_S
                and topic
                and topic.error_code == 3
            ):
                self._board.fail(mirror, MirrorTopicError.ILLEGAL_STATE, f"mirror topic '{name}' was deleted")
            return
        mirror.destination_missing_since = None
        if topic.topic_id != record.topic_id:
            self._board.fail(
                mirror,
                MirrorTopicError.ILLEGAL_STATE,
                f"mirror topic '{name}' was recreated by somebody else: its id was {record.topic_id}, "
                f"now it is {topic.topic_id}",
            )
            return
        for partition in mirror.partitions:
            leader = topic.partitions.get(partition.index)
            node_id = leader.leader if leader and leader.leader >= 0 else None
            if node_id != partition.destination_leader:
                partition.doubt(time.monotonic() + RETRY_DELAY_S)
            partition.destination_leader = node_id
