"""A link's configs: checked key by key and as a whole, and turned into what the link needs to connect."""

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.config import SecurityProtocol
from gateway.links.config_effects import no_effect
from gateway.links.config_keys import KEYS, ConfigKey, check_value
from gateway.links.errors import LinkError, invalid_request, unsupported
from gateway.links.jaas import JaasError, parse_jaas
from gateway.links.start_offsets import parse_spec
from gateway.links.topic_configs import INCLUDE, include_problem
from gateway.state.records import ConnectionMode, LinkMode, LinkRecord
from gateway.tls import TlsError, client_context_from_pem
from gateway.upstreams.dialer import Security

# ClientUtils.parseAndValidateAddresses: a protocol in front is allowed and means nothing.
_ADDRESS: Final = re.compile(r"(?:[0-9a-zA-Z._-]*://)?(\[[0-9a-fA-F:.%]+\]|[0-9a-zA-Z._%-]+):(\d{1,5})")
PREFIX: Final = "cluster.link.prefix"
START_OFFSET_SPEC: Final = "mirror.start.offset.spec"
_MAX_VALUE_CHARS: Final = 100_000
_MAX_PEM_BYTES: Final = 1024 * 1024
# Confluent's documentation of the prefix.
_MAX_PREFIX_CHARS: Final = 12
_PREFIX: Final = re.compile(r"[a-zA-Z0-9._-]*")
_MODULES: Final = {
    "org.apache.kafka.common.security.plain.PlainLoginModule": ("PLAIN",),
    "org.apache.kafka.common.security.scram.ScramLoginModule": ("SCRAM-SHA-256", "SCRAM-SHA-512"),
}
_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_LISTENER_KEYS: Final = frozenset({"local.listener", "local.listener.name"})


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """Checked configs. `security` is towards the other cluster, `local_security` towards the own one.

    Without `local.*` credentials `local_security` is None: the gateway's own are used.
    """

    link_mode: LinkMode
    connection_mode: ConnectionMode
    bootstrap_servers: tuple[str, ...] = ()
    security: Security | None = None
    local_security: Security | None = None
    values: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def prefix(self) -> str:
        """`cluster.link.prefix`, empty by default."""
        return self.text(PREFIX) or ""

    def text(self, name: str) -> str | None:
        """The value or the default of a key."""
        return self.values.get(name, KEYS[name].default)

    def number(self, name: str) -> int:
        """The value or the default of a numeric key."""
        return int(self.text(name) or 0)

    def flag(self, name: str) -> bool:
        """The value or the default of a boolean key."""
        return (self.text(name) or "").lower() == "true"


@dataclass(frozen=True, slots=True)
class ConfigView:
    """One config as it is shown; the value of a sensitive one is None."""

    name: str
    value: str | None
    is_default: bool
    is_read_only: bool
    is_sensitive: bool
    # Why it changes nothing here, if it does not.
    no_effect: str | None = None


def is_sensitive(name: str) -> bool:
    """Whether a config's value is a secret; unknown names count as secrets."""
    key = KEYS.get(name)
    return key is None or key.sensitive


def show(record: LinkRecord) -> list[ConfigView]:
    """Every config of a link with its value or default, by name."""
    configs = record.configs
    return [
        ConfigView(
            name,
            _shown_value(key, configs),
            name not in configs,
            key.read_only or key.immutable,
            key.sensitive,
            no_effect(name, record.link_mode, record.connection_mode),
        )
        for name, key in sorted(KEYS.items())
    ]


def _shown_value(key: ConfigKey, configs: Mapping[str, str]) -> str | None:
    if key.sensitive:
        return None
    if key.name == "link.prefix":
        return configs.get(PREFIX)
    return configs.get(key.name, key.default)


def validate(configs: Mapping[str, str]) -> LinkConfig:
    """Checks all configs of a link together. LinkError 40002 names the key, 40035 what is not done yet."""
    for name, value in configs.items():
        _check_one(name, value)
    link_mode = LinkMode(configs.get("link.mode", LinkMode.DESTINATION))
    connection_mode = ConnectionMode(configs.get("connection.mode", ConnectionMode.OUTBOUND))
    _check_modes(link_mode, connection_mode)
    _check_prefix(configs)
    bootstrap = _addresses(configs.get("bootstrap.servers", ""))
    if connection_mode is ConnectionMode.OUTBOUND and not bootstrap:
        other = "destination" if link_mode is LinkMode.SOURCE else "source"
        raise invalid_request(
            f"Config 'bootstrap.servers' is required: this half of the link dials the {other} cluster."
        )
    dials = connection_mode is ConnectionMode.OUTBOUND
    return LinkConfig(
        link_mode,
        connection_mode,
        bootstrap,
        _security(configs, "") if dials else None,
        _security(configs, "local.") if _has_local_credentials(configs) else None,
        dict(configs),
    )


def _check_one(name: str, value: str) -> None:
    key = KEYS.get(name)
    if key is None:
        raise invalid_request(f"Unknown cluster link config '{name[:200]}'.")
    if len(value) > _MAX_VALUE_CHARS:
        raise _bad(name, f"is longer than {_MAX_VALUE_CHARS} characters")
    problem = check_value(key, value) or _CHECKS.get(name, _no_problem)(value)
    if problem is not None:
        raise _bad(name, problem)


def _spec_problem(value: str) -> str | None:
    try:
        parse_spec(value)
    except ValueError as error:
        return str(error)
    return None


def _no_problem(_: str) -> None:
    return None


_CHECKS: Final[Mapping[str, Callable[[str], str | None]]] = {
    START_OFFSET_SPEC: _spec_problem,
    INCLUDE: include_problem,
}


def _check_modes(link_mode: LinkMode, connection_mode: ConnectionMode) -> None:
    if link_mode is LinkMode.BIDIRECTIONAL:
        raise unsupported(
            "Bidirectional links are not yet supported. Create two links, one in each direction."
        )
    if link_mode is LinkMode.SOURCE and connection_mode is ConnectionMode.INBOUND:
        raise invalid_request(
            "A SOURCE link cannot be INBOUND: the source half dials the destination."
            " Leave 'connection.mode' out or set it to OUTBOUND."
        )


def _check_prefix(configs: Mapping[str, str]) -> None:
    prefix = configs.get(PREFIX, "")
    if len(prefix) > _MAX_PREFIX_CHARS or not _PREFIX.fullmatch(prefix):
        raise _bad(
            PREFIX,
            f"must have at most {_MAX_PREFIX_CHARS} characters, of letters, digits, '.', '_' and '-'",
        )
    if prefix and _is_true(configs, "acl.sync.enable"):
        raise invalid_request(
            f"Config 'acl.sync.enable' cannot be true together with '{PREFIX}': "
            "the ACLs would be for topics of other names."
        )
    if not prefix and _is_true(configs, "consumer.group.prefix.enable"):
        raise invalid_request(f"Config 'consumer.group.prefix.enable' needs '{PREFIX}'.")


def _is_true(configs: Mapping[str, str], name: str) -> bool:
    return configs.get(name, "").lower() == "true"


def _addresses(value: str) -> tuple[str, ...]:
    found = []
    for text in filter(None, (part.strip() for part in value.split(","))):
        match = _ADDRESS.fullmatch(text)
        if match is None or not 0 < int(match[2]) < 65536:
            raise _bad("bootstrap.servers", f"has {text[:200]!r}, which is not host:port")
        found.append(f"{match[1]}:{match[2]}")
    return tuple(found)


def _has_local_credentials(configs: Mapping[str, str]) -> bool:
    return any(name.startswith("local.") and name not in _LISTENER_KEYS for name in configs)


def _security(configs: Mapping[str, str], scope: str) -> Security:
    def value(name: str) -> str | None:
        return configs.get(scope + name, KEYS[name].default)

    protocol = SecurityProtocol(value("security.protocol") or SecurityProtocol.PLAINTEXT)
    verify_hostname = value("ssl.endpoint.identification.algorithm") == "https"
    mechanism = username = password = None
    if protocol.uses_sasl:
        mechanism = value("sasl.mechanism") or ""
        if mechanism not in _MECHANISMS:
            raise unsupported(
                f"Config '{scope}sasl.mechanism' {mechanism[:50]!r} is not supported,"
                f" only {', '.join(_MECHANISMS)}."
            )
        username, password = _login(configs.get(f"{scope}sasl.jaas.config"), scope, mechanism)
    context = _tls(configs, scope, verify_hostname=verify_hostname) if protocol.uses_tls else None
    return Security(
        protocol=protocol,
        mechanism=mechanism,
        username=username,
        password=password,
        ssl_context=context,
        verify_hostname=verify_hostname,
    )


def _login(jaas: str | None, scope: str, mechanism: str) -> tuple[str, str]:
    name = f"{scope}sasl.jaas.config"
    if not jaas:
        raise invalid_request(f"Config '{name}' is required with '{scope}sasl.mechanism' {mechanism}.")
    try:
        module = parse_jaas(jaas)
    except JaasError as error:
        raise _bad(name, f"is malformed: {error}") from error
    fits = _MODULES.get(module.name)
    if fits is None:
        raise _bad(name, f"must name one of the login modules {', '.join(_MODULES)}")
    if mechanism not in fits:
        raise _bad(name, f"names the login module of {fits[0]}, but '{scope}sasl.mechanism' is {mechanism}")
    username, password = module.options.get("username"), module.options.get("password")
    if not username or not password:
        raise _bad(name, "needs the options username and password")
    return username, password


def _tls(configs: Mapping[str, str], scope: str, *, verify_hostname: bool) -> ssl.SSLContext:
    ca_pem = configs.get(f"{scope}ssl.truststore.certificates") or _pem_file(
        configs, f"{scope}ssl.truststore.location"
    )
    key_pem = configs.get(f"{scope}ssl.keystore.key")
    chain_pem = configs.get(f"{scope}ssl.keystore.certificate.chain")
    if key_pem is None and chain_pem is None:
        # One file with both.
        chain_pem = _pem_file(configs, f"{scope}ssl.keystore.location")
    elif not key_pem or not chain_pem:
        raise invalid_request(
            f"Configs '{scope}ssl.keystore.key' and '{scope}ssl.keystore.certificate.chain' need each other."
        )
    try:
        return client_context_from_pem(
            ca_pem=ca_pem,
            certificate_pem=chain_pem,
            key_pem=key_pem,
            key_password=configs.get(f"{scope}ssl.key.password"),
            verify_hostname=verify_hostname,
        )
    except TlsError as error:
        raise invalid_request(f"The configs '{scope}ssl.*' cannot be used: {error}") from error


def _pem_file(configs: Mapping[str, str], name: str) -> str | None:
    path = configs.get(name)
    if not path:
        return None
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_PEM_BYTES).decode("ascii", "replace")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise _bad(name, f"cannot be read: {reason}") from error
    if "-----BEGIN " not in text:
        raise _bad(name, "is not a PEM file; convert the store, or give its content in the PEM configs")
    return text


def _bad(name: str, problem: str) -> LinkError:
    return invalid_request(f"Config '{name}' {problem}.")
