"""Free TCP ports that two test runs on one machine cannot both take.

Ports lie below the kernel's ephemeral range: a client that keeps dialling a dead broker's port inside that
range sooner or later gets it as its own source port, connects to itself, and the broker cannot come back.
"""

import fcntl
import os
import random
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

_LOWEST = 10_000
_HIGHEST = 20_000
_ATTEMPTS = 200


class NoFreePorts(Exception):
    """No run of free ports of the wanted length was found."""


class PortLease:
    """A run of neighbouring ports, ours until `release` or the end of this process."""

    def __init__(self, first: int, locks: ExitStack, count: int) -> None:
        self.ports = range(first, first + count)
        self._locks = locks

    def __getitem__(self, index: int) -> int:
        return self.ports[index]

    def release(self) -> None:
        """Gives the ports back; idempotent."""
        self._locks.close()


def lease_ports(count: int = 1) -> PortLease:
    """Returns `count` neighbouring ports that nobody listens on; raises NoFreePorts."""
    chooser = random.SystemRandom()
    for _ in range(_ATTEMPTS):
        first = chooser.randrange(_LOWEST, _HIGHEST - count)
        with ExitStack() as attempt:
            if all(_take(port, attempt) for port in range(first, first + count)):
                return PortLease(first, attempt.pop_all(), count)
    raise NoFreePorts(f"{count} neighbouring ports between {_LOWEST} and {_HIGHEST}")


def _take(port: int, locks: ExitStack) -> bool:
    try:
        lock = locks.enter_context(_lock_file(port))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as probe:
            probe.bind(("", port))
    except OSError:
        return False
    return True


def _lock_file(port: int) -> IO[bytes]:
    directory = Path(tempfile.gettempdir()) / f"causeway-ports-{os.getuid()}"
    directory.mkdir(exist_ok=True)
    return (directory / str(port)).open("wb")
