"""Which broker coordinates which group, remembered until a broker says otherwise."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from gateway.upstreams.cluster import Cluster
from gateway.upstreams.errors import KafkaError
from gateway.upstreams.groups import find_coordinators

# COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR
MOVED: Final = frozenset({14, 15, 16})
_AT_ONCE: Final = 200
_MAX_REMEMBERED: Final = 100_000


class GroupCoordinators:
    """The coordinators of a cluster that may be written to."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[str, int] = {}

    async def sort(self, groups: Iterable[str]) -> tuple[dict[int, list[str]], dict[str, KafkaError]]:
        """The groups by their coordinators, and those of which that is not known, with the reason."""
        names = list(groups)
        unknown = [name for name in names if name not in self._known]
        if len(self._known) + len(unknown) > _MAX_REMEMBERED:
            self._known.clear()
            unknown = names
        failed: dict[str, KafkaError] = {}
        for first in range(0, len(unknown), _AT_ONCE):
            for name, answer in (
                await find_coordinators(self._cluster, unknown[first : first + _AT_ONCE])
            ).items():
                if isinstance(answer, KafkaError):
                    failed[name] = answer
                else:
                    self._known[name] = answer
        by_node: dict[int, list[str]] = defaultdict(list)
        for name in names:
            if name in self._known:
                by_node[self._known[name]].append(name)
        return by_node, failed

    def forget(self, groups: Iterable[str]) -> None:
        """They are coordinated elsewhere now."""
        for name in groups:
            self._known.pop(name, None)
