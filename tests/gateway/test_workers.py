"""The parent of worker processes: starting, starting again, giving up, ending."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO

import pytest

from compose.kafka import ROOT
from compose.ports import lease_ports
from gateway.workers import RestartPolicy, describe_end


class Parent:
    """A running `workers_lab`."""

    def __init__(self, behaviour: str, port: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.gateway.workers_lab", behaviour, str(port)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pids: dict[int, int] = {}

    @property
    def _stdout(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def read(self) -> list[str]:
        """The next line, in words."""
        words = self._stdout.readline().split()
        if words and words[0] == "start":
            self.pids[int(words[1])] = int(words[2])
        return words

    def both_started(self) -> None:
        """Reads until both workers run."""
        while len(self.pids) < 2:
            assert self.read(), self.end()

    def end(self) -> tuple[int, str, str]:
        """Waits for it: exit code, what was left on standard output, standard error."""
        output, errors = self.process.communicate(timeout=30)
        return self.process.returncode, output, errors


@pytest.fixture
def port() -> Iterator[int]:
    """A free port."""
    lease = lease_ports()
    yield lease[0]
    lease.release()


@contextlib.contextmanager
def running(behaviour: str, port: int) -> Iterator[Parent]:
    parent = Parent(behaviour, port)
    try:
        yield parent
    finally:
        parent.process.kill()
        parent.process.communicate()


def is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def until_gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(is_alive, pids))


def test_workers_live_as_long_as_they_are_wanted(port: int) -> None:
    with running("well", port) as parent:
        parent.both_started()
        before = dict(parent.pids)
        os.kill(before[0], signal.SIGKILL)
        assert parent.read()[:2] == ["start", "0"]
        assert parent.pids[0] != before[0]
        assert is_alive(before[1])
        # One that ends by itself was not asked to by its parent.
        os.kill(before[1], signal.SIGTERM)
        assert parent.read() == ["end", "1"]
        assert parent.read()[:2] == ["start", "1"]
        with running("well", port) as second:
            code, output, errors = second.end()
            assert (code, output) == (1, "")
            where = f"127.0.0.1 port {port}"
            assert f"causeway: cannot listen on {where}: Address already in use" in errors.splitlines()
        parent.process.send_signal(signal.SIGINT)
        code, output, errors = parent.end()
        assert code == 0
        assert sorted(output.split("\n")) == ["", "end 0", "end 1"]
        assert until_gone(list(parent.pids.values()))
        assert '"how": "by SIGKILL"' in errors


def test_a_second_signal_waits_no_longer(port: int) -> None:
    with running("stubborn", port) as parent:
        parent.both_started()
        parent.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert parent.process.poll() is None
        parent.process.send_signal(signal.SIGTERM)
        assert parent.end()[0] == 0


def test_a_worker_that_crashes_again_and_again_ends_the_gateway(port: int) -> None:
    with running("crash", port) as parent:
        code, output, errors = parent.end()
        assert code == 1
        assert output.count("start 1") == 1 + RestartPolicy().ends
        assert output.count("start 0") == 1
        assert (
            "causeway: worker 1 ended more than 5 times within 60 s, the last time with exit code 70"
            in errors
        )
        assert "worker 1 cannot stand it" in errors


def test_a_worker_that_cannot_work_ends_the_gateway_at_once(port: int) -> None:
    with running("refuse", port) as parent:
        code, output, errors = parent.end()
        assert code == 1
        # Once each, if the other one got so far.
        assert 1 <= output.count("start") <= 2
        assert "ended more than" not in errors


def test_workers_do_not_outlive_a_parent_that_is_killed(port: int) -> None:
    with running("stubborn", port) as parent:
        parent.both_started()
        parent.process.kill()
        assert until_gone(list(parent.pids.values()))


def test_restarts_come_later_and_later_until_there_are_too_many() -> None:
    policy = RestartPolicy()
    delays = [policy.ended(float(now)) for now in range(5)]
    assert delays == sorted(delays, key=float)  # type: ignore[arg-type]
    assert policy.ended(6.0) is None


def test_an_end_now_and_then_is_forgiven() -> None:
    policy = RestartPolicy()
    every_s = policy.within_s / (policy.ends - 1)
    assert all(policy.ended(turn * every_s) is not None for turn in range(50))


def test_the_longest_delay_is_kept() -> None:
    policy = RestartPolicy(longest_delay_s=0.5)
    assert [policy.ended(1.0) for _ in range(5)] == [0.2, 0.4, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("code", "text"), [(0, "with exit code 0"), (-9, "by SIGKILL"), (-62, "by signal 62")]
)
def test_an_end_is_described(code: int, text: str) -> None:
    assert describe_end(code) == text
