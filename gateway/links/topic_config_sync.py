"""TopicConfigsSync: what a source topic's configs have become is done to its mirror topic.

What is fixed on a mirror topic (`topic_configs`) is put right if somebody has changed it behind the gateway's
back. Of what `topic.config.sync.include` lists only changes at the source are taken over: where a mirror
topic has been given another value meanwhile, it keeps that until then. The source's values of what is held
otherwise go into the mirror's record, for clients to be shown and for the promote.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import structlog

from gateway.links.board import TRANSPORT_ERRORS
from gateway.links.configs import LinkConfig
from gateway.links.link_tasks import AUTHORIZATION_ERROR, error_of
from gateway.links.mirror_making import known_configs
from gateway.links.mirror_notes import COMPACTED, KEPT, POLICY, Change
from gateway.links.partition import Mirror
from gateway.links.requests import TaskError
from gateway.links.topic_configs import (
    FIXED,
    HELD,
    INCLUDE,
    by_value,
    include_list,
    shown_values,
    source_values,
    synced_values,
)
from gateway.state.records import Delete, MirrorRecord, MirrorStatus, Record, State
from gateway.upstreams.admin import alter_topic_configs
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.errors import KafkaError
from gateway.upstreams.topic_configs import TopicConfig, describe_configs_of_topics

# Topics per request: some 30 configs of each are answered.
AT_ONCE: Final = 100

log = structlog.get_logger(__name__)

Configs = Mapping[str, TopicConfig]


@dataclass(frozen=True, slots=True)
class SourceConfigs:
    """What of a source topic's configs matters here; as its mirror's record has them."""

    synced: dict[str, str]
    held: dict[str, str]
    shown: dict[str, str]

    @classmethod
    def of(cls, configs: Configs, included: frozenset[str]) -> Self:
        """Of all that the source says."""
        values = by_value(configs)
        return cls(synced_values(values, included), source_values(values, included), shown_values(values))


class TopicConfigsSync:
    """The topic configs of one link. `mirrors` are its mirror topics as they are now."""

    name = "TopicConfigsSync"
    interval_key = "topic.config.sync.ms"

    def __init__(
        self,
        source: Cluster,
        destination: Cluster,
        mirrors: Callable[[], Iterable[Mirror]],
        write: Callable[[Change], Awaitable[None]],
    ) -> None:
        self._source = source
        self._destination = destination
        self._mirrors = mirrors
        self._write = write

    def is_on(self, _: LinkConfig) -> bool:
        """There is no switch: a mirror topic has its source's configs."""
        return True

    def problems(self, _: LinkConfig) -> Sequence[TaskError]:
        """None: `topic.config.sync.include` is checked when it is set."""
        return ()

    async def run(self, config: LinkConfig) -> Sequence[TaskError]:
        """Every mirror topic that has not ended; errors of some do not hold up the others."""
        records = [mirror.record for mirror in self._mirrors() if _is_due(mirror.record)]
        if not records:
            return ()
        included = include_list(config.text(INCLUDE))
        known = frozenset(await known_configs(self._destination))
        errors: list[TaskError] = []
        for at in range(0, len(records), AT_ONCE):
            errors += await self._sync(records[at : at + AT_ONCE], included, known)
        return errors

    async def _sync(
        self, records: Sequence[MirrorRecord], included: frozenset[str], known: frozenset[str]
    ) -> list[TaskError]:
        theirs = await describe_configs_of_topics(self._source, [r.source_topic_name for r in records])
        ours = await describe_configs_of_topics(self._destination, [r.mirror_topic_name for r in records])
        errors: list[TaskError] = []
        changed: dict[str, tuple[MirrorRecord, SourceConfigs]] = {}
        for record in records:
            name = record.mirror_topic_name
            there, here = theirs[record.source_topic_name], ours[name]
            if isinstance(there, KafkaError):
                errors.append(_source_error(there))
                continue
            if isinstance(here, KafkaError):
                # A topic that is gone is its replicator's to tell.
                errors.append(error_of(here))
                continue
            found = SourceConfigs.of(there, included)
            try:
                wanted = wanted_changes(record, found, here, known)
                if wanted:
                    await alter_topic_configs(self._destination, name, wanted)
                    log.info("topic_configs_synced", topic=name, configs=sorted(wanted))
            except TRANSPORT_ERRORS as error:
                errors.append(error_of(error))
                continue
            if found != SourceConfigs(record.synced_configs or {}, record.configs, record.shown_configs):
                changed[name] = record, found
        if changed:
            await self._write(lambda state: list(_with_values(state, changed)))
        return errors


def wanted_changes(
    record: MirrorRecord, source: SourceConfigs, here: Configs, known: frozenset[str]
) -> dict[str, str | None]:
    """What to alter on a mirror topic that has the configs `here`; None for back to the default."""
    values, held = source.synced, source.held
    fixed = {**HELD, POLICY: COMPACTED if record.compacted and "compact" in held.get(POLICY, "") else KEPT}
    fixed |= {name: value for name, value in values.items() if name in FIXED and name not in HELD}
    wanted: dict[str, str | None] = {
        name: value
        for name, value in fixed.items()
        if name in known and (name not in here or here[name].value != value)
    }
    before = record.synced_configs
    for name in values.keys() | (before or {}).keys():
        if name in fixed or name not in known:
            continue
        value = values.get(name)
        if before is not None and before.get(name) == value:
            continue
        present = here.get(name)
        if (present.value if present is not None and present.own else None) != value:
            wanted[name] = value
    return wanted


def _is_due(record: MirrorRecord) -> bool:
    if record.topic_id is None or record.failover:
        return False
    return record.status in (MirrorStatus.ACTIVE, MirrorStatus.PAUSED, MirrorStatus.PENDING_STOPPED)


def _with_values(
    state: State, changed: Mapping[str, tuple[MirrorRecord, SourceConfigs]]
) -> Iterable[Record | Delete]:
    for name, (record, found) in changed.items():
        current = state.mirrors.get(name)
        if current is None or current.producer_id != record.producer_id or not _is_due(current):
            continue
        yield current.model_copy(
            update={
                "synced_configs": found.synced,
                "configs": found.held,
                "shown_configs": found.shown,
                "compacted": current.compacted and "compact" in found.held.get(POLICY, ""),
            }
        )


def _source_error(error: KafkaError) -> TaskError:
    shown = error_of(error)
    if shown.error_code == AUTHORIZATION_ERROR:
        text = f"{shown.error_message}; the link's principal needs DESCRIBE_CONFIGS on the topic"
        return TaskError(shown.error_code, text)
    return shown
