"""MirrorMaker 2 in its dedicated mode, as a link's opponent: `org.apache.kafka:connect-mirror`, from Maven.

Its settings are those that were fastest here, or, for lag, those with the least delay; offsets of groups,
configs and ACLs are off, since they are not what is measured. A process is started for each round, since one
that runs would begin with the next topic as soon as that is there.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from compose.kafka import DEFAULT_VERSION, ROOT, KafkaCluster, KafkaUnavailable
from compose.local import java_command
from compose.processes import Process
from compose.settings import properties_text

TUNED: Final = "mirrormaker2-tuned"
EXACTLY_ONCE: Final = "mirrormaker2-exactly-once"
# How much of a copy a fresh JVM gets for its compilers before it counts.
WARM_UP_SHARE: Final = 0.4

_JARS: Final = ROOT / "build" / "mirrormaker" / DEFAULT_VERSION
_BULK: Final = {
    "consumer.max.poll.records": "10000",
    "consumer.fetch.min.bytes": "100000",
    "consumer.fetch.max.wait.ms": "50",
    "consumer.max.partition.fetch.bytes": "10485760",
    "consumer.receive.buffer.bytes": "1048576",
    "producer.batch.size": "524288",
    "producer.linger.ms": "20",
    "producer.buffer.memory": "134217728",
    "producer.send.buffer.bytes": "1048576",
}
_LOW_LATENCY: Final = {"consumer.fetch.max.wait.ms": "100", "producer.linger.ms": "0"}
_EXACTLY_ONCE: Final = {"exactly.once.source.support": "enabled"}
_numbers = itertools.count(1)


@contextmanager
def mirrormaker(
    path: str, source: KafkaCluster, destination: KafkaCluster, topic: str, *, codec: str, low_latency: bool
) -> Iterator[tuple[str, Process]]:
    """Copies the topic while the context lasts; the copy's name and the process. KafkaUnavailable."""
    if not (_JARS / "complete").exists():
        raise KafkaUnavailable("no jars of MirrorMaker 2: run `make bench-link`")
    # A name of its own each time: so nothing is left of the last round, and offsets begin anew.
    alias = f"mm{next(_numbers)}"
    with tempfile.TemporaryDirectory(prefix="causeway-mirrormaker-") as directory:
        file = Path(directory) / "mm2.properties"
        file.write_text(
            properties_text(_properties(alias, path, source, destination, topic, codec, low_latency))
        )
        log_file = Path(directory) / "mirrormaker.log"
        main = "org.apache.kafka.connect.mirror.MirrorMaker"
        command = java_command(DEFAULT_VERSION, main, str(file), options=("-Xmx1g",), more_jars=_JARS)
        process = Process(command, log_file)
        try:
            yield f"{alias}.{topic}", process
        except RuntimeError as error:
            raise RuntimeError(f"{path}: {error}\n{log_file.read_text()[-3000:]}") from error
        finally:
            process.kill()


def _properties(
    alias: str,
    path: str,
    source: KafkaCluster,
    destination: KafkaCluster,
    topic: str,
    codec: str,
    low_latency: bool,
) -> Mapping[str, str]:
    flow = f"{alias}->copy"
    properties = {
        "clusters": f"{alias}, copy",
        f"{alias}.bootstrap.servers": source.bootstrap,
        "copy.bootstrap.servers": destination.bootstrap,
        f"{flow}.enabled": "true",
        f"{flow}.topics": topic,
        f"copy->{alias}.enabled": "false",
        "tasks.max": "2",
        # Faster than looking through every jar.
        "plugin.discovery": "service_load",
        "replication.factor": "1",
        "offset-syncs.topic.location": "target",
        "refresh.topics.interval.seconds": "3600",
        "refresh.groups.enabled": "false",
        "dedicated.mode.enable.internal.rest": "true",
        "listeners": "http://127.0.0.1:0",
        "copy.producer.compression.type": codec,
    }
    for topic_kind in ("checkpoints", "heartbeats", "offset-syncs"):
        properties[f"{topic_kind}.topic.replication.factor"] = "1"
    for storage in ("config", "offset", "status"):
        properties[f"{storage}.storage.replication.factor"] = "1"
    for off in (
        "emit.heartbeats",
        "emit.checkpoints",
        "sync.group.offsets",
        "sync.topic.acls",
        "sync.topic.configs",
    ):
        properties[f"{off}.enabled"] = "false"
    settings = _LOW_LATENCY if low_latency else _BULK
    for name, value in settings.items():
        owner = alias if name.startswith("consumer.") else "copy"
        properties[f"{owner}.{name}"] = value
    if path == EXACTLY_ONCE:
        properties.update({f"copy.{name}": value for name, value in _EXACTLY_ONCE.items()})
    return properties
