"""The REST API: cluster links and mirror topics under Confluent's paths (v3), users, health and metrics."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from gateway import observe
from gateway.admin import views
from gateway.admin.gate import App, Gate, PasswordCheck
from gateway.admin.users import UserService
from gateway.links import configs
from gateway.links.errors import LinkError, invalid_request, state_unavailable, unsupported
from gateway.links.requests import CreateLink, CreateMirror, LinksService, MirrorVerb
from gateway.state.records import MirrorStatus
from gateway.state.secrets import SecretsError
from gateway.state.store import StateUnavailable

_VERBS_NOT_YET: Final = frozenset(
    {"reverse-and-start-mirror", "reverse-and-pause-mirror", "truncate-and-restore"}
)
# Statuses of the contract that no mirror of ours ever has.
_STATUSES_NOT_YET: Final = frozenset({"PENDING_SYNCHRONIZE", "PENDING_SETUP_FOR_RESTORE", "PENDING_RESTORE"})


@dataclass(frozen=True, slots=True)
class _Services:
    """What the routes work on."""

    links: LinksService
    users: UserService
    cluster_id: Callable[[], str | None]
    waiting_for: Callable[[], Awaitable[Sequence[str]]]
    metrics_page: Callable[[], Awaitable[bytes]]


def build_api(
    *,
    links: LinksService,
    users: UserService,
    credentials: PasswordCheck,
    super_users: Collection[str],
    cluster_id: Callable[[], str | None],
    open_access: bool,
    waiting_for: Callable[[], Awaitable[Sequence[str]]],
    metrics_page: Callable[[], Awaitable[bytes]],
) -> App:
    """The ASGI application of the admin address.

    `cluster_id` answers None, and `waiting_for` what is being waited for, until the gateway is up.
    `super_users` are principals, like `User:admin`.
    """
    api = FastAPI(openapi_url=None, redirect_slashes=False)
    api.state.services = _Services(links, users, cluster_id, waiting_for, metrics_page)
    for error_type in _HANDLED:
        api.add_exception_handler(error_type, _refused)
    for router in (_health, _clusters, _links, _users):
        api.include_router(router)
    return Gate(api, credentials=credentials, super_users=super_users, open_access=open_access)


def _services(request: Request) -> _Services:
    services: _Services = request.app.state.services
    return services


def _own_urls(request: Request, services: Annotated[_Services, Depends(_services)]) -> views.Urls:
    own = services.cluster_id()
    if own is None:
        raise state_unavailable("The cluster behind this gateway has not been reached yet.")
    asked = request.path_params.get("cluster_id", own)
    if asked != own:
        raise LinkError(404, 404, f"Cluster {asked} cannot be found: this gateway fronts {own}.")
    return views.Urls(str(request.base_url), own)


Services = Annotated[_Services, Depends(_services)]
Urls = Annotated[views.Urls, Depends(_own_urls)]

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
async def list_clusters(urls: Urls) -> views.ClusterDataList:
    """The one cluster that this gateway fronts."""
    return views.cluster_list(urls)


@_clusters.get("/{cluster_id}")
async def get_cluster(urls: Urls) -> views.ClusterData:
    """The same, by its id."""
    return views.cluster(urls)


_links = APIRouter(prefix=f"{views.API}/{{cluster_id}}/links")


@_links.get("")
async def list_links(urls: Urls, services: Services) -> views.LinkDataList:
    """listKafkaLinks."""
    links = services.links
    return views.LinkDataList(
        metadata=views.CollectionMetadata(self=urls.of("links")),
        data=[
            views.link(urls, view, links.mirrors(view.record.link_name, None), include_tasks=False)
            for view in links.links()
        ],
    )


@_links.post("", status_code=204, dependencies=[Depends(_own_urls)])
async def create_link(
    services: Services,
    link_name: Annotated[str, Query(min_length=1)],
    body: views.CreateLinkBody,
    *,
    validate_only: bool = False,
    validate_link: bool = True,
) -> None:
    """createKafkaLink."""
    request = CreateLink(
        link_name,
        body.source_cluster_id,
        body.destination_cluster_id,
        body.remote_cluster_id,
        body.cluster_link_id,
        _by_name(body.configs),
    )
    await services.links.create_link(request, validate_only=validate_only, validate_link=validate_link)


@_links.get("/{link_name}")
async def get_link(
    urls: Urls, services: Services, link_name: str, *, include_tasks: bool = False
) -> views.LinkData:
    """getKafkaLink."""
    view = services.links.link(link_name)
    return views.link(urls, view, services.links.mirrors(link_name, None), include_tasks=include_tasks)


@_links.delete("/{link_name}", dependencies=[Depends(_own_urls)])
async def delete_link(
    services: Services, link_name: str, *, force: bool = False, validate_only: bool = False
) -> Response:
    """deleteKafkaLink."""
    await services.links.delete_link(link_name, force=force, validate_only=validate_only)
    return Response()


@_links.get("/{link_name}/configs")
async def list_configs(urls: Urls, services: Services, link_name: str) -> views.LinkConfigDataList:
    """listKafkaLinkConfigs."""
    shown = configs.show(services.links.link(link_name).record.configs)
    return views.LinkConfigDataList(
        metadata=views.CollectionMetadata(self=urls.of("links", link_name, "configs")),
        data=[views.link_config(urls, link_name, view) for view in shown],
    )


@_links.get("/{link_name}/configs/{config_name}")
async def get_config(
    urls: Urls, services: Services, link_name: str, config_name: str
) -> views.LinkConfigData:
    """getKafkaLinkConfigs."""
    for view in configs.show(services.links.link(link_name).record.configs):
        if view.name == config_name:
            return views.link_config(urls, link_name, view)
    raise LinkError(404, 404, f"Cluster link '{link_name}' has no config '{config_name}'.")


@_links.put("/{link_name}/configs/{config_name}", dependencies=[Depends(_own_urls)])
@_links.delete("/{link_name}/configs/{config_name}", dependencies=[Depends(_own_urls)])
@_links.put("/{link_name}/configs:alter", dependencies=[Depends(_own_urls)])
async def alter_configs(services: Services, link_name: str) -> None:
    """updateKafkaLinkConfig, deleteKafkaLinkConfig, updateKafkaLinkConfigBatch: refused for now."""
    services.links.link(link_name)
    raise unsupported("Changing the configs of a cluster link is not yet supported. Create it anew.")


@_links.get("/-/mirrors")
async def list_all_mirrors(
    urls: Urls, services: Services, mirror_status: str | None = None
) -> views.MirrorDataList:
    """listKafkaMirrorTopics."""
    return _mirror_list(urls, services.links, None, mirror_status)


@_links.get("/{link_name}/mirrors")
async def list_mirrors(
    urls: Urls, services: Services, link_name: str, mirror_status: str | None = None
) -> views.MirrorDataList:
    """listKafkaMirrorTopicsUnderLink."""
    return _mirror_list(urls, services.links, link_name, mirror_status)


@_links.post("/{link_name}/mirrors", status_code=204, dependencies=[Depends(_own_urls)])
async def create_mirror(services: Services, link_name: str, body: views.CreateMirrorBody) -> None:
    """createKafkaMirrorTopic."""
    request = CreateMirror(
        body.source_topic_name, body.mirror_topic_name, body.replication_factor, _by_name(body.configs)
    )
    await services.links.create_mirror(link_name, request)


@_links.get("/{link_name}/mirrors/{mirror_topic_name}")
async def get_mirror(
    urls: Urls,
    services: Services,
    link_name: str,
    mirror_topic_name: str,
    *,
    include_state_transition_errors: bool = False,
) -> views.MirrorData:
    """readKafkaMirrorTopic."""
    view = services.links.mirror(link_name, mirror_topic_name)
    return views.mirror(urls, view, include_errors=include_state_transition_errors)


@_links.post("/{link_name}/mirrors:{verb}")
async def alter_mirrors(
    urls: Urls,
    services: Services,
    link_name: str,
    verb: str,
    body: views.AlterMirrorsBody,
    *,
    validate_only: bool = False,
) -> views.AlterMirrorDataList:
    """updateKafkaMirrorTopicsPromote, and its likes for the other verbs."""
    names, pattern = body.mirror_topic_names, body.mirror_topic_name_pattern
    if (names is None) == (pattern is None):
        raise invalid_request("Exactly one of mirror_topic_names and mirror_topic_name_pattern is needed.")
    results = await services.links.alter_mirrors(_verb(verb), link_name, names, pattern, validate_only)
    return views.alter_results(urls, link_name, results)


_users = APIRouter(prefix="/causeway/v1/users")


@_users.get("")
async def list_users(request: Request, services: Services) -> views.UserDataList:
    """The users in the state topic."""
    return views.user_list(str(request.base_url), services.users.users())


@_users.post("", status_code=201)
async def create_user(request: Request, services: Services, body: views.CreateUserBody) -> views.UserData:
    """Adds a user with a password."""
    return views.user(str(request.base_url), await services.users.create(body.name, body.password))


@_users.delete("/{name}", status_code=204)
async def delete_user(services: Services, name: str) -> None:
    """Removes a user."""
    await services.users.delete(name)


def _mirror_list(
    urls: views.Urls, links: LinksService, link_name: str | None, status: str | None
) -> views.MirrorDataList:
    if link_name is not None:
        links.link(link_name)
    found = [] if status in _STATUSES_NOT_YET else links.mirrors(link_name, _status(status))
    return views.MirrorDataList(
        metadata=views.CollectionMetadata(self=urls.of("links", link_name or "-", "mirrors")),
        data=[views.mirror(urls, view, include_errors=False) for view in found],
    )


def _verb(verb: str) -> MirrorVerb:
    match verb:
        case "promote" | "failover" | "pause" | "resume":
            return verb
        case _ if verb in _VERBS_NOT_YET:
            raise unsupported(f"mirrors:{verb} needs a bidirectional link, which is not yet supported.")
        case _:
            raise LinkError(404, 404, "HTTP 404 Not Found")


def _status(text: str | None) -> MirrorStatus | None:
    try:
        return None if text is None else MirrorStatus(text)
    except ValueError:
        raise LinkError(400, 400, f"mirror_status is none of {', '.join(MirrorStatus)}.") from None


def _by_name(entries: Sequence[views.ConfigData]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries:
        if entry.name in found:
            raise invalid_request(f"Config '{entry.name}' is given twice.")
        if entry.value is None:
            raise invalid_request(f"Config '{entry.name}' has no value.")
        found[entry.name] = entry.value
    return found


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
    return JSONResponse(views.Error(error_code=code, message=message).model_dump(), status)
