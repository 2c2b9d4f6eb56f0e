"""Child processes end when told, and when their parent is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compose.kafka import ROOT
from compose.processes import Process

_SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
_PARENT = f"""
import os, signal, sys
from pathlib import Path
from compose.processes import Process
child = Process({_SLEEPER!r}, Path(sys.argv[1]))
if sys.argv[2] == "paused":
    child.pause()
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def wait_for_log(log_file: Path) -> None:
    deadline = time.monotonic() + 10
    while not log_file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_terminate_reports_the_exit_code(tmp_path: Path) -> None:
    process = Process(_SLEEPER, tmp_path / "log")
    wait_for_log(tmp_path / "log")

    assert process.terminate() == -signal.SIGTERM
    assert not process.running
    assert process.kill() == -signal.SIGTERM


def test_terminate_kills_what_does_not_listen(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    process = Process([sys.executable, "-c", deaf], tmp_path / "log")
    wait_for_log(tmp_path / "log")

    assert process.terminate(timeout_s=0.2) == -signal.SIGKILL


def test_a_paused_process_can_be_terminated(tmp_path: Path) -> None:
    process = Process(_SLEEPER, tmp_path / "log")
    process.pause()

    assert process.terminate() == -signal.SIGTERM


@pytest.mark.parametrize("state", ["running", "paused"])
def test_children_end_with_a_parent_that_was_killed(state: str, tmp_path: Path) -> None:
    parent = subprocess.run(
        [sys.executable, "-c", _PARENT, str(tmp_path / "log"), state],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert parent.returncode == -signal.SIGKILL
    child = int(parent.stdout)

    deadline = time.monotonic() + 10
    while not has_ended(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)
