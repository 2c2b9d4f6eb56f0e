"""Kafka's own console tools, the stock Java clients of the tests: run from the jars, in a JVM each."""

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from certs.make_certs import KEYSTORE_PASSWORD, Identity
from compose.kafka import DEFAULT_VERSION
from compose.local import FAST_START, java_command
from compose.settings import Security, properties_text

_TOOLS: Final[Mapping[str, str]] = {
    "kafka-acls": "org.apache.kafka.tools.AclCommand",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-consumer-perf-test": "org.apache.kafka.tools.ConsumerPerformance",
    "kafka-get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "kafka-producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
}


class ToolFailed(Exception):
    """A tool ended with an error; the text has all that it printed."""


@dataclass(frozen=True)
class ToolOutput:
    """What a tool printed; a console producer that was refused says so on standard error and ends with 0."""

    stdout: str
    stderr: str


def run_tool(
    name: str,
    bootstrap: str,
    *arguments: str,
    properties: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout_s: float = 60,
) -> ToolOutput:
    """Runs a tool by the name of its script; raises ToolFailed, subprocess.TimeoutExpired."""
    with tempfile.TemporaryDirectory(prefix="causeway-tool-") as directory:
        settings = Path(directory) / "client.properties"
        settings.write_text(properties_text(properties or {}))
        ending = ("--bootstrap-server", bootstrap, "--command-config", str(settings), *arguments)
        command = java_command(DEFAULT_VERSION, _TOOLS[name], *ending, options=("-Xmx256m", *FAST_START))
        result = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    if result.returncode != 0:
        raise ToolFailed(f"{name} ended with {result.returncode}:\n{result.stdout}{result.stderr}")
    return ToolOutput(result.stdout, result.stderr)


def client_properties(
    protocol: Security,
    *,
    ca_file: Path | None = None,
    mechanism: str = "PLAIN",
    user: str | None = None,
    password: str = "",
    identity: Identity | None = None,
) -> dict[str, str]:
    """Client settings for a listener: the authority to trust, and a user or a client certificate."""
    properties: dict[str, str] = {"security.protocol": protocol}
    if ca_file is not None:
        properties |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(ca_file)}
    if identity is not None:
        properties |= {
            "ssl.key.password": KEYSTORE_PASSWORD,
            "ssl.keystore.location": str(identity.keystore_file),
            "ssl.keystore.password": KEYSTORE_PASSWORD,
            "ssl.keystore.type": "PKCS12",
        }
    if user is not None:
        family = "plain.PlainLoginModule" if mechanism == "PLAIN" else "scram.ScramLoginModule"
        module = f"org.apache.kafka.common.security.{family}"
        login = f'{module} required username="{user}" password="{password}";'
        properties |= {"sasl.mechanism": mechanism, "sasl.jaas.config": login}
    return properties
