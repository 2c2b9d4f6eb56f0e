"""A short fuzz with a fixed seed; `make fuzz` is the long one."""

from __future__ import annotations

import os

from tests.conftest import Clusters
from tests.fuzz.run import fuzz

SEED = 4
# Continuous integration fuzzes for half a minute.
SECONDS = float(os.environ.get("FUZZ_SECONDS", "15"))
# What a gateway loads and remembers of messages that it sees for the first time is no leak.
WARM_UP_BYTES = 64 << 20


def test_mutated_frames_from_both_sides_do_no_harm(own_cluster: Clusters) -> None:
    """On a cluster of its own: links of other tests would be errors in the log, which count as finds."""
    result = fuzz(own_cluster("4.3.0"), frames=10**9, seed=SEED, seconds=SECONDS)
    print(result.details())
    print(result.line())
    assert (result.findings, result.aborts, result.hangs, result.healthy_failures) == (0, 0, 0, 0)
    assert result.rss_growth_bytes < WARM_UP_BYTES
    assert result.requests > 100 * SECONDS
    assert result.responses > 25 * SECONDS
    assert result.healthy_requests > SECONDS
    assert result.healthy_p99_ms < 1000
