"""Which topic an id stands for: learned, asked for, shared, bounded, and forgotten when the topic goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from gateway.sessions import topic_ids as module
from gateway.sessions.topic_ids import TopicIds
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import ConnectFailed

A, B, C = uuid4(), uuid4(), uuid4()


class Source:
    """A cluster with these topics; counts what it is asked."""

    def __init__(self, **topics: UUID) -> None:
        self.topics = topics
        self.asked: list[list[UUID] | None] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.error: Exception | None = None
        self.version = 12

    async def request(
        self,
        message: Callable[[BrokerConnection], Any],
        *,
        node_id: int | None,
        timeout_s: float,
        idempotent: bool,
    ) -> Any:
        connection = SimpleNamespace(pick_version=lambda key, low, high: self.version)
        request = message(cast("BrokerConnection", connection))
        ids = None if request.topics is None else [each.topic_id for each in request.topics]
        assert request.allow_auto_topic_creation is False
        self.asked.append(ids)
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        found = [
            SimpleNamespace(name=name, topic_id=topic_id)
            for name, topic_id in self.topics.items()
            if ids is None or topic_id in ids
        ]
        unknown = set(ids or ()) - set(self.topics.values())
        return SimpleNamespace(
            topics=[*found, *(SimpleNamespace(name=None, topic_id=each) for each in unknown)]
        )


def reserved(name: str) -> bool:
    return name.startswith("_")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.s))
    return now


async def test_what_passed_need_not_be_asked_for() -> None:
    source = Source()
    topics = TopicIds(source, reserved)
    topics.learn("a", A.bytes)
    topics.learn("none", bytes(16))
    assert await topics.names_of([A]) == {A: "a"}
    assert topics.name_of(A) == "a"
    assert topics.name_of(UUID(int=0)) is None
    assert source.asked == []


async def test_what_is_missing_is_asked_for_once() -> None:
    source = Source(a=A, b=B)
    topics = TopicIds(source, reserved)
    topics.learn("a", A.bytes)
    assert await topics.names_of([A, B]) == {A: "a", B: "b"}
    assert await topics.names_of([B]) == {B: "b"}
    assert source.asked == [[B]]


async def test_an_unknown_id_is_asked_for_again_after_a_moment(clock: SimpleNamespace) -> None:
    source = Source()
    topics = TopicIds(source, reserved)
    for _ in range(3):
        assert await topics.names_of([A]) == {}
    assert source.asked == [[A]]
    source.topics["a"] = A
    clock.s += 0.6
    assert await topics.names_of([A]) == {A: "a"}


async def test_a_topic_that_passes_is_unknown_no_more(clock: SimpleNamespace) -> None:
    topics = TopicIds(Source(), reserved)
    assert await topics.names_of([A]) == {}
    topics.learn("a", A.bytes)
    assert await topics.names_of([A]) == {A: "a"}


async def test_those_who_wait_are_asked_for_together() -> None:
    source = Source(a=A, b=B, c=C)
    topics = TopicIds(source, reserved)
    source.answers.clear()
    waiting = [asyncio.create_task(topics.names_of(ids)) for ids in ([A], [B], [C, A], [B])]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    source.answers.set()
    assert await asyncio.gather(*waiting) == [{A: "a"}, {B: "b"}, {C: "c", A: "a"}, {B: "b"}]
    first, second = source.asked
    assert first == [A]
    assert set(second or ()) == {B, C}


async def test_one_who_leaves_takes_no_answer_from_the_others() -> None:
    source = Source(a=A)
    topics = TopicIds(source, reserved)
    source.answers.clear()
    first, second = (asyncio.create_task(topics.names_of([A])) for _ in range(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    source.answers.set()
    assert await second == {A: "a"}


async def test_a_cluster_that_is_away_is_asked_once_for_all_who_wait(clock: SimpleNamespace) -> None:
    source = Source(a=A, b=B)
    source.error = ConnectFailed("away")
    topics = TopicIds(source, reserved)
    waiting = [asyncio.create_task(topics.names_of([each])) for each in (A, B, A)]
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in outcomes] == [ConnectFailed] * 3
    assert len(source.asked) == 1
    source.error = None
    clock.s += 0.6
    assert await topics.names_of([A, B]) == {A: "a", B: "b"}


async def test_more_ids_than_fit_into_one_question() -> None:
    ids = [uuid4() for _ in range(2500)]
    source = Source(**{f"t{index}": topic_id for index, topic_id in enumerate(ids)})
    topics = TopicIds(source, reserved)
    assert len(await topics.names_of(ids)) == 2500
    assert [len(each or ()) for each in source.asked] == [1000, 1000, 500]


async def test_a_topic_that_was_made_again_has_one_id(clock: SimpleNamespace) -> None:
    source = Source()
    topics = TopicIds(source, reserved)
    topics.learn("a", A.bytes)
    topics.learn("a", B.bytes)
    assert await topics.names_of([A, B]) == {B: "a"}
    topics.forget("a")
    topics.forget("a")
    assert await topics.names_of([B]) == {}


async def test_the_ids_of_reserved_names_are_at_hand_and_never_pushed_out() -> None:
    topics = TopicIds(Source(), reserved, max_topics=2)
    topics.learn("_ours", A.bytes)
    for index in range(10):
        topics.learn(f"t{index}", UUID(int=index + 1).bytes)
    assert topics.reserved == {A}
    assert topics.name_of(A) == "_ours"
    assert topics.name_of(UUID(int=10)) == "t9"
    assert topics.name_of(UUID(int=1)) is None
    topics.learn("_ours", B.bytes)
    assert topics.reserved == {B}
    topics.forget("_ours")
    assert topics.reserved == frozenset()


async def test_a_broker_that_cannot_be_asked_by_id_tells_all() -> None:
    source = Source(a=A, b=B)
    source.version = 11
    topics = TopicIds(source, reserved)
    assert await topics.names_of([A]) == {A: "a"}
    assert topics.name_of(B) == "b"
    assert source.asked == [None]
