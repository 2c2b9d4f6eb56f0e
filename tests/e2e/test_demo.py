"""The demo, as `make demo` runs it: what it shows, and that it leaves nothing running, however it ends."""

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer

from compose.kafka import ROOT

DEMO_WITHIN_S = 180


class Demo:
    """Demos in a directory of their own; their processes are known by a mark in the environment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._mark = f"CAUSEWAY_TEST_MARK={uuid.uuid4()}"

    def start(self, *command: str, keep: bool = False) -> subprocess.Popen[str]:
        name, _, value = self._mark.partition("=")
        places = {"DEMO_DIRECTORY": str(self.directory), "KEEP": "1" if keep else "", name: value}
        return subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, **places},
        )

    def processes(self) -> list[int]:
        """The demo itself, its brokers, gateways, commands, watchers."""
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                entries = environment.read_bytes().split(b"\0")
            except OSError:
                continue
            if self._mark.encode() in entries:
                found.append(int(environment.parent.name))
        return found


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """Ends what a test that failed leaves behind."""
    demo = Demo(tmp_path / "demo")
    yield demo
    for pid in demo.processes():
        os.kill(pid, signal.SIGKILL)


def client_config(file: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in file.read_text().splitlines())


def test_it_shows_the_main_job_stays_up_when_told_to_and_leaves_nothing(demo: Demo) -> None:
    with demo.start("-m", "demo.run", keep=True) as process:
        shown, _ = process.communicate(timeout=DEMO_WITHIN_S)
    assert process.returncode == 0, shown

    # Every record is compared in every field.
    assert re.search(r"^ all +100,000( +100,000 ✔){5} *$", shown, re.MULTILINE), shown
    assert "✘" not in shown
    assert re.search(r"100,000 records, .* MB, were there .* records/s", shown)
    assert "$ causeway link create hybrid --url https://" in shown
    assert "$ causeway mirror create clickstream --link hybrid" in shown
    assert "Cannot append records to read-only mirror topic 'clickstream'" in shown
    assert "clickstream: STOPPED, writable." in shown
    assert "$ causeway group move billing --link hybrid" in shown
    assert "the other 80,000 records in the cloud: none lost, none twice" in shown
    assert "consumed by group analytics, which went on where it was" in shown

    assert demo.processes()
    consumer = Consumer({**client_config(demo.directory / "kcat.config"), "group.id": "test"})
    metadata = consumer.list_topics("clickstream", timeout=20)
    assert len(metadata.topics["clickstream"].partitions) == 6
    consumer.close()

    with demo.start("-m", "demo.run") as second:
        refused, _ = second.communicate(timeout=30)
    assert second.returncode == 1
    assert "make demo-stop" in refused

    with demo.start("-m", "demo.keep") as stop:
        said, _ = stop.communicate(timeout=60)
    assert stop.returncode == 0
    assert "Stopped the demo" in said
    assert demo.processes() == []


@pytest.mark.parametrize("after", ["Causeway:", "$ causeway run -c cloud.yaml"])
def test_an_interrupt_leaves_nothing(demo: Demo, after: str) -> None:
    with demo.start("-m", "demo.run") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if after in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == 130
    assert "Nothing is left running." in rest
    assert demo.processes() == []


def test_a_failure_says_where_the_logs_are_and_leaves_nothing(demo: Demo) -> None:
    # A command line that does nothing: the first command of the demo fails.
    broken = "from demo import stage; stage.CAUSEWAY = '/bin/false'; from demo.run import main; exit(main())"
    with demo.start("-c", broken) as process:
        shown, _ = process.communicate(timeout=DEMO_WITHIN_S)
    assert process.returncode == 1
    assert "✘ causeway user create ended with 1" in shown
    logs = re.search(r"Logs of the gateways: (\S+)/\*\.log", shown)
    assert logs is not None
    assert sorted(file.name for file in (ROOT / logs[1]).glob("*.log")) == ["cloud.log", "on-prem.log"]
    assert demo.processes() == []
