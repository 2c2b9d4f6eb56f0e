"""franz-go's tests of its client package kgo: those that need a cluster.

They are told by environment where it is, and by TLS who they are; the ones that dial by themselves cannot do
TLS, and go to the open listener. The big ones (groups, transactions and share groups, in chains of readers
that write what they read) get fewer records than upstream's 500,000: RECORDS.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from client_suites.suite import Place, Suite, SuiteFailed, command
from client_suites.verdict import Outcome, Outcomes

RECORDS: Final = 5_000
_MODULE: Final = "github.com/twmb/franz-go"
_GIVE_UP_MINUTES: Final = 20
# What a test that needs a cluster calls, itself.
_NEEDS_CLUSTER: Final = re.compile(
    r"\b(newTestClient|testClientOpts|getSeedBrokers|tmpTopic\w*|tmpNamed\w*|adm)\("
)
_DIALS_ITSELF: Final = re.compile(r"\bDialer\(new\(")
_TEST: Final = re.compile(r"(Test\w*)\(\w+ \*testing\.T\)")
_OUTCOMES: Final[dict[str, Outcome]] = {"pass": "passed", "fail": "failed", "skip": "skipped"}


def find_tests(source: str) -> tuple[list[str], list[str]]:
    """Names of the tests in a Go file that need a cluster: those that can do TLS, and those that cannot."""
    able: list[str] = []
    unable: list[str] = []
    for part in re.split(r"^func ", source, flags=re.MULTILINE):
        named = _TEST.match(part)
        if named is not None and _NEEDS_CLUSTER.search(part):
            (unable if _DIALS_ITSELF.search(part) else able).append(named[1])
    return able, unable


def read_events(lines: Iterable[str]) -> Outcomes:
    """Outcomes in the JSON lines of `go tool test2json`; a test that was cut off has failed."""
    outcomes: dict[str, Outcome] = {}
    for line in lines:
        event = json.loads(line)
        name, action = event.get("Test"), event["Action"]
        if name is None:
            continue
        if action == "run":
            outcomes[name] = "failed"
        elif action in _OUTCOMES:
            outcomes[name] = _OUTCOMES[action]
    return outcomes


class FranzGo(Suite):
    """The package kgo, from the Go module proxy."""

    name: ClassVar[str] = "franz-go"
    version: ClassVar[str] = "1.22.2"
    left_out: ClassVar[Mapping[str, str]] = {
        "Test848RegexBrokerResolves": "a regular expression that brokers resolve cannot be authorized",
    }

    def prepare(self) -> None:
        """Compiles its tests, once."""
        if self._binary.exists():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        # go checks the module against the public checksum database.
        module = json.loads(command(["go", "mod", "download", "-json", f"{_MODULE}@v{self.version}"]))
        part = self._binary.with_suffix(".part")
        command(["go", "test", "-c", "-o", str(part), "./pkg/kgo"], directory=Path(module["Dir"]))
        able: list[str] = []
        unable: list[str] = []
        for file in sorted(Path(module["Dir"]).glob("pkg/kgo/*_test.go")):
            found = find_tests(file.read_text())
            able += found[0]
            unable += found[1]
        self._names.write_text(json.dumps([able, unable]))
        part.rename(self._binary)

    def run(self, place: Place, only: Sequence[str], log_file: Path) -> Outcomes:
        """Runs the tests that can do TLS, then the others."""
        able, unable = json.loads(self._names.read_text())
        wanted = {name.split("/")[0] for name in only}
        outcomes: dict[str, Outcome] = {}
        for names, bootstrap, tls in ((able, place.plain, place.tls), (unable, place.open, None)):
            chosen = [name for name in names if not only or name in wanted]
            if not chosen:
                continue
            environment = {
                **os.environ,
                "KGO_SEEDS": bootstrap,
                "KGO_LOG_LEVEL": "none",
                "KGO_TEST_RECORDS": str(RECORDS),
                "KGO_TEST_RF": str(len(place.broker_ids)),
            }
            if tls is not None:
                files = f"ca:{tls.ca_file},cert:{tls.certificate_file},key:{tls.key_file}"
                environment["KGO_TEST_TLS"] = files
            outcomes |= self._run(chosen, environment, log_file)
        return outcomes

    @property
    def _binary(self) -> Path:
        return self.directory / "kgo.test"

    @property
    def _names(self) -> Path:
        return self.directory / "tests.json"

    def _run(self, names: Sequence[str], environment: dict[str, str], log_file: Path) -> Outcomes:
        pattern = f"^({'|'.join(names)})$"
        tests = [str(self._binary), "-test.v=test2json", f"-test.timeout={_GIVE_UP_MINUTES}m"]
        with log_file.open("a") as log:
            running = subprocess.Popen(
                ["go", "tool", "test2json", *tests, f"-test.run={pattern}"],
                env=environment,
                cwd=self.directory,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            with running:
                assert running.stdout is not None  # asked for with PIPE
                lines = []
                for line in running.stdout:
                    log.write(line)
                    lines.append(line)
        outcomes = read_events(lines)
        if not outcomes:
            raise SuiteFailed(f"kgo ran no test; see {log_file}")
        return outcomes
