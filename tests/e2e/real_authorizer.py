"""Random questions about ACLs, asked of this gateway's `Acls` and of Kafka's StandardAuthorizer."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from compose.kafka import DEFAULT_VERSION
from compose.local import FAST_START, java_command
from gateway.security.acls import Acls
from tests.gateway.security.acl_cases import Case, RandomCases, case_line

_PROGRAM = Path(__file__).with_name("Authorize.java")


@dataclass(frozen=True)
class Comparison:
    """How many cases there were, how many were allowed, and those in which the two differ."""

    cases: int
    allowed: int
    differences: list[Case]


def compare(count: int, *, seed: int, timeout_s: float) -> Comparison:
    """Asks both the same; subprocess.TimeoutExpired, AssertionError if Java does not answer all."""
    cases = list(RandomCases(seed=seed).take(count))
    mine, lines = [], []
    acls, known = Acls(), None
    for case in cases:
        key = (case.acls, case.super_users, case.allow_everyone)
        lines.append(case_line(case, new_set=key != known))
        if key != known:
            acls, known = Acls(*key), key
        what = (case.principal, case.host, case.operation, case.resource_type)
        mine.append(acls.allows_any(*what) if case.name is None else acls.allows(*what, case.name))
    command = java_command(DEFAULT_VERSION, str(_PROGRAM), options=("-Xmx256m", *FAST_START))
    done = subprocess.run(
        command, input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=timeout_s, check=False
    )
    answers = done.stdout.split()
    assert len(answers) == count, f"{len(answers)} answers to {count} questions: {done.stderr[-2000:]}"
    assert set(answers) <= {"ALLOWED", "DENIED"}, set(answers)
    differing = [
        case for case, own, real in zip(cases, mine, answers, strict=True) if own != (real == "ALLOWED")
    ]
    return Comparison(count, sum(mine), differing)
