"""Fixtures for end-to-end tests: gateways as processes of their own."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import pytest

from certs.make_certs import TestAuthority
from compose.kafka import KafkaCluster
from compose.ports import PortLease, lease_ports
from tests.conftest import has_failed
from tests.e2e.front import Front
from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.watched import WatchedFront

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


class Fronts(Protocol):
    """Starts a gateway with a listener of every kind in front of a cluster, or returns the running one."""

    def __call__(self, kafka: KafkaCluster, **settings: Any) -> Front: ...


@pytest.fixture(scope="session")
def front(
    request: pytest.FixtureRequest, authority: TestAuthority, kafka_430: KafkaCluster
) -> Iterator[Front]:
    """The gateway in front of one broker of 4.3.0 that all modules share: isolate by names."""
    front = Front(kafka_430, authority)
    yield front
    front.close(keep_log=request.session.testsfailed > 0)


@pytest.fixture(scope="module")
def fronts(request: pytest.FixtureRequest, authority: TestAuthority) -> Iterator[Fronts]:
    """Gateways that live until the module ends: isolate by names, and leave them running."""
    running: dict[str, Front] = {}

    def start(kafka: KafkaCluster, **settings: Any) -> Front:
        key = repr((kafka.bootstrap, sorted(settings.items())))
        if key not in running:
            running[key] = Front(kafka, authority, **settings)
        return running[key]

    yield start
    for front in running.values():
        front.close(keep_log=request.session.testsfailed > 0)


@pytest.fixture
def own_front(request: pytest.FixtureRequest, authority: TestAuthority) -> Iterator[Fronts]:
    """Gateways for one test only, which may kill and restart them."""
    running: list[Front] = []

    def start(kafka: KafkaCluster, **settings: Any) -> Front:
        running.append(Front(kafka, authority, **settings))
        return running[-1]

    yield start
    for front in running:
        front.close(keep_log=has_failed(request))


@pytest.fixture(scope="session")
def breakable(request: pytest.FixtureRequest) -> Iterator[KafkaCluster]:
    """Three brokers of 4.3.0 that tests may stop, kill and pause, and must bring back.

    They listen at an address of this machine that nobody else uses, to be recognised where they must not be.
    """
    with KafkaCluster.start(brokers=3, host="127.0.0.77") as kafka:
        yield kafka
        if request.session.testsfailed:
            kafka.save_logs()


@pytest.fixture
def watched(
    request: pytest.FixtureRequest, breakable: KafkaCluster, authority: TestAuthority
) -> Iterator[WatchedFront]:
    """A gateway in front of those three, whose every byte to clients is remembered."""
    with WatchedFront(breakable, authority) as running:
        yield running
        if has_failed(request):
            running.front.gateway.save_log()
