"""Cluster links and mirror topics under Confluent's paths (v3)."""

from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Response

from gateway.admin import bodies, views
from gateway.admin.authorize import By, refused
from gateway.admin.services import Services, Urls, own_urls
from gateway.links import configs
from gateway.links.errors import LinkError, invalid_request, unsupported
from gateway.links.requests import (
    AlterResult,
    ConfigChange,
    CreateLink,
    CreateMirror,
    LinksService,
    MirrorVerb,
    compiled,
)
from gateway.state.records import MirrorStatus
from protocol.acls import Operation

_VERBS_NOT_YET: Final = frozenset(
    {"reverse-and-start-mirror", "reverse-and-pause-mirror", "truncate-and-restore"}
)
# Statuses of the contract that no mirror of ours ever has.
_STATUSES_NOT_YET: Final = frozenset({"PENDING_SYNCHRONIZE", "PENDING_SETUP_FOR_RESTORE", "PENDING_RESTORE"})

router = APIRouter(prefix=f"{views.API}/{{cluster_id}}/links")


@router.get("")
async def list_links(urls: Urls, services: Services) -> bodies.LinkDataList:
    """listKafkaLinks."""
    links = services.links
    return bodies.LinkDataList(
        metadata=bodies.CollectionMetadata(self=urls.of("links")),
        data=[
            views.link(urls, view, links.mirrors(view.record.link_name, None), include_tasks=False)
            for view in links.links()
        ],
    )


@router.post("", status_code=204, dependencies=[Depends(own_urls)])
async def create_link(
    services: Services,
    link_name: Annotated[str, Query(min_length=1)],
    body: bodies.CreateLinkBody,
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


@router.get("/{link_name}")
async def get_link(
    urls: Urls, services: Services, link_name: str, *, include_tasks: bool = False
) -> bodies.LinkData:
    """getKafkaLink."""
    view = services.links.link(link_name)
    return views.link(urls, view, services.links.mirrors(link_name, None), include_tasks=include_tasks)


@router.delete("/{link_name}", dependencies=[Depends(own_urls)])
async def delete_link(
    services: Services,
    link_name: str,
    *,
    force: bool = False,
    validate_only: bool = False,
    drop_acls: bool = False,
) -> Response:
    """deleteKafkaLink.

    `drop_acls` is Causeway's own: the ACLs that the link has brought go with it, instead of becoming the
    administrator's.
    """
    await services.links.delete_link(link_name, force=force, validate_only=validate_only, drop_acls=drop_acls)
    return Response()


@router.get("/{link_name}/configs")
async def list_configs(urls: Urls, services: Services, link_name: str) -> bodies.LinkConfigDataList:
    """listKafkaLinkConfigs."""
    shown = configs.show(services.links.link(link_name).record)
    return bodies.LinkConfigDataList(
        metadata=bodies.CollectionMetadata(self=urls.of("links", link_name, "configs")),
        data=[views.link_config(urls, link_name, view) for view in shown],
    )


@router.get("/{link_name}/configs/{config_name}")
async def get_config(
    urls: Urls, services: Services, link_name: str, config_name: str
) -> bodies.LinkConfigData:
    """getKafkaLinkConfigs."""
    for view in configs.show(services.links.link(link_name).record):
        if view.name == config_name:
            return views.link_config(urls, link_name, view)
    raise LinkError(404, 404, f"Cluster link '{link_name}' has no config '{config_name}'.")


@router.put("/{link_name}/configs/{config_name}", status_code=204, dependencies=[Depends(own_urls)])
async def set_config(
    services: Services, link_name: str, config_name: str, body: bodies.ConfigValueBody
) -> None:
    """updateKafkaLinkConfig."""
    change = ConfigChange(config_name, body.value)
    await services.links.alter_configs(link_name, [change], validate_only=False)


@router.delete("/{link_name}/configs/{config_name}", status_code=204, dependencies=[Depends(own_urls)])
async def reset_config(services: Services, link_name: str, config_name: str) -> None:
    """deleteKafkaLinkConfig."""
    change = ConfigChange(config_name, None)
    await services.links.alter_configs(link_name, [change], validate_only=False)


@router.put("/{link_name}/configs:alter", status_code=204, dependencies=[Depends(own_urls)])
async def alter_configs(
    services: Services, link_name: str, body: bodies.AlterConfigsBody, *, validate_only: bool = False
) -> None:
    """updateKafkaLinkConfigBatch."""
    changes = [_change(each) for each in body.data]
    only = validate_only or body.validate_only
    await services.links.alter_configs(link_name, changes, validate_only=only)


@router.get("/-/mirrors")
async def list_all_mirrors(
    urls: Urls, services: Services, mirror_status: str | None = None
) -> bodies.MirrorDataList:
    """listKafkaMirrorTopics."""
    return _mirror_list(urls, services.links, None, mirror_status)


@router.get("/{link_name}/mirrors")
async def list_mirrors(
    urls: Urls, services: Services, link_name: str, mirror_status: str | None = None
) -> bodies.MirrorDataList:
    """listKafkaMirrorTopicsUnderLink."""
    return _mirror_list(urls, services.links, link_name, mirror_status)


@router.post("/{link_name}/mirrors", status_code=204, dependencies=[Depends(own_urls)])
async def create_mirror(by: By, services: Services, link_name: str, body: bodies.CreateMirrorBody) -> None:
    """createKafkaMirrorTopic."""
    prefix = services.links.link(link_name).record.configs.get("cluster.link.prefix", "")
    for topic in {body.mirror_topic_name or prefix + body.source_topic_name, prefix + body.source_topic_name}:
        if not by.may_create_topic(topic):
            raise refused(by, Operation.CREATE, f"topic {topic}")
        if not by.may_topic(Operation.ALTER, topic):
            raise refused(by, Operation.ALTER, f"topic {topic}")
    request = CreateMirror(
        body.source_topic_name, body.mirror_topic_name, body.replication_factor, _by_name(body.configs)
    )
    await services.links.create_mirror(link_name, request)


@router.get("/{link_name}/mirrors/{mirror_topic_name}")
async def get_mirror(
    urls: Urls,
    services: Services,
    link_name: str,
    mirror_topic_name: str,
    *,
    include_state_transition_errors: bool = False,
) -> bodies.MirrorData:
    """readKafkaMirrorTopic."""
    view = services.links.mirror(link_name, mirror_topic_name)
    return views.mirror(urls, view, include_errors=include_state_transition_errors)


@router.post("/{link_name}/mirrors:{verb}")
async def alter_mirrors(
    by: By,
    urls: Urls,
    services: Services,
    link_name: str,
    verb: str,
    body: bodies.AlterMirrorsBody,
    *,
    validate_only: bool = False,
    force: bool = False,
) -> bodies.AlterMirrorDataList:
    """updateKafkaMirrorTopicsPromote, and its likes for the other verbs.

    `force` is Causeway's own: it lets a failover take what has FAILED.
    """
    names, pattern = body.mirror_topic_names, body.mirror_topic_name_pattern
    if (names is None) == (pattern is None):
        raise invalid_request("Exactly one of mirror_topic_names and mirror_topic_name_pattern is needed.")
    checked = _verb(verb)
    known = [view.record.mirror_topic_name for view in services.links.mirrors(link_name, None)]
    forbidden = {name for name in names or known if not by.may_topic(Operation.ALTER, name)}
    if pattern is not None and forbidden:
        # The pattern means those of the mirror topics that whoever asks may alter.
        matches = compiled(pattern).fullmatch
        names, pattern = [name for name in known if name not in forbidden and matches(name)], None
    elif names is not None:
        names = [name for name in names if name not in forbidden]
    results = await services.links.alter_mirrors(
        checked, link_name, names, pattern, validate_only, force=force
    )
    for name in body.mirror_topic_names or ():
        if name in forbidden:
            why = refused(by, Operation.ALTER, f"topic {name}")
            results.append(AlterResult(name, why.status, why.message))
    return views.alter_results(urls, link_name, results)


def _change(wish: bodies.ConfigChangeData) -> ConfigChange:
    if wish.operation == "DELETE":
        return ConfigChange(wish.name, None)
    if wish.value is None:
        raise invalid_request(f"Config '{wish.name}' has no value; operation DELETE resets it.")
    return ConfigChange(wish.name, wish.value)


def _mirror_list(
    urls: views.Urls, links: LinksService, link_name: str | None, status: str | None
) -> bodies.MirrorDataList:
    if link_name is not None:
        links.link(link_name)
    found = [] if status in _STATUSES_NOT_YET else links.mirrors(link_name, _status(status))
    return bodies.MirrorDataList(
        metadata=bodies.CollectionMetadata(self=urls.of("links", link_name or "-", "mirrors")),
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


def _by_name(entries: Sequence[bodies.ConfigData]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries:
        if entry.name in found:
            raise invalid_request(f"Config '{entry.name}' is given twice.")
        if entry.value is None:
            raise invalid_request(f"Config '{entry.name}' has no value.")
        found[entry.name] = entry.value
    return found
