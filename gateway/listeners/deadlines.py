"""Which connections have had their time: silent ones, and those that neither finish a frame nor take one.

A frame that was begun must be complete, and a response that waits to be sent must be taken, within
`frame_timeout_ms`, however busily single bytes arrive. Time during which we do not read does not count. The
decision is taken on samples, so the hot path has nothing to do but count frames; it may come one sample late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from gateway.config import LimitsConfig

_SAMPLES_PER_TIMEOUT: Final = 10
_MIN_INTERVAL_S: Final = 0.05
_MAX_INTERVAL_S: Final = 5.0


class Sample(NamedTuple):
    """What is seen of a connection at one moment."""

    idle_s: float
    # How many frames have come, and whether one has begun and is waited for.
    frames: int
    in_frame: bool
    # How long what is to be sent has not been taken.
    unsent_s: float


class Overdue(NamedTuple):
    """Why a connection is closed: the cause for metrics, the reason for the log."""

    cause: str
    reason: str


@dataclass(slots=True)
class Watch:
    """What is remembered of one connection between two samples."""

    frames: int = -1
    begun_at: float = 0.0

    def judge(self, sample: Sample, limits: LimitsConfig, now: float) -> Overdue | None:
        """Takes the next sample; `now` in seconds of a monotonic clock."""
        if not sample.in_frame or sample.frames != self.frames:
            self.frames = sample.frames if sample.in_frame else -1
            self.begun_at = now
        frame_s = limits.frame_timeout_ms / 1000
        if now - self.begun_at > frame_s:
            return Overdue("slow", f"a request was begun and not finished within {frame_s:g} s")
        if sample.unsent_s > frame_s:
            return Overdue("slow", f"responses were not taken within {frame_s:g} s")
        idle_s = limits.idle_timeout_ms / 1000
        if sample.idle_s > idle_s:
            return Overdue("idle", f"silent for {idle_s:g} s")
        return None


def interval_s(limits: LimitsConfig) -> float:
    """How long to wait between two samples."""
    shortest_s = min(limits.idle_timeout_ms, limits.frame_timeout_ms) / 1000
    return min(max(shortest_s / _SAMPLES_PER_TIMEOUT, _MIN_INTERVAL_S), _MAX_INTERVAL_S)
