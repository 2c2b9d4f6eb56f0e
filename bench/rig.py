"""What is measured: two brokers, a gateway in front of each, and two links between them.

One link is dialled: the destination gateway reads from the source broker. The other is reversed: the source
gateway dials the destination gateway over TLS and serves it.
"""

from __future__ import annotations

import json
import secrets
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal, Self

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import KafkaException

from compose.gateway_process import GatewayProcess
from compose.kafka import KafkaCluster
from compose.ports import lease_ports

Path_ = Literal["dialled", "reversed"]
PATHS: Final[tuple[Path_, ...]] = ("dialled", "reversed")
_HOST: Final = "127.0.0.1"
_USER: Final = "link"
_PASSWORD: Final = secrets.token_hex(8)
_SETTLED_WITHIN_S: Final = 60.0
# Each round leaves hundreds of megabytes behind.
_BROKER_CONFIG: Final = {"log.segment.delete.delay.ms": "1000", "log.retention.check.interval.ms": "3600000"}


class Rig:
    """Two clusters and their gateways, up until `close`."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        try:
            self.source = self._cluster()
            self.destination = self._cluster()
            self._start_gateways()
        except BaseException:
            self.close()
            raise

    def _cluster(self) -> KafkaCluster:
        # With all of its compilers and its own choice of collector, as brokers in service run.
        return self._stack.enter_context(KafkaCluster.start(heap="1g", config=_BROKER_CONFIG, jvm_options=()))

    def _start_gateways(self) -> None:
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="causeway-bench-")))
        key_file = directory / "secrets.key"
        key_file.write_bytes(secrets.token_bytes(32))
        lease = lease_ports(4)
        self._stack.callback(lease.release)
        self._tls_port, self._plain_port = lease[0], lease[2]
        common = {"authorization": "none", "state": {"secrets_key_file": str(key_file)}}
        identity = self.destination.authority.server("gateway")
        listener = {"bind": _HOST, "advertised_host": _HOST, "node_ids": "1-1"}
        tls = {"certificate_file": str(identity.certificate_file), "key_file": str(identity.key_file)}
        listeners = [
            {
                **listener,
                "name": "tls",
                "port": self._tls_port,
                "broker_port": self._tls_port + 1,
                "tls": tls,
                "authentication": "sasl_plain",
            },
            {
                **listener,
                "name": "plain",
                "port": self._plain_port,
                "broker_port": self._plain_port + 1,
                "insecure": True,
                "authentication": "none",
            },
        ]
        destination = {
            **common,
            "cluster": self.destination.gateway_config(),
            "listeners": listeners,
            "users": [{"name": _USER, "password": _PASSWORD}],
            "super_users": [f"User:{_USER}"],
        }
        source = {**common, "cluster": self.source.gateway_config(), "listeners": []}
        self.gateway = self._stack.enter_context(GatewayProcess(destination, name="destination"))
        self.source_gateway = self._stack.enter_context(GatewayProcess(source, name="source"))
        self._create_links()

    def _create_links(self) -> None:
        here = {"source_cluster_id": self.source.cluster_id}
        there = {"destination_cluster_id": self.destination.cluster_id}
        dialled = {"bootstrap.servers": self.source.bootstrap}
        self._create_link(self.gateway, "dialled", here, dialled)
        inbound = {"link.mode": "DESTINATION", "connection.mode": "INBOUND"}
        self._create_link(self.gateway, "reversed", here, inbound)
        login = "org.apache.kafka.common.security.plain.PlainLoginModule"
        outbound = {
            "link.mode": "SOURCE",
            "connection.mode": "OUTBOUND",
            "bootstrap.servers": f"{_HOST}:{self._tls_port}",
            "security.protocol": "SASL_SSL",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.destination.authority.ca_file),
            "sasl.mechanism": "PLAIN",
            "sasl.jaas.config": f"{login} required username='{_USER}' password='{_PASSWORD}';",
        }
        self._create_link(self.source_gateway, "reversed", there, outbound)

    def _create_link(
        self, gateway: GatewayProcess, path: Path_, peer: Mapping[str, str], configs: Mapping[str, str]
    ) -> None:
        own = self.destination if gateway is self.gateway else self.source
        if own is self.destination:
            # Both links mirror the same topics.
            configs = {**configs, "cluster.link.prefix": f"{path}-"}
        pairs = [{"name": name, "value": value} for name, value in configs.items()]
        _rest(gateway, "POST", f"/{own.cluster_id}/links?link_name={path}", {**peer, "configs": pairs})

    # Mirror topics.

    def create_mirror(self, path: Path_, topic: str) -> str:
        """Makes a mirror topic over one of the links; its name."""
        _rest(self.gateway, "POST", self._mirrors(path), {"source_topic_name": topic})
        return f"{path}-{topic}"

    def delete_mirror(self, path: Path_, mirror_topic: str) -> None:
        """Deletes a mirror topic as a client does, and waits until the link has forgotten it."""
        admin = AdminClient({"bootstrap.servers": f"{_HOST}:{self._plain_port}"})
        admin.delete_topics([mirror_topic])[mirror_topic].result(_SETTLED_WITHIN_S)

        def is_gone() -> bool:
            try:
                _rest(self.gateway, "GET", f"{self._mirrors(path)}/{mirror_topic}")
            except urllib.error.HTTPError as error:
                return error.code == 404
            return False

        wait_until(is_gone, f"{mirror_topic} is gone")

    def _mirrors(self, path: Path_) -> str:
        return f"/{self.destination.cluster_id}/links/{path}/mirrors"

    @property
    def gateway_pids(self) -> tuple[int, ...]:
        """The processes of both gateways."""
        return self.gateway.pid, self.source_gateway.pid

    def close(self) -> None:
        """Ends everything."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LogEnds:
    """Looks at where a topic's partitions end; one connection, kept."""

    def __init__(self, cluster: KafkaCluster, topic: str, partitions: int) -> None:
        self._consumer = Consumer({"bootstrap.servers": cluster.internal_bootstrap, "group.id": "bench-ends"})
        self._partitions = [TopicPartition(topic, p) for p in range(partitions)]

    def total(self) -> int:
        """Sum of the high watermarks; 0 while a leader is not ready."""
        try:
            return sum(self._consumer.get_watermark_offsets(p, timeout=5)[1] for p in self._partitions)
        except KafkaException:
            return 0

    def close(self) -> None:
        """Closes the connection."""
        self._consumer.close()


def wait_until(check: Callable[[], bool], what: str, timeout_s: float = _SETTLED_WITHIN_S) -> None:
    """Returns when `check` says yes; TimeoutError with `what`."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(0.05)


def _rest(gateway: GatewayProcess, method: str, path: str, body: object = None) -> Any:
    request = urllib.request.Request(
        f"{gateway.admin_url}/kafka/v3/clusters{path}",
        data=None if body is None else json.dumps(body).encode(),
        method=method,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read()
    return json.loads(text) if text else None
