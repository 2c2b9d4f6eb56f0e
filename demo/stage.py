"""What the demo plays on: two Kafka clusters, a gateway in front of each, and the files that they read.

Everything lies in one directory; commands run there, so that paths are short.
"""

from __future__ import annotations

import base64
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from compose.gateway_process import GatewayProcess
from compose.java_tools import client_properties
from compose.kafka import KafkaCluster
from compose.ports import PortLease, lease_ports
from compose.settings import ADMIN, properties_text
from demo.keep import DIRECTORY
from demo.screen import DemoFailed, Screen

HOST: Final = "127.0.0.1"
CAUSEWAY: Final = Path(sys.executable).with_name("causeway")
COMMAND_TIMEOUT_S: Final = 60.0

TOPIC: Final = "clickstream"
PARTITIONS: Final = 6
LINK: Final = "hybrid"
# The one user with rights on the cloud side that the link needs, and one of an ordinary client.
LINK_USER: Final = "CP-and-CC-Linking"
CLIENT_USER: Final = "analyst"
READER_USER: Final = "link-reader"
MOVING_GROUP: Final = "billing"
DESTINATION_CONFIG: Final = "clusterlink-hybrid-dst.config"
SOURCE_CONFIG: Final = "clusterlink-CP-src.config"
_CA: Final = "ca.pem"
_PLAIN: Final = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM: Final = "org.apache.kafka.common.security.scram.ScramLoginModule"


@dataclass(frozen=True)
class Stage:
    """All that runs, and how to get at it."""

    screen: Screen
    source: KafkaCluster
    destination: KafkaCluster
    on_prem: GatewayProcess
    cloud: GatewayProcess
    passwords: Mapping[str, str]
    bootstrap: str

    @property
    def environment(self) -> dict[str, str]:
        """How the command line logs in at the cloud gateway."""
        return {
            "CAUSEWAY_USER": ADMIN,
            "CAUSEWAY_PASSWORD": self.passwords[ADMIN],
            "CAUSEWAY_CA_FILE": _CA,
        }

    @property
    def source_client(self) -> dict[str, Any]:
        """Settings of a librdkafka client on-prem."""
        return _quiet(self.source.librdkafka_config())

    @property
    def cloud_client(self) -> dict[str, Any]:
        """Settings of a librdkafka client of the cloud gateway."""
        return _quiet({**self.client_settings(), "ssl.ca.location": str(DIRECTORY / _CA)})

    @property
    def java_client(self) -> dict[str, str]:
        """Settings of a Java client of the cloud gateway."""
        password = self.passwords[CLIENT_USER]
        settings = client_properties("SASL_SSL", ca_file=DIRECTORY / _CA, user=CLIENT_USER, password=password)
        return {"bootstrap.servers": self.bootstrap} | settings

    def client_settings(self) -> dict[str, str]:
        """What every client of the cloud gateway must know, but for the authority to trust."""
        return {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.username": CLIENT_USER,
            "sasl.password": self.passwords[CLIENT_USER],
        }

    def causeway(self, *arguments: str, stdin_file: str | None = None) -> str:
        """Shows a command, runs it, shows and returns what it says. DemoFailed."""
        suffix = f" < {stdin_file}" if stdin_file else ""
        self.screen.command(shlex.join(["causeway", *arguments]) + suffix)
        what = f"causeway {' '.join(arguments[:2])}"
        try:
            result = subprocess.run(
                [CAUSEWAY, *arguments],
                input=(DIRECTORY / stdin_file).read_text() if stdin_file else "",
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
                cwd=DIRECTORY,
                env=os.environ | self.environment,
                # Ctrl-C is for the demo, which ends the command itself.
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise DemoFailed(f"{what} has not ended within {COMMAND_TIMEOUT_S:.0f} s") from error
        self.screen.output(result.stdout + result.stderr)
        if result.returncode != 0:
            raise DemoFailed(f"{what} ended with {result.returncode}")
        return result.stdout


@contextmanager
def clusters() -> Iterator[tuple[KafkaCluster, KafkaCluster]]:
    """Source and destination, started side by side. KafkaUnavailable."""
    users = {ADMIN: _password(), READER_USER: _password()}
    with ExitStack() as running, ThreadPoolExecutor(2) as starter:
        starting = (
            starter.submit(KafkaCluster.start, security="SASL_SSL", authorizer=True, users=users),
            starter.submit(KafkaCluster.start),
        )
        for future in starting:
            running.push(_closer(future))
        source, destination = (future.result() for future in starting)
        yield source, destination


def _closer(future: Future[KafkaCluster]) -> Any:
    """Closes a cluster that may still be coming up; keeps its logs after a failure."""

    def close(*failure: Any) -> None:
        if future.exception() is None:
            future.result().__exit__(*failure)

    return close


def prepare_source(source: KafkaCluster) -> None:
    """The topic, and a user who may read it and see a group: that is all the link gets on-prem."""
    source.create_topic(TOPIC, PARTITIONS)
    allowed = [
        AclBinding(
            resource,
            name,
            ResourcePatternType.LITERAL,
            f"User:{READER_USER}",
            "*",
            operation,
            AclPermissionType.ALLOW,
        )
        for resource, name, operation in (
            (ResourceType.TOPIC, TOPIC, AclOperation.READ),
            (ResourceType.TOPIC, TOPIC, AclOperation.DESCRIBE_CONFIGS),
            (ResourceType.GROUP, MOVING_GROUP, AclOperation.DESCRIBE),
        )
    ]
    for future in source.admin.create_acls(allowed).values():
        future.result(20)


@contextmanager
def stage(screen: Screen, source: KafkaCluster, destination: KafkaCluster) -> Iterator[Stage]:
    """The two gateways. GatewayFailed, DemoFailed."""
    passwords = {name: _password() for name in (ADMIN, LINK_USER, CLIENT_USER)}
    lease = lease_ports(2)
    bootstrap = f"{HOST}:{lease[0]}"
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    DIRECTORY.mkdir(parents=True)
    shutil.copy(source.authority.ca_file, DIRECTORY / _CA)
    (DIRECTORY / "secrets.key").write_bytes(base64.b64encode(secrets.token_bytes(32)))
    for name in (LINK_USER, CLIENT_USER):
        (DIRECTORY / f"{name}.password").write_text(passwords[name] + "\n")
    with ExitStack() as running:
        running.callback(lease.release)
        on_prem = _gateway(running, screen, "on-prem", _on_prem_config(source))
        cloud_config = _cloud_config(destination, source, lease, passwords[ADMIN])
        cloud = _gateway(running, screen, "cloud", cloud_config, ca_file=DIRECTORY / _CA)
        ready = Stage(screen, source, destination, on_prem, cloud, passwords, bootstrap)
        _write_link_configs(ready)
        yield ready


def _gateway(
    running: ExitStack, screen: Screen, name: str, config: dict[str, Any], *, ca_file: Path | None = None
) -> GatewayProcess:
    screen.command(f"causeway run -c {name}.yaml &")
    gateway = GatewayProcess(config, name=name, directory=DIRECTORY, ca_file=ca_file)
    running.callback(gateway.close)
    running.callback(gateway.terminate, 10)
    return gateway


def _on_prem_config(source: KafkaCluster) -> dict[str, Any]:
    return {
        "cluster": source.gateway_config(),
        # No listeners: nothing on-prem waits for connections but the administration, on loopback.
        "authorization": "none",
        "state": {"secrets_key_file": "secrets.key"},
    }


def _cloud_config(
    destination: KafkaCluster, source: KafkaCluster, lease: PortLease, admin_password: str
) -> dict[str, Any]:
    identity = source.authority.server()
    tls = {"certificate_file": str(identity.certificate_file), "key_file": str(identity.key_file)}
    return {
        "cluster": destination.gateway_config(),
        "listeners": [
            {
                "name": "clients",
                "bind": HOST,
                "port": lease[0],
                "broker_port": lease[1],
                "node_ids": "1",
                "advertised_host": HOST,
                "tls": tls,
                "authentication": "sasl_plain",
            }
        ],
        # Written out again: as the same object it would be an alias in the file.
        "admin": {"tls": dict(tls), "insecure": False},
        "authorization": "none",
        "super_users": [f"User:{ADMIN}", f"User:{LINK_USER}"],
        "users": [{"name": ADMIN, "password": admin_password}],
    }


def _write_link_configs(ready: Stage) -> None:
    (DIRECTORY / DESTINATION_CONFIG).write_text("link.mode=DESTINATION\nconnection.mode=INBOUND\n")
    reader_password = ready.source.wanted.users[READER_USER]
    lines = {
        "link.mode": "SOURCE",
        "connection.mode": "OUTBOUND",
        "bootstrap.servers": ready.bootstrap,
        "ssl.endpoint.identification.algorithm": "https",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(DIRECTORY / _CA),
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.jaas.config": _login(_PLAIN, LINK_USER, ready.passwords[LINK_USER]),
        "local.ssl.truststore.type": "PEM",
        "local.ssl.truststore.location": str(DIRECTORY / _CA),
        "local.security.protocol": "SASL_SSL",
        "local.sasl.mechanism": "SCRAM-SHA-512",
        "local.sasl.jaas.config": _login(_SCRAM, READER_USER, reader_password),
    }
    (DIRECTORY / SOURCE_CONFIG).write_text("".join(f"{key}={value}\n" for key, value in lines.items()))


def write_client_files(ready: Stage) -> None:
    """Settings for Kafka's own tools (`client.properties`) and for librdkafka's (`kcat.config`)."""
    (DIRECTORY / "client.properties").write_text(properties_text(ready.java_client))
    kcat = ready.client_settings() | {"ssl.ca.location": str(DIRECTORY / _CA)}
    (DIRECTORY / "kcat.config").write_text(properties_text(kcat))


def _login(module: str, user: str, password: str) -> str:
    return f"{module} required username='{user}' password='{password}';"


def _password() -> str:
    return secrets.token_hex(8)


def _quiet(config: Mapping[str, str]) -> dict[str, Any]:
    # Connections end when the stage is taken down; that is no news.
    return {**config, "log_level": 0}
