"""kafka-python's integration tests, from its source distribution.

`kafka_python_plugin` takes the place of the fixture that starts brokers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar, Final

from client_suites.suite import DIRECTORY, Place, Suite, SuiteFailed, check_hash, command
from client_suites.verdict import Outcomes
from compose.kafka import DEFAULT_VERSION, ROOT

_SHA256: Final = "4ccda3616b9aa5c353d74a97f2770d6cd1b950890d77ab0e8890e09a48eeed65"
_ADMIN_TESTS: Final = "test/integration/test_admin_integration.py"
_GIVE_UP_S: Final = 30 * 60


class KafkaPython(Suite):
    """All of `test/integration`, in a virtual environment of its own."""

    name: ClassVar[str] = "kafka-python"
    version: ClassVar[str] = "3.0.12"
    topics: ClassVar[Sequence[str]] = ("transactional_test_topic",)
    left_out: ClassVar[Mapping[str, str]] = {
        f"{_ADMIN_TESTS}::test_alter_replica_log_dirs": "AlterReplicaLogDirs: administration of brokers",
    }

    def prepare(self) -> None:
        """Unpacks the tests and makes the environment, once."""
        done = self.directory / "complete"
        if done.exists():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        wanted = f"kafka-python=={self.version}"
        command([*pip, "download", "--no-deps", "--no-binary=:all:", f"--dest={DIRECTORY}", wanted])
        archive = DIRECTORY / f"kafka_python-{self.version}.tar.gz"
        check_hash(archive, _SHA256)
        with tarfile.open(archive) as sources:
            sources.extractall(self.directory, filter="data")
        # Without it, which the archive lacks, Python's own package `test` goes before theirs.
        (self._sources / "test" / "__init__.py").touch()
        command([sys.executable, "-m", "venv", "--clear", str(self.directory / "venv")])
        requirements = ROOT / "requirements" / "client-suites.txt"
        pip[0] = str(self._python)
        command([*pip, "install", "--require-hashes", "--requirement", str(requirements)])
        done.touch()

    def run(self, place: Place, only: Sequence[str], log_file: Path) -> Outcomes:
        """One run of pytest."""
        results = log_file.with_suffix(".results")
        results.unlink(missing_ok=True)
        settings = asdict(place) | {"results": results}
        environment = {
            **os.environ,
            "KAFKA_VERSION": DEFAULT_VERSION,
            "CAUSEWAY_PLACE": json.dumps(settings, default=str),
            "PYTHONPATH": str(ROOT),
        }
        # Its own options log everything it does at DEBUG.
        options = ["--override-ini=log_level=WARNING", "--override-ini=addopts=", "--timeout=120", "-rA"]
        plugin = ["-p", "client_suites.kafka_python_plugin", "-p", "no:cacheprovider"]
        with log_file.open("a") as log:
            code = subprocess.run(
                [str(self._python), "-m", "pytest", *options, *plugin, *(only or ["test/integration"])],
                env=environment,
                cwd=self._sources,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=_GIVE_UP_S,
                check=False,
            ).returncode
        if code not in {0, 1}:
            raise SuiteFailed(f"pytest ended with {code}; see {log_file}")
        return dict(map(json.loads, results.read_text().splitlines()))

    @property
    def _sources(self) -> Path:
        return self.directory / f"kafka_python-{self.version}"

    @property
    def _python(self) -> Path:
        return self.directory / "venv" / "bin" / "python"
