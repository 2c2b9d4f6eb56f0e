"""What the gate decides where a request arrives must be what it would decide after all: never more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import chain, combinations
from typing import Any
from uuid import UUID

import pytest

from gateway.sessions.client_gate import ClientGate
from protocol.api_keys import ApiKey
from protocol.errors import DecodeError
from protocol.headers import RequestHeader, encode_request_header, peek_request_header
from protocol.messages import encode_request
from tests.e2e.raw_client import batch, make, produce
from tests.gateway.sessions.lab import MIRROR_ID, PLAIN_ID, STATE_TOPIC_ID, Lab, Mirrors, heartbeat, lab

NAMES = ("plain", "other", "mirror", "_causeway-state")
IDS = (PLAIN_ID, MIRROR_ID, STATE_TOPIC_ID, UUID(int=99))


@pytest.fixture
async def here() -> AsyncIterator[Lab]:
    async with lab() as made:
        made.mirrors.mirrors = {"mirror": "mirror", MIRROR_ID: "mirror"}
        await (await made.client()).call(heartbeat())
        made.mirrors.known = {*NAMES[:3], *IDS[:2]}
        yield made


@pytest.fixture
def gate(here: Lab) -> ClientGate:
    return here.sessions[0]._gate


@pytest.fixture
def mirrors(here: Lab) -> Mirrors:
    return here.mirrors


def framed(request: Any) -> tuple[RequestHeader, bytearray]:
    key, version = int(request.__api_key__), int(request.__version__)
    frame = bytearray(encode_request_header(key, version, 7, "test") + encode_request(request))
    return peek_request_header(frame), frame


@pytest.mark.parametrize("acks", [-1, 0])
@pytest.mark.parametrize(("version", "every"), [(3, NAMES), (9, NAMES), (13, IDS)])
async def test_nothing_is_produced_at_once_that_would_be_refused(
    gate: ClientGate, version: int, every: tuple[str | UUID, ...], acks: int
) -> None:
    for topics in chain.from_iterable(combinations(every, count) for count in range(4)):
        data = dict.fromkeys(topics, batch(b"x"))
        for transaction in (None, "mine", "_causeway-state"):
            header, frame = framed(produce(version, data, acks=acks, transactional_id=transaction))
            at_once, decided = gate.decide_at_once(header, frame), await gate.decide(header, frame)
            may_go = transaction != "_causeway-state" and {*topics} <= {"plain", "other", PLAIN_ID}
            assert (at_once is not None) == may_go
            if may_go:
                assert decided == at_once


async def test_what_is_not_known_is_not_produced_at_once(gate: ClientGate, mirrors: Mirrors) -> None:
    header, frame = framed(produce(9, {"plain": batch(b"x"), "new": batch(b"x")}))
    assert gate.decide_at_once(header, frame) is None
    mirrors.known.add("new")
    assert gate.decide_at_once(header, frame) == await gate.decide(header, frame)
    mirrors.unavailable = True
    assert gate.decide_at_once(header, frame) is None


async def test_malformed_produce_is_no_request_at_once_either(gate: ClientGate) -> None:
    header, frame = framed(produce(9, {"plain": batch(b"x")}))
    with pytest.raises(DecodeError):
        gate.decide_at_once(header, frame + b"x")


async def test_what_may_have_to_be_refused_is_not_decided_at_once(gate: ClientGate) -> None:
    for request in (
        make(ApiKey.DELETE_TOPICS, 4, topic_names=("plain",)),
        make(ApiKey.API_VERSIONS, 0),
        make(ApiKey.SASL_HANDSHAKE, 1, mechanism="PLAIN"),
        make(ApiKey.DELETE_GROUPS, 2, groups_names=("_causeway-work",)),
        heartbeat("_causeway-work"),
    ):
        assert gate.decide_at_once(*framed(request)) is None
    header, frame = framed(heartbeat())
    assert gate.decide_at_once(header, frame) == await gate.decide(header, frame)
    unknown = header._replace(api_version=99)
    assert gate.decide_at_once(unknown, frame) is None


async def test_nothing_is_decided_at_once_while_the_broker_is_unknown() -> None:
    async with lab() as here:
        client = await here.client()
        assert here.sessions[0]._gate.decide_at_once(*framed(heartbeat())) is None
        await client.call(heartbeat())
