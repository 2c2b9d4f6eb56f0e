"""What one client connection still owes: its unanswered requests, in the order in which the client sent them.

A Kafka connection answers strictly in order. A gateway answers some requests itself and forwards the others,
so an answer may be ready before an earlier one; it waits here. The broker answers in order too, so a response
with any other correlation id than that of the oldest forwarded request is an error and never a guess. A
Produce request with acks=0 has no answer and takes no place.
"""

from collections.abc import Sequence
from typing import Generic, TypeAlias, TypeVar

from protocol.errors import DecodeError
from protocol.fields import Buffer
from protocol.headers import RequestHeader

Parts: TypeAlias = Sequence[Buffer]
Context = TypeVar("Context")


class _Place:
    """One request's place in the client's order; `response` is None until its answer is ready."""

    __slots__ = ("response", "size_bytes")

    def __init__(self, size_bytes: int, response: Parts | None) -> None:
        self.size_bytes = size_bytes
        self.response = response


class Entry(_Place, Generic[Context]):
    """A forwarded request: the client's `header` and what the caller keeps for the response (`context`)."""

    __slots__ = ("context", "header", "matched", "upstream_correlation_id")

    def __init__(
        self, upstream_correlation_id: int, header: RequestHeader, size_bytes: int, context: Context
    ) -> None:
        # Not by super(): one of these is made for every request.
        self.size_bytes = size_bytes
        self.response = None
        self.upstream_correlation_id = upstream_correlation_id
        self.header = header
        self.context = context
        self.matched = False


class InFlight(Generic[Context]):
    """The unanswered requests of one client connection, at most `max_count` of together about `max_bytes`."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self.max_count = max_count
        self.max_bytes = max_bytes
        self._size_bytes = 0
        # Lists, since they are short, and an empty deque takes ten times as much on every idle connection.
        self._places: list[_Place] = []
        self._forwarded: list[Entry[Context]] = []

    def __len__(self) -> int:
        """Return how many requests the client has not been answered."""
        return len(self._places)

    @property
    def empty(self) -> bool:
        """Whether the client has been answered everything."""
        return not self._places

    @property
    def size_bytes(self) -> int:
        """The bytes of the requests that were forwarded and of the local answers that wait."""
        return self._size_bytes

    def has_room(self, size_bytes: int) -> bool:
        """Whether one more request of that size may be taken; one alone always may, however large."""
        if not self._places:
            return True
        return len(self._places) < self.max_count and self._size_bytes + size_bytes <= self.max_bytes

    def add_forwarded(
        self, upstream_correlation_id: int, header: RequestHeader, size_bytes: int, context: Context
    ) -> Entry[Context]:
        """Give a place to a request that is sent to the broker under that correlation id."""
        entry = Entry(upstream_correlation_id, header, size_bytes, context)
        self._append(entry)
        self._forwarded.append(entry)
        return entry

    def add_local(self, response: Parts) -> None:
        """Give a place to a request that we have answered ourselves."""
        self._append(_Place(sum(map(len, response)), response))

    def _append(self, place: _Place) -> None:
        self._places.append(place)
        self._size_bytes += place.size_bytes

    def match(self, upstream_correlation_id: int) -> Entry[Context]:
        """Return the request that a response of the broker answers: the oldest one, or DecodeError."""
        if not self._forwarded:
            raise DecodeError(f"the broker sent a response ({upstream_correlation_id}) to no request")
        oldest = self._forwarded[0]
        if oldest.upstream_correlation_id != upstream_correlation_id:
            due = oldest.upstream_correlation_id
            raise DecodeError(f"the broker answered {upstream_correlation_id} where {due} is due")
        oldest.matched = True
        return self._forwarded.pop(0)

    def complete(self, entry: Entry[Context], response: Parts) -> None:
        """Put the client's answer to a matched request in its place; ValueError if it waits for none."""
        if not entry.matched or entry.response is not None:
            raise ValueError(f"request {entry.upstream_correlation_id} does not wait for its answer")
        entry.response = response

    def answer(self, entry: Entry[Context], response: Parts) -> Sequence[Parts]:
        """Complete an entry and take the answers that may be written now, as `pop_ready` does."""
        places = self._places
        if len(places) == 1 and places[0] is entry and entry.matched:
            # As most often: nothing else is due.
            entry.response = response
            self._size_bytes -= entry.size_bytes
            places.clear()
            return (response,)
        self.complete(entry, response)
        return self.pop_ready()

    def pop_ready(self) -> list[Parts]:
        """Take the answers that may be written now, in the client's order."""
        ready = []
        while self._places:
            response = self._places[0].response
            if response is None:
                break
            self._size_bytes -= self._places.pop(0).size_bytes
            ready.append(response)
        return ready
