"""One page of metrics for all worker processes: every series with the label `worker`.

Series are not added up. A worker that was started again counts from 0, which Prometheus understands of a
series and not of a sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

LABEL: Final = "worker"


def merged_page(pages: Mapping[int, str], *, expected: int) -> bytes:
    """The text expositions of workers, by their numbers, as one.

    `causeway_worker_up` says which of the `expected` workers are in it.
    """
    families: dict[str, Metric] = {}
    for index, page in sorted(pages.items()):
        for family in text_string_to_metric_families(page):
            merged = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type, family.unit)
            )
            for sample in family.samples:
                labels = {**sample.labels, LABEL: str(index)}
                merged.add_sample(sample.name, labels, sample.value, sample.timestamp)
    up = GaugeMetricFamily("causeway_worker_up", "Whether the worker process answers.", labels=[LABEL])
    for index in range(expected):
        up.add_metric([str(index)], float(index in pages))
    registry = CollectorRegistry()
    registry.register(_Families([up, *families.values()]))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
