"""The links of a gateway with two clusters of fakes and a state in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from gateway.links import leaders, link, mirror_making, mirrors
from gateway.links.errors import LinkError
from gateway.links.lease import Unlimited
from gateway.links.link import Links, LinkServices
from gateway.links.local_groups import LocalGroups
from gateway.links.requests import AlterResult, ConfigChange, CreateLink, CreateMirror, MirrorVerb
from gateway.links.work_group import Release, WorkGroup
from gateway.links.work_plan import EVERYTHING
from gateway.state.records import MirrorRecord, MirrorStatus
from gateway.state.secrets import Secrets
from gateway.state.store import Store
from gateway.upstreams.cluster import Cluster
from gateway.wire import FrameConnection
from protocol.api_versions import link_versions
from tests.fakes.kafka import FakeKafka
from tests.fakes.store import FakeStore
from tests.gateway.links.lab import cluster_of, hurry, until

LINK = "hybrid"
# A source is away when it has not answered for 50 ms.
IMPATIENT = {"availability.check.ms": "10"}


class Alone(WorkGroup):
    """A gateway that has everything to itself."""

    def __init__(self, cluster: Cluster, instance_id: str, release: Release) -> None:
        super().__init__(cluster, instance_id, release)
        self.lease = Unlimited()

    async def run(self) -> None:
        """As the real one."""
        await self._set(EVERYTHING)
        await asyncio.Event().wait()


@dataclass
class LinksLab:
    """`links` front the cluster `own`; `other` is the cluster on the other side."""

    own: FakeKafka
    other: FakeKafka
    cluster: Cluster
    store: FakeStore
    links: Links
    restarted: Callable[[], Links]
    bound: list[tuple[str, int | None]] = field(default_factory=list)

    @property
    def outbound(self) -> dict[str, str]:
        """Configs of a link that dials the other side."""
        return {"bootstrap.servers": self.other.bootstrap}

    async def make_link(self, name: str = LINK, **configs: str) -> None:
        """A destination half that dials."""
        request = CreateLink(name, source_cluster_id="other", configs={**self.outbound, **configs})
        await self.links.create_link(request, validate_only=False, validate_link=False)

    async def make_inbound(self, name: str = LINK, **configs: str) -> None:
        """A destination half that waits."""
        configs = {"connection.mode": "INBOUND", **configs}
        request = CreateLink(name, source_cluster_id="other", configs=configs)
        await self.links.create_link(request, validate_only=False, validate_link=False)

    async def make_mirror(
        self, name: str = "t", partitions: int = 1, *, mirrored: bool = True
    ) -> MirrorRecord:
        """A mirror topic of a source topic with a few records."""
        if name not in self.other.topics:
            for log in self.other.create(name, partitions).logs:
                log.write(3)
        await self.links.create_mirror(LINK, CreateMirror(name))
        if mirrored:
            pairs = zip(self.other.topics[name].logs, self.own.topics[name].logs, strict=True)
            for here, there in pairs:
                await until(lambda here=here, there=there: there.end == here.end)  # type: ignore[misc]
        return self.store.state.mirrors[name]

    async def alter(self, verb: MirrorVerb, *names: str, force: bool = False) -> AlterResult:
        """The result for one mirror."""
        (result,) = await self.links.alter_mirrors(verb, LINK, names or ("t",), None, False, force=force)
        return result

    async def alter_configs(self, **configs: str | None) -> None:
        """Changes configs of the link; None puts one back to its default."""
        changes = [ConfigChange(name, value) for name, value in configs.items()]
        await self.links.alter_configs(LINK, changes, validate_only=False)

    def status(self, name: str = "t") -> MirrorStatus:
        """As it is shown."""
        return self.links.mirror(LINK, name).record.status

    async def becomes(self, status: MirrorStatus, name: str = "t") -> None:
        """Returns when the state says so."""
        await until(lambda: self.store.state.mirrors[name].status is status)


def refused(error: pytest.ExceptionInfo[LinkError]) -> tuple[int, int, str]:
    """Status, code and text of a refusal."""
    return error.value.status, error.value.error_code, error.value.message


@asynccontextmanager
async def links_lab(**services: Any) -> AsyncIterator[LinksLab]:
    """Links that were started, and end with everything closed."""
    own, other, store = FakeKafka(cluster_id="own"), FakeKafka(cluster_id="other"), FakeStore()
    await own.start()
    await other.start()
    cluster = cluster_of(own)
    await cluster.start()
    bound: list[tuple[str, int | None]] = []

    def serve_bound(name: str, _: Cluster) -> Any:
        async def serve(wire: FrameConnection, node_id: int | None) -> None:
            bound.append((name, node_id))
            await wire.wait_closed()

        return serve

    given: dict[str, Any] = {
        "cluster": cluster,
        "store": cast("Store", store),
        "local_groups": LocalGroups(cast("Store", store)),
        "secrets": Secrets(bytes(32)),
        "bootstrap_servers": [own.bootstrap],
        "serve_bound": serve_bound,
        "versions": link_versions,
        "instance_id": "instance",
        "join": Alone,
        **services,
    }
    links = Links(LinkServices(**given))
    async with AsyncExitStack() as ending:
        for broker in (own, other):
            ending.push_async_callback(broker.close)
        ending.push_async_callback(cluster.close)
        ending.push_async_callback(links.close)
        await links.start()
        yield LinksLab(own, other, cluster, store, links, lambda: Links(LinkServices(**given)), bound)


def be_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter waits, of which none is what a test is about."""
    hurry(
        monkeypatch,
        RETRY_DELAY_S=0.01,
        METADATA_INTERVAL_S=0.1,
        BACKOFF_S=(0.01, 0.05),
        SETTLE_RETRY_S=0.02,
        LOOP_RETRY_S=0.02,
        BACKOFF_BASE_S=0.01,
        BACKOFF_CAP_S=0.05,
        REFUSED_BACKOFF_S=0.1,
        BIND_TIMEOUT_S=0.3,
    )
    monkeypatch.setattr(leaders, "SOURCE_PATIENCE_S", 0.05)
    for module in (mirror_making, mirrors):
        monkeypatch.setattr(module, "TOPIC_SETTLE_S", 0.1)
    monkeypatch.setattr(link, "FORCED_DELETE_TIMEOUT_S", 1.0)
