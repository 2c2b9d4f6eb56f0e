from __future__ import annotations

import pytest

from gateway.config import LimitsConfig
from gateway.listeners.deadlines import Sample, Watch, interval_s

LIMITS = LimitsConfig(frame_timeout_ms=1_000, idle_timeout_ms=5_000)


def sample(frames: int = 0, *, in_frame: bool = True, idle_s: float = 0, unsent_s: float = 0) -> Sample:
    return Sample(idle_s, frames, in_frame, unsent_s)


def test_a_frame_that_never_ends_is_not_waited_for() -> None:
    watch = Watch()
    for now in (100.0, 100.5, 101.0):
        assert watch.judge(sample(7), LIMITS, now) is None
    overdue = watch.judge(sample(7), LIMITS, 101.1)
    assert overdue == ("slow", "a request was begun and not finished within 1 s")


def test_frame_after_frame_may_come_for_ever() -> None:
    watch = Watch()
    assert all(watch.judge(sample(number), LIMITS, 100 + 0.9 * number) is None for number in range(100))


def test_time_in_which_we_do_not_read_does_not_count() -> None:
    watch = Watch()
    assert watch.judge(sample(7), LIMITS, 100.0) is None
    assert watch.judge(sample(7, in_frame=False), LIMITS, 105.0) is None
    assert watch.judge(sample(7), LIMITS, 200.0) is None
    assert watch.judge(sample(7), LIMITS, 200.9) is None
    assert watch.judge(sample(7), LIMITS, 201.1) is not None


def test_who_takes_no_responses_is_closed() -> None:
    watch = Watch()
    assert watch.judge(sample(in_frame=False, unsent_s=1.0), LIMITS, 100.0) is None
    overdue = watch.judge(sample(in_frame=False, unsent_s=1.1), LIMITS, 100.1)
    assert overdue == ("slow", "responses were not taken within 1 s")


def test_who_is_silent_is_closed() -> None:
    watch = Watch()
    assert watch.judge(sample(in_frame=False, idle_s=5.0), LIMITS, 100.0) is None
    assert watch.judge(sample(in_frame=False, idle_s=5.1), LIMITS, 100.1) == ("idle", "silent for 5 s")


@pytest.mark.parametrize(
    ("frame_ms", "idle_ms", "interval"),
    [(60_000, 600_000, 5.0), (1_000, 600_000, 0.1), (60_000, 2_000, 0.2), (1, 1, 0.05)],
)
def test_samples_are_taken_often_enough(frame_ms: int, idle_ms: int, interval: float) -> None:
    assert interval_s(LimitsConfig(frame_timeout_ms=frame_ms, idle_timeout_ms=idle_ms)) == interval
