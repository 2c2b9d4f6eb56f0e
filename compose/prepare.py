"""Makes what brokers start quickly with: `python -m compose.prepare VERSION`, a part of `make setup`.

One broker is started and stopped: what its JVM then writes down of its classes, and what its formatted
directory began with, are taken over by every broker after it.
"""

import os
import shutil
import sys
from pathlib import Path

from compose.kafka import KafkaCluster, KafkaUnavailable
from compose.local import FAST_START, LocalCluster, quick_start_files


def prepare(version: str) -> None:
    """Makes both files, whole or not at all; KafkaUnavailable."""
    os.environ["CAUSEWAY_KAFKA"] = "local"
    files = quick_start_files(version)
    for file in files:
        file.unlink(missing_ok=True)
    archive = files.classes.with_suffix(".part")
    options = (*FAST_START, f"-XX:ArchiveClassesAtExit={archive}", "-Xlog:disable")
    with KafkaCluster.start(version, jvm_options=options) as cluster:
        if not isinstance(cluster, LocalCluster):
            raise KafkaUnavailable("only a broker in a local JVM can be prepared")
        # Classes of what clients ask for first belong to it too.
        cluster.create_topic("first")
        cluster.nodes[0].stop()
        checkpoint = cluster.directory / "broker-1" / "data" / "bootstrap.checkpoint"
        partial = Path(f"{files.checkpoint}.part")
        shutil.copy(checkpoint, partial)
    archive.replace(files.classes)
    partial.replace(files.checkpoint)


if __name__ == "__main__":
    try:
        prepare(sys.argv[1])
    except KafkaUnavailable as error:
        sys.exit(f"compose.prepare: {error}")
