"""Fetches that name topics to forget: what is still sent of them is judged all the same (KIP-227)."""

from __future__ import annotations

import pytest

from gateway.security.acls import Acls
from gateway.sessions.fetch_gate import FetchGate, Later
from gateway.sessions.judge import RequestJudge
from gateway.sessions.request_path import Forward
from protocol.acls import Acl, Operation, PatternType, Permission, ResourceType
from protocol.api_keys import ApiKey
from protocol.headers import encode_request_header, peek_request_header
from protocol.messages import decode_request, decode_response, encode_request, encode_response
from tests.e2e.raw_client import make
from tests.protocol.judges import blank

ALICE, HOST = "User:alice", "10.0.0.1"


def may_read(*names: str) -> Acls:
    return Acls(
        Acl(ResourceType.TOPIC, PatternType.LITERAL, name, ALICE, "*", Operation.READ, Permission.ALLOW)
        for name in names
    )


class Fetches:
    """A client's fetches of partition 0 of topics, by the ACLs of now."""

    def __init__(self, acls: Acls) -> None:
        self.acls = acls
        self._gate = FetchGate(self.judge, lambda: self.acls)

    def judge(self) -> RequestJudge:
        return RequestJudge(self.acls, ALICE, HOST, lambda _: None, notes_allowed=False)

    def send(self, topics: str, forgotten: str, session: tuple[int, int]) -> object:
        request = make(
            ApiKey.FETCH,
            12,
            topics=[{"topic": name, "partitions": [{"partition": 0}]} for name in topics],
            forgotten_topics_data=[{"topic": name, "partitions": [0]} for name in forgotten],
            session_id=session[0],
            session_epoch=session[1],
        )
        frame = bytearray(encode_request_header(ApiKey.FETCH, 12, 1, "c") + encode_request(request))
        header = peek_request_header(frame)
        return self._gate.decide(header, frame, self._gate.read(header, frame), self.judge(), None)


def fetched(decision: object) -> list[str]:
    """The topics that the broker is asked for."""
    assert isinstance(decision, Forward)
    header = peek_request_header(decision.frame)
    body = memoryview(decision.frame)[header.body_offset :]
    return [each.topic for each in decode_request(ApiKey.FETCH, 12, body).topics]


@pytest.mark.parametrize("session", [(0, 0), (7, 0), (0, -1), (7, -1)])
def test_what_is_forgotten_at_once_is_judged_all_the_same(session: tuple[int, int]) -> None:
    fetches = Fetches(may_read("a"))
    assert isinstance(fetches.send("s", "s", session), Later)
    assert fetched(fetches.send("as", "s", session)) == ["a"]
    assert fetched(fetches.send("a", "a", session)) == ["a"]


def test_what_is_forgotten_at_once_stays_in_the_session() -> None:
    fetches = Fetches(may_read("a", "s"))
    decision = fetches.send("as", "s", (0, 0))
    assert isinstance(decision, Forward)
    assert decision.finish is not None
    request = make(ApiKey.FETCH, 12)
    decision.finish(bytearray(b"\0\0\0\1\0") + encode_response(blank(request, session_id=9)))
    fetches.acls = may_read("a")
    decision = fetches.send("", "", (9, 1))
    assert fetched(decision) == ["a"]
    assert isinstance(decision, Forward)
    assert decision.finish is not None
    whole = b"".join(decision.finish(bytearray(b"\0\0\0\1\0") + encode_response(blank(request))))
    told = decode_response(ApiKey.FETCH, 12, whole[5:])
    assert [(each.topic, int(each.partitions[0].error_code)) for each in told.responses] == [("s", 29)]


def test_what_is_forgotten_while_a_fetch_waits_is_judged_when_it_comes() -> None:
    fetches = Fetches(may_read("a", "s"))
    request = make(ApiKey.FETCH, 12)
    begun = fetches.send("as", "", (0, 0))
    assert isinstance(begun, Forward)
    assert begun.finish is not None
    begun.finish(bytearray(b"\0\0\0\1\0") + encode_response(blank(request, session_id=9)))
    waiting = fetches.send("", "", (9, 1))
    fetches.send("", "s", (9, 2))
    fetches.acls = may_read("a")
    answered = [{"topic": name, "partitions": [{"records": b"data"}]} for name in "as"]
    assert isinstance(waiting, Forward)
    assert waiting.finish is not None
    response = blank(request, session_id=9, responses=answered)
    whole = b"".join(waiting.finish(bytearray(b"\0\0\0\1\0") + encode_response(response)))
    told = decode_response(ApiKey.FETCH, 12, whole[5:])
    assert [each.topic for each in told.responses] == ["a"]
