"""One demo at a time; KEEP=1 leaves it behind, until it is stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo import keep

# A demo of nothing: shows a line, stays until it is stopped, and cleans up.
DEMO = """
import signal, sys
from pathlib import Path
from demo import keep
signal.signal(signal.SIGTERM, signal.default_int_handler)
def work(stay):
    try:
        keep.claim()
        if sys.argv[1] == "fails":
            return 3
        print("shown")
        stay()
    except KeyboardInterrupt:
        (keep.DIRECTORY / "cleaned").touch()
        return 130
sys.exit(keep.in_background(work))
"""


def start(directory: Path, how: str = "works") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DEMO, how],
        env={**os.environ, "DEMO_DIRECTORY": str(directory)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of its own for the demo."""
    place = tmp_path / "demo"
    place.mkdir()
    monkeypatch.setattr(keep, "DIRECTORY", place)
    monkeypatch.setattr(keep, "LOCK", tmp_path / "demo.lock")
    return place


def test_what_is_kept_stays_until_it_is_stopped(directory: Path) -> None:
    started = start(directory)
    # The pipes end with the parent, although the child goes on.
    assert (started.returncode, started.stdout, started.stderr) == (0, "shown\n", "")
    pid = int(keep.LOCK.read_text())
    os.kill(pid, 0)

    with pytest.raises(keep.AlreadyUp, match=f"process {pid}"):
        keep.claim()

    assert keep.stop() == f"Stopped the demo (process {pid})."
    assert (directory / "cleaned").exists()
    keep.claim().close()
    assert keep.stop() == "No demo is up."


def test_a_demo_that_fails_is_not_kept(directory: Path) -> None:
    assert start(directory, "fails").returncode == 3
    assert keep.stop() == "No demo is up."


def test_an_interrupt_of_the_parent_ends_the_child(directory: Path) -> None:
    waits = DEMO.replace('print("shown")', 'print("shown", flush=True); signal.pause()')
    with subprocess.Popen(
        [sys.executable, "-c", waits, "works"],
        env={**os.environ, "DEMO_DIRECTORY": str(directory)},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "shown\n"
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(10) == 130
    deadline = time.monotonic() + 10
    while not (directory / "cleaned").exists():
        assert time.monotonic() < deadline
    assert keep.stop() == "No demo is up."
