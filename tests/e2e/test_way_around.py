"""`causeway check`: whether brokers let in whoever comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner, Result

from compose.kafka import KafkaCluster
from gateway.cli import app
from tests.conftest import Clusters
from tests.e2e.acl_comparison import BROKER, USERS


def run(directory: Path, cluster: dict[str, Any]) -> Result:
    file = directory / "gateway.yaml"
    file.write_text(yaml.safe_dump({"cluster": cluster, "admin": {"insecure": True}}))
    return CliRunner().invoke(app, ["check", "-c", str(file)])


def test_a_broker_that_answers_anybody_is_found(kafka_430: KafkaCluster, tmp_path: Path) -> None:
    done = run(tmp_path, kafka_430.gateway_config())
    node = kafka_430.nodes[0]
    assert done.exit_code == 1
    assert f"{node.host}:{node.port} PLAINTEXT: OPEN" in done.output
    assert f"{node.host}:{node.port} SSL: closed" in done.output
    assert "Clients can go around this gateway" in done.output


def test_a_broker_that_asks_for_a_login_is_closed(clusters: Clusters, tmp_path: Path) -> None:
    cluster = clusters(security="SASL_PLAINTEXT", authorizer=True, users=USERS, config=dict(BROKER))
    done = run(tmp_path, cluster.gateway_config())
    assert done.exit_code == 0, done.output
    assert "OPEN" not in done.output
    assert "only the bootstrap servers" not in done.output
    unknown = run(tmp_path, {"bootstrap_servers": ["127.0.0.1:1"]})
    assert unknown.exit_code == 0
    assert "only the bootstrap servers were tried" in unknown.output
