"""The proxies that the gateway is compared with: haproxy, and whatever a file of the user's names.

Such a file is a YAML list of entries like this one:

    - name: some-proxy
      rewrites_addresses: true      # false: its broker listener advertises the proxy's port
      files: {proxy.conf: "listen $host:$port\\nupstream $upstream\\n"}
      plaintext: [some-proxy, --config, $directory/proxy.conf]
      tls: [some-proxy, --config, $directory/proxy.conf, --certificate, $certificate, --key, $key]

Commands and files may contain $host, $port (where the proxy listens), $broker_port (a second port, for
proxies that have one per broker), $upstream (`host:port` of the broker), $upstream_host, $upstream_port,
$certificate, $key, $pem (both of them in one file), $ca and $directory. A command that is left out is not
measured.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Annotated, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from certs.make_certs import TestAuthority
from compose.processes import Process

HOST: Final = "127.0.0.1"
HAPROXY: Final = "haproxy"
_UP_WITHIN_S: Final = 30.0


class ProxyUnavailable(Exception):
    """A proxy is not installed or did not start."""


class Proxy(BaseModel):
    """How to start a proxy, without and with TLS towards its clients."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    rewrites_addresses: bool = False
    files: dict[str, str] = {}
    plaintext: tuple[str, ...] | None = None
    tls: tuple[str, ...] | None = None

    def command(self, *, tls: bool) -> tuple[str, ...] | None:
        """The command for one of the two, None if the proxy has no such side."""
        return self.tls if tls else self.plaintext


# As Debian ships it: one thread per core, nothing tuned.
_HAPROXY: Final = """\
global
    maxconn 4000
defaults
    mode tcp
    timeout connect 5s
    timeout client 10m
    timeout server 10m
frontend kafka
    bind $host:$port$tls
    default_backend kafka
backend kafka
    server broker $upstream
"""


def haproxy() -> Proxy:
    """Passes TCP on, or ends TLS; ProxyUnavailable if it is not installed."""
    binary = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        raise ProxyUnavailable("haproxy is not installed: apt-get install haproxy")
    files = {
        "plaintext.cfg": _HAPROXY.replace("$tls", ""),
        "tls.cfg": _HAPROXY.replace("$tls", " ssl crt $pem"),
    }
    run = (binary, "-db", "-f")
    return Proxy(
        name=HAPROXY,
        files=files,
        plaintext=(*run, "$directory/plaintext.cfg"),
        tls=(*run, "$directory/tls.cfg"),
    )


def read_proxies(file: Path) -> tuple[Proxy, ...]:
    """The proxies of a file; pydantic.ValidationError (a ValueError), OSError."""
    return TypeAdapter(tuple[Proxy, ...]).validate_python(yaml.safe_load(file.read_text()) or ())


def start_proxy(
    proxy: Proxy,
    directory: Path,
    *,
    tls: bool,
    upstream_port: int,
    ports: tuple[int, int],
    authority: TestAuthority,
) -> Process:
    """The running proxy, its port open; ProxyUnavailable with the end of its log."""
    command = proxy.command(tls=tls)
    if command is None:
        raise ProxyUnavailable(f"{proxy.name} has no command for this")
    identity = authority.server("proxy", (HOST,))
    directory.mkdir()
    pem = directory / "certificate-and-key.pem"
    pem.write_text(identity.certificate_file.read_text() + identity.key_file.read_text())
    values = {
        "host": HOST,
        "port": str(ports[0]),
        "broker_port": str(ports[1]),
        "upstream": f"{HOST}:{upstream_port}",
        "upstream_host": HOST,
        "upstream_port": str(upstream_port),
        "certificate": str(identity.certificate_file),
        "key": str(identity.key_file),
        "pem": str(pem),
        "ca": str(authority.ca_file),
        "directory": str(directory),
    }
    for name, text in proxy.files.items():
        (directory / name).write_text(_fill(text, values))
    log_file = directory / "log"
    try:
        process = Process([_fill(each, values) for each in command], log_file)
    except OSError as error:
        raise ProxyUnavailable(f"{proxy.name}: {error}") from error
    deadline = time.monotonic() + _UP_WITHIN_S
    while not _is_open(ports[0]):
        if not process.running or time.monotonic() > deadline:
            process.kill()
            tail = "\n".join(log_file.read_text(errors="replace").splitlines()[-20:])
            raise ProxyUnavailable(f"{proxy.name} does not listen at port {ports[0]}:\n{tail}")
        time.sleep(0.05)
    return process


def _fill(text: str, values: Mapping[str, str]) -> str:
    return Template(text).safe_substitute(values)


def _is_open(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False
