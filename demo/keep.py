"""One demo at a time, and KEEP=1: the demo moves to the background when it has been shown.

Everything belongs to one process, whose end ends it all. With KEEP=1 that is a child in a session of its own;
the parent waits until the child has shown everything, and passes signals on to it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from compose.kafka import ROOT

# Where the files of the demo lie; it is emptied at the start. Beside it the lock and the background's output.
DIRECTORY: Final = Path(os.environ.get("DEMO_DIRECTORY", ROOT / "build" / "demo"))
LOCK: Final = DIRECTORY.with_name(f"{DIRECTORY.name}.lock")
BACKGROUND_LOG: Final = DIRECTORY.with_name(f"{DIRECTORY.name}.log")
_STOP_WITHIN_S: Final = 60.0
# Open until the very end of the process: who waits for the lock finds nothing running.
_held: Final[list[IO[str]]] = []
_PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM)


class AlreadyUp(Exception):
    """Another demo is running; the text says how to end it."""


def claim() -> IO[str]:
    """The lock of the demo, ours until it is closed or this process has ended. AlreadyUp."""
    LOCK.parent.mkdir(exist_ok=True)
    lock = LOCK.open("a+")
    if not _taken(lock):
        lock.seek(0)
        pid = lock.read()
        lock.close()
        raise AlreadyUp(f"another demo is up (process {pid}); `make demo-stop` ends it")
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    _held.append(lock)
    return lock


def stop() -> str:
    """Ends the demo that is up, and returns when it is down; says what was done. TimeoutError."""
    if not LOCK.exists():
        return "No demo is up."
    deadline = time.monotonic() + _STOP_WITHIN_S
    stopped = 0
    while True:
        with LOCK.open("a+") as lock:
            if _taken(lock):
                return f"Stopped the demo (process {stopped})." if stopped else "No demo is up."
            lock.seek(0)
            pid = int(lock.read() or 0)
        # Who holds the lock wrote its id there, so the id is not somebody else's by now.
        if pid and not stopped:
            os.kill(pid, signal.SIGTERM)
            stopped = pid
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} has not ended in {_STOP_WITHIN_S:.0f} s")
        time.sleep(0.1)


def in_background(work: Callable[[Callable[[], None]], int]) -> int:
    """Runs `work` in a child; returns 0 when it calls its argument, which waits for SIGTERM, or its code."""
    read_end, write_end = os.pipe()
    # An interrupt in between would leave a child that nobody knows of.
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    child = os.fork()
    if child == 0:
        os.close(read_end)
        os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        sys.exit(work(lambda: _stay(write_end)))
    os.close(write_end)
    for number in _PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    with os.fdopen(read_end, "rb") as end:
        if end.read(1):
            return 0
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _stay(write_end: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    # Whoever reads our output in a pipe must see it end.
    log = os.open(BACKGROUND_LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    os.write(write_end, b"\n")
    os.close(write_end)
    while True:
        signal.pause()


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    print(stop())
