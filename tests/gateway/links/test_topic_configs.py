"""Which configs of a mirror topic are whose."""

from typing import Any

from gateway.links.topic_configs import (
    ALWAYS_SYNCED,
    DEFAULT_INCLUDE,
    HELD,
    INCLUDABLE,
    include_list,
    include_problem,
    mirror_configs,
    promoted_configs,
    shown_values,
    source_values,
    synced_values,
)
from gateway.state.records import MirrorRecord
from tests.gateway.links.lab import record

KNOWN = [*INCLUDABLE]


def test_a_mirror_keeps_everything_whatever_its_source_does() -> None:
    source: dict[str, tuple[str | None, bool]] = {
        "retention.ms": ("1000", True),
        "cleanup.policy": ("compact", True),
        "max.message.bytes": ("5000000", False),
        "segment.bytes": ("1048576", True),
        "segment.ms": ("77", False),
        "min.insync.replicas": ("2", True),
        "index.interval.bytes": (None, True),
    }
    found = mirror_configs(source, KNOWN, {"retention.ms": "5", "flush.ms": "9"})
    assert found == {**HELD, "max.message.bytes": "5000000", "segment.bytes": "1048576", "flush.ms": "9"}


def test_a_destination_is_given_what_it_knows() -> None:
    assert mirror_configs({"segment.bytes": ("1", True)}, ["retention.ms"], {"a": "b"}) == {
        "retention.ms": "-1"
    }


def test_a_promote_gives_the_sources_own_values_and_the_brokers_defaults_for_the_rest() -> None:
    source: dict[str, tuple[str | None, bool]] = {
        "retention.ms": ("1000", True),
        "retention.bytes": ("5", False),
        "segment.bytes": ("1048576", True),
        "cleanup.policy": (None, True),
    }
    values = source_values(source)
    assert values == {"retention.ms": "1000"}
    mirror: MirrorRecord = record(configs=values)
    known: Any = ["retention.ms", "retention.bytes", "segment.bytes"]
    assert promoted_configs(mirror, known) == {"retention.ms": "1000", "retention.bytes": None}


def test_what_is_included_is_taken_over() -> None:
    source: dict[str, tuple[str | None, bool]] = {
        "retention.ms": ("1000", True),
        "min.insync.replicas": ("2", True),
        "max.message.bytes": ("77", False),
        "segment.ms": ("1", True),
        "cleanup.policy": ("compact", True),
        "flush.ms": ("2", False),
    }
    assert synced_values(source, DEFAULT_INCLUDE) == {"max.message.bytes": "77", "segment.ms": "1"}
    only = include_list(",".join([*sorted(ALWAYS_SYNCED), "min.insync.replicas"]))
    assert synced_values(source, only) == {"max.message.bytes": "77", "min.insync.replicas": "2"}
    assert source_values(source) == {"retention.ms": "1000", "cleanup.policy": "compact"}
    assert source_values(source, only) == {"cleanup.policy": "compact"}
    assert shown_values(source) == {"retention.ms": "1000", "cleanup.policy": "compact"}


def test_lists_of_ones_own() -> None:
    assert include_problem(",".join(INCLUDABLE)) is None
    assert include_problem(" message.timestamp.type , cleanup.policy,max.message.bytes,retention.ms,") is None
    assert "lacks cleanup.policy, max.message.bytes, message" in str(include_problem(""))
    problem = include_problem("cleanup.policy,leader.replication.throttled.replicas")
    assert (
        problem == "has 'leader.replication.throttled.replicas', which is no topic config that can be synced"
    )
