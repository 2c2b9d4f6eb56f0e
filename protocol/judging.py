"""Judging a request by what its sender may do, in the shapes that many APIs have in common.

Done by the rows of `permissions` and `refusal_table`: as a whole, resource by resource, topic by topic. What
an API has for itself alone is in `authorize_more`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeAlias
from uuid import UUID

from kio.schema.errors import ErrorCode

from protocol.acls import CLUSTER_NAME, Operation, ResourceType
from protocol.api_keys import ApiKey
from protocol.blank_messages import build, element_class, has_field
from protocol.cutting import Lists, cut
from protocol.messages import encode_response, response_class
from protocol.permissions import PERMISSIONS, REFUSED, Need
from protocol.refusal_table import REFUSALS, Each, Topics, Whole
from protocol.refusals import Answer, Cut

UNKNOWN_ID: Final = ErrorCode.unknown_topic_id

MESSAGES: Final[dict[ErrorCode, str]] = {
    ErrorCode.topic_authorization_failed: "Topic authorization failed.",
    ErrorCode.group_authorization_failed: "Group authorization failed.",
    ErrorCode.cluster_authorization_failed: "Cluster authorization failed.",
    ErrorCode.transactional_id_authorization_failed: "Transactional Id authorization failed.",
    ErrorCode.unknown_topic_id: "This server does not host this topic ID.",
}


class Judge(Protocol):
    """What the sender of one request may do. With `quiet` a refusal is no error, and is not reported."""

    def may(
        self, operation: Operation, resource: ResourceType, name: str, *, quiet: bool = False
    ) -> bool: ...

    def may_any(self, operation: Operation, resource: ResourceType) -> bool:
        """Whether there is any such resource, existing or not."""
        ...

    def operations(self, resource: ResourceType, name: str) -> int:
        """The bits of `authorizedOperations` (KIP-430)."""
        ...

    def name_of(self, topic_id: UUID) -> str | None:
        """The topic with that id; None if there is none."""
        ...


class Hide(NamedTuple):
    """Forward, and leave the topics of the response out that are `hidden` (Metadata about all topics)."""

    hidden: Callable[[str], bool]


Outcome: TypeAlias = Answer | Cut | Hide | None
Rule: TypeAlias = Callable[[Any, Judge], Outcome]


def allowed(judge: Judge, need: Need, name: str) -> bool:
    """Whether the sender has a permission for one resource."""
    if need.instead is not None and judge.may(
        need.instead, ResourceType.CLUSTER, CLUSTER_NAME, quiet=need.resource is not ResourceType.CLUSTER
    ):
        return True
    return judge.may(need.operation, need.resource, name, quiet=need.quiet)


def topic_refusal(judge: Judge, need: Need, topic: str | UUID) -> ErrorCode | None:
    """Why a topic is refused that a request names, or of which it has the id; None if it is not."""
    name = judge.name_of(topic) if isinstance(topic, UUID) else topic
    if name is None:
        return UNKNOWN_ID
    return None if allowed(judge, need, name) else REFUSED[need.resource]


def answer(request: Any, values: dict[str, Any]) -> Answer:
    """The response to a request, made of these values."""
    return Answer(encode_response(build(response_class(request.__api_key__, request.__version__), values)))


def refuse(request: Any, code: ErrorCode) -> Answer:
    """The refusal of a whole request, where its API has a place for one."""
    shape = REFUSALS[request.__api_key__]
    text = MESSAGES.get(code)
    shown = text if isinstance(shape, Each) or shape.text else None
    values: dict[str, Any] = {"error_code": code, "error_message": shown}
    if isinstance(shape, Whole):
        values |= shape.values
        if shape.parts is not None:
            values |= shape.parts(request, code, text or "")
    elif isinstance(shape, Topics) and shape.spread:
        made = response_class(request.__api_key__, request.__version__)
        shape = _shape_of(request, shape)
        values = {shape.answered: [refused_topic(made, shape, each, code) for each in _asked(request, shape)]}
    return answer(request, values)


def refused_topic(response: Any, shape: Topics, topic: Any, code: ErrorCode) -> Any:
    """The answer about one topic of which every partition is refused."""
    name = getattr(topic, shape.name)
    made = element_class(response, shape.answered)
    partitions = [
        {
            **shape.values,
            shape.answered_index: each if shape.indexes is None else getattr(each, shape.indexes),
            shape.code: code,
            "error_message": MESSAGES.get(code) if shape.text else None,
        }
        for each in getattr(topic, shape.partitions) or ()
    ]
    return build(made, {shape.answered_name: name, shape.answered_partitions: partitions})


def whole_needs(request: Any, judge: Judge, needs: Iterable[Need]) -> ErrorCode | None:
    """The code of the first need that the request as a whole does not have; None if it has all."""
    for need in needs:
        if need.resource is ResourceType.CLUSTER:
            names: Sequence[str] = (CLUSTER_NAME,)
        else:
            value = getattr(request, need.of)
            if value is None and need.resource is not ResourceType.TOPIC:
                # No group can be judged that is not named; a list of topics may be left out.
                return REFUSED[need.resource]
            names = (value,) if isinstance(value, str) else value or ()
        if not allowed_all(judge, need, names):
            return REFUSED[need.resource]
    return None


def allowed_all(judge: Judge, need: Need, names: Iterable[str]) -> bool:
    """Whether the sender has a permission for all of some resources; all are judged, for the audit."""
    return not [name for name in names if not allowed(judge, need, name)]


# --- the shapes -----------------------------------------------------------------------------------------


def judge_whole(request: Any, judge: Judge) -> Outcome:
    """All needs of the API, or the request is refused."""
    code = whole_needs(request, judge, PERMISSIONS[request.__api_key__])
    return None if code is None else refuse(request, code)


def judge_each(request: Any, judge: Judge, change: Callable[[Any], Any] | None = None) -> Outcome:
    """A list of resources, each judged by the first need of the API; `change` as in `cut`."""
    shape = REFUSALS[request.__api_key__]
    if not isinstance(shape, Each):
        raise TypeError(f"{shape} is no shape of a list")
    need = PERMISSIONS[request.__api_key__][0]
    made = response_class(request.__api_key__, request.__version__)
    element = element_class(made, shape.answered)
    code = REFUSED[need.resource]

    def name_of(asked: Any) -> str:
        name: str = asked if shape.asked_name is None else getattr(asked, shape.asked_name)
        return name

    refused = [
        None
        if allowed(judge, need, name_of(asked))
        else build(
            element,
            {
                **shape.values,
                shape.name: name_of(asked),
                "error_code": code,
                "error_message": MESSAGES[code] if shape.text else None,
            },
        )
        for asked in getattr(request, shape.asked)
    ]
    lists = Lists(shape.asked, shape.answered, name_of, lambda answered: getattr(answered, shape.name))
    return cut(request, lists, refused, partial(only, made, shape.answered), change)


def judge_topics(request: Any, judge: Judge) -> Outcome:
    """The needs of the API for the request as a whole, and the last one for each of its topics."""
    needs = PERMISSIONS[request.__api_key__]
    code = whole_needs(request, judge, needs[:-1])
    if code is not None:
        return refuse(request, code)
    return cut_topics(request, judge)


def cut_topics(request: Any, judge: Judge) -> Answer | Cut | None:
    """The topics of a request, each judged by the last need of the API."""
    shape = REFUSALS[request.__api_key__]
    if not isinstance(shape, Topics):
        raise TypeError(f"{shape} is no shape of topics")
    need = PERMISSIONS[request.__api_key__][-1]
    made = response_class(request.__api_key__, request.__version__)
    shape = _shape_of(request, shape)
    refused = []
    for topic in _asked(request, shape):
        code = topic_refusal(judge, need, getattr(topic, shape.name))
        refused.append(None if code is None else refused_topic(made, shape, topic, code))
    lists = Lists(
        shape.asked,
        shape.answered,
        lambda asked: getattr(asked, shape.name),
        lambda answered: getattr(answered, shape.answered_name),
    )
    # A broker counts the requests of a share session, also those with nothing in them.
    counts = request.__api_key__ == ApiKey.SHARE_ACKNOWLEDGE
    return cut(request, lists, refused, partial(only, made, shape.answered), forward_none=counts)


def by_topic_id(shape: Topics) -> Topics:
    """The shape in the versions that have ids in the place of names (KIP-516)."""
    return replace(shape, name="topic_id", answered_name="topic_id")


def _shape_of(request: Any, shape: Topics) -> Topics:
    by_name = has_field(element_class(type(request), shape.asked), shape.name)
    return shape if by_name else by_topic_id(shape)


def _asked(request: Any, shape: Topics) -> Sequence[Any]:
    return getattr(request, shape.asked) or ()


def only(made: Any, answered: str, elements: Sequence[Any]) -> Any:
    """A response that holds nothing but our own answers."""
    return build(made, {answered: tuple(elements)})
