"""Link configs that are accepted and change nothing here, each with the reason; shown wherever configs are.

Nobody is to believe that a config is at work that is not.
"""

from collections.abc import Mapping
from typing import Final

from gateway.links.config_keys import KEYS
from gateway.state.records import ConnectionMode, LinkMode

_OWN_PACE: Final = "the gateway decides by itself how long it waits before it tries again"
_OWN_DEADLINES: Final = "the gateway gives every request a deadline of its own"
_OPENSSL: Final = "TLS is OpenSSL's here, not Java's"
_LOGIN: Final = "the gateway has no login classes of Java's"
_PEM: Final = "stores are PEM files here, and have no password; see ssl.key.password"

# Whatever the half.
_NOWHERE: Final[Mapping[str, str]] = {
    "link.prefix": "it follows from cluster.link.prefix",
    "remote.link.connection.mode": "it is the other half's connection.mode",
    "cluster.link.id": "the gateway gives the ids of links itself",
    "dest.cluster.id": "it is the id of the cluster that the gateway stands in front of",
    "local.listener": "the gateway reaches its own cluster as its configuration file says",
    "local.listener.name": "the gateway reaches its own cluster as its configuration file says",
    "num.cluster.link.fetchers": "there is one fetcher for each broker of the source",
    "replica.fetch.min.bytes": "what the source has is fetched at once",
    "replica.fetch.backoff.ms": _OWN_PACE,
    "retry.backoff.ms": _OWN_PACE,
    "replica.socket.timeout.ms": _OWN_DEADLINES,
    "request.timeout.ms": _OWN_DEADLINES,
    "replica.socket.receive.buffer.bytes": "the kernel sizes the buffers of sockets",
    "connections.max.idle.ms": "connections of a link are kept, idle or not",
    "socket.connection.setup.timeout.max.ms": "the time to connect does not grow",
    "client.dns.lookup": "all addresses of a name are tried, always",
    "sasl.login.class": _LOGIN,
    "sasl.login.callback.handler.class": _LOGIN,
    "sasl.client.callback.handler.class": _LOGIN,
    "sasl.oauthbearer.token.endpoint.url": "links do not log in with tokens",
    "sasl.kerberos.service.name": "links do not log in with Kerberos",
    "ssl.protocol": "TLS 1.2 and 1.3 are spoken, the newer one where both sides can",
    "ssl.enabled.protocols": "TLS 1.2 and 1.3 are spoken, the newer one where both sides can",
    "ssl.provider": _OPENSSL,
    "ssl.cipher.suites": _OPENSSL,
    "ssl.engine.factory.class": _OPENSSL,
    "ssl.keymanager.algorithm": _OPENSSL,
    "ssl.trustmanager.algorithm": _OPENSSL,
    "ssl.secure.random.implementation": _OPENSSL,
    "ssl.keystore.type": "stores are PEM files here, whatever is said",
    "ssl.truststore.type": "stores are PEM files here, whatever is said",
    "ssl.keystore.password": _PEM,
    "ssl.truststore.password": _PEM,
}
_MODES: Final = frozenset({"link.mode", "connection.mode"})
_DIALLING: Final = frozenset({"bootstrap.servers", "socket.connection.setup.timeout.ms"})


def no_effect(name: str, link_mode: LinkMode, connection_mode: ConnectionMode) -> str | None:
    """Why this config changes nothing on a half of that kind; None if it does what its name says."""
    if name in _MODES:
        return None
    is_local = name.startswith("local.")
    always = _NOWHERE.get(name) or _NOWHERE.get(name.removeprefix("local."))
    if always is not None:
        return always
    if is_local:
        return None if link_mode is LinkMode.SOURCE else "only a source half uses the cluster of its own side"
    if name in _DIALLING or _is_security(name):
        return None if connection_mode is ConnectionMode.OUTBOUND else "this half does not dial"
    return "only the destination half uses it" if link_mode is LinkMode.SOURCE else None


def reconnects(name: str, link_mode: LinkMode, connection_mode: ConnectionMode) -> bool:
    """Whether a change of this config takes new connections."""
    concerns = name in _DIALLING or name.startswith("local.") or _is_security(name)
    return concerns and no_effect(name, link_mode, connection_mode) is None


def _is_security(name: str) -> bool:
    return f"local.{name}" in KEYS and name not in {"listener", "listener.name"}
