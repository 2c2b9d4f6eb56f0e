"""`workers: N`: processes that share the ports of the listeners (SO_REUSEPORT), and their parent.

To clients they are one gateway; each is a gateway instance of its own, with its share of the limits. The
parent serves nothing and has no threads: it starts the workers by fork, starts one that ended again after a
while, passes signals on, and ends when one ends again and again, or says itself that it cannot work. A worker
never outlives the parent (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import structlog

from gateway import observe
from gateway.config import Config
from gateway.config.shares import share
from gateway.listeners.endpoints import Endpoints, bind, reserve
from gateway.peers import EXIT_FAILED, Worker
from gateway.tls import TlsError

log = structlog.get_logger(__name__)

EXIT_CRASHED: Final = 70
# A worker's tasks after its sessions were drained: links, the state, the admin address.
END_WITHIN_S: Final = 20.0

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_PR_SET_PDEATHSIG: Final = 1
_POLL_S: Final = 1.0


class RestartPolicy:
    """How soon a worker that ended is started again, and when no more. Times in seconds."""

    def __init__(
        self,
        *,
        first_delay_s: float = 0.2,
        longest_delay_s: float = 5.0,
        ends: int = 5,
        within_s: float = 60.0,
    ) -> None:
        self.ends = ends
        self.within_s = within_s
        self._first_delay_s = first_delay_s
        self._longest_delay_s = longest_delay_s
        self._ended_at: deque[float] = deque(maxlen=ends)

    def ended(self, now: float) -> float | None:
        """Notes an end; how long to wait before the next start, None if it ended too often."""
        if len(self._ended_at) == self.ends and now - self._ended_at[0] <= self.within_s:
            return None
        self._ended_at.append(now)
        recent = sum(now - at <= self.within_s for at in self._ended_at)
        return min(self._first_delay_s * 2.0 ** (recent - 1), self._longest_delay_s)


@dataclass
class _Place:
    """One of the workers: running, if it has a `pid`; to be started at `start_at` if that is set."""

    worker: Worker
    policy: RestartPolicy
    pid: int | None = None
    start_at: float | None = None


class Supervisor:
    """The parent. `main` is a worker's whole life and returns its exit code."""

    def __init__(
        self,
        config: Config,
        main: Callable[[Config, Worker], int],
        make_policy: Callable[[], RestartPolicy] = RestartPolicy,
    ) -> None:
        self._config = share(config, config.workers)
        self._main = main
        self._make_policy = make_policy
        self._parent = os.getpid()
        self._places: list[_Place] = []
        self._exit_code: int | None = None
        self._kill_at = float("inf")

    def run(self) -> int:
        """Until all workers have ended; the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        with contextlib.ExitStack() as stack:
            try:
                for guard in _guards(self._config):
                    stack.callback(guard.close)
            except OSError as error:
                print(f"causeway: {error.strerror}", file=sys.stderr)
                return EXIT_FAILED
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="causeway-")))
            count = self._config.workers
            self._places = [
                _Place(Worker(index, count, directory), self._make_policy()) for index in range(count)
            ]
            for place in self._places:
                self._start(place)
            log.info("workers.started", workers=count)
            self._mind()
        log.info("workers.stopped")
        return self._exit_code or 0

    def _mind(self) -> None:
        while any(place.pid is not None for place in self._places) or self._exit_code is None:
            received = signal.sigtimedwait(_SIGNALS, self._patience_s())
            if received is not None and received.si_signo != signal.SIGCHLD:
                self._stop(0)
            now = time.monotonic()
            for place in self._places:
                self._reap(place, now)
                if place.start_at is not None and place.start_at <= now:
                    self._start(place)
            if now >= self._kill_at:
                self._send(signal.SIGKILL)

    def _patience_s(self) -> float:
        # SIGCHLD may come for several at once, and be lost; nobody waits for long in vain.
        times = [place.start_at for place in self._places if place.start_at is not None]
        return min([_POLL_S, *(max(at - time.monotonic(), 0.0) for at in times)])

    def _stop(self, exit_code: int) -> None:
        """The first time lets workers drain, later not."""
        if self._exit_code is not None:
            self._exit_code = max(self._exit_code, exit_code)
            if exit_code == 0:
                self._send(signal.SIGUSR1)
            return
        self._exit_code = exit_code
        self._kill_at = time.monotonic() + self._config.drain_timeout_ms / 1000 + END_WITHIN_S
        for place in self._places:
            place.start_at = None
        self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        for place in self._places:
            if place.pid is not None:
                # Not reaped yet, so the number is still its own.
                os.kill(place.pid, number)

    def _reap(self, place: _Place, now: float) -> None:
        if place.pid is None:
            return
        pid, status = os.waitpid(place.pid, os.WNOHANG)
        if pid == 0:
            return
        place.pid = None
        code = os.waitstatus_to_exitcode(status)
        index = place.worker.index
        if self._exit_code is not None:
            if code != 0:
                log.warning("worker.ended", worker=index, how=describe_end(code))
            return
        if code == EXIT_FAILED:
            # It has said why, and that waiting will not help.
            self._stop(EXIT_FAILED)
            return
        delay_s = place.policy.ended(now)
        if delay_s is None:
            policy = place.policy
            log.critical("worker.given_up", worker=index, how=describe_end(code))
            print(
                f"causeway: worker {index} ended more than {policy.ends} times within "
                f"{policy.within_s:.0f} s, the last time {describe_end(code)}; its log lines before say more",
                file=sys.stderr,
            )
            self._stop(EXIT_FAILED)
            return
        place.start_at = now + delay_s
        log.error("worker.ended", worker=index, how=describe_end(code), starts_again_in_s=round(delay_s, 1))

    def _start(self, place: _Place) -> None:
        place.start_at = None
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._be_worker(place.worker)
        place.pid = pid

    def _be_worker(self, worker: Worker) -> NoReturn:
        """Never returns: what the parent has on its stack is not ours to end."""
        code = EXIT_CRASHED
        try:
            _end_with_parent(self._parent)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            structlog.contextvars.bind_contextvars(worker=worker.index)
            code = self._main(self._config, worker)
        except BaseException:
            log.exception("worker.crashed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def describe_end(code: int) -> str:
    """How a process ended, by its exit code; negative ones are signals, as in `subprocess`."""
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"


def _guards(config: Config) -> Iterable[socket.socket]:
    """Keeps the ports ours as long as the parent lives. OSError names one that somebody listens on.

    Processes of one user may share ports with SO_REUSEPORT, a second gateway that was started by mistake too.
    """
    for section in config.listeners:
        for endpoint in Endpoints(section).bound:
            bind(endpoint, backlog=1).close()
        for endpoint in Endpoints(section, shared=True).bound:
            yield reserve(endpoint)


def _end_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have gone before that.
    if os.getppid() != parent:
        os._exit(EXIT_CRASHED)


def run(config: Config) -> int:
    """Runs the gateway, as one process or as several, until it is told to stop; its exit code."""
    # Only here: the parent itself needs none of it, but what it has imported the workers need not.
    from gateway import app

    if config.workers == 1:
        return app.run(config)
    observe.configure_logging(config.logging.level, config.logging.format)
    try:
        return Supervisor(config, app.run).run()
    except TlsError as error:
        print(f"causeway: {error}", file=sys.stderr)
        return EXIT_FAILED
