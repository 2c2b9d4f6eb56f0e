"""The link config keys: names are Confluent's, so that existing link files work as they are.

So are the defaults, where what happens here has the same numbers. A key in the table is accepted, kept and
listed, also where it changes nothing here: `config_effects` says which do not.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from gateway.links.acl_filters import parse_acl_filters


class Type(Enum):
    """How a value is written."""

    BOOLEAN = "true or false"
    INT = "a whole number"
    STRING = "a text"
    LIST = "a list separated by commas"
    ACL_FILTERS = "aclFilters JSON"
    GROUP_FILTERS = "groupFilters JSON"
    TOPIC_FILTERS = "topicFilters JSON"
    PASSWORD = "a secret"  # noqa: S105 - not one


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """What is known of one key; `least` is the lowest value of a number."""

    name: str
    type: Type = Type.STRING
    default: str | None = None
    choices: tuple[str, ...] = ()
    least: int | None = None
    sensitive: bool = False
    immutable: bool = False
    read_only: bool = False


def _number(name: str, default: int, least: int = 0) -> ConfigKey:
    return ConfigKey(name, Type.INT, str(default), least=least)


def _switch(name: str) -> ConfigKey:
    return ConfigKey(name, Type.BOOLEAN, "false")


def _secret(name: str) -> ConfigKey:
    return ConfigKey(name, Type.PASSWORD, sensitive=True)


_LINK: Final = (
    ConfigKey(
        "link.mode", default="DESTINATION", choices=("DESTINATION", "SOURCE", "BIDIRECTIONAL"), immutable=True
    ),
    ConfigKey("connection.mode", default="OUTBOUND", choices=("OUTBOUND", "INBOUND"), immutable=True),
    ConfigKey("remote.link.connection.mode", choices=("OUTBOUND", "INBOUND"), read_only=True),
    ConfigKey("bootstrap.servers", Type.LIST),
    ConfigKey("cluster.link.prefix", immutable=True),
    ConfigKey("link.prefix", read_only=True),
    ConfigKey("cluster.link.id", read_only=True),
    ConfigKey("dest.cluster.id", sensitive=True, read_only=True),
    _switch("cluster.link.paused"),
    _switch("acl.sync.enable"),
    _number("acl.sync.ms", 5_000, 1_000),
    ConfigKey("acl.filters", Type.ACL_FILTERS, ""),
    _switch("consumer.offset.sync.enable"),
    _number("consumer.offset.sync.ms", 30_000, 1_000),
    ConfigKey("consumer.offset.group.filters", Type.GROUP_FILTERS, ""),
    _switch("consumer.group.prefix.enable"),
    _number("topic.config.sync.ms", 5_000, 1_000),
    ConfigKey("topic.config.sync.include", Type.LIST),
    _switch("auto.create.mirror.topics.enable"),
    ConfigKey("auto.create.mirror.topics.filters", Type.TOPIC_FILTERS, ""),
    ConfigKey("mirror.start.offset.spec", default="earliest"),
    _number("mirror.runway.max.records", 1_000_000_000),
    # In all five seconds, where Confluent's defaults make five minutes of it.
    _number("availability.check.ms", 1_000, 1),
    _number("availability.check.consecutive.failure.threshold", 5, 1),
    # Not set: for ever.
    ConfigKey("cluster.link.retry.timeout.ms", Type.INT, least=1),
    _number("num.cluster.link.fetchers", 1, 1),
    _number("metadata.max.age.ms", 30_000, 100),
    _number("replica.fetch.max.bytes", 2_097_152, 1),
    _number("replica.fetch.min.bytes", 1),
    _number("replica.fetch.response.max.bytes", 16_777_216, 1),
    _number("replica.fetch.wait.max.ms", 500),
    _number("replica.fetch.backoff.ms", 1_000),
    _number("replica.socket.timeout.ms", 30_000),
    _number("replica.socket.receive.buffer.bytes", -1, -1),
    _number("request.timeout.ms", 30_000),
    _number("retry.backoff.ms", 100),
    _number("connections.max.idle.ms", 600_000, -1),
    _number("socket.connection.setup.timeout.ms", 5_000, 1),
    _number("socket.connection.setup.timeout.max.ms", 30_000),
    ConfigKey("client.dns.lookup", default="use_all_dns_ips"),
    ConfigKey("local.listener.name"),
    ConfigKey("local.listener"),
)

# Towards the other cluster; once more with `local.` towards the own one.
_SECURITY: Final = (
    ConfigKey(
        "security.protocol",
        default="PLAINTEXT",
        choices=("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    ),
    ConfigKey("sasl.mechanism", default="GSSAPI"),
    _secret("sasl.jaas.config"),
    ConfigKey("sasl.login.class"),
    ConfigKey("sasl.login.callback.handler.class"),
    ConfigKey("sasl.client.callback.handler.class"),
    ConfigKey("sasl.oauthbearer.token.endpoint.url"),
    ConfigKey("sasl.kerberos.service.name"),
    ConfigKey("ssl.protocol", default="TLSv1.3"),
    ConfigKey("ssl.provider"),
    ConfigKey("ssl.enabled.protocols", Type.LIST, "TLSv1.2,TLSv1.3"),
    ConfigKey("ssl.cipher.suites", Type.LIST),
    ConfigKey("ssl.endpoint.identification.algorithm", default="https", choices=("https", "")),
    ConfigKey("ssl.engine.factory.class"),
    ConfigKey("ssl.keymanager.algorithm"),
    ConfigKey("ssl.trustmanager.algorithm"),
    ConfigKey("ssl.secure.random.implementation"),
    ConfigKey("ssl.keystore.type", default="JKS", choices=("JKS", "PKCS12", "PEM")),
    ConfigKey("ssl.keystore.location"),
    _secret("ssl.keystore.password"),
    _secret("ssl.keystore.key"),
    _secret("ssl.keystore.certificate.chain"),
    _secret("ssl.key.password"),
    ConfigKey("ssl.truststore.type", default="JKS", choices=("JKS", "PKCS12", "PEM")),
    ConfigKey("ssl.truststore.location"),
    _secret("ssl.truststore.password"),
    _secret("ssl.truststore.certificates"),
)


def _localised(key: ConfigKey) -> ConfigKey:
    return ConfigKey(
        f"local.{key.name}", key.type, key.default, key.choices, key.least, key.sensitive, key.immutable
    )


KEYS: Final[Mapping[str, ConfigKey]] = {
    key.name: key for key in (*_LINK, *_SECURITY, *map(_localised, _SECURITY))
}


def check_value(key: ConfigKey, value: str) -> str | None:
    """What is wrong with `value`, None if nothing is. Never quotes it."""
    if key.choices and value not in key.choices:
        return f"must be one of {', '.join(repr(choice) for choice in key.choices)}"
    match key.type:
        case Type.BOOLEAN if value.lower() not in {"true", "false"}:
            return "must be true or false"
        case Type.INT:
            return _check_number(key, value)
        case Type.ACL_FILTERS:
            return _check_acl_filters(value)
        case Type.GROUP_FILTERS | Type.TOPIC_FILTERS if value.strip():
            return _check_filters(key.type, value)
    return None


def _check_number(key: ConfigKey, value: str) -> str | None:
    try:
        number = int(value.strip()) if len(value) < 30 else None
    except ValueError:
        number = None
    if number is None:
        return "must be a whole number"
    if key.least is not None and number < key.least:
        return f"must be at least {key.least}"
    return None


def _check_filters(kind: Type, value: str) -> str | None:
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}"
    field = {
        Type.GROUP_FILTERS: "groupFilters",
        Type.TOPIC_FILTERS: "topicFilters",
    }[kind]
    if not isinstance(parsed, dict) or set(parsed) != {field} or not isinstance(parsed[field], list):
        return f'must be a JSON object with the list "{field}" and nothing else'
    for number, entry in enumerate(parsed[field], 1):
        problem = _name_filter_error(entry) if isinstance(entry, dict) else "is not an object"
        if problem is not None:
            return f"entry {number} of {field} {problem}"
    return None


def _name_filter_error(entry: Mapping[str, Any]) -> str | None:
    if unknown := set(entry) - {"name", "patternType", "filterType"}:
        return f"has the unknown field {min(unknown)}"
    if not isinstance(entry.get("name"), str) or not entry["name"]:
        return "has no name"
    return _choice_error(
        entry, "patternType", frozenset({"literal", "prefixed"}), needed=True
    ) or _choice_error(entry, "filterType", frozenset({"include", "exclude"}), needed=True)


def _check_acl_filters(value: str) -> str | None:
    try:
        parse_acl_filters(value)
    except ValueError as error:
        return str(error)
    return None


def _choice_error(
    entry: Mapping[str, Any], field: str, choices: frozenset[str], *, needed: bool
) -> str | None:
    value = entry.get(field)
    if value is None and not needed:
        return None
    if not isinstance(value, str) or value.lower() not in choices:
        return f"needs a {field} out of {', '.join(sorted(choices))}"
    return None
