"""Produce with refused topics: the rest is forwarded unchanged, the client sees each partition once."""

import dataclasses
import random
from collections import Counter
from typing import Any, get_args
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from protocol.errors import DecodeError
from protocol.messages import (
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    request_class,
    response_class,
)
from protocol.produce_refusals import split_produce
from protocol.refusals import Answer, Cut, Refusal
from protocol.request_views import PRODUCE_VERSIONS, read_produce
from tests.protocol.schema_bytes import build, hostile_variants

READ_ONLY = Refusal(42, "Cannot append records to read-only mirror topic 'orders'")
every_version = pytest.mark.parametrize("version", PRODUCE_VERSIONS)


def element(message: Any, name: str) -> Any:
    return next(get_args(field.type)[0] for field in dataclasses.fields(message) if field.name == name)


def topic_of(entity: Any) -> str | UUID:
    topic: str | UUID = getattr(entity, "name", None) or entity.topic_id
    return topic


def request_with(version: int, topics: list[tuple[str, tuple[int, ...]]]) -> Any:
    """A request for topics by name; from v13 on their ids are made of the names."""
    made = request_class(0, version)
    topic_class = element(made, "topic_data")
    partition_class = element(topic_class, "partition_data")
    request = decode_request(0, version, build(made, 1)[0])
    return dataclasses.replace(
        request,
        topic_data=tuple(
            topic_class(
                **key(version, name),
                partition_data=tuple(partition_class(index=i, records=b"r%d" % i) for i in indexes),
            )
            for name, indexes in topics
        ),
    )


def key(version: int, name: str) -> dict[str, Any]:
    return {"topic_id": UUID(bytes=name.encode().rjust(16, b"\x01"))} if version >= 13 else {"name": name}


def topic(version: int, name: str) -> str | UUID:
    (value,) = key(version, name).values()
    return UUID(str(value)) if version >= 13 else str(value)


def broker_answers(version: int, body: bytes, seed: int = 1) -> Any:
    """A response with something of everything: throttle time, record errors, leaders, node endpoints."""
    made = response_class(0, version)
    response = decode_response(0, version, build(made, seed)[0])
    template = response.responses[0]
    partition = template.partition_responses[0]
    name = "topic_id" if version >= 13 else "name"
    return dataclasses.replace(
        response,
        responses=tuple(
            dataclasses.replace(
                template,
                **{name: topic_of(asked)},
                partition_responses=tuple(
                    dataclasses.replace(partition, index=part.index, base_offset=part.index + 100)
                    for part in asked.partition_data
                ),
            )
            for asked in decode_request(0, version, body).topic_data
        ),
    )


def split(version: int, request: Any, refusals: dict[str | UUID, Refusal]) -> Answer | Cut | None:
    view = read_produce(version, bytearray(b"header" + encode_request(request)), 6)
    return split_produce(view, refusals.get)


def refused_partition(version: int, index: int, refusal: Refusal) -> dict[str, Any]:
    expected: dict[str, Any] = {
        "index": index,
        "error_code": refusal.error_code,
        "base_offset": -1,
        "log_append_time": None,
    }
    if version >= 5:
        expected["log_start_offset"] = -1
    if version >= 8:
        expected |= {"record_errors": (), "error_message": refusal.message}
    return expected


def check_refused(version: int, entity: Any, indexes: list[int], refusal: Refusal) -> None:
    found = [
        {name: getattr(part, name) for name in refused_partition(version, 0, refusal)}
        for part in entity.partition_responses
    ]
    assert found == [refused_partition(version, index, refusal) for index in indexes]


@every_version
def test_nothing_refused(version: int) -> None:
    assert split(version, request_with(version, [("a", (0, 1)), ("b", (0,))]), {}) is None


@every_version
def test_one_of_three_is_refused(version: int) -> None:
    request = request_with(version, [("a", (0, 1)), ("orders", (5, 3)), ("c", (0,))])
    cut = split(version, request, {topic(version, "orders"): READ_ONLY})
    assert isinstance(cut, Cut)
    rest = dataclasses.replace(request, topic_data=(request.topic_data[0], request.topic_data[2]))
    assert cut.body == encode_request(rest), "the rest is forwarded as it was"

    answer = broker_answers(version, cut.body)
    merged = decode_response(0, version, cut.merge(encode_response(answer)))
    before, refused, after = merged.responses
    assert (before, after) == answer.responses
    assert topic_of(refused) == topic(version, "orders")
    check_refused(version, refused, [5, 3], READ_ONLY)
    assert dataclasses.replace(merged, responses=()) == dataclasses.replace(answer, responses=())


@every_version
def test_all_are_refused(version: int) -> None:
    request = request_with(version, [("a", (0, 1)), ("b", (2,))])
    refusals = {topic(version, "a"): READ_ONLY, topic(version, "b"): Refusal(6)}
    answer = split(version, request, refusals)
    assert isinstance(answer, Answer)
    response = decode_response(0, version, answer.body)
    assert response.throttle_time.total_seconds() == 0
    a, b = response.responses
    assert (topic_of(a), topic_of(b)) == tuple(refusals)
    check_refused(version, a, [0, 1], READ_ONLY)
    check_refused(version, b, [2], Refusal(6))


@pytest.mark.parametrize("code", [3, 6, 100])
def test_other_reasons_need_no_message(code: int) -> None:
    answer = split(9, request_with(9, [("a", (0,))]), {"a": Refusal(code)})
    assert isinstance(answer, Answer)
    (entity,) = decode_response(0, 9, answer.body).responses
    assert entity.partition_responses[0].error_code == ErrorCode(code)
    assert entity.partition_responses[0].error_message is None


@every_version
def test_a_topic_that_comes_twice_is_answered_once(version: int) -> None:
    request = request_with(version, [("orders", (0, 1)), ("a", (0,)), ("orders", (1, 2)), ("a", (4,))])
    cut = split(version, request, {topic(version, "orders"): READ_ONLY})
    assert isinstance(cut, Cut)
    merged = decode_response(0, version, cut.merge(encode_response(broker_answers(version, cut.body))))
    assert [topic_of(entity) for entity in merged.responses] == [
        topic(version, n) for n in ("orders", "a", "a")
    ]
    check_refused(version, merged.responses[0], [0, 1, 2], READ_ONLY)


@every_version
def test_every_partition_is_seen_exactly_once(version: int) -> None:
    rng = random.Random(version)
    for seed in range(20):
        names = rng.sample("abcdefgh", rng.randint(1, 6))
        request = request_with(version, [(name, tuple(range(rng.randint(1, 3)))) for name in names])
        refusals = {topic(version, name): READ_ONLY for name in names if rng.random() < 0.5}
        result = split(version, request, refusals)
        if not refusals:
            assert result is None
            continue
        if isinstance(result, Cut):
            answer = broker_answers(version, result.body, seed)
            shuffled = dataclasses.replace(
                answer, responses=tuple(rng.sample(answer.responses, len(answer.responses)))
            )
            body = result.merge(encode_response(shuffled))
        else:
            assert isinstance(result, Answer)
            body = result.body
        merged = decode_response(0, version, body)
        asked = Counter((topic_of(t), part.index) for t in request.topic_data for part in t.partition_data)
        seen = Counter((topic_of(t), part.index) for t in merged.responses for part in t.partition_responses)
        assert seen == asked
        assert [topic_of(t) for t in merged.responses] == [topic_of(t) for t in request.topic_data]
        for entity in merged.responses:
            is_ours = all(part.base_offset == -1 for part in entity.partition_responses)
            assert is_ours == (topic_of(entity) in refusals)


def test_what_the_broker_adds_is_kept() -> None:
    request = request_with(9, [("a", (0,)), ("orders", (0,))])
    cut = split(9, request, {"orders": READ_ONLY})
    assert isinstance(cut, Cut)
    more = broker_answers(9, encode_request(request_with(9, [("a", (0,)), ("z", (0,))])))
    merged = decode_response(0, 9, cut.merge(encode_response(more)))
    assert [topic_of(entity) for entity in merged.responses] == ["a", "orders", "z"]


def test_unknown_tagged_fields_of_the_response_survive() -> None:
    cut = split(11, request_with(11, [("a", (0,)), ("orders", (0,))]), {"orders": READ_ONLY})
    assert isinstance(cut, Cut)
    answer = dataclasses.replace(broker_answers(11, cut.body), node_endpoints=())
    encoded = encode_response(answer)[:-1] + b"\x01\x63\x02zz"
    assert cut.merge(encoded).endswith(encoded[-9:])


@every_version
def test_a_response_that_is_cut_or_lies(version: int) -> None:
    request = request_with(version, [("a", (0,)), ("orders", (0,))])
    cut = split(version, request, {topic(version, "orders"): READ_ONLY})
    assert isinstance(cut, Cut)
    encoded = encode_response(broker_answers(version, cut.body))
    end_of_topics = len(encoded) - len(
        encode_response(dataclasses.replace(broker_answers(version, cut.body), responses=()))
    )
    for end in range(end_of_topics):
        with pytest.raises(DecodeError):
            cut.merge(encoded[:end])
    message = response_class(0, version)
    _, marks = build(message, 3)
    refused = 0
    for hostile in hostile_variants(marks):
        try:
            cut.merge(build(message, 3, hostile)[0])
        except DecodeError:
            refused += 1
    assert refused > len(marks)
