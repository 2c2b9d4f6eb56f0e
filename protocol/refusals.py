"""Requests of which a part is refused: that part is cut out and answered here, the rest goes to the broker.

Produce v3-13 is cut and merged by hand, since its records must stay as they are. AddPartitionsToTxn,
DeleteRecords, CreatePartitions, AlterConfigs and IncrementalAlterConfigs are cut as decoded messages. The
client sees one response with everything that it asked for, once and in its order.
"""

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias, get_args

from kio.schema.errors import ErrorCode
from kio.static.primitive import i32Timedelta

from protocol.api_keys import ApiKey
from protocol.fields import Buffer
from protocol.messages import decode_response, encode_request, encode_response, response_class


class Refusal(NamedTuple):
    """Why a topic is refused; `message` is shown where the response has a place for it."""

    error_code: int
    message: str | None = None


class Answer(NamedTuple):
    """Nothing is left to forward: the body of the response."""

    body: bytes


class Cut(NamedTuple):
    """The body left to forward; `merge` makes the client's response body of the broker's (DecodeError)."""

    body: bytes
    merge: Callable[[Buffer], bytes]


RefusedTopic: TypeAlias = Callable[[str], Refusal | None]


def read_only(api_key: int, topic: str) -> Refusal:
    """The refusal of a change to a mirror topic; Produce has the words of Confluent's brokers."""
    action = _ACTIONS.get(api_key, "append records to")
    return Refusal(ErrorCode.invalid_request, f"Cannot {action} read-only mirror topic '{topic}'")


_ACTIONS: Final[dict[int, str]] = {
    ApiKey.DELETE_RECORDS: "delete records of",
    ApiKey.CREATE_PARTITIONS: "create partitions of",
}


def split_request(request: Any, refused: RefusedTopic) -> Answer | Cut | None:
    """Cut the refused topics out of a decoded AddPartitionsToTxn, DeleteRecords or CreatePartitions request.

    None if there is none. Of a transaction with one refused topic nothing is added, as Kafka has it.
    """
    return _SPLITTERS[request.__api_key__](request, refused)


def split_configs(request: Any, held_configs: Callable[[str], frozenset[str]]) -> Answer | Cut | None:
    """Cut the topics whose held configs would change out of an AlterConfigs or IncrementalAlterConfigs.

    None if there is none. AlterConfigs resets what it does not name: with held configs it is always refused.
    """
    replaces_all = request.__api_key__ == ApiKey.ALTER_CONFIGS
    answers = []
    for resource in request.resources:
        held = (
            held_configs(resource.resource_name) if resource.resource_type == _TOPIC_RESOURCE else frozenset()
        )
        changed = held if replaces_all else held.intersection(config.name for config in resource.configs)
        answers.append(_refuse_configs(request, resource, changed) if changed else None)
    return _split(request, _CONFIGS, answers)


_TOPIC_RESOURCE: Final = 2


def _refuse_configs(request: Any, resource: Any, changed: frozenset[str]) -> Any:
    names = ", ".join(sorted(changed))
    topic = resource.resource_name
    return _element(_response_class(request), "responses")(
        error_code=ErrorCode.invalid_request,
        error_message=f"Cannot modify mirror topic {topic} because '{names}' are set to always sync",
        resource_type=resource.resource_type,
        resource_name=resource.resource_name,
    )


class _Lists(NamedTuple):
    """The lists of a request and its response, and what an element of both is known by."""

    asked: str
    answered: str
    key: Callable[[Any], object]


_DELETE_RECORDS: Final = _Lists("topics", "topics", attrgetter("name"))
_CREATE_PARTITIONS: Final = _Lists("topics", "results", attrgetter("name"))
_CONFIGS: Final = _Lists("resources", "responses", attrgetter("resource_type", "resource_name"))
_TRANSACTIONS: Final = _Lists("transactions", "results_by_transaction", attrgetter("transactional_id"))


def _split(request: Any, lists: _Lists, answers: Sequence[Any | None]) -> Answer | Cut | None:
    """Split a request by our answers to the elements of its list; None stands for those to forward."""
    asked = getattr(request, lists.asked)
    kept = tuple(element for element, answer in zip(asked, answers, strict=True) if answer is None)
    if len(kept) == len(asked):
        return None
    if not kept:
        return Answer(_encode_answer(request, lists.answered, answers))

    def merge(body: Buffer) -> bytes:
        response = decode_response(request.__api_key__, request.__version__, body)
        theirs: dict[object, list[Any]] = {}
        for element in getattr(response, lists.answered):
            theirs.setdefault(lists.key(element), []).append(element)
        merged: list[Any] = []
        for element, answer in zip(asked, answers, strict=True):
            merged += theirs.pop(lists.key(element), ()) if answer is None else (answer,)
        for elements in theirs.values():
            merged += elements
        return encode_response(dataclasses.replace(response, **{lists.answered: tuple(merged)}))

    return Cut(encode_request(dataclasses.replace(request, **{lists.asked: kept})), merge)


def _split_delete_records(request: Any, refused: RefusedTopic) -> Answer | Cut | None:
    topic_result = _element(_response_class(request), "topics")
    partition_result = _element(topic_result, "partitions")

    def answer(topic: Any) -> Any:
        refusal = refused(topic.name)
        return refusal and topic_result(
            name=topic.name,
            partitions=tuple(
                partition_result(
                    partition_index=partition.partition_index,
                    low_watermark=-1,
                    error_code=ErrorCode(refusal.error_code),
                )
                for partition in topic.partitions
            ),
        )

    return _split(request, _DELETE_RECORDS, [answer(topic) for topic in request.topics])


def _split_create_partitions(request: Any, refused: RefusedTopic) -> Answer | Cut | None:
    result = _element(_response_class(request), "results")

    def answer(topic: Any) -> Any:
        refusal = refused(topic.name)
        return refusal and result(
            name=topic.name, error_code=ErrorCode(refusal.error_code), error_message=refusal.message
        )

    return _split(request, _CREATE_PARTITIONS, [answer(topic) for topic in request.topics])


def _split_add_partitions(request: Any, refused: RefusedTopic) -> Answer | Cut | None:
    made = _response_class(request)
    if request.__version__ < _BATCHED_TRANSACTIONS:
        topic_result = _element(made, "results_by_topic_v3_and_below")
        results = _refuse_transaction(request.v3_and_below_topics, topic_result, refused)
        if results is None:
            return None
        return Answer(_encode_answer(request, "results_by_topic_v3_and_below", results))
    transaction_result = _element(made, "results_by_transaction")
    topic_result = _element(transaction_result, "topic_results")

    def answer(transaction: Any) -> Any:
        results = _refuse_transaction(transaction.topics, topic_result, refused)
        return results and transaction_result(
            transactional_id=transaction.transactional_id, topic_results=results
        )

    return _split(request, _TRANSACTIONS, [answer(transaction) for transaction in request.transactions])


_BATCHED_TRANSACTIONS: Final = 4


def _refuse_transaction(topics: Sequence[Any], topic_result: Any, refused: RefusedTopic) -> Any:
    """Return the result of every topic if one is refused: of the others, that nothing was attempted."""
    refusals = [refused(topic.name) for topic in topics]
    if not any(refusals):
        return None
    partition_result = _element(topic_result, "results_by_partition")
    return tuple(
        topic_result(
            name=topic.name,
            results_by_partition=tuple(
                partition_result(partition_index=index, partition_error_code=_code(refusal))
                for index in topic.partitions
            ),
        )
        for topic, refusal in zip(topics, refusals, strict=True)
    )


def _code(refusal: Refusal | None) -> ErrorCode:
    return ErrorCode.operation_not_attempted if refusal is None else ErrorCode(refusal.error_code)


_SPLITTERS: Final[dict[int, Callable[[Any, RefusedTopic], Answer | Cut | None]]] = {
    ApiKey.ADD_PARTITIONS_TO_TXN: _split_add_partitions,
    ApiKey.DELETE_RECORDS: _split_delete_records,
    ApiKey.CREATE_PARTITIONS: _split_create_partitions,
}


def _response_class(request: Any) -> Any:
    return response_class(request.__api_key__, request.__version__)


@cache
def _element(message: Any, name: str) -> Any:
    """Return the class of the elements of a kio message's list."""
    (field,) = (field for field in dataclasses.fields(message) if field.name == name)
    return get_args(field.type)[0]


def _encode_answer(request: Any, name: str, elements: Sequence[Any]) -> bytes:
    made = _response_class(request)
    values: dict[str, Any] = {"throttle_time": _NO_THROTTLE_TIME, name: tuple(elements)}
    if any(field.name == "error_code" for field in dataclasses.fields(made)):
        values["error_code"] = ErrorCode.none
    return encode_response(made(**values))


_NO_THROTTLE_TIME: Final = i32Timedelta.parse(datetime.timedelta(0))
