"""Offsets of consumer groups on either side of a link, as its tests set and read them."""

import time
import urllib.request
import warnings
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from compose.kafka import KafkaCluster
from tests.e2e.link_lab import LinkLab, until

with warnings.catch_warnings():
    # It reads its schemas in a way that Python 3.11 deprecates and 3.13 allows again.
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka
    import kafka.errors

Position = tuple[str, int]
TASK = "ConsumerOffsetSync"
ALL_GROUPS = '{"groupFilters": [{"name": "*", "patternType": "LITERAL", "filterType": "INCLUDE"}]}'
SYNC = {
    "consumer.offset.sync.enable": "true",
    "consumer.offset.sync.ms": "1000",
    "consumer.offset.group.filters": ALL_GROUPS,
}


def at(cluster: KafkaCluster) -> dict[str, Any]:
    """How librdkafka reaches a cluster directly."""
    return {"bootstrap.servers": cluster.internal_bootstrap}


def commit(client: Mapping[str, Any], group: str, wanted: Mapping[Position, int], metadata: str = "") -> None:
    """Commit as a consumer does that assigns itself its partitions and never joins."""
    consumer = Consumer({**client, "group.id": group, "enable.auto.commit": False})
    positions = [TopicPartition(t, p, offset, metadata=metadata) for (t, p), offset in wanted.items()]
    done = consumer.commit(offsets=positions, asynchronous=False)
    consumer.close()
    assert done is not None
    for each in done:
        assert each.error is None, each


def committed(cluster: KafkaCluster, group: str) -> dict[Position, tuple[int, str]]:
    """Everything that a group has committed in a cluster: offsets with their metadata."""
    admin = kafka.KafkaAdminClient(bootstrap_servers=cluster.internal_bootstrap)
    deadline = time.monotonic() + 30
    try:
        while True:
            try:
                found = admin.list_group_offsets({group: None})[group]
                break
            except kafka.errors.RetriableError:
                # The first group of a cluster has to wait for the topic of all groups.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
    finally:
        admin.close()
    return {(p.topic, p.partition): (each.offset, each.metadata or "") for p, each in found.items()}


def offsets(cluster: KafkaCluster, group: str) -> dict[Position, int]:
    """The same, without the metadata."""
    return {where: offset for where, (offset, _) in committed(cluster, group).items()}


def becomes(lab: LinkLab, group: str, wanted: Mapping[Position, int], timeout_s: float = 15) -> None:
    """Return when the group has just these offsets at the destination."""
    here = lab.destination
    try:
        until(lambda: offsets(here, group) == dict(wanted), timeout_s, f"offsets of {group}")
    except AssertionError as error:
        raise AssertionError(f"{error}: {offsets(here, group)}, not {wanted}; {task(lab)}") from None


def task(lab: LinkLab, name: str = TASK) -> dict[str, Any]:
    """A task of the link, as it is shown."""
    return next(each for each in lab.describe()["tasks"] if each["task_name"] == name)


def runs(lab: LinkLab) -> float:
    """How often the offsets were synced."""
    return metric(lab, f'causeway_link_task_runs_total{{link="{lab.link}",outcome="done",task="{TASK}"}}')


def metric(lab: LinkLab, series: str) -> float:
    """A series of the destination gateway, 0 if it is not there."""
    with urllib.request.urlopen(f"{lab.destination_gateway.admin_url}/metrics", timeout=20) as page:
        lines = page.read().decode().splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series + " ")), 0.0)


def after_runs(lab: LinkLab, count: int = 1) -> None:
    """Return after so many whole runs of the sync from now on."""
    wanted = runs(lab) + count + 1
    until(lambda: runs(lab) >= wanted, 30, f"{count} runs: {task(lab)}")
