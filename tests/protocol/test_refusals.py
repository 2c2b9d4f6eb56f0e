"""Requests of which a part is refused, in every version: cut, forwarded, merged in the request's order."""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import pytest
from kio.schema.errors import ErrorCode

from protocol.api_keys import ApiKey
from protocol.api_versions import FORWARDED
from protocol.errors import DecodeError
from protocol.messages import decode_request, decode_response, encode_response, request_class, response_class
from protocol.refusals import Answer, Cut, Refusal, read_only, split_configs, split_request
from tests.protocol.schema_bytes import build

TOPIC, BROKER = 2, 4


def element(message: Any, name: str) -> Any:
    return next(get_args(field.type)[0] for field in dataclasses.fields(message) if field.name == name)


def example(key: int, version: int, *, response: bool = False) -> Any:
    """Some request or response of that version."""
    if response:
        return decode_response(key, version, build(response_class(key, version), 3)[0])
    return decode_request(key, version, build(request_class(key, version), 3)[0])


def versions(key: int) -> range:
    return range(FORWARDED[key][0], FORWARDED[key][1] + 1)


def refuse(*topics: str) -> Callable[[str], Refusal | None]:
    return lambda topic: Refusal(42, f"no {topic}") if topic in topics else None


def answered(request: Any, body: bytes) -> Any:
    return decode_response(request.__api_key__, request.__version__, body)


def check_rest_of_response(merged: Any, broker: Any, field: str) -> None:
    assert dataclasses.replace(merged, **{field: ()}) == dataclasses.replace(broker, **{field: ()})


# --- texts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (ApiKey.PRODUCE, "Cannot append records to read-only mirror topic 'orders'"),
        (ApiKey.ADD_PARTITIONS_TO_TXN, "Cannot append records to read-only mirror topic 'orders'"),
        (ApiKey.DELETE_RECORDS, "Cannot delete records of read-only mirror topic 'orders'"),
        (ApiKey.CREATE_PARTITIONS, "Cannot create partitions of read-only mirror topic 'orders'"),
    ],
)
def test_read_only(key: int, message: str) -> None:
    assert read_only(key, "orders") == Refusal(42, message)


# --- DeleteRecords, CreatePartitions ------------------------------------------------------------------------


def delete_records(version: int, *names: str) -> Any:
    request = example(ApiKey.DELETE_RECORDS, version)
    topic = request.topics[0]
    partition = topic.partitions[0]
    partitions = tuple(dataclasses.replace(partition, partition_index=index) for index in (4, 2))
    topics = tuple(dataclasses.replace(topic, name=name, partitions=partitions) for name in names)
    return dataclasses.replace(request, topics=topics)


def records_deleted(request: Any) -> Any:
    response = example(ApiKey.DELETE_RECORDS, request.__version__, response=True)
    topic = response.topics[0]
    topics = tuple(dataclasses.replace(topic, name=asked.name) for asked in request.topics)
    return dataclasses.replace(response, topics=topics)


@pytest.mark.parametrize("version", versions(ApiKey.DELETE_RECORDS))
def test_delete_records(version: int) -> None:
    request = delete_records(version, "a", "m", "b")
    assert split_request(request, refuse()) is None
    cut = split_request(request, refuse("m"))
    assert isinstance(cut, Cut)
    forwarded = decode_request(ApiKey.DELETE_RECORDS, version, cut.body)
    assert forwarded == dataclasses.replace(request, topics=(request.topics[0], request.topics[2]))
    broker = records_deleted(forwarded)
    # A broker answers in an order of its own.
    body = encode_response(dataclasses.replace(broker, topics=broker.topics[::-1]))
    merged = answered(request, cut.merge(body))
    assert merged.topics[::2] == broker.topics
    refused = merged.topics[1]
    assert refused.name == "m"
    found = [(part.partition_index, part.low_watermark, part.error_code) for part in refused.partitions]
    assert found == [(4, -1, ErrorCode.invalid_request), (2, -1, ErrorCode.invalid_request)]
    check_rest_of_response(merged, broker, "topics")


@pytest.mark.parametrize("version", versions(ApiKey.DELETE_RECORDS))
def test_delete_records_all_refused(version: int) -> None:
    request = delete_records(version, "m", "n")
    answer = split_request(request, refuse("m", "n"))
    assert isinstance(answer, Answer)
    response = answered(request, answer.body)
    assert [topic.name for topic in response.topics] == ["m", "n"]
    assert response.throttle_time.total_seconds() == 0


def create_partitions(version: int, *names: str) -> Any:
    request = example(ApiKey.CREATE_PARTITIONS, version)
    topics = tuple(dataclasses.replace(request.topics[0], name=name) for name in names)
    return dataclasses.replace(request, topics=topics)


@pytest.mark.parametrize("version", versions(ApiKey.CREATE_PARTITIONS))
def test_create_partitions(version: int) -> None:
    request = create_partitions(version, "m", "a", "n")
    assert split_request(request, refuse()) is None
    cut = split_request(request, refuse("m", "n"))
    assert isinstance(cut, Cut)
    forwarded = decode_request(ApiKey.CREATE_PARTITIONS, version, cut.body)
    assert forwarded == dataclasses.replace(request, topics=request.topics[1:2])
    broker = example(ApiKey.CREATE_PARTITIONS, version, response=True)
    result = dataclasses.replace(broker.results[0], name="a")
    unasked = dataclasses.replace(broker.results[0], name="z")
    broker = dataclasses.replace(broker, results=(unasked, result))
    merged = answered(request, cut.merge(encode_response(broker)))
    assert [entry.name for entry in merged.results] == ["m", "a", "n", "z"]
    assert merged.results[1] == result
    assert (merged.results[0].error_code, merged.results[0].error_message) == (
        ErrorCode.invalid_request,
        "no m",
    )
    check_rest_of_response(merged, broker, "results")
    answer = split_request(request, refuse("m", "a", "n"))
    assert isinstance(answer, Answer)
    assert [entry.error_message for entry in answered(request, answer.body).results] == [
        "no m",
        "no a",
        "no n",
    ]


def test_a_broken_response_is_not_merged() -> None:
    cut = split_request(create_partitions(3, "m", "a"), refuse("m"))
    assert isinstance(cut, Cut)
    with pytest.raises(DecodeError):
        cut.merge(b"\x00\x00\x00\x00\x7f")


# --- AddPartitionsToTxn -------------------------------------------------------------------------------------


def topics_with(topic: Any, *names: str) -> tuple[Any, ...]:
    return tuple(dataclasses.replace(topic, name=name, partitions=(1, 0)) for name in names)


def codes(results: Any) -> dict[str, list[tuple[int, int]]]:
    return {
        topic.name: [
            (part.partition_index, int(part.partition_error_code)) for part in topic.results_by_partition
        ]
        for topic in results
    }


@pytest.mark.parametrize("version", range(4))
def test_add_partitions_to_txn(version: int) -> None:
    request = example(ApiKey.ADD_PARTITIONS_TO_TXN, version)
    topics = topics_with(request.v3_and_below_topics[0], "a", "m", "b")
    request = dataclasses.replace(request, v3_and_below_topics=topics)
    assert split_request(request, refuse()) is None
    answer = split_request(request, refuse("m"))
    assert isinstance(answer, Answer), "with one refused topic nothing is forwarded"
    response = answered(request, answer.body)
    assert codes(response.results_by_topic_v3_and_below) == {
        "a": [(1, 55), (0, 55)],
        "m": [(1, 42), (0, 42)],
        "b": [(1, 55), (0, 55)],
    }


@pytest.mark.parametrize("version", [4, 5])
def test_add_partitions_of_several_transactions(version: int) -> None:
    request = example(ApiKey.ADD_PARTITIONS_TO_TXN, version)
    one = request.transactions[0]
    transactions = tuple(
        dataclasses.replace(one, transactional_id=name, topics=topics_with(one.topics[0], *topics))
        for name, topics in (("t1", "am"), ("t2", "a"), ("t3", "m"))
    )
    request = dataclasses.replace(request, transactions=transactions)
    assert split_request(request, refuse()) is None
    cut = split_request(request, refuse("m"))
    assert isinstance(cut, Cut)
    forwarded = decode_request(ApiKey.ADD_PARTITIONS_TO_TXN, version, cut.body)
    assert forwarded == dataclasses.replace(request, transactions=transactions[1:2])
    broker = example(ApiKey.ADD_PARTITIONS_TO_TXN, version, response=True)
    result = dataclasses.replace(broker.results_by_transaction[0], transactional_id="t2")
    broker = dataclasses.replace(broker, results_by_transaction=(result,))
    merged = answered(request, cut.merge(encode_response(broker)))
    assert [entry.transactional_id for entry in merged.results_by_transaction] == ["t1", "t2", "t3"]
    assert codes(merged.results_by_transaction[0].topic_results) == {
        "a": [(1, 55), (0, 55)],
        "m": [(1, 42), (0, 42)],
    }
    assert merged.results_by_transaction[1] == result
    check_rest_of_response(merged, broker, "results_by_transaction")

    answer = split_request(dataclasses.replace(request, transactions=transactions[2:]), refuse("m"))
    assert isinstance(answer, Answer)
    response = answered(request, answer.body)
    assert response.error_code == ErrorCode.none
    assert codes(response.results_by_transaction[0].topic_results) == {"m": [(1, 42), (0, 42)]}


# --- AlterConfigs, IncrementalAlterConfigs ------------------------------------------------------------------


def held_configs(topic: str) -> frozenset[str]:
    return frozenset({"retention.ms", "cleanup.policy"}) if topic == "m" else frozenset()


def alter(key: int, version: int, *resources: tuple[int, str, tuple[str, ...]]) -> Any:
    request = example(key, version)
    resource = request.resources[0]
    config = resource.configs[0]
    return dataclasses.replace(
        request,
        resources=tuple(
            dataclasses.replace(
                resource,
                resource_type=kind,
                resource_name=name,
                configs=tuple(dataclasses.replace(config, name=each) for each in configs),
            )
            for kind, name, configs in resources
        ),
    )


@pytest.mark.parametrize("version", versions(ApiKey.INCREMENTAL_ALTER_CONFIGS))
def test_incremental_alter_configs(version: int) -> None:
    key = ApiKey.INCREMENTAL_ALTER_CONFIGS
    request = alter(
        key,
        version,
        (TOPIC, "m", ("retention.ms", "max.message.bytes", "cleanup.policy")),
        (TOPIC, "a", ("retention.ms",)),
        (BROKER, "m", ("retention.ms",)),
        (TOPIC, "m", ("max.message.bytes",)),
    )
    cut = split_configs(request, held_configs)
    assert isinstance(cut, Cut)
    assert decode_request(key, version, cut.body) == dataclasses.replace(
        request, resources=request.resources[1:]
    )
    broker = example(key, version, response=True)
    result = broker.responses[0]
    results = tuple(
        dataclasses.replace(result, resource_type=kind, resource_name=name)
        for kind, name in ((BROKER, "m"), (TOPIC, "m"), (TOPIC, "a"))
    )
    broker = dataclasses.replace(broker, responses=results)
    merged = answered(request, cut.merge(encode_response(broker)))
    found = [(entry.resource_type, entry.resource_name) for entry in merged.responses]
    assert found == [(TOPIC, "m"), (TOPIC, "a"), (BROKER, "m"), (TOPIC, "m")]
    refused = merged.responses[0]
    assert refused.error_code == ErrorCode.invalid_request
    assert refused.error_message == (
        "Cannot modify mirror topic m because 'cleanup.policy, retention.ms' are set to always sync"
    )
    check_rest_of_response(merged, broker, "responses")


@pytest.mark.parametrize("version", versions(ApiKey.ALTER_CONFIGS))
def test_alter_configs_resets_what_it_does_not_name(version: int) -> None:
    key = ApiKey.ALTER_CONFIGS
    request = alter(key, version, (TOPIC, "m", ("max.message.bytes",)), (TOPIC, "a", ("retention.ms",)))
    cut = split_configs(request, held_configs)
    assert isinstance(cut, Cut)
    assert decode_request(key, version, cut.body) == dataclasses.replace(
        request, resources=request.resources[1:]
    )
    alone = alter(key, version, (TOPIC, "m", ()))
    answer = split_configs(alone, held_configs)
    assert isinstance(answer, Answer)
    (entry,) = answered(alone, answer.body).responses
    assert (entry.resource_type, entry.resource_name) == (TOPIC, "m")
    assert entry.error_code == ErrorCode.invalid_request
    assert entry.error_message.startswith("Cannot modify mirror topic m because")


@pytest.mark.parametrize("key", [ApiKey.ALTER_CONFIGS, ApiKey.INCREMENTAL_ALTER_CONFIGS])
def test_nothing_held(key: int) -> None:
    request = alter(key, 1, (TOPIC, "a", ("retention.ms",)), (BROKER, "m", ("retention.ms",)))
    assert split_configs(request, held_configs) is None
    if key == ApiKey.INCREMENTAL_ALTER_CONFIGS:
        assert split_configs(alter(key, 1, (TOPIC, "m", ("max.message.bytes",))), held_configs) is None
