"""The whole API over fakes, with an HTTP client that needs no socket."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from gateway.admin.acls import AclService
from gateway.admin.gate import App
from gateway.admin.rest import build_api
from gateway.admin.users import UserService
from gateway.security.credentials import Credentials
from gateway.sessions.acl_requests import AclChanges
from gateway.sessions.current_acls import CurrentAcls
from tests.fakes.group_moves import FakeGroupMoves
from tests.fakes.links import FakeLinks
from tests.fakes.store import FakeStore

BASE = "http://gateway:8090"
CLUSTER = "Fds7TcT9TTqEXsoRLEKMcQ"
LINKS = f"/kafka/v3/clusters/{CLUSTER}/links"


@dataclass
class Admin:
    """One gateway's API; change the fields before asking."""

    links: FakeLinks = field(default_factory=FakeLinks)
    groups: FakeGroupMoves = field(default_factory=FakeGroupMoves)
    store: FakeStore = field(default_factory=FakeStore)
    cluster_id: str | None = CLUSTER
    waiting_for: list[str] = field(default_factory=list)
    # What the fronted cluster is asked for ACLs through; `authorization: none` without `has_acls`.
    cluster: Any = None
    has_acls: bool = False

    def build(self, *, open_access: bool = False) -> App:
        """The ASGI application."""
        registry = CollectorRegistry()
        Counter("tests", "Tests.", registry=registry).inc()

        async def waiting_for() -> list[str]:
            return self.waiting_for

        async def metrics_page() -> bytes:
            return generate_latest(registry)

        store: Any = self.store
        users = UserService(store, ["admin"])
        supers = frozenset({"User:admin", "User:CN=ops"})
        current = CurrentAcls(store, super_users=supers, allow_everyone=False, max_staleness_s=30)
        return build_api(
            links=self.links,
            groups=self.groups,
            bootstrap=["cloud:9092"],
            users=users,
            credentials=Credentials({"admin": "open sesame", "bob": "bobs:pass"}, store.state.users.get),
            acls=AclService(AclChanges(store) if self.has_acls else None, self.cluster),
            current_acls=current.now if self.has_acls else None,
            super_users=supers,
            cluster_id=lambda: self.cluster_id,
            open_access=open_access,
            waiting_for=waiting_for,
            metrics_page=metrics_page,
        )


@pytest.fixture
def admin() -> Admin:
    """An API with no links and no users besides the configured ones."""
    return Admin()


@pytest.fixture
async def http(admin: Admin) -> AsyncIterator[httpx.AsyncClient]:
    """A client that is logged in as a super user."""
    transport = httpx.ASGITransport(app=admin.build(), raise_app_exceptions=False)
    login = ("admin", "open sesame")
    async with httpx.AsyncClient(transport=transport, base_url=BASE, auth=login) as client:
        yield client
