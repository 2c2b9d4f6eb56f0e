"""The configs of mirror topics: which are the link's, which follow the source, and what a promote writes.

While mirrored a topic keeps everything (`retention.*` -1, no compaction before it has caught up) and takes
batches as they are (`compression.type=producer`, CreateTime without bounds): these are *held*. Together with
what is always synced they are fixed, and clients cannot alter them. Of the others those that
`topic.config.sync.include` lists follow the source's changes.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from gateway.state.records import MirrorRecord
from gateway.upstreams.topic_configs import TopicConfig

INCLUDE: Final = "topic.config.sync.include"

HELD: Final[Mapping[str, str]] = {
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "cleanup.policy": "delete",
    "compression.type": "producer",
    "message.timestamp.type": "CreateTime",
    # Up to 3.5, and from 3.6 on (KIP-937).
    "message.timestamp.difference.max.ms": "9223372036854775807",
    "message.timestamp.before.max.ms": "9223372036854775807",
    "message.timestamp.after.max.ms": "9223372036854775807",
}
_MAX_BYTES: Final = "max.message.bytes"
FIXED: Final = frozenset(HELD) | {_MAX_BYTES}
# Confluent's: any list of one's own must have them.
ALWAYS_SYNCED: Final = frozenset(
    {"message.timestamp.type", "message.timestamp.difference.max.ms", "cleanup.policy", _MAX_BYTES}
)
# Kafka 4 has no such config any more.
_NEEDED: Final = ALWAYS_SYNCED - {"message.timestamp.difference.max.ms"}
_BY_DEFAULT: Final = frozenset(
    {
        "compression.type",
        "delete.retention.ms",
        "file.delete.delay.ms",
        "flush.messages",
        "flush.ms",
        "index.interval.bytes",
        "max.compaction.lag.ms",
        "message.timestamp.after.max.ms",
        "message.timestamp.before.max.ms",
        "min.cleanable.dirty.ratio",
        "min.compaction.lag.ms",
        "preallocate",
        "retention.bytes",
        "retention.ms",
        "segment.bytes",
        "segment.index.bytes",
        "segment.jitter.ms",
        "segment.ms",
        "unclean.leader.election.enable",
    }
)
# `min.insync.replicas` goes with the replication factor, which is the destination's; it must be asked for.
_IF_ASKED: Final = frozenset(
    {
        "confluent.segment.speculative.prefetch.enable",
        "message.downconversion.enable",
        "min.insync.replicas",
    }
)
DEFAULT_INCLUDE: Final = ALWAYS_SYNCED | _BY_DEFAULT
INCLUDABLE: Final = DEFAULT_INCLUDE | _IF_ASKED

# By name the value, None if it is secret, and whether the topic itself sets it.
Configs = Mapping[str, tuple[str | None, bool]]


def by_value(configs: Mapping[str, TopicConfig]) -> dict[str, tuple[str | None, bool]]:
    """What DescribeConfigs says, as it is used here."""
    return {name: (config.value, config.own) for name, config in configs.items()}


def include_list(text: str | None) -> frozenset[str]:
    """The configs that `topic.config.sync.include` lists; not set, the default ones."""
    return DEFAULT_INCLUDE if text is None else frozenset(_names(text))


def include_problem(text: str) -> str | None:
    """What is wrong with a value of `topic.config.sync.include`, None if nothing is."""
    names = _names(text)
    never = sorted(set(names) - INCLUDABLE)
    if never:
        return f"has '{never[0][:100]}', which is no topic config that can be synced"
    missing = sorted(_NEEDED - set(names))
    if missing:
        return f"lacks {', '.join(missing)}: these are always synced"
    return None


def _names(text: str) -> list[str]:
    return [name for name in (part.strip() for part in text.split(",")) if name]


def synced_values(source: Configs, included: frozenset[str]) -> dict[str, str]:
    """What a mirror topic takes over from its source: what the topic itself sets, and its largest message."""
    return {
        name: value
        for name, (value, own) in source.items()
        if value is not None and (name == _MAX_BYTES or (own and name in included and name not in HELD))
    }


def source_values(source: Configs, included: frozenset[str] = DEFAULT_INCLUDE) -> dict[str, str]:
    """The source's values of the held configs that the topic itself sets, for the promote.

    LogAppendTime also where it is the cluster's default: clients are shown it.
    """
    return {
        name: value
        for name, (value, own) in source.items()
        if name in HELD
        and name in included | ALWAYS_SYNCED
        and value is not None
        and (own or value == "LogAppendTime")
    }


def shown_values(source: Configs) -> dict[str, str]:
    """The source's values of the held configs, its defaults too: what clients are shown in their place."""
    return {name: value for name, (value, _) in source.items() if name in HELD and value is not None}


def mirror_configs(
    source: Configs,
    known: Iterable[str],
    overrides: Mapping[str, str],
    included: frozenset[str] = DEFAULT_INCLUDE,
) -> dict[str, str]:
    """Configs to create a mirror topic with, of those that the destination knows."""
    names = frozenset(known)
    wanted = {**overrides, **synced_values(source, included), **HELD}
    return {name: value for name, value in wanted.items() if name in names}


def promoted_configs(record: MirrorRecord, known: Iterable[str]) -> dict[str, str | None]:
    """What a promote writes: the source's values, None (the broker's default) where the source had none."""
    return {name: record.configs.get(name) for name in HELD if name in frozenset(known)}
