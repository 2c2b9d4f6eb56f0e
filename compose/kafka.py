"""Real Kafka clusters: one interface, two providers.

`KafkaCluster.start()` uses Docker where an engine answers and the version has an image (3.7 and later), else
a local JVM with the jars of `compose/pom.xml` (`make setup`). CAUSEWAY_KAFKA=docker|local forces one. The
choice is printed.
"""

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._scram import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)
from confluent_kafka.cimpl import NewTopic

from certs.make_certs import TestAuthority
from compose.settings import ADMIN, DEFAULT_USERS, Security, Wanted

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_VERSION = "4.3.0"
UP_WITHIN_S = 60.0
_FIRST_IMAGE = (3, 7)
_PORT_ATTEMPTS = 3
_SETTLED_S = 0.5
_open: "weakref.WeakSet[KafkaCluster]" = weakref.WeakSet()


class KafkaUnavailable(Exception):
    """A cluster or a broker could not be started; the text says why and where the log is."""


class PortTaken(KafkaUnavailable):
    """Somebody took one of our ports between choosing and binding it."""


class KafkaNode(ABC):
    """One broker, on the same ports and with the same data after every restart."""

    def __init__(self, node_id: int, host: str, port: int, internal_port: int) -> None:
        self.node_id = node_id
        self.host = host
        self.port = port
        self.internal_port = internal_port

    @abstractmethod
    def start(self, *, wait: bool = True) -> None:
        """Starts it again after `stop` or `kill` and waits until it serves; raises KafkaUnavailable."""

    @abstractmethod
    def stop(self) -> None:
        """Shuts it down in order (SIGTERM)."""

    @abstractmethod
    def kill(self) -> None:
        """Ends it at once (SIGKILL)."""

    @abstractmethod
    def pause(self) -> None:
        """Freezes it (SIGSTOP): connections stay, nothing answers."""

    @abstractmethod
    def resume(self) -> None:
        """Lets it go on after `pause`."""

    @abstractmethod
    def log(self) -> str:
        """What it has written so far."""


class KafkaCluster(ABC):
    """A running cluster; a context manager that closes itself."""

    provider: ClassVar[str]

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.nodes: list[KafkaNode] = []
        self.cluster_id = ""
        self.authority = TestAuthority(ROOT / "build" / "certs")
        _open.add(self)

    @classmethod
    def start(
        cls,
        version: str = DEFAULT_VERSION,
        brokers: int = 1,
        security: Security = "PLAINTEXT",
        *,
        authorizer: bool = False,
        config: Mapping[str, str] | None = None,
        users: Mapping[str, str] = DEFAULT_USERS,
        heap: str = "512m",
        host: str = "127.0.0.1",
        **provider: Any,
    ) -> "KafkaCluster":
        """Starts a cluster of 1–3 brokers and returns when all serve; raises KafkaUnavailable.

        `config` goes to every broker. `users` can log in with PLAIN and SCRAM; "admin" is a super user where
        there is an authorizer. `host` is where brokers listen. `provider` is passed on (`LocalCluster`).
        """
        # The providers are subclasses: importing them above would be a circle.
        from compose.docker_engine import DockerCluster
        from compose.local import LocalCluster

        if not 1 <= brokers <= 3:
            raise ValueError(f"a test cluster has 1 to 3 brokers, not {brokers}")
        wanted = Wanted(version, brokers, security, authorizer, users, config or {}, heap, host)
        choice = DockerCluster if _use_docker(wanted) else LocalCluster
        for attempt in range(_PORT_ATTEMPTS):
            cluster = choice(wanted, **provider)
            try:
                cluster._bring_up()
            except PortTaken:
                cluster.close()
                if attempt == _PORT_ATTEMPTS - 1:
                    raise
            except BaseException:
                cluster.save_logs()
                cluster.close()
                raise
            else:
                break
        return cluster

    @property
    def bootstrap(self) -> str:
        """`host:port,…` of the listener in the wanted protocol."""
        return ",".join(f"{node.host}:{node.port}" for node in self.nodes)

    @property
    def internal_bootstrap(self) -> str:
        """`host:port,…` of the private PLAINTEXT listener, where everybody is a super user."""
        return ",".join(f"{node.host}:{node.internal_port}" for node in self.nodes)

    @functools.cached_property
    def admin(self) -> AdminClient:
        """A librdkafka admin client on the private listener."""
        return _quiet_admin(self.internal_bootstrap)

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        *,
        copies: int | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        """Creates a topic with `copies` replicas (by default one per broker); raises KafkaException."""
        topic = NewTopic(name, partitions, copies or len(self.nodes), config=dict(config or {}))
        self.admin.create_topics([topic])[name].result(30)

    def librdkafka_config(self, user: str = ADMIN, mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        """How a librdkafka client reaches the wanted listener as `user`."""
        config = {"bootstrap.servers": self.bootstrap, "security.protocol": self.wanted.security}
        if self.wanted.has_tls:
            config["ssl.ca.location"] = str(self.authority.ca_file)
        if self.wanted.has_sasl:
            password = self.wanted.users[user]
            config |= {"sasl.mechanism": mechanism, "sasl.username": user, "sasl.password": password}
        return config

    def gateway_config(self, user: str = ADMIN, mechanism: str = "SCRAM-SHA-512") -> dict[str, Any]:
        """The `cluster` section of a gateway's configuration that fronts this cluster as `user`."""
        security: dict[str, Any] = {"protocol": self.wanted.security}
        if self.wanted.has_tls:
            security["ca_file"] = str(self.authority.ca_file)
        if self.wanted.has_sasl:
            security |= {"sasl_mechanism": mechanism, "username": user, "password": self.wanted.users[user]}
        return {"bootstrap_servers": self.bootstrap.split(","), "security": security}

    def save_logs(self) -> Path:
        """Copies every broker's log to `build/logs` and returns the directory."""
        directory = ROOT / "build" / "logs" / f"kafka-{self.wanted.version}-{self._name()}"
        directory.mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            (directory / f"broker-{node.node_id}.log").write_text(node.log())
        return directory

    def close(self) -> None:
        """Ends all brokers and removes their data; idempotent."""
        _open.discard(self)
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.save_logs()
        self.close()

    @abstractmethod
    def _launch(self) -> None:
        """Fills `nodes` and starts them; does not wait."""

    @abstractmethod
    def _close(self) -> None:
        """Ends what runs; idempotent."""

    @abstractmethod
    def _check(self) -> None:
        """Raises PortTaken or KafkaUnavailable if the cluster can never come up."""

    def _name(self) -> str:
        return str(self.nodes[0].port) if self.nodes else "none"

    def _bring_up(self) -> None:
        began = time.monotonic()
        self._launch()
        self.cluster_id = self.wait_for(len(self.nodes), self.internal_bootstrap)
        # The private listener may answer before the other has found its port taken.
        time.sleep(_SETTLED_S)
        self._check()
        if self.wanted.has_sasl:
            self._add_scram_users()
        print(
            f"Kafka {self.wanted.version} ({self.provider}): {len(self.nodes)} broker(s),"
            f" {self.wanted.security}, {self.bootstrap}, up in {time.monotonic() - began:.1f} s"
        )

    def wait_for(self, brokers: int, bootstrap: str) -> str:
        """Returns the cluster id once `bootstrap` knows so many brokers; raises KafkaUnavailable."""
        deadline = time.monotonic() + UP_WITHIN_S
        admin = _quiet_admin(bootstrap)
        while True:
            with contextlib.suppress(KafkaException):
                metadata = admin.list_topics(timeout=1)
                if len(metadata.brokers) >= brokers:
                    return str(metadata.cluster_id)
            self._check()
            if time.monotonic() > deadline:
                raise KafkaUnavailable(
                    f"Kafka {self.wanted.version} at {bootstrap} is not up after {UP_WITHIN_S:.0f} s;"
                    f" logs in {self.save_logs()}"
                )
            time.sleep(0.05)

    def _add_scram_users(self) -> None:
        # One request per mechanism: librdkafka refuses a user that stands in it twice.
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            changes: list[UserScramCredentialAlteration] = [
                UserScramCredentialUpsertion(user, ScramCredentialInfo(mechanism, 4096), password.encode())
                for user, password in self.wanted.users.items()
            ]
            for future in self.admin.alter_user_scram_credentials(changes).values():
                future.result(20)


def _quiet_admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 300})


def _use_docker(wanted: Wanted) -> bool:
    choice = os.environ.get("CAUSEWAY_KAFKA", "")
    if choice not in {"", "docker", "local"}:
        raise ValueError(f"CAUSEWAY_KAFKA is docker or local, not {choice!r}")
    return choice == "docker" or (choice == "" and wanted.numbers >= _FIRST_IMAGE and _docker_answers())


@functools.cache
def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        answer = subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return False
    return answer.returncode == 0


@atexit.register
def _close_all() -> None:
    for cluster in list(_open):
        cluster.close()
