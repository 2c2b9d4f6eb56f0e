"""AutoCreateMirror: source topics that a link's filters include become mirror topics by themselves.

Filters are about the names at the source, before the prefix. Internal topics never match. A mirror topic that
is there stays, whatever becomes of the filters, and one that was stopped is not made again. Where the name is
taken by a topic that is none of the link's, that topic is left alone, and the task says so.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from gateway.links.configs import LinkConfig
from gateway.links.errors import LinkError
from gateway.links.group_filters import NameFilters
from gateway.links.link_tasks import INTERNAL_ERROR, MISCONFIGURATION_ERROR
from gateway.links.mirror_making import RESERVED_PREFIX
from gateway.links.requests import CreateMirror, TaskError
from gateway.state.records import MirrorRecord
from gateway.upstreams.cluster import Cluster

SWITCH: Final = "auto.create.mirror.topics.enable"
FILTERS: Final = "auto.create.mirror.topics.filters"
# Brokers' own, Confluent's own, ours.
INTERNAL: Final = ("__", "_confluent", RESERVED_PREFIX)
AT_ONCE: Final = 4
# What is not made by then is made by the next run.
PATIENCE_S: Final = 60.0


class AutoCreateMirror:
    """Makes the mirror topics of one link. `records` are those that it has, in any state."""

    name = "AutoCreateMirror"
    interval_key = "metadata.max.age.ms"

    def __init__(
        self,
        source: Cluster,
        destination: Cluster,
        records: Callable[[], Iterable[MirrorRecord]],
        create: Callable[[LinkConfig, CreateMirror], Awaitable[None]],
    ) -> None:
        self._source = source
        self._destination = destination
        self._records = records
        self._create = create

    def is_on(self, config: LinkConfig) -> bool:
        """Whether its switch is set."""
        return config.flag(SWITCH)

    def problems(self, config: LinkConfig) -> Sequence[TaskError]:
        """Without a filter that includes anything there is nothing to do, which nobody means."""
        if not NameFilters.parse(config.text(FILTERS) or "", "topicFilters").includes_nothing:
            return ()
        text = f"{SWITCH} is true, but {FILTERS} includes no topic: set a filter with filterType INCLUDE"
        return [TaskError(MISCONFIGURATION_ERROR, text)]

    async def run(self, config: LinkConfig) -> Sequence[TaskError]:
        """Make what is missing; why some could not be."""
        wanted = await self._wanted(config)
        taken = await self._taken(config, wanted)
        errors = [_name_is_taken(config.prefix + name, name) for name in wanted if name in taken]
        places, deadline = asyncio.Semaphore(AT_ONCE), time.monotonic() + PATIENCE_S

        async def make(name: str) -> None:
            async with places:
                if time.monotonic() > deadline:
                    return
                try:
                    await self._create(config, CreateMirror(name))
                except LinkError as error:
                    errors.append(TaskError(INTERNAL_ERROR, error.message))

        async with asyncio.TaskGroup() as group:
            for name in wanted:
                if name not in taken:
                    group.create_task(make(name))
        return errors

    async def _wanted(self, config: LinkConfig) -> list[str]:
        filters = NameFilters.parse(config.text(FILTERS) or "", "topicFilters")
        topics = (await self._source.metadata(None)).topics
        known = {record.source_topic_name for record in self._records()}
        return sorted(
            name
            for name, topic in topics.items()
            if not topic.error_code
            and name not in known
            and not name.startswith(INTERNAL)
            and filters.includes(name)
        )

    async def _taken(self, config: LinkConfig, names: Sequence[str]) -> set[str]:
        """Those whose mirror topics would have names that are taken."""
        if not names:
            return set()
        topics = (await self._destination.metadata([config.prefix + name for name in names])).topics
        found = {name: topics.get(config.prefix + name) for name in names}
        return {name for name, topic in found.items() if topic is not None and not topic.error_code}


def _name_is_taken(mirror_name: str, name: str) -> TaskError:
    text = (
        f"Topic '{mirror_name}' is there already, and no mirror topic of this link: it is left alone. "
        f"Delete it, or exclude '{name}' in {FILTERS}"
    )
    return TaskError(MISCONFIGURATION_ERROR, text)
