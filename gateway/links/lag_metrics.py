"""How far mirror topics are behind, for Prometheus: per partition, in records and in seconds.

The records are those of the REST contract: up to the source's last stable offset, as it was last told. The
seconds say for how long the source has had something that is not here; they grow while nobody can tell.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.links.partition import Mirror, MirrorPartition
from gateway.links.requests import MirrorView
from gateway.links.runtime import LinkRuntime
from gateway.state.records import MirrorStatus

_PARTITION: Final = ("link", "topic", "partition")
_COPIED: Final = frozenset({MirrorStatus.ACTIVE, MirrorStatus.PAUSED, MirrorStatus.PENDING_STOPPED})


class LagMetrics(Collector):
    """Asked at every scrape. `mirrors` are all that there are, as they are seen."""

    def __init__(
        self, runtimes: Mapping[str, LinkRuntime], mirrors: Callable[[], Iterable[MirrorView]]
    ) -> None:
        self._runtimes = runtimes
        self._mirrors = mirrors

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing: what there is depends on the links."""
        return []

    def collect(self) -> list[GaugeMetricFamily]:
        """The series as they are now."""
        records, seconds, topics = families = _families()
        now, now_ms = time.monotonic(), time.time_ns() // 1_000_000
        for link, runtime in self._runtimes.items():
            replicator = runtime.replicator
            for name, mirror in list(replicator.mirrors.items()) if replicator is not None else ():
                if mirror.record.status not in _COPIED:
                    continue
                silent_s = _silent_s(runtime, mirror, now, now_ms)
                for p in mirror.partitions:
                    labels = (link, name, str(p.index))
                    records.add_metric(labels, p.lag)
                    seconds.add_metric(labels, max(_lag_s(p, now), silent_s))
        counts = Counter((view.record.link_name, view.record.status) for view in self._mirrors())
        for (link, status), count in sorted(counts.items()):
            topics.add_metric((link, status), count)
        return list(families)


def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily(
            "causeway_mirror_lag_records",
            "Records that the source's last stable offset is ahead of the mirror partition.",
            labels=_PARTITION,
        ),
        GaugeMetricFamily(
            "causeway_mirror_lag_seconds",
            "For how long the source has had records that the mirror partition lacks, as far as known.",
            labels=_PARTITION,
        ),
        GaugeMetricFamily(
            "causeway_mirror_topics", "Mirror topics by their status.", labels=("link", "status")
        ),
    )


def _lag_s(p: MirrorPartition, now: float) -> float:
    since = p.behind_since
    return 0.0 if since is None else now - since


def _silent_s(runtime: LinkRuntime, mirror: Mirror, now: float, now_ms: int) -> float:
    """For how long nothing has been heard of the source: until then there may be anything."""
    if mirror.record.status == MirrorStatus.PAUSED:
        return max(0.0, (now_ms - mirror.record.state_time_ms) / 1000)
    if runtime.paused_since is not None:
        return now - runtime.paused_since
    replicator = runtime.replicator
    down_since = replicator.source_down_since if replicator is not None else None
    if down_since is not None:
        return now - down_since
    return 0.0 if mirror.source_trouble is None else now - mirror.source_trouble[0]
