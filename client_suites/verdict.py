"""What two runs of one suite say about the gateway: pure decisions, no I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["passed", "failed", "skipped"]
# By the suite's own name of each test.
Outcomes = Mapping[str, Outcome]


@dataclass(frozen=True)
class Round:
    """One run straight to the cluster and one through the gateway."""

    direct: Outcomes
    through: Outcomes


@dataclass(frozen=True)
class Verdict:
    """`only_direct` are the gateway's faults; `unsteady` failed through it and passed when run again.

    `left_out` want what the gateway refuses on purpose.
    """

    passed_direct: int
    passed_through: int
    only_direct: tuple[str, ...]
    unsteady: tuple[str, ...]
    left_out: tuple[str, ...]


def suspects(rounds: Sequence[Round]) -> set[str]:
    """The tests that passed directly at least once, and never through the gateway in any round.

    A test that did not run through the gateway, because its process ended before, counts as not passed; one
    that skips itself there although it passes directly does too: what it wants is not to be had.
    """
    passed_direct = {name for each in rounds for name in _passed(each.direct)}
    passed_through = {name for each in rounds for name in _passed(each.through)}
    return passed_direct - passed_through


def judge(rounds: Sequence[Round], left_out: Collection[str] = ()) -> Verdict:
    """Counts what passed in any round; ValueError without one."""
    if not rounds:
        raise ValueError("nothing was run")
    failed = suspects(rounds)
    only_direct = failed - set(left_out)
    return Verdict(
        passed_direct=len({name for each in rounds for name in _passed(each.direct)}),
        passed_through=len({name for each in rounds for name in _passed(each.through)}),
        only_direct=tuple(sorted(only_direct)),
        unsteady=tuple(sorted(suspects(rounds[:1]) - failed)),
        left_out=tuple(sorted(failed & set(left_out))),
    )


def _passed(outcomes: Outcomes) -> Collection[str]:
    return [name for name, outcome in outcomes.items() if outcome == "passed"]
