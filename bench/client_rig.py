"""What `bench.client` measures: one broker, and every way of getting to it.

Behind a proxy that passes addresses on as they are, the broker has a listener that advertises the proxy's
port: a client that goes where Metadata sends it is still on its way through the proxy.
"""

from __future__ import annotations

import secrets
import ssl
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from bench.acls import grant
from bench.proxies import HOST, Proxy, start_proxy
from compose.gateway_process import GatewayProcess
from compose.kafka import KafkaCluster
from compose.ports import PortLease, lease_ports

DIRECT: Final = "direct"
# The same once more: what differs between the two is noise.
DIRECT_AGAIN: Final = "direct again"
CAUSEWAY: Final = "causeway"
# The same with ACLs, a thousand of them.
CAUSEWAY_ACLS: Final = "causeway ACLs"
USER: Final = "bench"
_ADMIN: Final = "admin"
_PASSWORD: Final = secrets.token_hex(8)
# Each round leaves hundreds of megabytes behind.
_BROKER_CONFIG: Final = {"log.segment.delete.delay.ms": "1000", "log.retention.check.interval.ms": "3600000"}


@dataclass(frozen=True)
class Way:
    """One way from a client to the broker. `pid` is the proxy's; `user` is None where nobody is asked."""

    path: str
    tls: bool
    port: int
    pid: int | None = None
    user: str | None = None
    password: str = field(default="", repr=False)
    ca_file: Path | None = None

    def librdkafka(self) -> dict[str, str]:
        """Settings of a librdkafka client."""
        settings = {"bootstrap.servers": f"{HOST}:{self.port}"}
        protocol = "SSL" if self.tls else "PLAINTEXT"
        if self.ca_file is not None:
            settings["ssl.ca.location"] = str(self.ca_file)
        if self.user is not None:
            protocol = f"SASL_{protocol}"
            settings |= {"sasl.mechanism": "PLAIN", "sasl.username": self.user}
            settings["sasl.password"] = self.password
        return settings | {"security.protocol": protocol}

    def ssl_context(self) -> ssl.SSLContext | None:
        """The client's end of TLS."""
        return ssl.create_default_context(cafile=str(self.ca_file)) if self.tls else None


class ClientRig:
    """The broker, the gateway and the proxies, up until `close`."""

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        self._stack = ExitStack()
        try:
            directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            wanted = [(proxy, tls) for tls in (False, True) for proxy in proxies if proxy.command(tls=tls)]
            leases = {(proxy.name, tls): self._lease(3) for proxy, tls in wanted}
            proxied = {
                _listener_name(proxy, tls): (leases[proxy.name, tls][2], leases[proxy.name, tls][0])
                for proxy, tls in wanted
                if not proxy.rewrites_addresses
            }
            # With all of its compilers and its own choice of collector, as brokers in service run.
            self.cluster = self._stack.enter_context(
                KafkaCluster.start(heap="1g", config=_BROKER_CONFIG, jvm_options=(), proxied=proxied)
            )
            port = self.cluster.nodes[0].port
            self.ways = [Way(DIRECT, tls=False, port=port), Way(DIRECT_AGAIN, tls=False, port=port)]
            for tls in (False, True):
                self.ways.append(self._start_gateway(tls))
                if not tls:
                    self.ways.append(self._start_gateway(tls, acls=True))
                self.ways += [
                    self._start_proxy(proxy, tls, leases[proxy.name, tls], directory / f"{proxy.name}-{tls}")
                    for proxy, has_tls in wanted
                    if has_tls == tls
                ]
        except BaseException:
            self.close()
            raise

    def _lease(self, count: int) -> PortLease:
        lease = lease_ports(count)
        self._stack.callback(lease.release)
        return lease

    def _start_proxy(self, proxy: Proxy, tls: bool, lease: PortLease, directory: Path) -> Way:
        process = start_proxy(
            proxy,
            directory,
            tls=tls,
            upstream_port=self.cluster.nodes[0].port if proxy.rewrites_addresses else lease[2],
            ports=(lease[0], lease[1]),
            authority=self.cluster.authority,
        )
        self._stack.callback(process.kill)
        return Way(proxy.name, tls, lease[0], process.pid, ca_file=self._ca_file(tls))

    def _start_gateway(self, tls: bool, *, acls: bool = False) -> Way:
        lease = self._lease(2)
        identity = self.cluster.authority.server("gateway")
        files = {"certificate_file": str(identity.certificate_file), "key_file": str(identity.key_file)}
        listener = {
            "name": "clients",
            "bind": HOST,
            "advertised_host": HOST,
            "port": lease[0],
            "broker_port": lease[1],
            "node_ids": "1-1",
            "authentication": "sasl_plain",
            **({"tls": files} if tls else {"insecure": True}),
        }
        config = {
            "authorization": "acls" if acls else "none",
            "super_users": [f"User:{_ADMIN}"],
            "cluster": self.cluster.gateway_config(),
            "listeners": [listener],
            "users": [{"name": name, "password": _PASSWORD} for name in (USER, _ADMIN)],
        }
        gateway = self._stack.enter_context(GatewayProcess(config, name="causeway"))
        ca_file = self._ca_file(tls)
        if acls:
            admin = Way(CAUSEWAY_ACLS, tls, lease[1], gateway.pid, _ADMIN, _PASSWORD, ca_file)
            grant(admin.librdkafka(), USER)
        path = CAUSEWAY_ACLS if acls else CAUSEWAY
        return Way(path, tls, lease[1], gateway.pid, USER, _PASSWORD, ca_file)

    def _ca_file(self, tls: bool) -> Path | None:
        return self.cluster.authority.ca_file if tls else None

    def close(self) -> None:
        """Ends everything."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _listener_name(proxy: Proxy, tls: bool) -> str:
    letters = "".join(letter for letter in proxy.name.upper() if letter.isalnum())
    return f"BEHIND{letters}{'TLS' if tls else ''}"
