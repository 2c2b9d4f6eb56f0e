"""How a listener of the configuration finds out who a client is: certificates, passwords, tokens."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator

from gateway.config.section import Section
from gateway.config.values import Millis, ReadableFile

Mechanism: TypeAlias = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
# Asymmetric ones only: with a shared secret whoever verifies a token could make it; `none` proves nothing.
Algorithm: TypeAlias = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]  # fmt: skip
_Text: TypeAlias = Annotated[str, Field(min_length=1)]


class Authentication(StrEnum):
    """How a listener finds out who a client is; `sasl_plain` is `sasl` with PLAIN as the only mechanism."""

    NONE = "none"
    SASL = "sasl"
    SASL_PLAIN = "sasl_plain"
    MTLS = "mtls"

    @property
    def uses_sasl(self) -> bool:
        """Whether clients log in by SASL."""
        return self in {Authentication.SASL, Authentication.SASL_PLAIN}


class OAuthBearerConfig(Section):
    """Whose tokens are taken (KIP-768); `issuer` and `audience` must be there, so that no other's pass."""

    jwks_file: ReadableFile | None = None
    jwks_url: str | None = None
    jwks_ca_file: ReadableFile | None = None
    jwks_refresh_ms: Annotated[Millis, Field(ge=1000)] = 3_600_000
    issuer: _Text
    audience: list[_Text]
    algorithms: Annotated[list[Algorithm], Field(min_length=1)] = ["RS256", "PS256", "ES256", "EdDSA"]
    clock_skew_ms: Annotated[int, Field(ge=0, le=600_000)] = 30_000
    principal_claim: _Text = "sub"
    scope_claim: _Text = "scope"
    required_scopes: list[_Text] = []

    @field_validator("jwks_url")
    @classmethod
    def _one_source(cls, value: str | None, info: ValidationInfo) -> str | None:
        if "jwks_file" not in info.data:
            return value
        path: Path | None = info.data["jwks_file"]
        if (value is None) == (path is None):
            raise ValueError("jwks_file or jwks_url is required, and not both")
        if value is not None:
            _check_url(value)
        return value

    @field_validator("jwks_ca_file")
    @classmethod
    def _for_urls(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and "jwks_url" in info.data and info.data["jwks_url"] is None:
            raise ValueError("has no meaning without jwks_url")
        return value


def check_mechanisms(value: list[Mechanism], method: Authentication | None) -> list[Mechanism]:
    """The mechanisms that a listener names, if they fit how it authenticates; ValueError."""
    if len(set(value)) != len(value):
        raise ValueError("names a mechanism twice")
    if method is Authentication.SASL and not value:
        raise ValueError("is required with authentication sasl, and may not be empty")
    if method not in {None, Authentication.SASL} and value:
        raise ValueError(f"has no meaning with authentication {method}")
    return value


def check_oauthbearer(
    value: OAuthBearerConfig | None, mechanisms: Sequence[Mechanism] | None
) -> OAuthBearerConfig | None:
    """The section about tokens, which is there if and only if the listener takes tokens; ValueError."""
    if mechanisms is None:
        return value
    if value is None and "OAUTHBEARER" in mechanisms:
        raise ValueError("is required with OAUTHBEARER among sasl_mechanisms")
    if value is not None and "OAUTHBEARER" not in mechanisms:
        raise ValueError("has no meaning without OAUTHBEARER among sasl_mechanisms")
    return value


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.username or parts.password:
        raise ValueError(f"{url!r} is not a https URL without user and password")
    if parts.scheme == "http" and not _is_local(parts.hostname):
        # Whoever can change the keys on their way can sign tokens.
        raise ValueError("must be https, unless it leads to this machine")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
