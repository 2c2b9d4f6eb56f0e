"""What the runner needs of a suite, and what a suite needs to know of a place to run at."""

from __future__ import annotations

import hashlib
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from client_suites.verdict import Outcomes
from compose.kafka import ROOT

DIRECTORY = ROOT / "build" / "client-suites"


class SuiteFailed(Exception):
    """A suite could not be fetched, built or started; the text says what was run and how it ended."""


@dataclass(frozen=True)
class Tls:
    """How a client trusts the other end and says who it is."""

    ca_file: Path
    certificate_file: Path
    key_file: Path


@dataclass(frozen=True)
class Place:
    """One way to the cluster: addresses, and how to get in.

    `open` has no TLS and wants no login; `plain` and `sasl` have TLS if `tls` is there, and `tls_only` wants
    nothing but TLS.
    """

    name: str
    open: str
    plain: str
    tls_only: str
    sasl: str
    tls: Tls | None
    user: str
    password: str
    mechanisms: Sequence[str]
    broker_ids: Sequence[int]


class Suite(ABC):
    """The tests of one client library, at one version."""

    name: ClassVar[str]
    version: ClassVar[str]
    # Topics that its tests expect to be there.
    topics: ClassVar[Sequence[str]] = ()
    # Tests that want what the gateway refuses on purpose, and what that is.
    left_out: ClassVar[Mapping[str, str]] = {}

    @property
    def directory(self) -> Path:
        """Where it lies once it was fetched, and where its logs go."""
        return DIRECTORY / f"{self.name}-{self.version}"

    @abstractmethod
    def prepare(self) -> None:
        """Fetches and builds it, if that was not done before; SuiteFailed."""

    @abstractmethod
    def run(self, place: Place, only: Sequence[str], log_file: Path) -> Outcomes:
        """Runs all its tests, or those of earlier runs that are named in `only`; SuiteFailed."""


def command(
    arguments: Sequence[str], *, directory: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Runs a command to its end and returns its standard output; SuiteFailed."""
    try:
        done = subprocess.run(
            arguments,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            check=True,
        )
    except FileNotFoundError as error:
        raise SuiteFailed(f"{arguments[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise SuiteFailed(f"{' '.join(arguments)}\n{error.stdout}{error.stderr}") from error
    return done.stdout


def check_hash(file: Path, wanted: str) -> None:
    """SuiteFailed unless the file has this SHA-256."""
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != wanted:
        raise SuiteFailed(f"{file.name} has the SHA-256 {found} instead of {wanted}")
