"""A gateway in front of a cluster, with a listener of every kind, and how each client library gets in."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from certs.make_certs import Identity, TestAuthority
from compose.gateway_process import GatewayProcess
from compose.kafka import KafkaCluster
from compose.ports import lease_ports
from tests.e2e.raw_client import RawClient

# TLS with SASL PLAIN, TLS with client certificates, and neither.
Way = Literal["sasl", "mtls", "plain"]
WAYS: tuple[Way, ...] = ("sasl", "mtls", "plain")
USER, PASSWORD = "alice", "alice-secret"
NODE_IDS = range(1, 4)


@dataclass(frozen=True)
class Access:
    """What a client must know: where, and as who."""

    way: Way
    host: str
    port: int
    ca_file: Path
    identity: Identity
    user: str = USER
    password: str = PASSWORD
    mechanism: str = "PLAIN"

    @property
    def bootstrap(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"

    def librdkafka(self) -> dict[str, Any]:
        """Settings of confluent-kafka and kcat."""
        settings: dict[str, Any] = {"bootstrap.servers": self.bootstrap}
        if self.way == "sasl":
            settings |= {"security.protocol": "SASL_SSL", "sasl.mechanism": self.mechanism}
            settings |= {"sasl.username": self.user, "sasl.password": self.password}
        if self.way == "mtls":
            settings |= {
                "security.protocol": "SSL",
                "ssl.certificate.location": str(self.identity.certificate_file),
                "ssl.key.location": str(self.identity.key_file),
            }
        if self.way != "plain":
            settings["ssl.ca.location"] = str(self.ca_file)
        return settings

    def java(self) -> dict[str, str]:
        """Settings of Java clients, with PEM stores."""
        if self.way == "plain":
            return {}
        settings = {
            "security.protocol": "SASL_SSL" if self.way == "sasl" else "SSL",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca_file),
        }
        if self.way == "sasl":
            family = "plain.PlainLoginModule" if self.mechanism == "PLAIN" else "scram.ScramLoginModule"
            module = f"org.apache.kafka.common.security.{family}"
            login = f'{module} required username="{self.user}" password="{self.password}";'
            settings |= {"sasl.mechanism": self.mechanism, "sasl.jaas.config": login}
        else:
            settings |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.certificate.chain": _one_line(self.identity.certificate_file),
                "ssl.keystore.key": _one_line(self.identity.key_file),
            }
        return settings

    def python(self) -> dict[str, Any]:
        """Settings that aiokafka and kafka-python share."""
        settings: dict[str, Any] = {"bootstrap_servers": self.bootstrap}
        if self.way == "sasl":
            settings |= {"security_protocol": "SASL_SSL", "sasl_mechanism": self.mechanism}
            settings |= {"sasl_plain_username": self.user, "sasl_plain_password": self.password}
        if self.way == "mtls":
            settings["security_protocol"] = "SSL"
        if self.way != "plain":
            settings["ssl_context"] = self.ssl_context()
        return settings

    def ssl_context(self) -> ssl.SSLContext:
        """The client's end of TLS."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if self.way == "mtls":
            context.load_cert_chain(self.identity.certificate_file, self.identity.key_file)
        return context

    def connect(self, **options: Any) -> RawClient:
        """A raw connection, logged in."""
        if self.way == "plain":
            return RawClient((self.host, self.port), **options)
        if self.way == "sasl":
            options = {"user": self.user, "password": self.password, **options}
        return RawClient((self.host, self.port), tls=self.ssl_context(), **options)


def _one_line(pem_file: Path) -> str:
    # In a properties file a newline within a value is written as \n.
    return pem_file.read_text().replace("\n", "\\n")


class Front:
    """A running gateway with the listeners `ways`, which have the settings `listener` on top."""

    def __init__(
        self,
        kafka: KafkaCluster,
        authority: TestAuthority,
        *,
        ways: Sequence[Way] = WAYS,
        config: Mapping[str, Any] | None = None,
        listener: Mapping[str, Any] | None = None,
        name: str = "front",
        wait: bool = True,
    ) -> None:
        self.kafka = kafka
        self._authority = authority
        self._listener = dict(listener or {})
        self._identity = authority.client(USER)
        self._stack = ExitStack()
        self.ports: dict[Way, range] = {}
        for way in ways:
            lease = lease_ports(1 + len(NODE_IDS))
            self._stack.callback(lease.release)
            self.ports[way] = lease.ports
        try:
            self.gateway = GatewayProcess(self._config(config or {}), name=name, wait=wait)
        except BaseException:
            self._stack.close()
            raise

    def access(self, way: Way, node_id: int | None = None) -> Access:
        """How to get in at the bootstrap port, or at the port of a broker."""
        index = 0 if node_id is None else 1 + node_id - NODE_IDS[0]
        return Access(way, "localhost", self.ports[way][index], self._authority.ca_file, self._identity)

    def close(self, *, keep_log: bool = False) -> None:
        """Ends the gateway; idempotent."""
        if keep_log:
            self.gateway.save_log()
        self.gateway.close()
        self._stack.close()

    def _config(self, more: Mapping[str, Any]) -> dict[str, Any]:
        server = self._authority.server()
        tls = {"certificate_file": str(server.certificate_file), "key_file": str(server.key_file)}
        client_tls = {"client_ca_file": str(self._authority.ca_file), "client_auth": "required"}
        kinds: dict[Way, dict[str, Any]] = {
            "sasl": {"tls": tls, "authentication": "sasl_plain"},
            "mtls": {"tls": tls | client_tls, "authentication": "mtls"},
            "plain": {"insecure": True, "authentication": "none"},
        }
        listeners = [
            {
                "name": way,
                "bind": "127.0.0.1",
                "port": ports[0],
                "advertised_host": "localhost",
                "node_ids": f"{NODE_IDS[0]}-{NODE_IDS[-1]}",
                **kinds[way],
                **self._listener,
            }
            for way, ports in self.ports.items()
        ]
        return {
            "cluster": self.kafka.gateway_config(),
            "authorization": "none",
            "users": [{"name": USER, "password": PASSWORD}],
            "listeners": listeners,
            **more,
        }
