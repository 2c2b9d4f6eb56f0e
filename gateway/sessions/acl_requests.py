"""DescribeAcls, CreateAcls and DeleteAcls 1-3 (KIP-140, KIP-290), answered from the state topic.

`kafka-acls` and Kafka's admin clients manage the ACLs of the gateway, not those of the cluster behind it.
Errors and their texts are those of Kafka's AclApis and AclControlManager. An ACL that a cluster link keeps
cannot be deleted here: the answer names the link.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol

from kio.schema.errors import ErrorCode

from gateway.state.acl_changes import add_for_admin, kept_by, remove_for_admin
from gateway.state.records import AclRecord, Delete, Record, State
from gateway.state.store import Change, StateUnavailable
from gateway.upstreams.metadata import nested_class
from protocol.acl_filters import AclFilter
from protocol.acls import CLUSTER_NAME, Acl, Operation, PatternType, Permission, ResourceType
from protocol.api_keys import ApiKey
from protocol.messages import encode_response, response_class

_Error = tuple[ErrorCode, str | None]

# What Kafka's classes for a single ACL cannot express fails in them, and with it the whole request.
_NOT_OF_AN_ACL: Final = (ErrorCode.unknown_server_error, None)
# The code of ANY in each of the four.
_ANY: Final = 1


class AclStore(Protocol):
    """The state topic, as far as ACLs are concerned."""

    @property
    def state(self) -> State: ...
    async def update(self, change: Change) -> State: ...


class UnknownElement(Exception):
    """The request has a code 0, UNKNOWN, for which a broker closes the connection."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """An ACL that was to be deleted; `kept` says why it is still there."""

    record: AclRecord
    kept: str | None


class AclChanges:
    """The ACLs of the state, seen and changed by administrators."""

    def __init__(self, store: AclStore) -> None:
        self._store = store

    def find(self, wanted: AclFilter) -> list[AclRecord]:
        """The ACLs that a filter means."""
        return [record for record in self._store.state.acls.values() if wanted.matches(record.acl)]

    async def create(self, acls: Sequence[Acl]) -> None:
        """Has them all be there, those that were there included. StateUnavailable."""
        await self._store.update(lambda state: add_for_admin(state, acls))

    async def delete(self, filters: Sequence[AclFilter]) -> list[list[Deleted]]:
        """What each filter meant, gone but for what a link keeps. StateUnavailable."""
        found: list[list[Deleted]] = []

        def change(state: State) -> Sequence[Record | Delete]:
            found[:] = [
                [
                    Deleted(record, _kept(kept_by(state, record)))
                    for record in state.acls.values()
                    if wanted.matches(record.acl)
                ]
                for wanted in filters
            ]
            return remove_for_admin(state, (each.record.acl for results in found for each in results))

        await self._store.update(change)
        return found


def _kept(link_names: Sequence[str]) -> str | None:
    if not link_names:
        return None
    names = " and ".join(f"'{name}'" for name in link_names)
    return (
        f"The ACL is kept by cluster link {names}, which follows its source: delete it there, change"
        " acl.filters of the link, or set its acl.sync.enable to false"
    )


class AclRequests:
    """The three requests of clients that were found to be allowed to make them."""

    def __init__(self, changes: AclChanges) -> None:
        self._changes = changes

    async def answer(self, api_key: int, version: int, request: Any) -> bytes:
        """The body of the answer, after what the request wants and can have is done. UnknownElement."""
        match api_key:
            case ApiKey.DESCRIBE_ACLS:
                return self.describe(request, version)
            case ApiKey.CREATE_ACLS:
                return await self._create(request, version)
            case _:
                return await self._delete(request, version)

    def describe(self, request: Any, version: int) -> bytes:
        """The body of the answer to DescribeAcls. UnknownElement."""
        wanted, _ = _filter(request)
        return _described(version, () if wanted is None else self._changes.find(wanted))

    async def _create(self, request: Any, version: int) -> bytes:
        for each in request.creations:
            codes = (each.resource_type, each.resource_pattern_type, each.operation, each.permission_type)
            _check_known(codes)
            if _ANY in codes or each.resource_pattern_type == PatternType.MATCH:
                return _created(version, [_NOT_OF_AN_ACL] * len(request.creations))
        results: list[_Error | None] = []
        acls = []
        for each in request.creations:
            made = _creation(each)
            if isinstance(made, Acl):
                acls.append(made)
            results.append(None if isinstance(made, Acl) else (ErrorCode.invalid_request, made))
        if acls:
            try:
                await self._changes.create(acls)
            except StateUnavailable as error:
                lost = _unwritten(error)
                results = [problem or lost for problem in results]
        return _created(version, results)

    async def _delete(self, request: Any, version: int) -> bytes:
        filters = [_filter(each) for each in request.filters]
        try:
            found = iter(await self._changes.delete([wanted for wanted, _ in filters if wanted is not None]))
        except StateUnavailable as error:
            return _deleted(version, [_unwritten(error)] * len(filters))
        return _deleted(
            version,
            [
                (ErrorCode.invalid_request, problem) if wanted is None else next(found)
                for wanted, problem in filters
            ],
        )


def _unwritten(error: StateUnavailable) -> _Error:
    return ErrorCode.request_timed_out, f"The gateway cannot write its state: {error}"


def _check_known(codes: Iterable[int]) -> None:
    if 0 in codes:
        raise UnknownElement("an element of an ACL is UNKNOWN")


def _filter(each: Any) -> tuple[AclFilter | None, str | None]:
    """The filter of a request; with a code that nobody knows none, and what Kafka says of it."""
    pattern, entry = (
        (each.resource_type_filter, each.pattern_type_filter),
        (each.operation, each.permission_type),
    )
    _check_known((*pattern, *entry))
    try:
        kind, pattern_type = ResourceType(pattern[0]), PatternType(pattern[1])
    except ValueError:
        return None, "Unknown patternFilter."
    try:
        operation, permission = Operation(entry[0]), Permission(entry[1])
    except ValueError:
        return None, "Unknown entryFilter."
    wanted = AclFilter(
        kind,
        pattern_type,
        each.resource_name_filter,
        each.principal_filter,
        each.host_filter,
        operation,
        permission,
    )
    return wanted, None


def _creation(each: Any) -> Acl | str:
    """The ACL to be created, or what Kafka has against it, in Kafka's order."""
    if each.resource_type == ResourceType.CLUSTER and each.resource_name != CLUSTER_NAME:
        return f"The only valid name for the CLUSTER resource is {CLUSTER_NAME}"
    if not each.resource_name:
        return "Invalid empty resource name"
    for kind, code, name in (
        (ResourceType, each.resource_type, "resourceType"),
        (PatternType, each.resource_pattern_type, "patternType"),
        (Operation, each.operation, "operation"),
        (Permission, each.permission_type, "permissionType"),
    ):
        if code not in list(kind):
            return f"Invalid {name} UNKNOWN"
    if ":" not in each.principal:
        return (
            f"Could not parse principal from `{each.principal}` (no colon is present separating the principal"
            " type from the principal name)"
        )
    return Acl(
        ResourceType(each.resource_type),
        PatternType(each.resource_pattern_type),
        each.resource_name,
        each.principal,
        each.host,
        Operation(each.operation),
        Permission(each.permission_type),
    )


def _described(version: int, records: Iterable[AclRecord]) -> bytes:
    made = response_class(ApiKey.DESCRIBE_ACLS, version)
    resource, entry = nested_class(made, "DescribeAclsResource"), nested_class(made, "AclDescription")
    by_resource: dict[tuple[ResourceType, str, PatternType], list[Acl]] = {}
    for record in records:
        acl = record.acl
        by_resource.setdefault((acl.resource_type, acl.name, acl.pattern_type), []).append(acl)
    return encode_response(
        made(
            throttle_time=timedelta(),
            error_code=ErrorCode.none,
            error_message="",
            resources=tuple(
                resource(
                    resource_type=kind,
                    resource_name=name,
                    pattern_type=pattern,
                    acls=tuple(
                        entry(
                            principal=acl.principal,
                            host=acl.host,
                            operation=acl.operation,
                            permission_type=acl.permission,
                        )
                        for acl in each
                    ),
                )
                for (kind, name, pattern), each in by_resource.items()
            ),
        )
    )


def _created(version: int, results: Iterable[_Error | None]) -> bytes:
    made = response_class(ApiKey.CREATE_ACLS, version)
    result = nested_class(made, "AclCreationResult")
    return encode_response(
        made(
            throttle_time=timedelta(),
            results=tuple(_coded(result, each or (ErrorCode.none, "")) for each in results),
        )
    )


def _deleted(version: int, results: Iterable[_Error | list[Deleted]]) -> bytes:
    made = response_class(ApiKey.DELETE_ACLS, version)
    result, entry = nested_class(made, "DeleteAclsFilterResult"), nested_class(made, "DeleteAclsMatchingAcl")
    shown = []
    for each in results:
        if not isinstance(each, list):
            shown.append(_coded(result, each, matching_acls=()))
            continue
        matching = tuple(_matching(entry, found) for found in each)
        shown.append(_coded(result, None, matching_acls=matching))
    return encode_response(made(throttle_time=timedelta(), filter_results=tuple(shown)))


def _matching(made: Any, found: Deleted) -> Any:
    record = found.record
    return _coded(
        made,
        None if found.kept is None else (ErrorCode.invalid_request, found.kept),
        resource_type=record.resource_type,
        resource_name=record.resource_name,
        pattern_type=record.pattern_type,
        principal=record.principal,
        host=record.host,
        operation=record.operation,
        permission_type=record.permission,
    )


def _coded(made: Any, error: _Error | None, **fields: Any) -> Any:
    code, text = error or (ErrorCode.none, None)
    return made(error_code=code, error_message=text, **fields)
