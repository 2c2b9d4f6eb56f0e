"""Fixtures for every test: certificates, names, and real Kafka clusters that a test session shares."""

import inspect
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import pytest

from certs.make_certs import TestAuthority
from compose.kafka import DEFAULT_VERSION, ROOT, KafkaCluster
from compose.settings import Security

_SLOW = (ROOT / "tests" / "compose", ROOT / "tests" / "e2e")
_FAILED = pytest.StashKey[bool]()
_KEPT_CLUSTERS = 3


class Clusters(Protocol):
    """Starts a cluster, or returns the running one with the same settings."""

    def __call__(
        self,
        version: str = DEFAULT_VERSION,
        brokers: int = 1,
        security: Security = "PLAINTEXT",
        *,
        authorizer: bool = False,
        config: dict[str, str] | None = None,
        **more: Any,
    ) -> KafkaCluster: ...


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors, save one that is not ours: kafka-python leaves TLS sockets to the collector."""
    warning = "Exception ignored in. <ssl.SSLSocket"
    config.addinivalue_line("filterwarnings", f"ignore:{warning}:pytest.PytestUnraisableExceptionWarning")
    # How long an example takes says how busy the machine is.
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")


def _is_slow(path: Path) -> bool:
    return any(path.is_relative_to(directory) for directory in _SLOW)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests without Kafka come first: they find most mistakes, in seconds."""
    items.sort(key=lambda item: _is_slow(item.path))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Unit tests run their loops in debug mode; end-to-end tests measure and move too much for that."""
    item.config.option.asyncio_debug = not _is_slow(item.path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Remembers a failure, so that fixtures know whether logs are wanted."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


def has_failed(request: pytest.FixtureRequest) -> bool:
    """Whether the test of a function-scoped fixture has failed so far."""
    return bool(request.node.stash.get(_FAILED, False))


@pytest.fixture(scope="session")
def authority() -> TestAuthority:
    """The test authority that brokers' certificates come from too."""
    return TestAuthority(ROOT / "build" / "certs")


@pytest.fixture
def unique_name(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Makes names for topics, groups and links that no other test has."""
    stem = request.node.originalname.removeprefix("test_").replace("_", "-")[:40]
    return lambda: f"{stem}-{uuid.uuid4().hex[:8]}"


class SharedClusters:
    """Clusters by their settings. A broker that nobody uses still costs a fiftieth of a core."""

    def __init__(self) -> None:
        # The one used last is the last.
        self._running: dict[str, KafkaCluster] = {}
        self._pinned: set[str] = set()

    def __call__(self, *arguments: Any, **settings: Any) -> KafkaCluster:
        wanted = inspect.signature(KafkaCluster.start).bind(*arguments, **settings)
        wanted.apply_defaults()
        key = repr(sorted(wanted.arguments.items()))
        cluster = self._running.pop(key, None)
        if cluster is None:
            cluster = KafkaCluster.start(*arguments, **settings)
        self._running[key] = cluster
        return cluster

    def pin(self, cluster: KafkaCluster) -> KafkaCluster:
        """Keeps it running to the end."""
        self._pinned.update(key for key, running in self._running.items() if running is cluster)
        return cluster

    def close(self, *, keep: int = 0, save_logs: bool = False) -> None:
        """Ends all but the `keep` that were used last and, if any are kept, those that are pinned."""
        spare = [key for key in self._running if not keep or key not in self._pinned]
        for key in spare[: len(spare) - keep]:
            cluster = self._running.pop(key)
            if save_logs:
                cluster.save_logs()
            cluster.close()


@pytest.fixture(scope="session")
def clusters(request: pytest.FixtureRequest) -> Iterator[SharedClusters]:
    """Clusters that live at least as long as a module: isolate by names, and leave the brokers alone."""
    shared = SharedClusters()
    yield shared
    shared.close(save_logs=request.session.testsfailed > 0)


@pytest.fixture(scope="module", autouse=True)
def _spare_clusters(request: pytest.FixtureRequest, clusters: SharedClusters) -> Iterator[None]:
    # Set up before every other fixture of the module, and so ended after them.
    yield
    clusters.close(keep=_KEPT_CLUSTERS, save_logs=request.session.testsfailed > 0)


@pytest.fixture
def own_cluster(request: pytest.FixtureRequest) -> Iterator[Clusters]:
    """Clusters for one test only, which may kill, stop and pause their brokers."""
    running: list[KafkaCluster] = []

    def start(*arguments: Any, **settings: Any) -> KafkaCluster:
        cluster = KafkaCluster.start(*arguments, **settings)
        running.append(cluster)
        return cluster

    yield start
    for cluster in running:
        if has_failed(request):
            cluster.save_logs()
        cluster.close()


@pytest.fixture(scope="session")
def kafka_430(clusters: SharedClusters) -> KafkaCluster:
    """One broker of 4.3.0, PLAINTEXT."""
    return clusters.pin(clusters("4.3.0"))


@pytest.fixture(scope="module")
def kafka_391(clusters: Clusters) -> KafkaCluster:
    """One broker of 3.9.1, PLAINTEXT."""
    return clusters("3.9.1")
