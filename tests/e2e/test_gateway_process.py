"""The harness of end-to-end tests: a gateway starts, ends and comes back; its log is kept when it cannot."""

from typing import Any

import pytest

from compose.kafka import ROOT, KafkaCluster
from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayFailed


def config(cluster: KafkaCluster) -> dict[str, Any]:
    return {"cluster": cluster.gateway_config(), "authorization": "none"}


def test_a_gateway_ends_in_order_and_comes_back(kafka_430: KafkaCluster, start_gateway: StartGateway) -> None:
    gateway = start_gateway(config(kafka_430))
    assert gateway.is_ready()

    assert gateway.terminate() == 0
    assert not gateway.is_ready()

    gateway.restart()
    assert gateway.is_ready()
    assert gateway.log_events()


def test_a_gateway_that_was_killed_comes_back(kafka_430: KafkaCluster, start_gateway: StartGateway) -> None:
    gateway = start_gateway(config(kafka_430))
    first = gateway.pid

    gateway.kill()
    assert not gateway.running

    gateway.start()
    assert gateway.is_ready()
    assert gateway.pid != first


def test_a_paused_gateway_answers_after_resume(kafka_430: KafkaCluster, start_gateway: StartGateway) -> None:
    gateway = start_gateway(config(kafka_430))

    gateway.pause()
    assert not gateway.is_ready()
    gateway.resume()

    gateway.wait_ready()
    assert gateway.terminate() == 0


def test_a_configuration_that_is_refused_is_in_the_error_and_the_kept_log(
    start_gateway: StartGateway,
) -> None:
    config = {"cluster": {"bootstrap_servers": ["127.0.0.1:1"]}, "authorization": "perhaps"}
    with pytest.raises(GatewayFailed, match="authorization"):
        start_gateway(config, name="refused")

    kept = sorted(
        (ROOT / "build" / "logs").glob("causeway-refused-*.log"), key=lambda file: file.stat().st_mtime
    )
    assert "authorization" in kept[-1].read_text()
    kept[-1].unlink()
