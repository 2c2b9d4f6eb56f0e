"""The Java client: Kafka's console tools, and a small program for transactions, which no tool can abort."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from compose.java_tools import ToolOutput, run_tool
from compose.kafka import DEFAULT_VERSION
from compose.local import FAST_START, java_command
from compose.settings import properties_text
from tests.e2e.clients import WITHIN_S, Acks, Client, ProduceFailed, Transaction

_PROGRAM = Path(__file__).with_name("Transact.java")


class Java(Client):
    """kafka-clients of 4.3.0 through its console tools, a JVM for each call."""

    name = "java"

    def tool(self, name: str, *arguments: str, stdin: str = "", **settings: str) -> ToolOutput:
        """Runs a tool with these client settings (a_b stands for a.b) on top; ToolFailed."""
        more = {key.replace("_", "."): value for key, value in settings.items()}
        properties = self.access.java() | more
        return run_tool(name, self.access.bootstrap, *arguments, properties=properties, stdin=stdin)

    def produce(
        self, topic: str, values: Sequence[bytes], *, acks: Acks = "all", idempotent: bool = False
    ) -> None:
        done = self.tool(
            "kafka-console-producer",
            "--topic",
            topic,
            stdin="".join(f"{value.decode()}\n" for value in values),
            acks=acks,
            enable_idempotence=str(idempotent).lower(),
        )
        if "ERROR" in done.stderr:
            raise ProduceFailed(done.stderr)

    def transact(self, topic: str, transactional_id: str, transactions: Sequence[Transaction]) -> None:
        lines = "".join(
            f"{'commit' if commit else 'abort'} {b' '.join(values).decode()}\n"
            for values, commit in transactions
        )
        with tempfile.NamedTemporaryFile("w", suffix=".properties") as settings:
            properties = self.access.java() | {"bootstrap.servers": self.access.bootstrap}
            settings.write(properties_text(properties | {"transactional.id": transactional_id}))
            settings.flush()
            command = java_command(
                DEFAULT_VERSION, str(_PROGRAM), settings.name, topic, options=("-Xmx256m", *FAST_START)
            )
            done = subprocess.run(
                command, input=lines, capture_output=True, text=True, timeout=2 * WITHIN_S, check=False
            )
        if done.returncode:
            raise ProduceFailed(done.stderr)

    def consume(self, topic: str, group: str, count: int, **settings: str) -> list[bytes]:
        options = ("--from-beginning", "--isolation-level", "read_committed")
        limits = ("--max-messages", str(count), "--timeout-ms", str(WITHIN_S * 1000))
        names = ("--topic", topic, "--group", group)
        done = self.tool("kafka-console-consumer", *names, *options, *limits, **settings)
        return [line.encode() for line in done.stdout.splitlines()]

    def create_topic(self, topic: str, partitions: int) -> None:
        self.tool("kafka-topics", "--create", "--topic", topic, "--partitions", str(partitions))

    def count_partitions(self, topic: str) -> int:
        described = self.tool("kafka-topics", "--describe", "--topic", topic).stdout
        found = re.search(r"PartitionCount:\s*(\d+)", described)
        assert found is not None, described
        return int(found[1])

    def alter_config(self, topic: str, name: str, value: str) -> None:
        self.tool("kafka-configs", *_entity(topic), "--alter", "--add-config", f"{name}={value}")

    def describe_config(self, topic: str, name: str) -> str:
        described = self.tool("kafka-configs", *_entity(topic), "--describe").stdout
        found = re.search(rf"{re.escape(name)}=(\S+)", described)
        assert found is not None, described
        return found[1]

    def list_groups(self) -> set[str]:
        return set(self.tool("kafka-consumer-groups", "--list").stdout.split())

    def delete_topic(self, topic: str) -> None:
        self.tool("kafka-topics", "--delete", "--topic", topic)


def _entity(topic: str) -> tuple[str, ...]:
    return ("--entity-type", "topics", "--entity-name", topic)
