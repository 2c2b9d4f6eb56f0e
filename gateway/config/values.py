"""The kinds of values in the configuration, and the rules that several of its sections share."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo

from gateway.config.host_patterns import check_pattern, is_label, is_pattern
from gateway.tls import TlsError
from protocol.principal_rules import PrincipalMapper

_MAX_SECRET_BYTES: Final = 64 * 1024
_MAX_NODE_IDS: Final = 10_000
_NODE_RANGE: Final = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_RESERVED_PREFIX: Final = "_causeway"

T = TypeVar("T")


def parse_host_port(text: str) -> tuple[str, int]:
    """`host:port` or `[ipv6]:port`; ValueError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed) or not port.isascii() or not port.isdigit():
        raise ValueError(f"{text!r} is not host:port")
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"the port of {text!r} is not in 1..65535")
    if not bracketed:
        return host, int(port)
    try:
        return str(ipaddress.IPv6Address(host[1:-1])), int(port)
    except ValueError as error:
        raise ValueError(f"{text!r} is not host:port: {error}") from None


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
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    ids: set[int] = set()
    for part in map(str, parts):
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


def format_host_port(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _without_brackets(value: str) -> str:
    # As addresses stand in URLs and in front of ports.
    return value[1:-1] if value.startswith("[") and value.endswith("]") and ":" in value else value


def _ip_address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(_without_brackets(value)))
    except ValueError:
        raise ValueError(f"{value!r} is not an IP address") from None


def _ip_network(value: object) -> object:
    try:
        return ipaddress.ip_network(str(value))
    except ValueError as error:
        raise ValueError(f"{value!r} is not a network such as 10.0.0.0/8: {error}") from None


def _advertised_host(value: str) -> str:
    if is_pattern(value):
        return check_pattern(value, of_brokers=True)
    host = _without_brackets(value)
    if ":" in host:
        host = _ip_address(host)
    if host in {"0.0.0.0", "::"} or re.fullmatch(r"[A-Za-z0-9._:-]{1,253}", host) is None:  # noqa: S104 - refused
        raise ValueError(f"{value!r} is not a host that clients could connect to")
    return host


def _bootstrap_host(value: str) -> str:
    return check_pattern(value, of_brokers=False)


def _cluster_name(value: str) -> str:
    if not is_label(value):
        raise ValueError(
            f"{value!r} is not 1 to 63 letters, digits and inner hyphens, as part of a host name"
        )
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
HostPort: TypeAlias = Annotated[str, AfterValidator(_host_port)]
AdvertisedHost: TypeAlias = Annotated[str, AfterValidator(_advertised_host)]
BootstrapHost: TypeAlias = Annotated[str, AfterValidator(_bootstrap_host)]
ClusterName: TypeAlias = Annotated[str, AfterValidator(_cluster_name)]
IpNetwork: TypeAlias = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(_ip_network)]
PrincipalText: TypeAlias = Annotated[str, AfterValidator(_principal)]
NodeIds: TypeAlias = Annotated[tuple[int, ...], Field(min_length=1), BeforeValidator(_node_ids)]
IpAddress: TypeAlias = Annotated[str, AfterValidator(_ip_address)]
Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
Millis: TypeAlias = Annotated[int, Field(ge=1, le=2**31 - 1)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=2**31 - 1)]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$"), AfterValidator(_own_name)]
UserName: TypeAlias = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,255}$"), AfterValidator(_own_name)]


def _mapping_rules(value: str) -> str:
    PrincipalMapper(value)
    return value


MappingRules: TypeAlias = Annotated[str, AfterValidator(_mapping_rules)]


def must_build(build: Callable[[T], object], section: T) -> None:
    """Calls what makes a TLS context of a section; ValueError if its files cannot be used."""
    try:
        build(section)
    except TlsError as error:
        raise ValueError(str(error)) from error


def one_password(value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    """The password given inline or by `password_file`, not both; ValueError."""
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


def read_secrets_key(path: Path) -> bytes:
    """The 32 bytes of a key file, raw or as base64; ValueError."""
    secret = _read_secret(path)
    if len(secret) != 32:
        try:
            secret = base64.b64decode(secret.strip(), validate=True)
        except binascii.Error:
            secret = b""
    if len(secret) != 32:
        raise ValueError(f"{path} does not hold 32 bytes, raw or as base64 (`openssl rand -base64 32`)")
    return secret


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(address).is_loopback
