"""haproxy as a TCP load balancer that says whose connections it passes on (PROXY protocol)."""

import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

import pytest

from compose.processes import Process

_UP_WITHIN_S = 10.0


class HaProxy:
    """Passes what comes to a port of 127.0.0.1 on to another one, with a header before it."""

    def __init__(self, ports: Mapping[int, int], header: Literal["send-proxy", "send-proxy-v2"]) -> None:
        if shutil.which("haproxy", path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            pytest.skip("haproxy is not installed")
        self._directory = tempfile.TemporaryDirectory(prefix="causeway-haproxy-")
        configuration = Path(self._directory.name) / "haproxy.cfg"
        lines = [
            "defaults",
            "  mode tcp",
            "  timeout connect 5s",
            "  timeout client 60s",
            "  timeout server 60s",
        ]
        for listening, behind in ports.items():
            lines += [f"listen port{listening}", f"  bind 127.0.0.1:{listening}"]
            lines += [f"  server gateway 127.0.0.1:{behind} {header}"]
        configuration.write_text("\n".join(lines) + "\n")
        command = ["/usr/sbin/haproxy", "-db", "-f", str(configuration)]
        self._process = Process(command, Path(self._directory.name) / "haproxy.log")
        deadline = time.monotonic() + _UP_WITHIN_S
        while not _is_open(next(iter(ports))):
            assert time.monotonic() < deadline, (Path(self._directory.name) / "haproxy.log").read_text()
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._directory.cleanup()


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
