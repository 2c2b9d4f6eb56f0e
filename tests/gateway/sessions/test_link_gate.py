"""The link gate's tables against every message schema; tests/e2e tries it on real brokers."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from gateway.sessions.acl_requests import AclChanges, AclRequests
from gateway.sessions.link_gate import (
    GROUP_FIELDS,
    TOPIC_FIELDS,
    TOPIC_ID_FIELDS,
    TRANSACTION_FIELDS,
    LinkGate,
    TopicCatalog,
)
from gateway.sessions.request_path import Forward, Refuse, Reply
from gateway.state.acl_changes import add_for_admin
from gateway.upstreams.metadata import ClusterMetadata, TopicMetadata
from protocol.api_keys import ApiKey
from protocol.api_versions import LINK_APIS, link_versions
from protocol.errors import TooLargeToDecode
from protocol.fields import encode_uvarint
from protocol.headers import encode_request_header, peek_request_header
from protocol.messages import (
    decode_response,
    encode_request,
    encode_response,
    request_class,
    response_class,
)
from tests.e2e.raw_client import make
from tests.fakes.store import FakeStore
from tests.gateway.security.acl_cases import acl
from tests.protocol.judges import blank

NAMES = TOPIC_FIELDS | GROUP_FIELDS | TRANSACTION_FIELDS | TOPIC_ID_FIELDS
# A resource may be a topic, a group or else; the gate looks at its type.
RESOURCES = {"resource_name"}
OTHER_REQUEST_TEXT = {
    "cluster_id",
    "configuration_keys",
    "host_filter",
    "member_id",
    "principal_filter",
    "rack_id",
    "replica_directory_id",
    "resource_name_filter",
    "states_filter",
    "state_filters",
    "transactional_id_pattern",
    "types_filter",
}
OTHER_RESPONSE_TEXT = {
    "client_host",
    "client_id",
    "cluster_id",
    "documentation",
    "error_message",
    "group_instance_id",
    "group_state",
    "group_type",
    "host",
    "member_id",
    "metadata",
    "principal",
    "protocol_data",
    "protocol_type",
    "rack",
    "transaction_state",
    "unknown_state_filters",
    "value",
}


def text_fields(message: Any) -> Iterator[str]:
    for field in dataclasses.fields(message):
        for part in parts_of(field.type):
            if dataclasses.is_dataclass(part):
                yield from text_fields(part)
            elif isinstance(part, type) and issubclass(part, str | UUID):
                yield field.name


def parts_of(declared: Any) -> Iterator[Any]:
    arguments = typing.get_args(declared)
    if not arguments:
        yield getattr(declared, "__supertype__", declared)
    for argument in arguments:
        yield from parts_of(argument)


@pytest.mark.parametrize("api_key", sorted(LINK_APIS))
def test_every_text_and_id_of_a_link_request_is_known_for_what_it_is(api_key: int) -> None:
    lowest, highest = link_versions()[api_key]
    for version in range(lowest, highest + 1):
        assert set(text_fields(request_class(api_key, version))) <= NAMES | RESOURCES | OTHER_REQUEST_TEXT
        assert set(text_fields(response_class(api_key, version))) <= NAMES | RESOURCES | OTHER_RESPONSE_TEXT


class Topics:
    """A cluster with topics, which counts how often it is asked."""

    def __init__(self) -> None:
        self.topics: dict[str, TopicMetadata] = {}
        self.asked = 0

    def add(self, name: str, topic_id: int, *, is_internal: bool = False) -> None:
        self.topics[name] = TopicMetadata(ErrorCode.none, UUID(int=topic_id), {}, is_internal)

    async def metadata(self, topics: list[str] | None) -> ClusterMetadata:
        assert topics is None
        self.asked += 1
        return ClusterMetadata("c", 1, {}, dict(self.topics))


async def test_the_catalog_reads_again_for_a_new_id_but_not_for_every_made_up_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("gateway.sessions.link_gate.time.monotonic", lambda: now)
    topics = Topics()
    topics.add("a", 1)
    catalog = TopicCatalog(topics)
    await catalog.know(set())
    await catalog.know({UUID(int=1)})
    assert (topics.asked, catalog.name(UUID(int=1))) == (1, "a")
    topics.add("b", 2)
    await catalog.know({UUID(int=2)})
    assert catalog.name(UUID(int=2)) is None, "asked a moment ago"
    now += 1.1
    await catalog.know({UUID(int=2)})
    assert (topics.asked, catalog.name(UUID(int=2))) == (2, "b")
    for made_up in range(50, 60):
        await catalog.know({UUID(int=made_up)})
    assert topics.asked == 2


async def test_what_the_brokers_call_internal_is_internal_and_kafkas_own_topics_always() -> None:
    topics = Topics()
    topics.add("__special", 3, is_internal=True)
    topics.add("__mine", 4)
    catalog = TopicCatalog(topics)
    assert catalog.is_internal("__consumer_offsets")
    await catalog.know(set())
    assert [catalog.is_internal(name) for name in ("__special", "__mine", "__transaction_state")] == [
        True,
        False,
        True,
    ]


async def test_a_request_of_many_small_things_is_not_decoded() -> None:
    """Half a second and 25 MiB for a frame that the other side makes in no time."""
    gate = LinkGate(link_versions(), TopicCatalog(Topics()))
    body = encode_uvarint(70_001) + b"\x02a\x00" * 70_000 + bytes(4)
    frame = bytearray(encode_request_header(ApiKey.METADATA, 9, 1, "other") + body)
    with pytest.raises(TooLargeToDecode):
        await gate.decide(peek_request_header(frame), frame)


async def test_where_this_gateway_has_acls_they_are_what_the_other_side_is_shown() -> None:
    store = FakeStore()
    shown = acl("allow read topic literal t User:a *")
    hidden = [
        acl("allow read topic literal _causeway-state User:a *"),
        acl("allow read group literal _causeway-work User:a *"),
        acl("allow read topic literal __consumer_offsets User:a *"),
    ]
    store._apply(add_for_admin(store.state, [shown, *hidden]))
    gate = LinkGate(link_versions(), TopicCatalog(Topics()), acls=AclRequests(AclChanges(store)))

    async def ask(**changes: Any) -> Any:
        anything = {"resource_type_filter": 1, "pattern_type_filter": 1, "operation": 1, "permission_type": 1}
        request = make(ApiKey.DESCRIBE_ACLS, 3, **{**anything, **changes})
        header = encode_request_header(ApiKey.DESCRIBE_ACLS, 3, 1, "other")
        frame = bytearray(header + encode_request(request))
        return await gate.decide(peek_request_header(frame), frame)

    answer = await ask()
    assert isinstance(answer, Reply)
    found = decode_response(ApiKey.DESCRIBE_ACLS, 3, answer.body)
    assert [each.resource_name for each in found.resources] == ["t"]
    assert isinstance(await ask(operation=0), Refuse)


async def test_what_members_of_groups_subscribe_to_is_not_told() -> None:
    """It names topics that do not exist for the other side."""
    gate = LinkGate(link_versions(), TopicCatalog(Topics()), allowed=lambda name: name == "open")
    request = make(ApiKey.DESCRIBE_GROUPS, 5, groups=("g",))
    frame = bytearray(encode_request_header(ApiKey.DESCRIBE_GROUPS, 5, 1, "other") + encode_request(request))
    decision = await gate.decide(peek_request_header(frame), frame)
    assert isinstance(decision, Forward)
    assert decision.finish is not None
    member = {"member_id": "m", "member_metadata": b"hidden topic", "member_assignment": b"hidden topic"}
    groups = [{"group_id": "g", "group_state": "Stable", "members": [member | {"client_host": "/10.0.0.1"}]}]
    response = bytearray(b"\0\0\0\1\0") + encode_response(blank(request, groups=groups))
    shown = decode_response(ApiKey.DESCRIBE_GROUPS, 5, b"".join(decision.finish(response))[5:])
    (told,) = shown.groups[0].members
    assert (told.member_id, told.client_host) == ("m", "")
    assert (told.member_metadata, told.member_assignment) == (b"", b"")
