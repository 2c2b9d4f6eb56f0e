"""The listeners of the configuration: where clients connect, what they are told, how they are let in."""

from __future__ import annotations

from enum import StrEnum

from pydantic import ValidationInfo, field_validator

from gateway.config.authentication import (
    Authentication,
    Mechanism,
    OAuthBearerConfig,
    check_mechanisms,
    check_oauthbearer,
)
from gateway.config.host_patterns import check_host_name, fill, is_pattern
from gateway.config.section import Section
from gateway.config.tls import TlsConfig
from gateway.config.values import (
    AdvertisedHost,
    BootstrapHost,
    Count,
    IpAddress,
    IpNetwork,
    MappingRules,
    Millis,
    Name,
    NodeIds,
    Port,
)
from gateway.tls import ClientAuth


class ProxyProtocol(StrEnum):
    """Whether connections begin with a PROXY protocol header."""

    NONE = "none"
    REQUIRED = "required"


class ListenerConfig(Section):
    """Where brokers are: each at a port of its own, or all at one port, told apart by server names (SNI).

    With a port per broker node id n is at `broker_port` + n - the first node id. With a pattern as
    `advertised_host` the bootstrap has a name too, `bootstrap_host`.
    """

    name: Name
    bind: IpAddress = "0.0.0.0"  # noqa: S104 - a gateway is there to be reached; clear text needs `insecure`
    port: Port
    advertised_host: AdvertisedHost
    bootstrap_host: BootstrapHost | None = None
    advertised_port: Port | None = None
    node_ids: NodeIds = tuple(range(16))
    broker_port: Port | None = None
    advertised_broker_port: Port | None = None
    proxy_protocol: ProxyProtocol = ProxyProtocol.NONE
    proxy_protocol_from: list[IpNetwork] = []
    tls: TlsConfig | None = None
    insecure: bool = False
    authentication: Authentication
    sasl_mechanisms: list[Mechanism] = []
    oauthbearer: OAuthBearerConfig | None = None
    connections_max_reauth_ms: Millis | None = None
    principal_mapping_rules: MappingRules = "DEFAULT"
    max_connections: Count | None = None

    @field_validator("bootstrap_host")
    @classmethod
    def _goes_with_a_pattern(cls, value: str | None, info: ValidationInfo) -> str | None:
        host = info.data.get("advertised_host")
        if host is not None and is_pattern(host) != (value is not None):
            raise ValueError(
                "is required if advertised_host is a pattern"
                if value is None
                else "has a meaning only if advertised_host is a pattern with $(node_id)"
            )
        return value

    @field_validator("broker_port", "advertised_broker_port")
    @classmethod
    def _range_fits(cls, value: int | None, info: ValidationInfo) -> int | None:
        if is_pattern(info.data.get("advertised_host", "")):
            if value is not None:
                raise ValueError("has no meaning if advertised_host is a pattern: all brokers are at `port`")
            return value
        ids, port = info.data.get("node_ids"), info.data.get("port")
        base = port + 1 if value is None and info.field_name == "broker_port" and port is not None else value
        if ids is not None and base is not None and base + ids[-1] - ids[0] > 65535:
            raise ValueError(f"node id {ids[-1]} would be at port {base + ids[-1] - ids[0]}, above 65535")
        return value

    @field_validator("proxy_protocol_from")
    @classmethod
    def _proxies_are_known(cls, value: list[IpNetwork], info: ValidationInfo) -> list[IpNetwork]:
        mode = info.data.get("proxy_protocol")
        if mode is ProxyProtocol.REQUIRED and not value:
            raise ValueError("is required with proxy_protocol: whoever can connect could claim any address")
        if mode is ProxyProtocol.NONE and value:
            raise ValueError("has no meaning without proxy_protocol: required")
        return value

    @field_validator("tls")
    @classmethod
    def _names_come_with_tls(cls, value: TlsConfig | None, info: ValidationInfo) -> TlsConfig | None:
        if value is None and is_pattern(info.data.get("advertised_host", "")):
            raise ValueError("is required if advertised_host is a pattern: the server name comes with TLS")
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

    @property
    def by_server_name(self) -> bool:
        """Whether brokers are told apart by server names, all at `port`."""
        return is_pattern(self.advertised_host)

    @field_validator("sasl_mechanisms")
    @classmethod
    def _mechanisms_fit(cls, value: list[Mechanism], info: ValidationInfo) -> list[Mechanism]:
        return check_mechanisms(value, info.data.get("authentication"))

    @field_validator("oauthbearer")
    @classmethod
    def _tokens_fit(cls, value: OAuthBearerConfig | None, info: ValidationInfo) -> OAuthBearerConfig | None:
        return check_oauthbearer(value, info.data.get("sasl_mechanisms"))

    @field_validator("connections_max_reauth_ms")
    @classmethod
    def _sessions_end_with_sasl(cls, value: int | None, info: ValidationInfo) -> int | None:
        method: Authentication | None = info.data.get("authentication")
        if value is not None and method is not None and not method.uses_sasl:
            raise ValueError(f"has no meaning with authentication {method}")
        return value

    @field_validator("principal_mapping_rules")
    @classmethod
    def _names_come_from_certificates(cls, value: str, info: ValidationInfo) -> str:
        method: Authentication | None = info.data.get("authentication")
        if value != "DEFAULT" and method is not None and method is not Authentication.MTLS:
            raise ValueError(f"has no meaning with authentication {method}")
        return value

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """The SASL mechanisms that clients are offered; empty without SASL."""
        return ("PLAIN",) if self.authentication is Authentication.SASL_PLAIN else tuple(self.sasl_mechanisms)

    def broker_ports(self) -> dict[int, int]:
        """The port to bind for each node id; empty if they are told apart by name."""
        if self.by_server_name:
            return {}
        base = self.port + 1 if self.broker_port is None else self.broker_port
        return {node_id: base + node_id - self.node_ids[0] for node_id in self.node_ids}

    def server_names(self, cluster: str | None) -> dict[str, int | None]:
        """The node id by lower-case server name, None for the bootstrap; ValueError if they cannot be."""
        if self.bootstrap_host is None:
            return {}
        hosts = {node_id: fill(self.advertised_host, node_id, cluster) for node_id in self.node_ids}
        bootstrap = check_host_name(fill(self.bootstrap_host, None, cluster)).lower()
        names: dict[str, int | None] = {
            check_host_name(host).lower(): node_id for node_id, host in hosts.items()
        }
        if bootstrap in names:
            raise ValueError(f"node id {names[bootstrap]} would have the name of the bootstrap, {bootstrap}")
        return {bootstrap: None, **names}

    def advertised_bootstrap(self, cluster: str | None = None) -> tuple[str, int]:
        """Where clients find the bootstrap; `cluster` is the name of the cluster, for patterns."""
        host = (
            self.advertised_host if self.bootstrap_host is None else fill(self.bootstrap_host, None, cluster)
        )
        return host, self.advertised_port or self.port

    def advertised_broker(self, node_id: int, cluster: str | None = None) -> tuple[str, int] | None:
        """Where clients find the broker; None for a node id that this listener does not have."""
        if node_id not in self.node_ids:
            return None
        if self.by_server_name:
            return fill(self.advertised_host, node_id, cluster), self.advertised_port or self.port
        base = self.port + 1 if self.broker_port is None else self.broker_port
        base = base if self.advertised_broker_port is None else self.advertised_broker_port
        return self.advertised_host, base + node_id - self.node_ids[0]
