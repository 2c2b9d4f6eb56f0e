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
from typing import Any, Final, Self

from confluent_kafka.admin import AdminClient

from compose.gateway_process import GatewayProcess
from compose.kafka import KafkaCluster
from compose.ports import lease_ports

DIALLED: Final = "causeway"
REVERSED: Final = "causeway-reversed"
PATHS: Final = (DIALLED, REVERSED)
# Also the prefixes of their mirror topics.
_LINKS: Final = {DIALLED: "dialled", REVERSED: "reversed"}
_HOST: Final = "127.0.0.1"
_USER: Final = "link"
_PASSWORD: Final = secrets.token_hex(8)
_SETTLED_WITHIN_S: Final = 60.0
# Each round leaves hundreds of megabytes behind.
BROKER_CONFIG: Final = {"log.segment.delete.delay.ms": "1000", "log.retention.check.interval.ms": "3600000"}


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
        return self._stack.enter_context(KafkaCluster.start(heap="1g", config=BROKER_CONFIG, jvm_options=()))

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
        self._create_link(self.gateway, _LINKS[DIALLED], here, dialled)
        inbound = {"link.mode": "DESTINATION", "connection.mode": "INBOUND"}
        self._create_link(self.gateway, _LINKS[REVERSED], here, inbound)
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
        self._create_link(self.source_gateway, _LINKS[REVERSED], there, outbound)

    def _create_link(
        self, gateway: GatewayProcess, name: str, peer: Mapping[str, str], configs: Mapping[str, str]
    ) -> None:
        own = self.destination if gateway is self.gateway else self.source
        if own is self.destination:
            # Both links mirror the same topics.
            configs = {**configs, "cluster.link.prefix": f"{name}-"}
        pairs = [{"name": key, "value": value} for key, value in configs.items()]
        _rest(gateway, "POST", f"/{own.cluster_id}/links?link_name={name}", {**peer, "configs": pairs})

    # Mirror topics.

    def create_mirror(self, path: str, topic: str) -> str:
        """Makes a mirror topic over one of the links; its name."""
        _rest(self.gateway, "POST", self._mirrors(path), {"source_topic_name": topic})
        return f"{_LINKS[path]}-{topic}"

    def delete_mirror(self, path: str, mirror_topic: str) -> None:
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

    def _mirrors(self, path: str) -> str:
        return f"/{self.destination.cluster_id}/links/{_LINKS[path]}/mirrors"

    def pids(self, path: str) -> tuple[int, ...]:
        """The processes of the gateways that a link goes through."""
        own = self.gateway.pid
        return (own,) if path == DIALLED else (own, self.source_gateway.pid)

    def close(self) -> None:
        """Ends everything."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        error.add_note(f"{method} {path}: {error.read().decode()}")
        raise
    return json.loads(text) if text else None
