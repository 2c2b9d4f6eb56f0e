"""Fixtures for end-to-end tests: gateways as processes of their own."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from compose.ports import PortLease, lease_ports
from tests.conftest import has_failed
from tests.e2e.gateway_process import GatewayProcess

StartGateway = Callable[..., GatewayProcess]


@pytest.fixture
def start_gateway(request: pytest.FixtureRequest) -> Iterator[StartGateway]:
    """Starts gateways that end with the test; their logs are kept when it fails."""
    running: list[GatewayProcess] = []

    def start(config: Mapping[str, Any], **settings: Any) -> GatewayProcess:
        gateway = GatewayProcess(config, **settings)
        running.append(gateway)
        return gateway

    yield start
    for gateway in running:
        if has_failed(request):
            gateway.save_log()
        gateway.close()


@pytest.fixture
def free_ports() -> Iterator[Callable[[int], range]]:
    """Leases runs of neighbouring ports, as a listener with a port per broker needs."""
    leases: list[PortLease] = []

    def lease(count: int = 1) -> range:
        leases.append(lease_ports(count))
        return leases[-1].ports

    yield lease
    for taken in leases:
        taken.release()
