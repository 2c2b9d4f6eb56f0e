"""The newest record per key of the state topic, and what of it this version cannot understand.

A record that cannot be understood makes the whole table unusable until a newer record or a deletion under
the same key replaces it: acting on a part of the state could let a client write to a mirror topic.
"""

from collections.abc import Callable

from gateway.state.records import Delete, Record, State, StateFormatError, decode_change


class Table:
    """Folds the records of the state topic, in their order, into the `State` of the cluster `cluster_id`."""

    def __init__(self, topic: str, cluster_id: Callable[[], str | None] = lambda: None) -> None:
        self._topic = topic
        self._cluster_id = cluster_id
        self._state = State()
        self._pending: list[Record | Delete] = []
        self._refused: dict[bytes | None, str] = {}

    def apply(self, offset: int, key: bytes | None, value: bytes | None) -> None:
        """Takes the record at `offset`."""
        try:
            change = decode_change(key, value)
        except StateFormatError as error:
            if value is None:
                self._refused.pop(key, None)
            else:
                self._refused[key] = f"offset {offset}: {error}"
            return
        self._refused.pop(key, None)
        self._pending.append(change)

    def state(self) -> State:
        """The state after everything taken so far. StateFormatError if a part of it cannot be understood."""
        if self._refused:
            first = next(iter(self._refused.values()))
            others = f" (and {len(self._refused) - 1} more)" if len(self._refused) > 1 else ""
            raise StateFormatError(
                f"topic {self._topic}, {first}{others}; only gateways may write there: use a gateway version"
                " that knows it, or write a null value under the same key"
            )
        if self._pending:
            self._state = self._state.with_changes(self._pending)
            self._pending = []
        kept, present = self._state.cluster_id, self._cluster_id()
        if kept is not None and present is not None and kept != present:
            raise StateFormatError(
                f"topic {self._topic} is the state of cluster {kept}, and this is cluster {present}: either"
                " bootstrap_servers lead to another cluster than they did, or the topic was copied; delete it"
                " here if nothing in it is needed"
            )
        return self._state
