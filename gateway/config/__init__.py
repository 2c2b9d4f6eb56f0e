"""The configuration: one YAML file, checked against models; every error is reported, with its path.

Unknown keys, duplicate keys and unsafe combinations are refused. Relative file names are taken from the
folder of the configuration file. Secrets are read at load, from files or inline, and never format.
"""

from gateway.config.authentication import Authentication, Mechanism, OAuthBearerConfig
from gateway.config.file import ConfigError, check, load
from gateway.config.limits import LimitsConfig
from gateway.config.listeners import ListenerConfig, ProxyProtocol
from gateway.config.models import (
    AdminConfig,
    AuditConfig,
    Authorization,
    ClusterConfig,
    Config,
    LoggingConfig,
    SecurityConfig,
    SecurityProtocol,
    StateConfig,
    UserConfig,
)
from gateway.config.tls import TlsConfig
from gateway.config.values import format_host_port, parse_host_port

__all__ = [
    "AdminConfig",
    "AuditConfig",
    "Authentication",
    "Authorization",
    "ClusterConfig",
    "Config",
    "ConfigError",
    "LimitsConfig",
    "ListenerConfig",
    "LoggingConfig",
    "Mechanism",
    "OAuthBearerConfig",
    "ProxyProtocol",
    "SecurityConfig",
    "SecurityProtocol",
    "StateConfig",
    "TlsConfig",
    "UserConfig",
    "check",
    "format_host_port",
    "load",
    "parse_host_port",
]
