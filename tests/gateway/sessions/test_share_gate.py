"""Share sessions: what a session holds is judged at every fetch, whatever the request names."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from kio.schema.errors import ErrorCode

from gateway.sessions.share_gate import ShareGate
from protocol.acls import Operation, ResourceType
from protocol.api_keys import ApiKey
from protocol.messages import decode_request, decode_response, encode_response
from protocol.refusals import Answer, Cut
from tests.e2e.raw_client import make
from tests.protocol.judges import FakeJudge, blank

A, B = UUID(int=1), UUID(int=2)
NAMES = {A: "a", B: "b"}


class Rights:
    """Who may read what, changed by a test."""

    def __init__(self, *topics: str) -> None:
        self.topics = set(topics)
        self.group = True

    def judge(self) -> FakeJudge:
        return FakeJudge(self._may, NAMES)

    def _may(self, _operation: Operation, resource: ResourceType, name: str) -> bool:
        return self.group if resource is ResourceType.GROUP else name in self.topics


def request(epoch: int, *topics: UUID, forgotten: tuple[UUID, ...] = ()) -> Any:
    return make(
        ApiKey.SHARE_FETCH,
        1,
        group_id="g",
        member_id="m",
        share_session_epoch=epoch,
        topics=[{"topic_id": each, "partitions": [{"partition_index": 0}]} for each in topics],
        forgotten_topics_data=[{"topic_id": each, "partitions": (0,)} for each in forgotten],
    )


def sent(asked: Any, outcome: Answer | Cut) -> Any:
    assert isinstance(outcome, Cut)
    return decode_request(ApiKey.SHARE_FETCH, 1, outcome.body)


def told(asked: Any, outcome: Answer | Cut, *topics: UUID, error: int = 0) -> dict[UUID, ErrorCode]:
    answered = [{"topic_id": each, "partitions": [{"partition_index": 0}]} for each in topics]
    assert isinstance(outcome, Cut)
    body = outcome.merge(encode_response(blank(asked, responses=answered, error_code=ErrorCode(error))))
    response = decode_response(ApiKey.SHARE_FETCH, 1, body)
    return {each.topic_id: each.partitions[0].error_code for each in response.responses}


def goes_on(gate: ShareGate, rights: Rights, asked: Any) -> bool:
    """Whether a request is forwarded as it is, at once."""
    outcome, wait_s = gate.fetch(asked, rights.judge())
    return not wait_s and sent(asked, outcome) == asked


def ids(topics: Any) -> list[UUID]:
    return [each.topic_id for each in topics]


def test_a_topic_that_is_refused_leaves_the_brokers_session_and_comes_back() -> None:
    gate, rights = ShareGate(), Rights("a", "b")
    assert goes_on(gate, rights, request(0, A, B))
    rights.topics.remove("b")
    for epoch in (1, 2):
        asked = request(epoch)
        outcome, wait_s = gate.fetch(asked, rights.judge())
        forwarded = sent(asked, outcome)
        assert ids(forwarded.forgotten_topics_data) == ([B] if epoch == 1 else [])
        # Records that the broker may still send of it are not passed on.
        assert told(asked, outcome, A, B) == {A: ErrorCode.none, B: ErrorCode.topic_authorization_failed}
        assert wait_s == 0
    rights.topics.add("b")
    asked = request(3)
    outcome, _ = gate.fetch(asked, rights.judge())
    assert ids(sent(asked, outcome).topics) == [B]
    assert told(asked, outcome, A, B) == {A: ErrorCode.none, B: ErrorCode.none}
    assert goes_on(gate, rights, request(4))


def test_what_the_broker_has_not_forgotten_is_judged_on() -> None:
    gate, rights = ShareGate(), Rights("a", "b")
    gate.fetch(request(0, A, B), rights.judge())
    forged = request(77, forgotten=(B,))
    outcome, _ = gate.fetch(forged, rights.judge())
    assert told(forged, outcome, error=ErrorCode.invalid_share_session_epoch) == {}
    rights.topics.remove("b")
    asked = request(1)
    outcome, _ = gate.fetch(asked, rights.judge())
    assert told(asked, outcome, A, B)[B] == ErrorCode.topic_authorization_failed
    # Forgotten in earnest it is told of no more.
    asked = request(2, forgotten=(B,))
    outcome, _ = gate.fetch(asked, rights.judge())
    told(asked, outcome, A)
    asked = request(3)
    outcome, _ = gate.fetch(asked, rights.judge())
    assert told(asked, outcome, A) == {A: ErrorCode.none}


def test_nothing_allowed_waits() -> None:
    gate, rights = ShareGate(), Rights()
    asked = make(
        ApiKey.SHARE_FETCH,
        1,
        group_id="g",
        member_id="m",
        max_wait=timedelta(milliseconds=300),
        topics=[{"topic_id": A, "partitions": [{"partition_index": 0}]}],
    )
    outcome, wait_s = gate.fetch(asked, rights.judge())
    assert wait_s == 0.3
    assert ids(sent(asked, outcome).topics) == []
    assert told(asked, outcome) == {A: ErrorCode.topic_authorization_failed}


def test_who_may_not_read_the_group_and_sessions_that_nobody_began() -> None:
    gate, rights = ShareGate(), Rights("a")
    outcome, _ = gate.fetch(request(5), rights.judge())
    assert isinstance(outcome, Answer)
    unknown = decode_response(ApiKey.SHARE_FETCH, 1, outcome.body)
    assert unknown.error_code == ErrorCode.share_session_not_found
    rights.group = False
    outcome, _ = gate.fetch(request(0, A), rights.judge())
    assert isinstance(outcome, Answer)
    refused = decode_response(ApiKey.SHARE_FETCH, 1, outcome.body)
    assert refused.error_code == ErrorCode.group_authorization_failed
    rights.group = True
    # The end of a session: it may still acknowledge.
    assert goes_on(gate, rights, request(-1))


def test_sessions_are_bounded() -> None:
    gate, rights = ShareGate(), Rights("a")
    for member in range(6):
        asked = make(ApiKey.SHARE_FETCH, 1, group_id="g", member_id=str(member), share_session_epoch=0)
        gate.fetch(asked, rights.judge())
    first = make(ApiKey.SHARE_FETCH, 1, group_id="g", member_id="0", share_session_epoch=1)
    assert isinstance(gate.fetch(first, rights.judge())[0], Answer)
    last = make(ApiKey.SHARE_FETCH, 1, group_id="g", member_id="5", share_session_epoch=1)
    assert goes_on(gate, rights, last)


def test_what_begins_a_session_forgets_nothing() -> None:
    gate, rights = ShareGate(), Rights("a", "b")
    asked = request(0, A, B, forgotten=(B,))
    outcome, _ = gate.fetch(asked, rights.judge())
    assert told(asked, outcome, A, B) == {A: ErrorCode.none, B: ErrorCode.none}
    rights.topics.remove("b")
    asked = request(1)
    outcome, _ = gate.fetch(asked, rights.judge())
    assert ids(sent(asked, outcome).forgotten_topics_data) == [B]
    assert told(asked, outcome, A, B)[B] == ErrorCode.topic_authorization_failed


def test_what_somebody_else_put_into_the_session_is_not_told() -> None:
    # The broker's session is by group and member, and another connection has begun it anew.
    gate, rights = ShareGate(), Rights("a")
    asked = request(0, A)
    told(asked, gate.fetch(asked, rights.judge())[0], A)
    asked = request(1)
    outcome, _ = gate.fetch(asked, rights.judge())
    assert told(asked, outcome, A, B) == {A: ErrorCode.none}


def test_rights_that_are_lost_while_a_fetch_waits() -> None:
    gate, rights = ShareGate(), Rights("a", "b")
    asked = request(0, A, B)
    outcome, _ = gate.fetch(asked, rights.judge())
    rights.topics.remove("b")
    assert told(asked, outcome, A, B) == {A: ErrorCode.none, B: ErrorCode.topic_authorization_failed}


def test_a_topic_that_is_refused_while_it_is_named_leaves_the_brokers_session() -> None:
    gate, rights = ShareGate(), Rights("a", "b")
    gate.fetch(request(0, A, B), rights.judge())
    rights.topics.remove("b")
    asked = request(1, B)
    forwarded = sent(asked, gate.fetch(asked, rights.judge())[0])
    assert (ids(forwarded.topics), ids(forwarded.forgotten_topics_data)) == ([], [B])


def test_groups_without_a_name_and_sessions_of_too_much() -> None:
    gate, rights = ShareGate(), Rights("a")
    nobody = make(ApiKey.SHARE_FETCH, 1, group_id=None, member_id="m", share_session_epoch=0)
    outcome, _ = gate.fetch(nobody, rights.judge())
    assert isinstance(outcome, Answer)
    assert decode_response(ApiKey.SHARE_FETCH, 1, outcome.body).error_code == 30
    assert goes_on(gate, rights, request(0, A))
    many = request(1, *(UUID(int=index) for index in range(3, 25_003)))
    outcome, _ = gate.fetch(many, rights.judge())
    assert isinstance(outcome, Answer)
    assert decode_response(ApiKey.SHARE_FETCH, 1, outcome.body).error_code == 122
