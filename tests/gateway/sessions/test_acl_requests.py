"""DescribeAcls, CreateAcls, DeleteAcls: the expected answers are those of a broker of Kafka 4.3.0."""

from __future__ import annotations

from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from gateway.sessions.acl_requests import AclChanges, AclRequests, UnknownElement
from gateway.state.acl_changes import add_for_admin, follow_link
from gateway.state.store import StateUnavailable
from protocol.acls import Acl, Operation, PatternType, ResourceType
from protocol.api_keys import ApiKey
from protocol.messages import decode_response
from tests.e2e.raw_client import make
from tests.fakes.links import link_record
from tests.fakes.store import FakeStore
from tests.gateway.security.acl_cases import acl

ONE = acl("allow read topic literal t User:a *")
TWO = acl("deny all group prefixed g User:b 10.0.0.1")
VERSIONS = (1, 2, 3)


def creation(**changes: Any) -> dict[str, Any]:
    usual = {
        "resource_type": 2,
        "resource_name": "t",
        "resource_pattern_type": 3,
        "principal": "User:a",
        "host": "*",
        "operation": 3,
        "permission_type": 3,
    }
    return usual | changes


def wanted(**changes: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "resource_type_filter": 1,
        "resource_name_filter": None,
        "pattern_type_filter": 1,
        "principal_filter": None,
        "host_filter": None,
        "operation": 1,
        "permission_type": 1,
    }
    return usual | changes


class Here:
    def __init__(self, *acls: Acl) -> None:
        self.store = FakeStore()
        self.store._apply(add_for_admin(self.store.state, acls))
        self.requests = AclRequests(AclChanges(self.store))

    async def ask(self, key: ApiKey, version: int = 3, **fields: Any) -> Any:
        request = make(key, version, **fields)
        return decode_response(key, version, await self.requests.answer(key, version, request))

    async def create(
        self, *creations: dict[str, Any], version: int = 3
    ) -> list[tuple[ErrorCode, str | None]]:
        answer = await self.ask(ApiKey.CREATE_ACLS, version, creations=list(creations))
        return [(result.error_code, result.error_message) for result in answer.results]

    @property
    def acls(self) -> set[Acl]:
        return {record.acl for record in self.store.state.acls.values()}


@pytest.mark.parametrize("version", VERSIONS)
async def test_created_described_and_deleted(version: int) -> None:
    here = Here()
    group = creation(
        resource_type=3,
        resource_name="g",
        resource_pattern_type=4,
        principal="User:b",
        host="10.0.0.1",
        operation=2,
        permission_type=2,
    )
    assert await here.create(creation(), group, creation(), version=version) == [(ErrorCode.none, "")] * 3
    assert here.acls == {ONE, TWO}
    described = await here.ask(ApiKey.DESCRIBE_ACLS, version, **wanted())
    assert described.error_code == ErrorCode.none
    assert {(each.resource_type, each.resource_name, each.pattern_type) for each in described.resources} == {
        (2, "t", 3),
        (3, "g", 4),
    }
    (entry,) = next(each for each in described.resources if each.resource_name == "g").acls
    assert (entry.principal, entry.host, entry.operation, entry.permission_type) == (
        "User:b",
        "10.0.0.1",
        2,
        2,
    )
    deleted = await here.ask(
        ApiKey.DELETE_ACLS, version, filters=[wanted(principal_filter="User:b"), wanted(host_filter="no")]
    )
    first, second = deleted.filter_results
    (gone,) = first.matching_acls
    assert (gone.error_code, gone.resource_name, gone.principal) == (ErrorCode.none, "g", "User:b")
    assert (first.error_code, second.error_code, second.matching_acls) == (ErrorCode.none, ErrorCode.none, ())
    assert here.acls == {ONE}


async def test_acls_of_one_resource_are_described_together() -> None:
    here = Here(ONE, acl("allow write topic literal t User:a *"), TWO)
    described = await here.ask(ApiKey.DESCRIBE_ACLS, **wanted(resource_type_filter=2))
    (resource,) = described.resources
    assert {entry.operation for entry in resource.acls} == {3, 4}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"resource_type": 99}, "Invalid resourceType UNKNOWN"),
        ({"resource_pattern_type": 99}, "Invalid patternType UNKNOWN"),
        ({"operation": 99}, "Invalid operation UNKNOWN"),
        ({"permission_type": -1}, "Invalid permissionType UNKNOWN"),
        ({"resource_name": ""}, "Invalid empty resource name"),
        (
            {"principal": "alice"},
            (
                "Could not parse principal from `alice` (no colon is present separating the principal"
                " type from the principal name)"
            ),
        ),
        (
            {"resource_type": 4, "resource_name": "x"},
            "The only valid name for the CLUSTER resource is kafka-cluster",
        ),
    ],
)
async def test_what_cannot_be_created_keeps_nothing_else_back(changes: dict[str, Any], text: str) -> None:
    here = Here()
    answer = await here.create(creation(**changes), creation())
    assert answer == [(ErrorCode.invalid_request, text), (ErrorCode.none, "")]
    assert here.acls == {ONE}


@pytest.mark.parametrize(
    "changes",
    [
        {"principal": ":a"},
        {"principal": "User:"},
        {"host": "not a host"},
        {"host": ""},
        {"operation": 9},
        {"resource_name": "a b/!"},
        {"resource_type": 4, "resource_name": "kafka-cluster", "resource_pattern_type": 4},
    ],
)
async def test_what_kafka_takes_too(changes: dict[str, Any]) -> None:
    here = Here()
    assert await here.create(creation(**changes)) == [(ErrorCode.none, "")]
    assert len(here.acls) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"resource_type": 1},
        {"resource_pattern_type": 1},
        {"resource_pattern_type": 2},
        {"operation": 1},
        {"permission_type": 1},
    ],
)
async def test_words_of_filters_fail_the_whole_request(changes: dict[str, Any]) -> None:
    here = Here()
    assert await here.create(creation(), creation(**changes)) == [(ErrorCode.unknown_server_error, None)] * 2
    assert here.acls == set()


@pytest.mark.parametrize("key", [ApiKey.DESCRIBE_ACLS, ApiKey.CREATE_ACLS, ApiKey.DELETE_ACLS])
async def test_unknown_elements_end_the_connection(key: ApiKey) -> None:
    here = Here()
    bad = {
        ApiKey.DESCRIBE_ACLS: wanted(operation=0),
        ApiKey.CREATE_ACLS: {"creations": [creation(), creation(resource_type=0)]},
        ApiKey.DELETE_ACLS: {"filters": [wanted(), wanted(pattern_type_filter=0)]},
    }
    with pytest.raises(UnknownElement):
        await here.ask(key, **bad[key])
    assert here.acls == set()


async def test_codes_that_nobody_knows_mean_nothing() -> None:
    here = Here(ONE)
    assert (await here.ask(ApiKey.DESCRIBE_ACLS, **wanted(pattern_type_filter=77))).resources == ()
    assert (await here.ask(ApiKey.DESCRIBE_ACLS, **wanted(operation=77))).resources == ()
    answer = await here.ask(
        ApiKey.DELETE_ACLS, filters=[wanted(resource_type_filter=77), wanted(operation=77), wanted()]
    )
    pattern, entry, fine = answer.filter_results
    assert (pattern.error_code, pattern.error_message) == (
        ErrorCode.invalid_request,
        "Unknown patternFilter.",
    )
    assert (entry.error_code, entry.error_message) == (ErrorCode.invalid_request, "Unknown entryFilter.")
    assert len(fine.matching_acls) == 1
    assert here.acls == set()


async def test_an_acl_of_a_link_is_not_deleted_by_hand() -> None:
    here = Here(ONE)
    here.store._apply([link_record("cloud-link").model_copy(update={"configs": {"acl.sync.enable": "true"}})])
    here.store._apply(follow_link(here.store.state, "cloud-link", [TWO]))
    answer = await here.ask(ApiKey.DELETE_ACLS, filters=[wanted()])
    results = {each.principal: each for each in answer.filter_results[0].matching_acls}
    assert results["User:a"].error_code == ErrorCode.none
    assert results["User:b"].error_code == ErrorCode.invalid_request
    assert "kept by cluster link 'cloud-link'" in results["User:b"].error_message
    assert here.acls == {TWO}
    # Nor by asking for it first.
    await here.create(creation(), creation(resource_type=3, resource_name="g", resource_pattern_type=4))
    here.store._apply(add_for_admin(here.store.state, [TWO]))
    answer = await here.ask(ApiKey.DELETE_ACLS, filters=[wanted(principal_filter="User:b")])
    assert answer.filter_results[0].matching_acls[0].error_code == ErrorCode.invalid_request
    assert TWO in here.acls


async def test_an_acl_of_a_link_that_no_longer_syncs_may_be_deleted() -> None:
    here = Here()
    here.store._apply(
        [link_record("cloud-link").model_copy(update={"configs": {"acl.sync.enable": "false"}})]
    )
    here.store._apply(follow_link(here.store.state, "cloud-link", [TWO]))
    answer = await here.ask(ApiKey.DELETE_ACLS, filters=[wanted()])
    assert answer.filter_results[0].matching_acls[0].error_code == ErrorCode.none
    assert here.acls == set()


async def test_a_state_that_cannot_be_written_is_said() -> None:
    here = Here(ONE)
    here.store.failure = StateUnavailable("gone")
    bad, fine = await here.create(creation(resource_name=""), creation(resource_name="u"))
    assert bad[0] == ErrorCode.invalid_request
    assert fine == (ErrorCode.request_timed_out, "The gateway cannot write its state: gone")
    answer = await here.ask(ApiKey.DELETE_ACLS, filters=[wanted(), wanted()])
    assert {each.error_code for each in answer.filter_results} == {ErrorCode.request_timed_out}
    assert here.acls == {ONE}


async def test_nothing_to_create_writes_nothing() -> None:
    here = Here()
    here.store.failure = StateUnavailable("not asked")
    assert await here.create() == []


def test_what_a_filter_finds_is_what_it_means() -> None:
    here = Here(ONE, TWO)
    (found,) = AclChanges(here.store).find(_filter(PatternType.MATCH, "gx"))
    assert found.acl == TWO


def _filter(pattern: PatternType, name: str) -> Any:
    from protocol.acl_filters import AclFilter

    return AclFilter(ResourceType.GROUP, pattern, name, operation=Operation.ALL)
