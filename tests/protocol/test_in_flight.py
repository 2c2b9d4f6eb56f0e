"""The client's order is kept whatever the order of answers; nothing is lost; room is counted exactly."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.errors import DecodeError
from protocol.headers import RequestHeader
from protocol.in_flight import Entry, InFlight

HEADER = RequestHeader(3, 12, 4711, "client", 20)


def test_local_answers_wait_for_the_brokers() -> None:
    in_flight = InFlight[str](8, 1000)
    first = in_flight.add_forwarded(100, HEADER, 50, "context")
    in_flight.add_local((b"head", b"local"))
    assert in_flight.pop_ready() == []
    assert len(in_flight) == 2
    assert in_flight.size_bytes == 59
    entry = in_flight.match(100)
    assert entry is first
    assert (entry.header, entry.context, entry.upstream_correlation_id) == (HEADER, "context", 100)
    in_flight.complete(entry, (b"broker's",))
    assert in_flight.pop_ready() == [(b"broker's",), (b"head", b"local")]
    assert in_flight.empty
    assert in_flight.size_bytes == 0


def test_a_response_to_no_request() -> None:
    with pytest.raises(DecodeError):
        InFlight[None](8, 1000).match(1)


def test_only_the_oldest_request_is_answered() -> None:
    in_flight = InFlight[None](8, 1000)
    in_flight.add_forwarded(1, HEADER, 10, None)
    in_flight.add_forwarded(2, HEADER, 10, None)
    with pytest.raises(DecodeError):
        in_flight.match(2)
    assert in_flight.match(1).upstream_correlation_id == 1
    assert in_flight.match(2).upstream_correlation_id == 2


def test_an_answer_takes_with_it_what_waited_for_it() -> None:
    in_flight = InFlight[None](8, 1000)
    in_flight.add_forwarded(1, HEADER, 10, None)
    only = in_flight.match(1)
    assert list(in_flight.answer(only, (b"only",))) == [(b"only",)]
    assert in_flight.empty
    assert in_flight.size_bytes == 0
    first, second = (in_flight.add_forwarded(number, HEADER, 10, None) for number in (2, 3))
    in_flight.add_local((b"local",))
    in_flight.match(2)
    in_flight.match(3)
    assert list(in_flight.answer(second, (b"second",))) == []
    assert list(in_flight.answer(first, (b"first",))) == [(b"first",), (b"second",), (b"local",)]
    assert in_flight.empty
    assert in_flight.size_bytes == 0


def test_only_what_was_matched_is_answered() -> None:
    in_flight = InFlight[None](8, 1000)
    entry = in_flight.add_forwarded(1, HEADER, 10, None)
    with pytest.raises(ValueError, match="request 1 "):
        in_flight.answer(entry, (b"early",))
    in_flight.match(1)
    in_flight.answer(entry, (b"x",))
    in_flight.add_local((b"local",))
    with pytest.raises(ValueError, match="request 1 "):
        in_flight.answer(entry, (b"again",))


def test_an_answer_needs_its_match_and_comes_once() -> None:
    in_flight = InFlight[None](8, 1000)
    entry = in_flight.add_forwarded(1, HEADER, 10, None)
    with pytest.raises(ValueError, match="request 1 "):
        in_flight.complete(entry, (b"early",))
    in_flight.match(1)
    in_flight.complete(entry, (b"first",))
    with pytest.raises(ValueError, match="request 1 "):
        in_flight.complete(entry, (b"second",))
    assert in_flight.pop_ready() == [(b"first",)]


def test_room_by_count_and_bytes() -> None:
    in_flight = InFlight[None](2, 100)
    assert in_flight.has_room(10**9), "one request alone always has room"
    in_flight.add_forwarded(1, HEADER, 60, None)
    assert in_flight.has_room(0)
    assert in_flight.has_room(40)
    assert not in_flight.has_room(41)
    in_flight.add_local((b"",))
    assert not in_flight.has_room(0)


class InFlightMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.in_flight = InFlight[int](5, 100)
        self.model: list[tuple[int, int]] = []  # number of the request, its size
        self.answers: dict[int, tuple[bytes, ...]] = {}
        self.unmatched: list[int] = []
        self.matched: list[Entry[int]] = []
        self.requests = 0

    @rule(size=st.integers(0, 60))
    def take_request(self, size: int) -> None:
        total = sum(taken for _, taken in self.model)
        fits = not self.model or (len(self.model) < 5 and total + size <= 100)
        assert self.in_flight.has_room(size) == fits
        if fits:
            self.in_flight.add_forwarded(self.requests, HEADER, size, self.requests * 10)
            self.model.append((self.requests, size))
            self.unmatched.append(self.requests)
            self.requests += 1

    @rule(body=st.binary(max_size=40))
    def answer_locally(self, body: bytes) -> None:
        if self.in_flight.has_room(len(body)):
            self.in_flight.add_local((b"h", body))
            self.model.append((self.requests, 1 + len(body)))
            self.answers[self.requests] = (b"h", body)
            self.requests += 1

    @precondition(lambda self: self.unmatched)
    @rule()
    def match_oldest(self) -> None:
        number = self.unmatched.pop(0)
        entry = self.in_flight.match(number)
        assert entry.context == number * 10
        self.matched.append(entry)

    @rule(number=st.integers(-1, 40))
    def match_another(self, number: int) -> None:
        if self.unmatched[:1] != [number]:
            with pytest.raises(DecodeError):
                self.in_flight.match(number)

    @precondition(lambda self: self.matched)
    @rule(data=st.data())
    def complete_any(self, data: st.DataObject) -> None:
        entry = self.matched.pop(data.draw(st.integers(0, len(self.matched) - 1)))
        answer = (b"%d" % entry.upstream_correlation_id,)
        self.in_flight.complete(entry, answer)
        self.answers[entry.upstream_correlation_id] = answer

    @rule()
    def pop_ready(self) -> None:
        due = []
        while self.model and self.model[0][0] in self.answers:
            due.append(self.answers.pop(self.model.pop(0)[0]))
        assert self.in_flight.pop_ready() == due

    @invariant()
    def counts(self) -> None:
        assert len(self.in_flight) == len(self.model)
        assert self.in_flight.empty == (not self.model)
        assert self.in_flight.size_bytes == sum(size for _, size in self.model)


TestInFlightMachine = InFlightMachine.TestCase
TestInFlightMachine.settings = settings(max_examples=100, stateful_step_count=40)
