"""The ACL resources of Confluent's REST API (v3), with who wants each ACL to be there, and the import."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response

from gateway.admin import bodies, views
from gateway.admin.services import Services, Urls
from gateway.links.errors import invalid_request
from gateway.sessions.current_acls import owners
from gateway.state.records import AclRecord
from protocol.acl_filters import AclFilter
from protocol.acls import Acl, Operation, PatternType, Permission, ResourceType

router = APIRouter(prefix=f"{views.API}/{{cluster_id}}/acls")
whole = APIRouter(prefix=f"{views.API}/{{cluster_id}}")

_MAX_BATCH: Final = 10_000

Word = Annotated[str | None, Query(min_length=1)]


@router.get("")
async def list_acls(
    urls: Urls,
    services: Services,
    resource_type: Word = None,
    resource_name: Word = None,
    pattern_type: Word = None,
    principal: Word = None,
    host: Word = None,
    operation: Word = None,
    permission: Word = None,
) -> bodies.AclDataList:
    """getKafkaAcls."""
    wanted = _filter(resource_type, resource_name, pattern_type, principal, host, operation, permission)
    found = services.acls.find(wanted)
    return bodies.AclDataList(
        metadata=bodies.CollectionMetadata(self=urls.of("acls")), data=[_shown(urls, each) for each in found]
    )


@router.post("", status_code=201)
async def create_acl(_: Urls, services: Services, body: bodies.AclBody) -> Response:
    """createKafkaAcls."""
    await services.acls.create([_acl(body)])
    return Response(status_code=201)


@whole.post("/acls:batch", status_code=201)
async def create_acls(_: Urls, services: Services, body: bodies.AclBatchBody) -> Response:
    """batchCreateKafkaAcls: all of them, or none."""
    if len(body.data) > _MAX_BATCH:
        raise invalid_request(f"At most {_MAX_BATCH} ACLs can be created at once.")
    await services.acls.create([_acl(each) for each in body.data])
    return Response(status_code=201)


@router.delete("")
async def delete_acls(
    urls: Urls,
    services: Services,
    resource_type: Annotated[str, Query(min_length=1)],
    pattern_type: Annotated[str, Query(min_length=1)],
    operation: Annotated[str, Query(min_length=1)],
    permission: Annotated[str, Query(min_length=1)],
    resource_name: Word = None,
    principal: Word = None,
    host: Word = None,
) -> bodies.AclDataList:
    """deleteKafkaAcls; what a link keeps is not among the answers, unless nothing else was meant."""
    wanted = _filter(resource_type, resource_name, pattern_type, principal, host, operation, permission)
    gone = [each.record for each in await services.acls.delete(wanted) if each.kept is None]
    return bodies.AclDataList(
        metadata=bodies.CollectionMetadata(self=urls.of("acls")), data=[_shown(urls, each) for each in gone]
    )


@whole.post("/acls:import")
async def import_acls(urls: Urls, services: Services, *, validate_only: bool = False) -> bodies.AclDataList:
    """Causeway's own: takes over the ACLs of the fronted cluster; answers those that are new."""
    new = await services.acls.import_all(validate_only=validate_only)
    return bodies.AclDataList(
        metadata=bodies.CollectionMetadata(self=urls.of("acls")),
        data=[_shown(urls, AclRecord.of(each, admin=True)) for each in new],
    )


def _shown(urls: views.Urls, record: AclRecord) -> bodies.AclData:
    acl = record.acl
    fields = {
        "resource_type": acl.resource_type.name,
        "resource_name": acl.name,
        "pattern_type": acl.pattern_type.name,
        "principal": acl.principal,
        "host": acl.host,
        "operation": acl.operation.name,
        "permission": acl.permission.name,
    }
    return bodies.AclData(
        metadata=bodies.ResourceMetadata(self=f"{urls.of('acls')}?{urlencode(fields)}"),
        cluster_id=urls.cluster_id,
        owners=list(owners(record)),
        **fields,
    )


def _acl(body: bodies.AclBody) -> Acl:
    try:
        return Acl(
            _word("resource_type", ResourceType, body.resource_type),
            _word("pattern_type", PatternType, body.pattern_type),
            body.resource_name,
            body.principal,
            body.host,
            _word("operation", Operation, body.operation),
            _word("permission", Permission, body.permission),
        )
    except ValueError as error:
        raise invalid_request(f"This cannot be created: {error}.") from error


def _filter(
    resource_type: str | None,
    resource_name: str | None,
    pattern_type: str | None,
    principal: str | None,
    host: str | None,
    operation: str | None,
    permission: str | None,
) -> AclFilter:
    return AclFilter(
        _word("resource_type", ResourceType, resource_type),
        _word("pattern_type", PatternType, pattern_type),
        resource_name,
        principal,
        host,
        _word("operation", Operation, operation),
        _word("permission", Permission, permission),
    )


def _word(name: str, kind: Any, text: str | None) -> Any:
    words: Mapping[str, Any] = {each.name: each for each in kind if each != 0}
    found = words.get((text or "ANY").upper().replace("-", "_"))
    if found is None:
        raise invalid_request(f"{name} is none of {', '.join(_sorted(words))}.")
    return found


def _sorted(words: Mapping[str, Any]) -> Sequence[str]:
    return sorted(words, key=lambda word: int(words[word]))
