"""Network namespaces for a test: two hosts on one machine with a wire between them.

A namespace belongs to a process that does nothing but hold it: it goes with that process, and the wire goes
with it, however the test ends. Nothing gets a name in the namespace of the machine, so any number of tests
may use the same addresses at once.
"""

import ctypes
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from compose.processes import Process

_CLONE_NEWNET = 0x40000000
_HELD_WITHIN_S = 10.0
_libc = ctypes.CDLL(None, use_errno=True)


class NoNamespaces(Exception):
    """This machine does not let us make network namespaces, or lacks what we set them up with."""


class Namespace:
    """One network namespace; a context manager that ends it."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise NoNamespaces("only root may make network namespaces")
        ours = _identity("self")
        with tempfile.NamedTemporaryFile() as log:
            self._holder = Process(["unshare", "--net", "sleep", "infinity"], Path(log.name))
            deadline = time.monotonic() + _HELD_WITHIN_S
            while not (self._holder.running and _identity(self.pid) != ours):
                if not self._holder.running or time.monotonic() > deadline:
                    self.close()
                    raise NoNamespaces(f"unshare --net: {Path(log.name).read_text().strip() or 'no answer'}")
                time.sleep(0.01)
        self.run("ip", "link", "set", "lo", "up")

    @property
    def pid(self) -> int:
        """The process that holds it, which is a name that `ip link … netns` understands."""
        return self._holder.pid

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets, threads and processes that this thread makes meanwhile are in the namespace, for good."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            there = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
            try:
                _set_namespace(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _set_namespace(before)
        finally:
            os.close(before)

    def run(self, *command: str) -> str:
        """Runs a command to its end and returns what it printed; NoNamespaces if it fails."""
        with self.entered():
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
            except FileNotFoundError as error:
                raise NoNamespaces(str(error)) from error
        if done.returncode:
            raise NoNamespaces(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def wire_to(self, other: "Namespace", device: str, address: str, other_address: str) -> None:
        """Puts a cable between the two, `device` on both ends; addresses with their prefix lengths."""
        peer = ("peer", "name", device, "netns", str(other.pid))
        self.run("ip", "link", "add", device, "type", "veth", *peer)
        for end, own in ((self, address), (other, other_address)):
            end.run("ip", "address", "add", own, "dev", device)
            end.run("ip", "link", "set", device, "up")

    def close(self) -> None:
        """Ends the namespace once everything in it has ended; idempotent."""
        if self._holder.running:
            self._holder.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _identity(process: int | str) -> str:
    return str(Path(f"/proc/{process}/ns/net").readlink())


def _set_namespace(descriptor: int) -> None:
    # `os.setns` came with Python 3.12.
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
