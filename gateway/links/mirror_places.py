"""What the mirror partitions of a link hold: where their logs begin and end, by the source's partitions."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from gateway.links.board import TRANSPORT_ERRORS
from gateway.links.local_groups import takes_offsets
from gateway.links.offset_plan import Place
from gateway.links.partition import Mirror, MirrorPartition, Phase
from gateway.upstreams.admin import LATEST, list_offsets
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.groups import TopicPartition

_KNOWN: Final = frozenset({Phase.READY, Phase.DONE})


async def places_of(mirrors: Iterable[Mirror], destination: Cluster) -> dict[TopicPartition, Place]:
    """Of the mirrors whose offsets are their source's; partitions that cannot be looked at are left out."""
    places: dict[TopicPartition, Place] = {}
    unknown: list[MirrorPartition] = []
    for mirror in mirrors:
        # Whether it is still the topic that was linked is being found out.
        if not takes_offsets(mirror.record) or mirror.failure is not None or mirror.source_odd_since:
            continue
        for p in mirror.partitions:
            if p.phase in _KNOWN:
                _put(places, p, p.position)
            else:
                unknown.append(p)
    if unknown:
        ends = await _log_ends(destination, [p.name for p in unknown])
        for p in unknown:
            if p.name in ends:
                _put(places, p, ends[p.name])
    return places


def _put(places: dict[TopicPartition, Place], p: MirrorPartition, log_end: int) -> None:
    record = p.mirror.record
    stop = (record.stop_offsets or {}).get(p.index)
    # Behind it is the barrier.
    end = log_end if stop is None else min(log_end, stop)
    if end >= p.log_start:
        places[record.source_topic_name, p.index] = Place(*p.name, p.log_start, end)


async def _log_ends(cluster: Cluster, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
    asked = list(partitions)
    topics = (await cluster.metadata(sorted({topic for topic, _ in asked}))).topics
    by_leader: dict[int, list[TopicPartition]] = defaultdict(list)
    for topic, index in asked:
        found = topics[topic].partitions.get(index) if topic in topics else None
        if found is not None and found.leader >= 0:
            by_leader[found.leader].append((topic, index))
    ends: dict[TopicPartition, int] = {}
    for leader, led in by_leader.items():
        try:
            ends |= await list_offsets(cluster, leader, dict.fromkeys(led, LATEST))
        except TRANSPORT_ERRORS:
            # Another run finds them in order.
            continue
    return ends
