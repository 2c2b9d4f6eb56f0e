"""Brokers in Docker containers, through testcontainers and the official image `apache/kafka`.

The containers share the host's network, so that addresses and ports are those of the local provider and
clients, gateways and brokers all reach each other at them. Written where no Docker engine could be had: this
has not been run.
"""

import base64
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from testcontainers.core.container import DockerContainer

from certs.make_certs import KEYSTORE_PASSWORD
from compose.kafka import KafkaCluster, KafkaNode, KafkaUnavailable
from compose.ports import PortLease, lease_ports
from compose.settings import Stores, Wanted, common_properties

_CERTS = "/etc/causeway-certs"


class DockerNode(KafkaNode):
    """One broker in a container of its own, which keeps its data until the cluster is closed."""

    def __init__(self, cluster: "DockerCluster", node_id: int, port: int, internal_port: int) -> None:
        super().__init__(node_id, cluster.wanted.host, port, internal_port)
        self._cluster = cluster
        self.container: DockerContainer | None = None

    def start(self, *, wait: bool = True) -> None:
        """Starts the container again; raises KafkaUnavailable."""
        self._engine().start()
        if wait:
            self._cluster.wait_for(1, f"{self.host}:{self.internal_port}")

    def stop(self) -> None:
        """SIGTERM; SIGKILL after 20 s."""
        self._engine().stop(timeout=20)

    def kill(self) -> None:
        """SIGKILL."""
        self._engine().kill()

    def pause(self) -> None:
        """Freezes the container."""
        self._engine().pause()

    def resume(self) -> None:
        """Thaws the container."""
        self._engine().unpause()

    def log(self) -> str:
        """Standard output and error of the container."""
        return self._engine().logs().decode(errors="replace") if self.container is not None else ""

    def state(self) -> str:
        """Docker's word for it: running, exited, paused …"""
        engine = self._engine()
        engine.reload()
        return str(engine.status)

    def _engine(self) -> Any:
        if self.container is None:
            raise RuntimeError(f"broker {self.node_id} was never started")
        return self.container.get_wrapped_container()


class DockerCluster(KafkaCluster):
    """Brokers as containers; testcontainers removes them even when this process is killed."""

    provider: ClassVar[str] = "Docker"

    def __init__(self, wanted: Wanted) -> None:
        super().__init__(wanted)
        if wanted.has_zookeeper:
            raise KafkaUnavailable(f"there is no image of Kafka {wanted.version}: use CAUSEWAY_KAFKA=local")
        self._lease: PortLease | None = None
        self._docker_nodes: list[DockerNode] = []

    def _launch(self) -> None:
        count, host = self.wanted.brokers, self.wanted.host
        self._lease = lease_ports(count * 3)
        client, internal, controller = (self._lease.ports[i * count : (i + 1) * count] for i in range(3))
        self._docker_nodes = [DockerNode(self, i + 1, client[i], internal[i]) for i in range(count)]
        self.nodes = list(self._docker_nodes)
        voters = ",".join(f"{index}@{host}:{port}" for index, port in enumerate(controller, 1))
        cluster_id = base64.urlsafe_b64encode(b"\x01" + os.urandom(15)).decode().rstrip("=")
        for node, controller_port in zip(self._docker_nodes, controller, strict=True):
            clients = f"CLIENT://{host}:{node.port},INTERNAL://{host}:{node.internal_port}"
            place = {
                "node.id": str(node.node_id),
                "listeners": f"{clients},CONTROLLER://{host}:{controller_port}",
                "advertised.listeners": clients,
                "controller.quorum.voters": voters,
            }
            self._start(node, place | common_properties(self.wanted, self._stores()), cluster_id)

    def _start(self, node: DockerNode, properties: Mapping[str, str], cluster_id: str) -> None:
        container = DockerContainer(f"apache/kafka:{self.wanted.version}")
        container.with_kwargs(network_mode="host")
        container.with_volume_mapping(str(self.authority.directory), _CERTS, "ro")
        container.with_env("CLUSTER_ID", cluster_id)
        container.with_env("KAFKA_HEAP_OPTS", f"-Xmx{self.wanted.heap} -Xms64m")
        for key, value in properties.items():
            container.with_env(_variable(key), value)
        node.container = container
        container.start()

    def _stores(self) -> Stores | None:
        if not self.wanted.has_tls:
            return None
        keystore = self.authority.server("broker").keystore_file.name
        truststore = self.authority.truststore_file.name
        return Stores(f"{_CERTS}/{keystore}", f"{_CERTS}/{truststore}", KEYSTORE_PASSWORD)

    def _check(self) -> None:
        for node in self._docker_nodes:
            if node.state() == "exited":
                raise KafkaUnavailable(f"broker {node.node_id} has ended; logs in {self.save_logs()}")

    def _close(self) -> None:
        for node in self._docker_nodes:
            if node.container is not None:
                node.container.stop()
        if self._lease is not None:
            self._lease.release()


def _variable(key: str) -> str:
    """The image's name for a broker setting: dots are `_`, underscores `__`, dashes `___`."""
    return "KAFKA_" + key.replace("_", "__").replace("-", "___").replace(".", "_").upper()
