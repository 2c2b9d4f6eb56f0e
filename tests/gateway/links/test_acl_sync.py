"""AclSync over a source that answers DescribeAcls as a broker, or as one that means harm."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

import pytest
import structlog
from kio.schema.errors import ErrorCode

from gateway.links import acl_sync
from gateway.links.acl_sync import AclSync
from gateway.links.link_tasks import LinkTask, config_of
from gateway.links.requests import TaskState
from gateway.state.acl_changes import add_for_admin, follow_link
from gateway.state.records import Delete, LinkRecord
from gateway.state.store import Store
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.errors import ConnectFailed
from protocol.acl_filters import AclFilter
from protocol.acls import Acl, Operation, PatternType, Permission, ResourceType
from protocol.api_keys import ApiKey
from protocol.messages import decode_response, encode_response, response_class
from tests.e2e.raw_client import fill
from tests.fakes.links import link_record
from tests.fakes.store import FakeStore
from tests.gateway.security.acl_cases import acl

ALICE = acl("allow read topic literal orders User:alice *")
BOB = acl("deny all topic prefixed o User:bob *")
GROUP = acl("allow read group literal g User:alice *")
OURS = acl("allow all topic literal _causeway-state User:alice *")
TOPICS = {"resourceFilter": {"resourceType": "topic"}, "accessFilter": {}}
GROUPS = {"resourceFilter": {"resourceType": "group"}, "accessFilter": {}}


class Source:
    """A source cluster; `acls` are bindings as a broker has them, `strange` entries are sent too."""

    def __init__(self, *acls: Acl) -> None:
        self.acls = set(acls)
        self.strange: list[tuple[int, int, str, str, str, int, int]] = []
        self.heeds_filters = True
        self.error: tuple[ErrorCode, str | None] = (ErrorCode.none, None)
        self.failure: Exception | None = None
        self.version = 3
        self.asked = 0

    async def request(self, message: Any, *, timeout_s: float, idempotent: bool) -> Any:
        if self.failure is not None:
            raise self.failure
        self.asked += 1
        asked = message(self)
        wanted = AclFilter(
            ResourceType(asked.resource_type_filter),
            PatternType(asked.pattern_type_filter),
            asked.resource_name_filter,
            asked.principal_filter,
            asked.host_filter,
            Operation(asked.operation),
            Permission(asked.permission_type),
        )
        found = [
            (each.resource_type, each.pattern_type, each.name, each.principal, each.host, each.operation,
             each.permission)
            for each in self.acls
            if not self.heeds_filters or wanted.matches(each)
        ]  # fmt: skip
        return self._response([*found, *self.strange] if not self.error[0] else [])

    def pick_version(self, key: int, lowest: int, highest: int) -> int:
        assert key == ApiKey.DESCRIBE_ACLS
        assert lowest <= self.version <= highest
        return self.version

    def _response(self, entries: Iterable[tuple[Any, ...]]) -> Any:
        made = response_class(ApiKey.DESCRIBE_ACLS, self.version)
        resources = [
            {
                "resource_type": kind,
                "pattern_type": pattern,
                "resource_name": name,
                "acls": [
                    {"principal": who, "host": host, "operation": operation, "permission_type": permission}
                ],
            }
            for kind, pattern, name, who, host, operation, permission in entries
        ]
        response = fill(
            made, {"error_code": self.error[0], "error_message": self.error[1], "resources": resources}
        )
        return decode_response(ApiKey.DESCRIBE_ACLS, self.version, encode_response(response))


class Lab:
    """A link and its task, over a state in memory."""

    def __init__(self, source: Source, *filters: Any, enforced: bool = True, **configs: str) -> None:
        self.source = source
        self.store = FakeStore()
        self.configure(*filters, **configs)
        self.work = AclSync(
            self.record, cast("Cluster", source), cast("Store", self.store), enforced=enforced
        )
        self.task = LinkTask(self.work, self.record)

    def configure(self, *filters: Any, **configs: str) -> None:
        given = {
            "acl.sync.enable": "true",
            **{key.replace("_", "."): value for key, value in configs.items()},
        }
        if filters:
            given["acl.filters"] = json.dumps({"aclFilters": filters})
        self.record: LinkRecord = link_record("L").model_copy(update={"configs": given})
        self.store._apply([self.record])

    async def sync(self) -> list[tuple[str, str]]:
        self.task.follow(self.record)
        errors = await self.task.run_once()
        return [(error.error_code, error.error_message) for error in errors]

    @property
    def acls(self) -> dict[Acl, tuple[bool, tuple[str, ...]]]:
        return {each.acl: (each.admin, each.link_names) for each in self.store.state.acls.values()}


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_what_the_filters_name_follows_the_source(version: int) -> None:
    source = Source(ALICE, BOB, GROUP)
    source.version = version
    lab = Lab(source, TOPICS)
    assert await lab.sync() == []
    assert lab.acls == {ALICE: (False, ("L",)), BOB: (False, ("L",))}
    source.acls = {BOB, acl("allow write topic literal orders User:alice *")}
    assert await lab.sync() == []
    assert set(lab.acls) == source.acls
    source.acls = set()
    assert await lab.sync() == []
    assert lab.acls == {}


async def test_several_filters_add_up_and_nothing_is_written_without_need() -> None:
    lab = Lab(Source(ALICE, BOB, GROUP), TOPICS, GROUPS)
    await lab.sync()
    assert set(lab.acls) == {ALICE, BOB, GROUP}
    state = lab.store.state
    await lab.sync()
    assert lab.store.state is state
    assert lab.source.asked == 4


async def test_nobody_elses_acls_are_touched() -> None:
    lab = Lab(Source(ALICE), TOPICS)
    own = acl("allow all topic literal x User:admin *")
    lab.store._apply(add_for_admin(lab.store.state, [own, ALICE]))
    lab.store._apply(follow_link(lab.store.state, "M", [BOB, GROUP]))
    await lab.sync()
    assert lab.acls[ALICE] == (True, ("L",))
    lab.source.acls = set()
    await lab.sync()
    assert lab.acls == {own: (True, ()), ALICE: (True, ()), BOB: (False, ("M",)), GROUP: (False, ("M",))}


async def test_two_links_may_bring_the_same() -> None:
    lab = Lab(Source(ALICE), TOPICS)
    lab.store._apply(follow_link(lab.store.state, "M", [ALICE]))
    await lab.sync()
    assert lab.acls == {ALICE: (False, ("L", "M"))}
    lab.source.acls = set()
    await lab.sync()
    assert lab.acls == {ALICE: (False, ("M",))}


async def test_permissions_on_the_whole_cluster_are_named_when_they_come() -> None:
    lab = Lab(Source(acl("allow alter cluster literal kafka-cluster User:eve *"), ALICE), {**TOPICS})
    lab.configure({"resourceFilter": {"resourceType": "any"}, "accessFilter": {}})
    with structlog.testing.capture_logs() as logs:
        await lab.sync()
        await lab.sync()
    named = [line for line in logs if line["event"] == "acl_sync.cluster_grant"]
    assert [(each["principal"], each["operation"]) for each in named] == [("User:eve", "ALTER")]


async def test_narrower_filters_let_go() -> None:
    lab = Lab(Source(ALICE, GROUP), TOPICS, GROUPS)
    await lab.sync()
    lab.configure(GROUPS)
    await lab.sync()
    assert set(lab.acls) == {GROUP}


async def test_a_source_that_sends_more_than_was_asked_for_widens_nothing() -> None:
    source = Source(ALICE, BOB, GROUP)
    source.heeds_filters = False
    lab = Lab(source, GROUPS)
    assert await lab.sync() == []
    assert set(lab.acls) == {GROUP}


async def test_the_gateways_own_names_are_out_of_reach() -> None:
    lab = Lab(Source(ALICE, OURS), TOPICS)
    assert await lab.sync() == []
    assert set(lab.acls) == {ALICE}


@pytest.mark.parametrize(
    "strange",
    [
        (2, 3, "t", "alice", "*", 3, 3),
        (2, 3, "", "User:a", "*", 3, 3),
        (99, 3, "t", "User:a", "*", 3, 3),
        (2, 2, "t", "User:a", "*", 3, 3),
        (2, 3, "t", "User:a", "*", 1, 3),
        (2, 3, "t", "User:a", "*", 99, 3),
        (2, 3, "t", "User:a", "*", 3, 0),
    ],
)
async def test_what_cannot_be_read_whole_changes_nothing(strange: tuple[Any, ...]) -> None:
    lab = Lab(Source(ALICE), TOPICS)
    await lab.sync()
    lab.source.acls = {BOB}
    lab.source.strange = [strange]
    ((code, text),) = await lab.sync()
    assert code == acl_sync.SOURCE_ERROR
    assert "stay as they are" in text
    assert set(lab.acls) == {ALICE}
    assert lab.task.view().state is TaskState.IN_ERROR


async def test_too_many_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acl_sync, "MAX_ACLS", 5)
    lab = Lab(Source(ALICE), TOPICS, GROUPS)
    await lab.sync()
    many = {acl(f"allow read topic literal t{at} User:a *") for at in range(6)}
    lab.source.acls = many
    ((code, text),) = await lab.sync()
    assert (code, "6 ACLs" in text) == (acl_sync.SOURCE_ERROR, True)
    # Each filter within its limit, all together not.
    lab.source.acls = {*list(many)[:3], *(acl(f"allow read group literal g{at} User:a *") for at in range(3))}
    ((code, text),) = await lab.sync()
    assert (code, "6 ACLs" in text) == (acl_sync.SOURCE_ERROR, True)
    assert set(lab.acls) == {ALICE}
    monkeypatch.setattr(acl_sync, "MAX_ACL_BYTES", 100)
    lab.source.acls = {acl(f"allow read topic literal {'t' * 200} User:a *")}
    ((code, _),) = await lab.sync()
    assert code == acl_sync.SOURCE_ERROR
    assert set(lab.acls) == {ALICE}


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ErrorCode.security_disabled, "NOT_SUPPORTED_ERROR", "has no authorizer"),
        (ErrorCode.cluster_authorization_failed, "AUTHORIZATION_ERROR", "DESCRIBE on the cluster"),
        (ErrorCode.unknown_server_error, acl_sync.SOURCE_ERROR, "cannot be taken over"),
    ],
)
async def test_a_source_that_refuses_changes_nothing(error: ErrorCode, code: str, words: str) -> None:
    lab = Lab(Source(ALICE), TOPICS)
    await lab.sync()
    lab.source.error = (error, "no")
    ((found, text),) = await lab.sync()
    assert found == code
    assert words in text
    assert "stay as they are" in text
    assert set(lab.acls) == {ALICE}
    lab.source.error = (ErrorCode.none, None)
    assert await lab.sync() == []
    assert lab.task.view().state is TaskState.ACTIVE


async def test_a_source_that_is_away_changes_nothing() -> None:
    lab = Lab(Source(ALICE), TOPICS)
    await lab.sync()
    lab.source.failure = ConnectFailed("away")
    ((code, _),) = await lab.sync()
    assert code == "BOOTSTRAP_TCP_CONNECTION_FAILED_ERROR"
    assert set(lab.acls) == {ALICE}


@pytest.mark.parametrize("what", ["gone", "another", "off", "filters"])
async def test_a_link_that_changed_meanwhile_writes_nothing(what: str) -> None:
    lab = Lab(Source(ALICE), TOPICS)
    config = config_of(lab.record)
    match what:
        case "gone":
            lab.store._apply([Delete("link", "L")])
        case "another":
            lab.store._apply([lab.record.model_copy(update={"cluster_link_id": "another"})])
        case "off":
            lab.configure(TOPICS, acl_sync_enable="false")
        case _:
            lab.configure(GROUPS)
    assert await lab.work.run(config) == ()
    assert lab.acls == {}


def _problems(lab: Lab) -> list[tuple[str, str]]:
    view = lab.task.view()
    assert view.state is TaskState.IN_ERROR
    return [(error.error_code, error.error_message) for error in view.errors]


def test_without_filters_it_says_so_at_once() -> None:
    ((code, text),) = _problems(Lab(Source()))
    assert code == "MISCONFIGURATION_ERROR"
    assert text == (
        "ACL migration is enabled but acl.filters is not set."
        " Please set acl.filters to proceed with ACL migration."
    )
    assert len(_problems(Lab(Source(), acl_filters='{"aclFilters":[]}'))) == 1


def test_other_problems_are_said_at_once() -> None:
    ((_, text),) = _problems(Lab(Source(), TOPICS, cluster_link_prefix="p-"))
    assert "cluster.link.prefix" in text
    ((_, text),) = _problems(Lab(Source(), TOPICS, enforced=False))
    assert "authorization: none" in text
    ((_, text),) = _problems(Lab(Source(), acl_filters="{"))
    assert "acl.filters is not JSON" in text


def test_off_is_off() -> None:
    assert Lab(Source(), acl_sync_enable="false").task.view().state is TaskState.NOT_CONFIGURED
