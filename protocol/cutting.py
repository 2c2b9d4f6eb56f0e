"""Lists in requests of which some elements are refused: these are cut out and answered, the rest goes on.

A refused element is answered where it stood; what the broker says about the others fills the places between.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from protocol.fields import Buffer
from protocol.messages import decode_response, encode_request, encode_response
from protocol.refusals import Answer, Cut

Change: TypeAlias = Callable[[Any], Any]


class Lists(NamedTuple):
    """The lists of a request and of its response, and what an element of each is known by."""

    asked: str
    answered: str
    asked_key: Callable[[Any], object]
    answered_key: Callable[[Any], object]


def changed(request: Any, change: Change, forward: Any | None = None) -> Cut:
    """Forwards `forward`, or the request as it is, and lets `change` make the response."""

    def merge(body: Buffer) -> bytes:
        return encode_response(change(decode_response(request.__api_key__, request.__version__, body)))

    return Cut(encode_request(request if forward is None else forward), merge)


def cut(
    request: Any,
    lists: Lists,
    refused: Sequence[Any | None],
    nothing: Callable[[tuple[Any, ...]], Any],
    change: Change | None = None,
    *,
    forward_none: bool = False,
) -> Answer | Cut | None:
    """Splits a request by our answers to the elements of its list; None stands for one to forward.

    `nothing` makes the response when no element is left, `change` changes the broker's before it is merged.
    None if there is nothing to do. With `forward_none` a request goes on of which nothing is left.
    """
    asked = getattr(request, lists.asked)
    kept = tuple(element for element, answer in zip(asked, refused, strict=True) if answer is None)
    if len(kept) == len(asked):
        return None if change is None else changed(request, change)
    if not kept and not forward_none:
        return Answer(encode_response(nothing(tuple(refused))))

    def merge(response: Any) -> Any:
        if change is not None:
            response = change(response)
        return merged(response, lists, asked, refused)

    return changed(request, merge, dataclasses.replace(request, **{lists.asked: kept}))


def merged(response: Any, lists: Lists, asked: Sequence[Any], refused: Sequence[Any | None]) -> Any:
    """The response with our answers in their places; what nobody asked for comes last.

    A response that is an error as a whole stays as it is.
    """
    if getattr(response, "error_code", 0):
        return response
    theirs: dict[object, list[Any]] = {}
    for element in getattr(response, lists.answered):
        theirs.setdefault(lists.answered_key(element), []).append(element)
    elements: list[Any] = []
    for element, answer in zip(asked, refused, strict=True):
        if answer is None:
            elements += theirs.pop(lists.asked_key(element), ())
        else:
            elements.append(answer)
    for rest in theirs.values():
        elements += rest
    return dataclasses.replace(response, **{lists.answered: tuple(elements)})
