"""The configuration file: YAML, checked against these models; every error is reported, with its path.

Unknown keys, duplicate keys and unsafe combinations are refused. Relative file names are taken from the
folder of the configuration file. Secrets are read at load, from files or inline, and never format.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretBytes,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from gateway.tls import ClientAuth, TlsError, client_context, server_context

_MAX_SECRET_BYTES: Final = 64 * 1024
_MAX_NODE_IDS: Final = 10_000
_NODE_RANGE: Final = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_RESERVED_PREFIX: Final = "_causeway"
_NO_ACLS: Final = (
    "must be `none`: this version has no ACLs, so that every client that a listener lets in may do whatever "
    "this gateway's own principal may do on the cluster"
)


class ConfigError(Exception):
    """The configuration cannot be used; `errors` has one line per mistake, each with its path in the file."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


def load(path: Path) -> Config:
    """Reads and checks the file; ConfigError with everything that is wrong."""
    config, errors = _read(path)
    if config is None or errors:
        raise ConfigError(errors)
    return config


def check(path: Path) -> list[str]:
    """Every error of the file, one line each; empty if the gateway would take it."""
    return _read(path)[1]


def parse_host_port(text: str) -> tuple[str, int]:
    """`host:port` or `[ipv6]:port`; ValueError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed) or not port.isascii() or not port.isdigit():
        raise ValueError(f"{text!r} is not host:port")
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"the port of {text!r} is not in 1..65535")
    return (host[1:-1] if bracketed else host), int(port)


# --- values ------------------------------------------------------------------------------------------


def _existing_file(path: Path, info: ValidationInfo) -> Path:
    folder: Path = (info.context or {}).get("folder", Path())
    path = folder / path.expanduser()
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error


def _read_secret(path: Path) -> bytes:
    with path.open("rb") as file:
        secret = file.read(_MAX_SECRET_BYTES + 1)
    if len(secret) > _MAX_SECRET_BYTES:
        raise ValueError(f"{path} is longer than {_MAX_SECRET_BYTES} bytes")
    return secret


def _node_ids(value: object) -> object:
    if not isinstance(value, int | str):
        return value
    ids: set[int] = set()
    for part in str(value).split(","):
        match = _NODE_RANGE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f'{part.strip()!r} is not a node id or a range such as "0-9"')
        first = int(match[1])
        last = int(match[2] or first)
        if last < first:
            raise ValueError(f"the range {part.strip()} runs backwards")
        if last - first >= _MAX_NODE_IDS or len(ids) + last - first >= _MAX_NODE_IDS:
            raise ValueError(f"more than {_MAX_NODE_IDS} node ids")
        ids.update(range(first, last + 1))
    return tuple(sorted(ids))


def _ip_address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f"{value!r} is not an IP address") from None


def _advertised_host(value: str) -> str:
    if value in {"0.0.0.0", "::"} or re.fullmatch(r"[A-Za-z0-9._:-]{1,253}", value) is None:  # noqa: S104 - refused
        raise ValueError(f"{value!r} is not a host that clients could connect to")
    return value


def _host_port(value: str) -> str:
    parse_host_port(value)
    return value


def _own_name(value: str) -> str:
    if value.startswith(_RESERVED_PREFIX):
        raise ValueError(f"names that begin with {_RESERVED_PREFIX} are reserved")
    return value


def _principal(value: str) -> str:
    kind, _, name = value.partition(":")
    if kind != "User" or not name:
        raise ValueError(f"{value!r} is not a principal such as User:admin")
    return value


ReadableFile: TypeAlias = Annotated[Path, AfterValidator(_existing_file)]
NodeIds: TypeAlias = Annotated[tuple[int, ...], Field(min_length=1), BeforeValidator(_node_ids)]
IpAddress: TypeAlias = Annotated[str, AfterValidator(_ip_address)]
Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
Millis: TypeAlias = Annotated[int, Field(ge=1, le=2**31 - 1)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=2**31 - 1)]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$"), AfterValidator(_own_name)]
UserName: TypeAlias = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,255}$"), AfterValidator(_own_name)]


# --- rules that several models share -----------------------------------------------------------------


def _must_build(build: Any, section: object) -> None:
    try:
        build(section)
    except TlsError as error:
        raise ValueError(str(error)) from error


def _one_password(value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    path: Path | None = info.data.get("password_file")
    if path is not None:
        if value is not None:
            raise ValueError("give password_file or password, not both")
        try:
            # The newline with which editors end a file is not part of the password.
            value = SecretStr(_read_secret(path).decode().removesuffix("\n").removesuffix("\r"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8") from error
    if value is not None and not value.get_secret_value():
        raise ValueError(f"{path} is empty" if path else "is empty")
    return value


def _secrets_key(path: Path) -> bytes:
    secret = _read_secret(path)
    if len(secret) != 32:
        try:
            secret = base64.b64decode(secret.strip(), validate=True)
        except binascii.Error:
            secret = b""
    if len(secret) != 32:
        raise ValueError(f"{path} does not hold 32 bytes, raw or as base64 (`openssl rand -base64 32`)")
    return secret


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


class _Section(BaseModel):
    # Defaults are validated too: many rules are about what was left out.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)


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


class SecurityConfig(_Section):
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
        return _one_password(value, info)

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
            _must_build(client_context, self)
        return self


class ClusterConfig(_Section):
    """The one cluster that this gateway fronts."""

    bootstrap_servers: Annotated[list[Annotated[str, AfterValidator(_host_port)]], Field(min_length=1)]
    cluster_id: Annotated[str, Field(min_length=1)] | None = None
    security: SecurityConfig = SecurityConfig()
    connect_timeout_ms: Millis = 5_000


# --- what this gateway serves ------------------------------------------------------------------------


class TlsConfig(_Section):
    """The server side of TLS."""

    certificate_file: ReadableFile
    key_file: ReadableFile
    client_ca_file: ReadableFile | None = None
    client_auth: ClientAuth = ClientAuth.NONE

    @field_validator("client_auth")
    @classmethod
    def _needs_authority(cls, value: ClientAuth, info: ValidationInfo) -> ClientAuth:
        if value is not ClientAuth.NONE and info.data.get("client_ca_file", value) is None:
            raise ValueError(f"{value} needs client_ca_file")
        return value

    @model_validator(mode="after")
    def _usable(self) -> TlsConfig:
        _must_build(server_context, self)
        return self


class Authentication(StrEnum):
    """How a listener finds out who a client is."""

    NONE = "none"
    SASL_PLAIN = "sasl_plain"
    MTLS = "mtls"


class ListenerConfig(_Section):
    """One bootstrap port and one port per node id; node id n is at `broker_port` + n - the first node id."""

    name: Name
    bind: IpAddress = "0.0.0.0"  # noqa: S104 - a gateway is there to be reached; clear text needs `insecure`
    port: Port
    advertised_host: Annotated[str, AfterValidator(_advertised_host)]
    advertised_port: Port | None = None
    node_ids: NodeIds = tuple(range(16))
    broker_port: Port | None = None
    advertised_broker_port: Port | None = None
    tls: TlsConfig | None = None
    insecure: bool = False
    authentication: Authentication

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


class AdminConfig(_Section):
    """The REST API, health and metrics."""

    bind: IpAddress = "127.0.0.1"
    port: Port = 8090
    tls: TlsConfig | None = None
    insecure: bool = False

    @field_validator("tls")
    @classmethod
    def _passwords_are_sent(cls, value: TlsConfig | None, info: ValidationInfo) -> TlsConfig | None:
        if value is None and "bind" in info.data and not _is_loopback(info.data["bind"]):
            raise ValueError("is required unless bind is a loopback address")
        return value

    @field_validator("insecure")
    @classmethod
    def _open_on_loopback_only(cls, value: bool, info: ValidationInfo) -> bool:
        if value and "bind" in info.data and not _is_loopback(info.data["bind"]):
            raise ValueError("may be true only if bind is a loopback address")
        return value


class UserConfig(_Section):
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
        value = _one_password(value, info)
        if value is None and "password_file" in info.data:
            raise ValueError("password_file or password is required")
        return value


class StateConfig(_Section):
    """The state topic; `secrets_key_file` holds 32 bytes, raw or as base64, that encrypt secrets in it."""

    replication_factor: Annotated[int, Field(ge=1, le=2**15 - 1)] | None = None
    secrets_key_file: ReadableFile | None = None
    max_staleness_ms: Millis = 30_000
    _secrets_key: SecretBytes | None = None

    @model_validator(mode="after")
    def _key_from_file(self) -> StateConfig:
        if self.secrets_key_file is not None:
            self._secrets_key = SecretBytes(_secrets_key(self.secrets_key_file))
        return self

    @property
    def secrets_key(self) -> SecretBytes | None:
        """The 32 bytes; None without a file."""
        return self._secrets_key


class LimitsConfig(_Section):
    """Bounds per connection and over all."""

    max_frame_bytes: Annotated[int, Field(ge=1024, le=2**31 - 1)] = 104_857_600
    max_frame_bytes_before_authentication: Annotated[int, Field(ge=1024, le=2**31 - 1)] = 65_536
    max_in_flight: Count = 64
    max_in_flight_bytes: Count = 16_777_216
    max_connections: Count = 10_000
    authentication_timeout_ms: Millis = 10_000
    idle_timeout_ms: Millis = 600_000


class LoggingConfig(_Section):
    """Where `level` is the least severe level that is written."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["json", "console"] = "json"


class Config(_Section):
    """The whole file."""

    cluster: ClusterConfig
    listeners: list[ListenerConfig] = []
    admin: AdminConfig = AdminConfig()
    authorization: Literal["none"]
    super_users: list[Annotated[str, AfterValidator(_principal)]] = []
    users: list[UserConfig] = []
    state: StateConfig = StateConfig()
    limits: LimitsConfig = LimitsConfig()
    drain_timeout_ms: Millis = 30_000
    logging: LoggingConfig = LoggingConfig()


# --- rules between sections --------------------------------------------------------------------------


def _between_sections(raw: Mapping[str, Any], context: dict[str, Any]) -> Iterator[str]:
    """Checked on every section that is right by itself, whatever is wrong with others."""
    listeners = {
        f"listeners[{index}]": listener
        for index, section in enumerate(_each(raw.get("listeners")))
        if (listener := _valid(ListenerConfig, section, context)) is not None
    }
    admin = _valid(AdminConfig, raw.get("admin", {}), context)
    yield from _repeated("name", {path: listener.name for path, listener in listeners.items()})
    yield from _repeated(
        "name",
        {
            f"users[{index}]": user.name
            for index, section in enumerate(_each(raw.get("users")))
            if (user := _valid(UserConfig, section, context)) is not None
        },
    )
    yield from _port_collisions(listeners, admin)


def _each(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _valid(model: type[Any], value: object, context: dict[str, Any]) -> Any:
    try:
        return model.model_validate(value, context=context)
    except ValidationError:
        return None


def _repeated(key: str, names: Mapping[str, str]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for path, name in names.items():
        if name in seen:
            yield f"{path}.{key}: {name!r} is the {key} of {seen[name]} already"
        seen.setdefault(name, path)


def _port_collisions(listeners: Mapping[str, ListenerConfig], admin: AdminConfig | None) -> Iterator[str]:
    bound: list[tuple[str, int, str]] = []
    for path, listener in listeners.items():
        bound.append((listener.bind, listener.port, f"{path}.port"))
        bound.extend(
            (listener.bind, port, f"{path}.broker_port (node id {node_id})")
            for node_id, port in listener.broker_ports().items()
        )
    if admin is not None:
        bound.append((admin.bind, admin.port, "admin.port"))
    taken: dict[int, list[tuple[str, str]]] = {}
    for bind, port, path in bound:
        for other_bind, other in taken.get(port, []):
            if bind == other_bind or _is_wildcard(bind) or _is_wildcard(other_bind):
                yield f"{path}: port {port} is taken by {other}"
                break
        taken.setdefault(port, []).append((bind, path))


def _is_wildcard(address: str) -> bool:
    return ipaddress.ip_address(address).is_unspecified


# --- reading -----------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[Config | None, list[str]]:
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        return None, [f"{path}: cannot be read: {error}"]
    except yaml.YAMLError as error:
        return None, [f"{path}: is not YAML: {' '.join(str(error).split())}"]
    if not isinstance(raw, dict):
        return None, [f"{path}: is not a mapping of sections"]
    errors = list(_duplicate_keys(node, "", set()))
    context = {"folder": path.parent}
    config = None
    try:
        config = Config.model_validate(raw, context=context)
    except ValidationError as error:
        errors += [_line(details) for details in error.errors(include_url=False, include_input=False)]
    errors += _between_sections(raw, context)
    return config, errors


def _duplicate_keys(node: yaml.Node | None, path: str, seen: set[int]) -> Iterator[str]:
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicate_keys(item, f"{path}[{index}]", seen)
    elif isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            name = f"{path}.{key.value}" if path else str(key.value)
            if name in keys:
                yield f"{name}: duplicate key (line {key.start_mark.line + 1})"
            keys.add(name)
            yield from _duplicate_keys(value, name, seen)


def _line(details: ErrorDetails) -> str:
    path = ""
    for part in details["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    path = path.removeprefix(".")
    kind = details["type"]
    if path == "authorization":
        return f"{path}: is required and {_NO_ACLS}" if kind == "missing" else f"{path}: {_NO_ACLS}"
    message = {"missing": "is required", "extra_forbidden": "is not a known key"}.get(kind)
    if message is None:
        message = details["msg"].removeprefix("Value error, ")
        message = message if kind == "value_error" else message[:1].lower() + message[1:]
    return f"{path}: {message}"
