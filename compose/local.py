"""Brokers in local JVMs, from the jars that `make setup` lays out under `build/kafka/<version>`."""

import base64
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from certs.make_certs import KEYSTORE_PASSWORD
from compose.kafka import ROOT, UP_WITHIN_S, KafkaCluster, KafkaNode, KafkaUnavailable, PortTaken
from compose.ports import PortLease, lease_ports
from compose.processes import Process
from compose.settings import SCRAM_MECHANISMS, Stores, Wanted, common_properties, properties_text

# C1 and the serial collector start a broker in two thirds of the time and leave the other cores alone; a
# benchmark passes `jvm_options=()`.
FAST_START = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_ZOOKEEPER_SESSION_S = 3.0
_TAKEN = re.compile(r"Address already in use|Socket server failed to bind", re.IGNORECASE)


class QuickStart(NamedTuple):
    """What `compose.prepare` makes once, so that brokers of a version start in half the time."""

    # The classes of a broker as its JVM has them in memory (JEP 350).
    classes: Path
    # What a formatted directory begins with.
    checkpoint: Path


def quick_start_files(version: str) -> QuickStart:
    """Where they are, if they are there."""
    directory = ROOT / "build" / "kafka" / version
    return QuickStart(directory / "broker.jsa", directory / "bootstrap.checkpoint")


def java_command(
    version: str, main: str, *arguments: str, options: Sequence[str] = (), more_jars: Path | None = None
) -> list[str]:
    """The command line of one of Kafka's classes; raises KafkaUnavailable without its jars.

    The jars in `more_jars` come after Kafka's.
    """
    directory = ROOT / "build" / "kafka" / version
    if not any(directory.glob("kafka_*.jar")):
        raise KafkaUnavailable(f"no jars of Kafka {version}: run `make setup`")
    logger = "-Dorg.slf4j.simpleLogger"
    archive = quick_start_files(version).classes
    # A third less time to start. Where it was made by another Java it is left alone, without a word.
    quick = ("-Xlog:disable", f"-XX:SharedArchiveFile={archive}") if archive.exists() else ()
    return [
        "java",
        *quick,
        *options,
        f"{logger}.defaultLogLevel=warn",
        f"{logger}.showDateTime=true",
        f"{logger}.dateTimeFormat=HH:mm:ss.SSS",
        "-cp",
        f"{directory}/*" if more_jars is None else f"{directory}/*:{more_jars}/*",
        main,
        *arguments,
    ]


class LocalNode(KafkaNode):
    """One broker in a process of its own."""

    def __init__(self, cluster: "LocalCluster", node_id: int, ports: Sequence[int]) -> None:
        super().__init__(node_id, cluster.wanted.host, ports[0], ports[1])
        self.process: Process | None = None
        self._cluster = cluster
        self._directory = cluster.directory / f"broker-{node_id}"
        self.log_file = self._directory / "broker.log"
        self._free_at = 0.0

    @property
    def properties_file(self) -> Path:
        """Where its server.properties lies."""
        return self._directory / "server.properties"

    def write_properties(self, properties: dict[str, str]) -> None:
        """Lays out its directory; `properties` as for server.properties."""
        self._directory.mkdir()
        data = {"log.dirs": str(self._directory / "data")}
        self.properties_file.write_text(properties_text(data | properties))

    def lay_out(self, cluster_id: str, checkpoint: Path) -> None:
        """Does what kafka-storage.sh format does, without its JVM."""
        data = self._directory / "data"
        data.mkdir()
        shutil.copy(checkpoint, data)
        properties = {
            "version": "1",
            "cluster.id": cluster_id,
            "node.id": str(self.node_id),
            "directory.id": _kafka_uuid(),
        }
        (data / "meta.properties").write_text(properties_text(properties))

    def launch(self) -> None:
        """Starts the process and does not wait."""
        time.sleep(max(0.0, self._free_at - time.monotonic()))
        self.process = self._cluster.java("kafka.Kafka", str(self.properties_file), log_file=self.log_file)

    def start(self, *, wait: bool = True) -> None:
        """Starts it again after `stop` or `kill`; raises KafkaUnavailable."""
        if self.process is not None and self.process.running:
            raise RuntimeError(f"broker {self.node_id} still runs")
        self.launch()
        if wait:
            self._cluster.wait_for(1, f"{self.host}:{self.internal_port}")

    def stop(self) -> None:
        """SIGTERM; SIGKILL after 20 s."""
        self._running().terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self._running().kill()
        if self._cluster.wanted.has_zookeeper:
            # ZooKeeper refuses a broker id until the session of the one that was killed has ended.
            self._free_at = time.monotonic() + _ZOOKEEPER_SESSION_S + 1

    def pause(self) -> None:
        """SIGSTOP."""
        self._running().pause()

    def resume(self) -> None:
        """SIGCONT."""
        self._running().resume()

    def log(self) -> str:
        """Standard output and error of all its starts."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def _running(self) -> Process:
        if self.process is None:
            raise RuntimeError(f"broker {self.node_id} was never started")
        return self.process


class LocalCluster(KafkaCluster):
    """Brokers (and ZooKeeper, before 3.3) as child processes of ours.

    `prefix` goes before every command line, for example `ip netns exec NAME`. `proxied` are further PLAINTEXT
    listeners of a single broker, by name: the port that it binds, and the one that it tells its clients.
    """

    provider: ClassVar[str] = "local JVM"

    def __init__(
        self,
        wanted: Wanted,
        *,
        jvm_options: Sequence[str] = FAST_START,
        prefix: Sequence[str] = (),
        proxied: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(wanted)
        self._proxied = proxied or {}
        self.directory = Path(tempfile.mkdtemp(prefix="causeway-kafka-"))
        self._jvm_options = (f"-Xmx{wanted.heap}", "-Xms64m", *jvm_options)
        self._prefix = prefix
        self._lease: PortLease | None = None
        self._zookeeper: Process | None = None
        self._local_nodes: list[LocalNode] = []

    def java(self, main: str, *arguments: str, log_file: Path) -> Process:
        """Starts one of Kafka's classes."""
        command = java_command(self.wanted.version, main, *arguments, options=self._jvm_options)
        return Process([*self._prefix, *command], log_file)

    def _launch(self) -> None:
        count = self.wanted.brokers
        self._lease = lease_ports(count * 3)
        client, internal, other = (self._lease.ports[i * count : (i + 1) * count] for i in range(3))
        self._local_nodes = [
            LocalNode(self, index + 1, (client[index], internal[index])) for index in range(count)
        ]
        self.nodes = list(self._local_nodes)
        if self.wanted.has_zookeeper:
            self._start_zookeeper(other[0])
        for node, port in zip(self._local_nodes, other, strict=True):
            node.write_properties(self._properties(node, port, other))
        if not self.wanted.has_zookeeper:
            self._format()
        for node in self._local_nodes:
            node.launch()

    def _properties(self, node: LocalNode, port: int, others: Sequence[int]) -> dict[str, str]:
        host = self.wanted.host
        listeners = f"CLIENT://{host}:{node.port},INTERNAL://{host}:{node.internal_port}"
        if self.wanted.has_zookeeper:
            place = {
                "broker.id": str(node.node_id),
                "listeners": listeners,
                "zookeeper.connect": f"{host}:{others[0]}",
                "zookeeper.session.timeout.ms": str(int(_ZOOKEEPER_SESSION_S * 1000)),
            }
        else:
            voters = ",".join(f"{index}@{host}:{voter}" for index, voter in enumerate(others, 1))
            place = {
                "node.id": str(node.node_id),
                "listeners": f"{listeners},CONTROLLER://{host}:{port}",
                "controller.quorum.voters": voters,
            }
        properties = place | common_properties(self.wanted, self._stores())
        for name, (bound, advertised) in self._proxied.items():
            properties.setdefault("advertised.listeners", listeners)
            properties["advertised.listeners"] += f",{name}://{host}:{advertised}"
            properties["listeners"] += f",{name}://{host}:{bound}"
            properties["listener.security.protocol.map"] += f",{name}:PLAINTEXT"
        return properties

    def _stores(self) -> Stores | None:
        if not self.wanted.has_tls:
            return None
        hosts = () if self.wanted.host == "127.0.0.1" else (self.wanted.host,)
        name = "-".join(("broker", *hosts))
        keystore = self.authority.server(name, hosts).keystore_file
        return Stores(str(keystore), str(self.authority.truststore_file), KEYSTORE_PASSWORD)

    def _format(self) -> None:
        """Writes every broker's meta.properties and first metadata, all at once."""
        cluster_id = _kafka_uuid()
        checkpoint = quick_start_files(self.wanted.version).checkpoint
        if checkpoint.exists():
            for node in self._local_nodes:
                node.lay_out(cluster_id, checkpoint)
            return
        running = []
        for node in self._local_nodes:
            arguments = ("format", "-t", cluster_id, "-c", str(node.properties_file))
            running.append(self.java("kafka.tools.StorageTool", *arguments, log_file=node.log_file))
        for process in running:
            if process.wait(UP_WITHIN_S) != 0:
                raise KafkaUnavailable(f"the storage could not be formatted; logs in {self.save_logs()}")

    def _start_zookeeper(self, port: int) -> None:
        directory = self.directory / "zookeeper"
        directory.mkdir()
        settings = {
            "admin.enableServer": "false",
            "clientPort": str(port),
            "clientPortAddress": self.wanted.host,
            "dataDir": str(directory),
            "maxClientCnxns": "0",
            "tickTime": "500",
        }
        file = directory / "zookeeper.properties"
        file.write_text(properties_text(settings))
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        self._zookeeper = self.java(main, str(file), log_file=directory / "zookeeper.log")
        self._zookeeper_address = f"{self.wanted.host}:{port}"

    def _add_scram_users(self) -> None:
        if not self.wanted.has_zookeeper:
            super()._add_scram_users()
            return
        # The API for this came with 2.7 (KIP-554).
        for user, password in self.wanted.users.items():
            value = ",".join(
                f"{mechanism}=[iterations=4096,password={password}]" for mechanism in SCRAM_MECHANISMS
            )
            change = ("--alter", "--add-config", value, "--entity-type", "users", "--entity-name", user)
            command = java_command(
                self.wanted.version,
                "kafka.admin.ConfigCommand",
                "--zookeeper",
                self._zookeeper_address,
                *change,
                options=self._jvm_options,
            )
            subprocess.run([*self._prefix, *command], check=True, capture_output=True, timeout=60)

    def _check(self) -> None:
        for node in self._local_nodes:
            if node.process is not None and not node.process.running:
                if _TAKEN.search(node.log()):
                    raise PortTaken(f"a port of broker {node.node_id} is taken")
                raise KafkaUnavailable(f"broker {node.node_id} has ended; logs in {self.save_logs()}")

    def _close(self) -> None:
        processes = [node.process for node in self._local_nodes] + [self._zookeeper]
        for process in processes:
            if process is not None:
                process.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._lease is not None:
            self._lease.release()


def _kafka_uuid() -> str:
    # Its first byte is not one that would make it begin with a dash.
    return base64.urlsafe_b64encode(b"\x01" + os.urandom(15)).decode().rstrip("=")
