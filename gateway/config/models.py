"""The sections of the configuration file, and what each must say to be safe."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretBytes, SecretStr, ValidationInfo, field_validator, model_validator

from gateway.config.host_patterns import is_label
from gateway.config.limits import LimitsConfig
from gateway.config.listeners import ListenerConfig
from gateway.config.section import Section
from gateway.config.tls import TlsConfig
from gateway.config.values import (
    ClusterName,
    HostPort,
    IpAddress,
    Millis,
    Port,
    PrincipalText,
    ReadableFile,
    UserName,
    is_loopback,
    must_build,
    one_password,
    read_secrets_key,
)
from gateway.tls import client_context

# --- the fronted cluster -----------------------------------------------------------------------------


class SecurityProtocol(StrEnum):
    """Kafka's `security.protocol`."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self in {SecurityProtocol.SSL, SecurityProtocol.SASL_SSL}

    @property
    def uses_sasl(self) -> bool:
        """Whether the client logs in by SASL."""
        return self in {SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL}


class SecurityConfig(Section):
    """How this gateway gets into the cluster."""

    protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    password_file: ReadableFile | None = None
    password: SecretStr | None = None
    ca_file: ReadableFile | None = None
    certificate_file: ReadableFile | None = None
    key_file: ReadableFile | None = None
    verify_hostname: bool = True

    @field_validator("password")
    @classmethod
    def _password_from_file(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        return one_password(value, info)

    @field_validator("sasl_mechanism", "username", "password")
    @classmethod
    def _sasl(cls, value: object, info: ValidationInfo) -> object:
        protocol = info.data.get("protocol")
        if protocol is None or (info.field_name == "password" and "password_file" not in info.data):
            return value
        if protocol.uses_sasl and value is None:
            raise ValueError(f"is required with protocol {protocol}")
        if not protocol.uses_sasl and value is not None:
            raise ValueError(f"has no meaning with protocol {protocol}")
        return value

    @field_validator("ca_file", "certificate_file", "key_file")
    @classmethod
    def _tls(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        protocol = info.data.get("protocol")
        if value is not None and protocol is not None and not protocol.uses_tls:
            raise ValueError(f"has no meaning with protocol {protocol}")
        if info.field_name == "key_file" and "certificate_file" in info.data:
            if value is None and info.data["certificate_file"] is not None:
                raise ValueError("is required with certificate_file")
            if value is not None and info.data["certificate_file"] is None:
                raise ValueError("has no meaning without certificate_file")
        return value

    @model_validator(mode="after")
    def _usable(self) -> SecurityConfig:
        if self.protocol.uses_tls:
            must_build(client_context, self)
        return self


class ClusterConfig(Section):
    """The one cluster that this gateway fronts."""

    bootstrap_servers: Annotated[list[HostPort], Field(min_length=1)]
    cluster_id: Annotated[str, Field(min_length=1)] | None = None
    name: ClusterName | None = None
    security: SecurityConfig = SecurityConfig()
    connect_timeout_ms: Millis = 5_000

    @property
    def host_label(self) -> str | None:
        """What stands for the cluster in host names: `name`, or the id if that is fit for it."""
        if self.name is not None or self.cluster_id is None:
            return self.name
        return self.cluster_id.lower() if is_label(self.cluster_id) else None


# --- what this gateway serves ------------------------------------------------------------------------


class AdminConfig(Section):
    """The REST API, health and metrics."""

    bind: IpAddress = "127.0.0.1"
    port: Port = 8090
    tls: TlsConfig | None = None
    insecure: bool = False

    @field_validator("tls")
    @classmethod
    def _passwords_are_sent(cls, value: TlsConfig | None, info: ValidationInfo) -> TlsConfig | None:
        if value is None and "bind" in info.data and not is_loopback(info.data["bind"]):
            raise ValueError("is required unless bind is a loopback address")
        return value

    @field_validator("insecure")
    @classmethod
    def _open_on_loopback_only(cls, value: bool, info: ValidationInfo) -> bool:
        if value and "bind" in info.data and not is_loopback(info.data["bind"]):
            raise ValueError("may be true only if bind is a loopback address")
        return value


class UserConfig(Section):
    """A user known beside those in the state topic."""

    name: UserName
    password_file: ReadableFile | None = None
    password: SecretStr | None = None

    @field_validator("name")
    @classmethod
    def _somebody(cls, value: str) -> str:
        if value == "ANONYMOUS":
            raise ValueError("ANONYMOUS is the name of whoever did not authenticate")
        return value

    @field_validator("password")
    @classmethod
    def _password_from_file(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        value = one_password(value, info)
        if value is None and "password_file" in info.data:
            raise ValueError("password_file or password is required")
        return value


class StateConfig(Section):
    """The state topic; `secrets_key_file` holds 32 bytes, raw or as base64, that encrypt secrets in it."""

    replication_factor: Annotated[int, Field(ge=1, le=2**15 - 1)] | None = None
    secrets_key_file: ReadableFile | None = None
    max_staleness_ms: Millis = 30_000
    _secrets_key: SecretBytes | None = None

    @model_validator(mode="after")
    def _key_from_file(self) -> StateConfig:
        if self.secrets_key_file is not None:
            self._secrets_key = SecretBytes(read_secrets_key(self.secrets_key_file))
        return self

    @property
    def secrets_key(self) -> SecretBytes | None:
        """The 32 bytes; None without a file."""
        return self._secrets_key


class LoggingConfig(Section):
    """Where `level` is the least severe level that is written."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["json", "console"] = "json"


class AuditConfig(Section):
    """What was decided about whom; refusals are always told."""

    file: Path | None = None
    allowed_share: Annotated[float, Field(ge=0, le=1)] = 0.0


class Authorization(StrEnum):
    """Whether ACLs decide what clients may do, or whoever a listener lets in may do everything."""

    ACLS = "acls"
    NONE = "none"


class Config(Section):
    """The whole file."""

    cluster: ClusterConfig
    listeners: list[ListenerConfig] = []
    admin: AdminConfig = AdminConfig()
    authorization: Authorization = Authorization.ACLS
    super_users: list[PrincipalText] = []
    allow_everyone_if_no_acl_found: bool = False
    users: list[UserConfig] = []
    audit: AuditConfig = AuditConfig()
    state: StateConfig = StateConfig()
    limits: LimitsConfig = LimitsConfig()
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    drain_timeout_ms: Millis = 30_000
    logging: LoggingConfig = LoggingConfig()
