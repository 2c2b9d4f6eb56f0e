"""A gateway whose clients go through relays that remember every byte, to be searched for addresses."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Self

from certs.make_certs import TestAuthority
from compose.kafka import KafkaCluster
from compose.ports import lease_ports
from tests.e2e.front import NODE_IDS, Access, Front
from tests.e2e.relay import Relay, addresses_in


class WatchedFront:
    """Advertises the ports of relays in place of its own; everything on them is in clear text."""

    def __init__(self, kafka: KafkaCluster, authority: TestAuthority) -> None:
        self._kafka = kafka
        self._stack = ExitStack()
        try:
            lease = lease_ports(1 + len(NODE_IDS))
            self._stack.callback(lease.release)
            ports = lease.ports
            listener = {"advertised_port": ports[0], "advertised_broker_port": ports[1]}
            self.front = Front(kafka, authority, ways=("plain",), listener=listener, name="watched")
            self._stack.callback(self.front.close)
            self.relays = [
                self._stack.enter_context(Relay(("127.0.0.1", behind), port=port))
                for behind, port in zip(self.front.ports["plain"], ports, strict=True)
            ]
        except BaseException:
            self._stack.close()
            raise
        self._ports = ports

    def access(self, node_id: int | None = None) -> Access:
        """How to get in by a relay: at the bootstrap port, or at that of a broker."""
        index = 0 if node_id is None else 1 + node_id - NODE_IDS[0]
        return replace(self.front.access("plain"), port=self._ports[index])

    def addresses_told(self) -> list[str]:
        """Which brokers' addresses clients have been sent so far."""
        return [each for relay in self.relays for each in addresses_in(relay.received, self._kafka)]

    def close(self) -> None:
        """Ends the gateway and the relays; idempotent."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
