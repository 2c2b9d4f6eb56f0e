"""Child processes that never outlive us: each in a group of its own, ended by process id only.

A small watcher holds the other end of a pipe and ends the groups it was told of when the pipe closes, so a
test run that is killed with SIGKILL leaves nothing behind either.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

_STOPPED_WITHIN_S: Final = 5.0

_WATCHER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
groups = set()
for line in sys.stdin:
    sign, pid = line[0], int(line[1:])
    (groups.add if sign == "+" else groups.discard)(pid)
for pid in groups:
    for number in (signal.SIGCONT, signal.SIGKILL):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            pass
"""


class Process:
    """One running child whose output goes to a log file."""

    def __init__(
        self,
        command: Sequence[str],
        log_file: Path,
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        with log_file.open("ab") as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        _watcher.tell("+", self._child.pid)

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._child.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the whole group; nothing happens when it has ended."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def wait(self, timeout_s: float) -> int:
        """Returns the exit code; raises subprocess.TimeoutExpired."""
        code = self._child.wait(timeout_s)
        _watcher.tell("-", self.pid)
        return code

    def terminate(self, timeout_s: float = 20) -> int:
        """SIGTERM, and SIGKILL after the timeout; returns the exit code, negative for a signal."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """SIGKILL; returns the exit code, negative for a signal."""
        self.signal(signal.SIGKILL)
        return self.wait(20)

    def pause(self) -> None:
        """SIGSTOP: keeps its connections and says nothing. Returns when every thread has stopped."""
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + _STOPPED_WITHIN_S
        while not all(state == "T" for state in self._thread_states()) and time.monotonic() < deadline:
            time.sleep(0.005)

    def _thread_states(self) -> Iterator[str]:
        for stat in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            # A thread may end while we look.
            with contextlib.suppress(OSError):
                yield stat.read_text().rpartition(")")[2].split()[0]

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self.signal(signal.SIGCONT)


class _Watcher:
    """Starts the watching process with the first child and keeps it told of all that live."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def tell(self, sign: str, pid: int) -> None:
        with self._lock:
            if self._process is None:
                # It must not hold open what we write to: somebody may wait for its end.
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _WATCHER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    start_new_session=True,
                )
                atexit.register(self._end)
            assert self._process.stdin is not None  # asked for with PIPE
            self._process.stdin.write(f"{sign}{pid}\n")
            self._process.stdin.flush()

    def _end(self) -> None:
        if self._process is not None:
            self._process.communicate()


_watcher = _Watcher()
