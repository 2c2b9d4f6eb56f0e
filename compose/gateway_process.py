"""A gateway as its users run it: a process of its own, told everything by a configuration file."""

import contextlib
import json
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from compose.kafka import ROOT
from compose.ports import PortLease, lease_ports
from compose.processes import Process

READY_WITHIN_S = 30.0
# As where it is installed: beside test tools, kio would load hypothesis first, half a second each time.
_RUN = "import sys; sys.modules['hypothesis'] = None; from gateway.cli import main; sys.exit(main())"
_PROBE = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)"


class GatewayFailed(Exception):
    """A gateway ended or did not become ready; the text has the end of its log."""


class GatewayProcess:
    """Runs `python -m gateway run -c FILE`; ready when the constructor returns, unless told not to `wait`.

    A configuration without `admin.port` gets a free one. `prefix` goes before the command line, for example
    `ip netns exec NAME`; `ca_file` is for an admin address with TLS. Its files lie in `directory`, where they
    stay, or in a temporary one.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        name: str = "gateway",
        ca_file: Path | None = None,
        directory: Path | None = None,
        prefix: Sequence[str] = (),
        ready_within_s: float = READY_WITHIN_S,
        wait: bool = True,
    ) -> None:
        self.name = name
        self._temporary = directory is None
        self._directory = directory or Path(tempfile.mkdtemp(prefix=f"causeway-{name}-"))
        self.log_file = self._directory / f"{name}.log"
        self._prefix = prefix
        self._ready_within_s = ready_within_s
        self._tls = None if ca_file is None else ssl.create_default_context(cafile=str(ca_file))
        self._lease: PortLease | None = None
        self.config = dict(config)
        self.config["admin"] = self._admin_section(config.get("admin", {}))
        self._process: Process | None = None
        try:
            self.start(wait=wait)
        except BaseException:
            self.save_log()
            self.close()
            raise

    @property
    def admin_url(self) -> str:
        """Where REST API, health and metrics are."""
        admin = self.config["admin"]
        scheme = "https" if admin.get("tls") else "http"
        return f"{scheme}://{admin['bind']}:{admin['port']}"

    @property
    def pid(self) -> int:
        """The process id of the gateway that runs, or ran last."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process is not None and self._process.running

    @property
    def config_file(self) -> Path:
        """The file that it was started with."""
        return self._directory / f"{self.name}.yaml"

    def start(self, *, wait: bool = True) -> None:
        """Starts it with the present `config`; with `wait`, returns when ready; raises GatewayFailed."""
        if self.running:
            raise RuntimeError(f"{self.name} still runs")
        self.config_file.write_text(yaml.safe_dump(self.config))
        command = [*self._prefix, sys.executable, "-c", _RUN, "run", "-c", str(self.config_file)]
        self._process = Process(command, self.log_file, environment={"PYTHONPATH": str(ROOT)})
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Returns when /readyz says yes; raises GatewayFailed."""
        deadline = time.monotonic() + self._ready_within_s
        while not self.is_ready():
            if not self.running:
                raise GatewayFailed(f"{self.name} has ended:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise GatewayFailed(
                    f"{self.name} is not ready after {self._ready_within_s} s:\n{self._log_tail()}"
                )
            time.sleep(0.05)

    def is_ready(self) -> bool:
        """Asks /readyz once."""
        url = f"{self.admin_url}/readyz"
        if self._prefix:
            probe = [*self._prefix, sys.executable, "-c", _PROBE, url]
            return subprocess.run(probe, capture_output=True, check=False).returncode == 0
        try:
            with urllib.request.urlopen(url, timeout=2, context=self._tls) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL."""
        self._started().kill()

    def terminate(self, timeout_s: float = 40) -> int:
        """SIGTERM, then waits until it has drained; returns the exit code (negative: it had to be killed)."""
        return self._started().terminate(timeout_s)

    def pause(self) -> None:
        """SIGSTOP: keeps its connections and says nothing."""
        self._started().pause()

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self._started().resume()

    def restart(self) -> None:
        """SIGTERM and a fresh start with the same configuration and ports."""
        if self.running:
            self.terminate()
        self.start()

    def log(self) -> str:
        """Everything it has logged, over all starts."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def log_events(self) -> list[dict[str, Any]]:
        """Its JSON log lines."""
        events = []
        for line in self.log().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                event = json.loads(line)
                if isinstance(event, dict):
                    events.append(event)
        return events

    def save_log(self) -> Path:
        """Copies the log to `build/logs` and returns the file."""
        directory = ROOT / "build" / "logs"
        directory.mkdir(parents=True, exist_ok=True)
        kept = directory / f"{self._directory.name if self._temporary else self.name}.log"
        kept.write_text(self.log())
        return kept

    def close(self) -> None:
        """Ends it at once and removes its temporary files; idempotent."""
        if self._process is not None:
            self._process.kill()
        if self._temporary:
            shutil.rmtree(self._directory, ignore_errors=True)
        if self._lease is not None:
            self._lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self.save_log()
        self.close()

    def _admin_section(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        if "port" in wanted:
            return {"bind": "127.0.0.1", **wanted}
        self._lease = lease_ports()
        return {"bind": "127.0.0.1", "insecure": True, **wanted, "port": self._lease[0]}

    def _started(self) -> Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process

    def _log_tail(self) -> str:
        return "\n".join(self.log().splitlines()[-40:])
