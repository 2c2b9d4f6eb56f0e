"""What the routes of the REST API work on, and how they come by it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Request

from gateway.admin import views
from gateway.admin.acls import AclService
from gateway.admin.users import UserService
from gateway.links.errors import LinkError, state_unavailable
from gateway.links.group_moves import GroupView, MoveResult
from gateway.links.requests import LinksService


class GroupsService(Protocol):
    """What is asked about consumer groups of links. Every method may raise LinkError."""

    async def groups(self, link_name: str, names: Sequence[str] | None = None) -> list[GroupView]: ...

    async def move(
        self, link_name: str, names: Sequence[str], *, validate_only: bool
    ) -> list[MoveResult]: ...

    async def follow(self, link_name: str, names: Sequence[str]) -> list[MoveResult]: ...


@dataclass(frozen=True, slots=True)
class AdminServices:
    """What the routes work on."""

    links: LinksService
    groups: GroupsService
    users: UserService
    acls: AclService
    cluster_id: Callable[[], str | None]
    waiting_for: Callable[[], Awaitable[Sequence[str]]]
    metrics_page: Callable[[], Awaitable[bytes]]
    # Where clients reach this gateway, as `host:port`.
    bootstrap: Sequence[str]


def services_of(request: Request) -> AdminServices:
    """What the application was made with."""
    services: AdminServices = request.app.state.services
    return services


def own_urls(request: Request, services: Annotated[AdminServices, Depends(services_of)]) -> views.Urls:
    """Addresses of what the fronted cluster has. LinkError if another one is asked for, or none is known."""
    own = services.cluster_id()
    if own is None:
        raise state_unavailable("The cluster behind this gateway has not been reached yet.")
    asked = request.path_params.get("cluster_id", own)
    if asked != own:
        raise LinkError(404, 404, f"Cluster {asked} cannot be found: this gateway fronts {own}.")
    return views.Urls(str(request.base_url), own)


Services = Annotated[AdminServices, Depends(services_of)]
Urls = Annotated[views.Urls, Depends(own_urls)]
