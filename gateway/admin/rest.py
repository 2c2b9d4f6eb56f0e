"""The REST API as one application: health, metrics, the fronted cluster, and the routes of all else."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from gateway import observe
from gateway.admin import acl_routes, bodies, group_routes, link_routes, user_routes, views
from gateway.admin.acls import AclService
from gateway.admin.authorize import authorize
from gateway.admin.gate import App, Gate, PasswordCheck
from gateway.admin.services import AdminServices, GroupsService, Services, Urls
from gateway.admin.users import UserService
from gateway.links.errors import LinkError
from gateway.links.requests import LinksService
from gateway.security.acls import Acls
from gateway.state.secrets import SecretsError
from gateway.state.store import StateUnavailable


def build_api(
    *,
    links: LinksService,
    groups: GroupsService,
    bootstrap: Sequence[str],
    users: UserService,
    acls: AclService,
    current_acls: Callable[[], Acls | None] | None,
    credentials: PasswordCheck,
    super_users: Collection[str],
    cluster_id: Callable[[], str | None],
    open_access: bool,
    waiting_for: Callable[[], Awaitable[Sequence[str]]],
    metrics_page: Callable[[], Awaitable[bytes]],
) -> App:
    """The ASGI application of the admin address.

    `cluster_id` answers None, and `waiting_for` what is being waited for, until the gateway is up.
    `super_users` are principals, like `User:admin`; without `current_acls` only they may enter. Clients reach
    the gateway at `bootstrap`.
    """
    api = FastAPI(openapi_url=None, redirect_slashes=False, dependencies=[Depends(authorize)])
    api.state.services = AdminServices(
        links, groups, users, acls, cluster_id, waiting_for, metrics_page, bootstrap
    )
    for error_type in _HANDLED:
        api.add_exception_handler(error_type, _refused)
    for router in (
        _health,
        _clusters,
        link_routes.router,
        group_routes.router,
        user_routes.router,
        acl_routes.router,
        acl_routes.whole,
    ):
        api.include_router(router)
    return Gate(
        api,
        credentials=credentials,
        super_users=super_users,
        open_access=open_access,
        acls=current_acls,
    )


_health = APIRouter()


@_health.get("/livez")
async def live() -> PlainTextResponse:
    """The process answers."""
    return PlainTextResponse("ok\n")


@_health.get("/readyz")
async def ready(services: Services) -> JSONResponse:
    """The gateway does its work, or what it is waiting for."""
    waiting_for = list(await services.waiting_for())
    return JSONResponse({"ready": not waiting_for, "waiting_for": waiting_for}, 503 if waiting_for else 200)


@_health.get("/metrics")
async def metrics(services: Services) -> Response:
    """Prometheus' text format."""
    return Response(await services.metrics_page(), media_type=observe.METRICS_CONTENT_TYPE)


_clusters = APIRouter(prefix=views.API)


@_clusters.get("")
async def list_clusters(urls: Urls) -> bodies.ClusterDataList:
    """The one cluster that this gateway fronts."""
    return views.cluster_list(urls)


@_clusters.get("/{cluster_id}")
async def get_cluster(urls: Urls) -> bodies.ClusterData:
    """The same, by its id."""
    return views.cluster(urls)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    match error:
        case LinkError():
            return _error(error.status, error.error_code, error.message)
        case StateUnavailable():
            return _error(503, 50003, str(error))
        case SecretsError():
            return _error(400, 40002, str(error))
        case RequestValidationError():
            # Only where and what: the input may be a password.
            texts = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
            return _error(400, 400, f"Cannot deserialize the request: {'; '.join(texts[:5])}")
        case HTTPException():
            return _error(error.status_code, error.status_code, f"HTTP {error.status_code} {error.detail}")
        case _:
            return _error(500, 500, "Internal Server Error")


_HANDLED: Final = (
    LinkError,
    StateUnavailable,
    SecretsError,
    RequestValidationError,
    HTTPException,
    Exception,
)


def _error(status: int, code: int, message: str) -> JSONResponse:
    return JSONResponse(bodies.Error(error_code=code, message=message).model_dump(), status)
