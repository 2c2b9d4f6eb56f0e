"""Until when a gateway may act on what it holds: a lease of our own, checked before everything that is sent.

It ends a fixed time after the sending of the last heartbeat that the group's coordinator took, and so before
the coordinator gives the work to somebody else, whatever became of this gateway: cut off, or stopped.
"""

import time
from collections.abc import Callable
from typing import Final

# The coordinator waits for 8 s (SESSION_S in `work_group`). What was sent within the lease is delivered, or
# given up by the kernel (TCP_USER_TIMEOUT in `upstreams.cluster`), before that.
LEASE_S: Final = 5.0


def now_s() -> float:
    """Seconds, counted also while the machine sleeps, which `time.monotonic` does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """One that was never given is over."""

    def __init__(self, clock: Callable[[], float] = now_s) -> None:
        self._clock = clock
        self._until = float("-inf")

    @property
    def valid(self) -> bool:
        """Whether it has not ended."""
        return self._clock() < self._until

    @property
    def left_s(self) -> float:
        """How long it goes on; 0 if it has ended."""
        return max(self._until - self._clock(), 0.0)

    def give(self, until: float) -> bool:
        """A new one, that ends then; whether it has not ended already."""
        self._until = until
        return self.valid

    def extend(self, until: float) -> None:
        """It ends then, if that is later. One that has ended stays so: somebody else may have the work."""
        if self.valid:
            self._until = max(self._until, until)

    def end(self) -> None:
        """It is over."""
        self._until = float("-inf")


class Unlimited(Lease):
    """For who is known to be alone."""

    @property
    def valid(self) -> bool:
        """Always."""
        return True
