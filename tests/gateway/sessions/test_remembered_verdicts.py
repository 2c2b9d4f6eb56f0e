"""A request that passed is known again while the ACLs are the same ones, and the audit is told each time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway import observe
from gateway.security.acls import Acls
from gateway.sessions import authorization
from gateway.sessions.client_gate import ClientGate
from gateway.sessions.request_path import Refuse
from protocol.acls import Acl, Operation, PatternType, Permission, ResourceType
from protocol.api_keys import ApiKey
from protocol.headers import RequestHeader, encode_request_header, peek_request_header
from protocol.messages import decode_request, encode_request
from tests.e2e.raw_client import batch, make, produce
from tests.fakes.broker import FakeBroker
from tests.gateway.sessions.lab import PLAIN_ID, heartbeat, lab


def may_describe(*names: str) -> Acls:
    group = Acl(ResourceType.GROUP, PatternType.LITERAL, "*", "User:*", "*", Operation.READ, Permission.ALLOW)
    return Acls(
        [
            group,
            *(
                Acl(
                    ResourceType.TOPIC,
                    PatternType.LITERAL,
                    name,
                    "User:ANONYMOUS",
                    "*",
                    Operation.DESCRIBE,
                    Permission.ALLOW,
                )
                for name in names
            ),
        ]
    )


class Client:
    """What a client's gate decides at once, by the ACLs of now; counts how often a request is decoded."""

    def __init__(self, acls: Acls, monkeypatch: pytest.MonkeyPatch) -> None:
        self.acls: Acls | None = acls
        self.gate: ClientGate | None = None
        self.decoded = 0

        def counted(*arguments: Any, **more: Any) -> Any:
            self.decoded += 1
            return decode_request(*arguments, **more)

        monkeypatch.setattr(authorization, "decode_request", counted)

    def passes(self, request: Any) -> bool:
        header, frame = framed(request)
        assert self.gate is not None
        return self.gate.decide_at_once(header, frame) is not None


def framed(request: Any) -> tuple[RequestHeader, bytearray]:
    key, version = int(request.__api_key__), int(request.__version__)
    frame = bytearray(encode_request_header(key, version, 7, "test") + encode_request(request))
    return peek_request_header(frame), frame


def list_offsets(*topics: str, version: int = 8) -> Any:
    asked = [{"name": topic, "partitions": [{"partition_index": 0}]} for topic in topics]
    return make(ApiKey.LIST_OFFSETS, version, replica_id=-1, topics=asked)


def with_list_offsets(broker: FakeBroker) -> None:
    broker.versions[ApiKey.LIST_OFFSETS] = (1, 8)


def allowed_count() -> float:
    return float(observe.decisions.labels("LIST_OFFSETS", "allowed")._value.get())


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    made = Client(may_describe("a", "b"), monkeypatch)
    async with lab(acls=lambda: made.acls, super_users=frozenset(), prepare=with_list_offsets) as here:
        await (await here.client()).call(heartbeat())
        made.gate = here.sessions[0]._gate
        yield made


async def test_the_same_request_is_judged_once(client: Client) -> None:
    before = allowed_count()
    assert [client.passes(list_offsets("a", "b")) for _ in range(3)] == [True] * 3
    assert client.decoded == 1
    assert allowed_count() - before == 6
    # Anything else is looked at: other topics, another version.
    assert client.passes(list_offsets("a"))
    assert client.passes(list_offsets("a", version=7))
    assert not client.passes(list_offsets("a", "c", version=7))
    assert client.decoded == 4


async def test_a_change_of_acls_is_a_new_question(client: Client) -> None:
    assert client.passes(list_offsets("a"))
    client.acls = may_describe("b")
    assert not client.passes(list_offsets("a"))
    client.acls = may_describe("a")
    assert client.passes(list_offsets("a"))
    # Nothing passes while they are not known.
    client.acls = None
    assert not client.passes(list_offsets("a"))


async def test_what_names_topics_by_id_or_is_long_is_looked_at_each_time(client: Client) -> None:
    client.acls = may_describe("plain", "a")
    by_id = make(ApiKey.METADATA, 12, topics=[{"topic_id": PLAIN_ID, "name": None}])
    assert [client.passes(by_id) for _ in range(2)] == [True, True]
    long = make(
        ApiKey.LIST_OFFSETS,
        8,
        replica_id=-1,
        topics=[{"name": "a", "partitions": [{"partition_index": p} for p in range(100)]}],
    )
    assert [client.passes(long) for _ in range(2)] == [True, True]
    assert client.decoded == 4


async def test_while_the_acls_are_not_known_a_producer_is_told_off_for_that(client: Client) -> None:
    """Not as a client that has closed its connection, of which the log says nothing."""
    client.acls = None
    assert client.gate is not None
    header, frame = framed(produce(9, {"plain": batch(b"x")}))
    decision = await client.gate.decide(header, frame)
    assert isinstance(decision, Refuse)
    assert "ACLs are not known" in decision.reason
