"""The one step in which responses about mirror topics become what their source would answer.

For clients and for the other side of links alike: `protocol.shown_responses` has the how. Without a mirror in
the state nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from gateway import observe
from protocol.shown_responses import SHOWN_VERSIONS, Shown, present_response

# What is known of the mirrors now; None if there are none.
ShownNow: TypeAlias = Callable[[], Shown | None]


def no_mirrors() -> None:
    """For a gateway without mirrors."""


class Presentation:
    """Presents the responses of one API and version."""

    __slots__ = ("_api_key", "_shown_now", "_version")

    def __init__(self, shown_now: ShownNow, api_key: int, version: int) -> None:
        self._shown_now = shown_now
        self._api_key = api_key
        self._version = version

    def __call__(self, frame: bytearray) -> bytearray:
        """The response as the client is to see it: this frame, perhaps altered, or a new one. DecodeError."""
        shown = self._shown_now()
        if shown is None:
            return frame
        presented, batches = present_response(self._api_key, self._version, frame, shown)
        if batches:
            observe.fillers_presented.inc(batches)
        return presented


def presentation(shown_now: ShownNow, api_key: int, version: int) -> Presentation | None:
    """The presentation of an API's responses; None for one that tells nothing about logs."""
    return Presentation(shown_now, api_key, version) if api_key in SHOWN_VERSIONS else None
