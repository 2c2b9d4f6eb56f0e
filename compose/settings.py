"""What every broker of a test cluster is told, whoever runs it.

Clients use the CLIENT listener, in the protocol that was asked for. Brokers and controllers talk to each
other on private PLAINTEXT listeners, which is also how a test prepares a cluster without credentials.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Security = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
ScramMechanism = Literal["SCRAM-SHA-256", "SCRAM-SHA-512"]

ADMIN: Final = "admin"
DEFAULT_USERS: Final[Mapping[str, str]] = {
    ADMIN: "admin-secret",
    "alice": "alice-secret",
    "bob": "bob-secret",
}
SCRAM_MECHANISMS: Final[tuple[ScramMechanism, ...]] = ("SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True)
class Stores:
    """Key material as brokers read it: PKCS12 files and their password."""

    keystore: str
    truststore: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Wanted:
    """What was asked for when a cluster was started."""

    version: str
    brokers: int
    security: Security
    authorizer: bool
    users: Mapping[str, str]
    config: Mapping[str, str]
    heap: str
    host: str

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version for comparisons: (4, 3, 0)."""
        return tuple(int(part) for part in self.version.split("."))

    @property
    def has_zookeeper(self) -> bool:
        """Whether it cannot run without ZooKeeper; from 3.3 on we use KRaft."""
        return self.numbers < (3, 3)

    @property
    def has_tls(self) -> bool:
        """Whether the CLIENT listener needs certificates."""
        return self.security.endswith("SSL")

    @property
    def has_sasl(self) -> bool:
        """Whether the CLIENT listener asks for a user and a password."""
        return self.security.startswith("SASL")


def common_properties(wanted: Wanted, stores: Stores | None) -> dict[str, str]:
    """Broker settings that do not depend on where the broker runs; `wanted.config` has the last word."""
    copies = str(wanted.brokers)
    properties = {
        "auto.create.topics.enable": "false",
        "default.replication.factor": copies,
        "group.initial.rebalance.delay.ms": "0",
        "inter.broker.listener.name": "INTERNAL",
        "listener.security.protocol.map": f"CLIENT:{wanted.security},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.cleaner.dedupe.buffer.size": "16777216",
        "num.io.threads": "4",
        "num.network.threads": "2",
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": copies,
        "sasl.enabled.mechanisms": ",".join(("PLAIN", *SCRAM_MECHANISMS)),
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": copies,
    }
    if not wanted.has_zookeeper:
        properties |= {
            "broker.heartbeat.interval.ms": "500",
            # A broker that was killed may not register again before its old session has ended.
            "broker.session.timeout.ms": "4000",
            "controller.listener.names": "CONTROLLER",
            "process.roles": "broker,controller",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": copies,
        }
    if wanted.authorizer:
        properties |= _authorizer(wanted)
    if wanted.has_sasl:
        properties |= _logins(wanted.users)
    if stores is not None:
        properties |= {
            "ssl.client.auth": "requested",
            "ssl.keystore.location": stores.keystore,
            "ssl.keystore.password": stores.password,
            "ssl.keystore.type": "PKCS12",
            "ssl.truststore.location": stores.truststore,
            "ssl.truststore.password": stores.password,
            "ssl.truststore.type": "PKCS12",
        }
    return properties | dict(wanted.config)


def _authorizer(wanted: Wanted) -> dict[str, str]:
    name = (
        "kafka.security.authorizer.AclAuthorizer"
        if wanted.has_zookeeper
        else "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    )
    # The private listeners know nobody's name, and brokers use them.
    return {"authorizer.class.name": name, "super.users": f"User:ANONYMOUS;User:{ADMIN};User:CN={ADMIN}"}


def _logins(users: Mapping[str, str]) -> dict[str, str]:
    plain = " ".join(f'user_{name}="{password}"' for name, password in users.items())
    module = "org.apache.kafka.common.security"
    properties = {
        "listener.name.client.plain.sasl.jaas.config": f"{module}.plain.PlainLoginModule required {plain};"
    }
    for mechanism in SCRAM_MECHANISMS:
        key = f"listener.name.client.{mechanism.lower()}.sasl.jaas.config"
        properties[key] = f"{module}.scram.ScramLoginModule required;"
    return properties


def properties_text(properties: Mapping[str, str]) -> str:
    """Java properties, one setting per line."""
    return "".join(f"{key}={value}\n" for key, value in sorted(properties.items()))
