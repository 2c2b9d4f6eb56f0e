"""The listeners of the configuration: where clients connect, what they are told, how they are let in."""

from __future__ import annotations

from enum import StrEnum

from pydantic import ValidationInfo, field_validator

from gateway.config.section import Section
from gateway.config.tls import TlsConfig
from gateway.config.values import (
    AdvertisedHost,
    Count,
    IpAddress,
    Name,
    NodeIds,
    Port,
)
from gateway.tls import ClientAuth


class Authentication(StrEnum):
    """How a listener finds out who a client is."""

    NONE = "none"
    SASL_PLAIN = "sasl_plain"
    MTLS = "mtls"


class ListenerConfig(Section):
    """One bootstrap port and one port per node id; node id n is at `broker_port` + n - the first node id."""

    name: Name
    bind: IpAddress = "0.0.0.0"  # noqa: S104 - a gateway is there to be reached; clear text needs `insecure`
    port: Port
    advertised_host: AdvertisedHost
    advertised_port: Port | None = None
    node_ids: NodeIds = tuple(range(16))
    broker_port: Port | None = None
    advertised_broker_port: Port | None = None
    tls: TlsConfig | None = None
    insecure: bool = False
    authentication: Authentication
    max_connections: Count | None = None

    @field_validator("broker_port", "advertised_broker_port")
    @classmethod
    def _range_fits(cls, value: int | None, info: ValidationInfo) -> int | None:
        ids, port = info.data.get("node_ids"), info.data.get("port")
        base = port + 1 if value is None and info.field_name == "broker_port" and port is not None else value
        if ids is not None and base is not None and base + ids[-1] - ids[0] > 65535:
            raise ValueError(f"node id {ids[-1]} would be at port {base + ids[-1] - ids[0]}, above 65535")
        return value

    @field_validator("insecure")
    @classmethod
    def _clear_text_is_said(cls, value: bool, info: ValidationInfo) -> bool:
        if not value and "tls" in info.data and info.data["tls"] is None:
            raise ValueError(
                "must be true for a listener without tls: everything on it, passwords too, is readable"
            )
        return value

    @field_validator("authentication")
    @classmethod
    def _mtls_is_possible(cls, value: Authentication, info: ValidationInfo) -> Authentication:
        if value is Authentication.MTLS and "tls" in info.data:
            tls: TlsConfig | None = info.data["tls"]
            if tls is None or tls.client_auth is not ClientAuth.REQUIRED:
                raise ValueError("mtls needs tls with client_ca_file and client_auth: required")
        return value

    def broker_ports(self) -> dict[int, int]:
        """The port to bind for each node id."""
        base = self.port + 1 if self.broker_port is None else self.broker_port
        return {node_id: base + node_id - self.node_ids[0] for node_id in self.node_ids}

    def advertised_bootstrap(self) -> tuple[str, int]:
        """Where clients find the bootstrap port."""
        return self.advertised_host, self.advertised_port or self.port

    def advertised_broker(self, node_id: int) -> tuple[str, int] | None:
        """Where clients find the broker; None for a node id that this listener has no port for."""
        port = self.broker_ports().get(node_id)
        if port is None:
            return None
        if self.advertised_broker_port is not None:
            port = self.advertised_broker_port + node_id - self.node_ids[0]
        return self.advertised_host, port
