"""The ports of a listener and the addresses that its clients are told: port per broker, or a name per broker.

All ports and names of the configured node ids are there from the start: a client that knows only a broker's
address must find it after a restart too, whether or not the cluster is up.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass

from gateway.config import ListenerConfig


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One bound port; `node_id` None is the bootstrap port, behind which any broker answers.

    A `shared` one is bound by several processes of this gateway (SO_REUSEPORT).
    """

    host: str
    port: int
    node_id: int | None
    shared: bool = False


class Endpoints:
    """The endpoints of one listener; `cluster` is the name of the cluster in host names, if it has one."""

    def __init__(self, config: ListenerConfig, cluster: str | None = None, *, shared: bool = False) -> None:
        self.bound = (
            Endpoint(config.bind, config.port, None, shared),
            *(
                Endpoint(config.bind, port, node_id, shared)
                for node_id, port in config.broker_ports().items()
            ),
        )
        # Node ids by name, where names tell brokers apart: then the only port is for all of them.
        self.server_names = config.server_names(cluster) if config.by_server_name else None
        self.bootstrap = config.advertised_bootstrap(cluster)
        self._advertised = {
            node_id: address
            for node_id in config.node_ids
            if (address := config.advertised_broker(node_id, cluster)) is not None
        }

    @property
    def advertised_hosts(self) -> list[str]:
        """Every host that clients are told, the bootstrap's first."""
        return list(dict.fromkeys([self.bootstrap[0], *(host for host, _ in self._advertised.values())]))

    def advertised(self, node_id: int) -> tuple[str, int] | None:
        """Where clients find that broker; None outside the configured range."""
        return self._advertised.get(node_id)


def bind(endpoint: Endpoint, *, backlog: int) -> socket.socket:
    """A listening socket, non-blocking; `::` takes IPv4 too where it can. OSError names the address."""
    try:
        bound = socket.create_server(
            (endpoint.host, endpoint.port),
            family=_family(endpoint),
            backlog=backlog,
            reuse_port=endpoint.shared,
            dualstack_ipv6=endpoint.host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        number = error.errno or errno.EIO
        where = f"{endpoint.host} port {endpoint.port}"
        raise OSError(number, f"cannot listen on {where}: {os.strerror(number)}") from error
    bound.setblocking(False)
    return bound


def reserve(endpoint: Endpoint) -> socket.socket:
    """Keeps a port from whoever does not share it, without listening there. OSError."""
    reserved = socket.socket(_family(endpoint))
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if reserved.family == socket.AF_INET6:
            only_ipv6 = not (endpoint.host == "::" and socket.has_dualstack_ipv6())
            reserved.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6)
        reserved.bind((endpoint.host, endpoint.port))
    except OSError:
        reserved.close()
        raise
    return reserved


def _family(endpoint: Endpoint) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
