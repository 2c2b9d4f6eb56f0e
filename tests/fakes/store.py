"""A state store without Kafka."""

from collections.abc import Callable, Sequence

from gateway.state.records import Delete, Record, State


class FakeStore:
    """Applies changes at once; `failure` is raised instead if it is set."""

    def __init__(self) -> None:
        self.state = State()
        self.failure: Exception | None = None

    async def update(self, change: Callable[[State], Sequence[Record | Delete]]) -> State:
        """As the real one."""
        if self.failure is not None:
            raise self.failure
        self.state = self.state.with_changes(change(self.state))
        return self.state
