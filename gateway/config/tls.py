"""The server side of TLS in the configuration, for listeners and the REST API."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationInfo, field_validator, model_validator

from gateway.config.section import Section
from gateway.config.values import ReadableFile, must_build
from gateway.tls import ClientAuth, server_context


class TlsConfig(Section):
    """The server side of TLS."""

    certificate_file: ReadableFile
    key_file: ReadableFile
    client_ca_file: ReadableFile | None = None
    crl_file: ReadableFile | None = None
    client_auth: ClientAuth = ClientAuth.NONE

    @field_validator("crl_file")
    @classmethod
    def _revokes_of_an_authority(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("client_ca_file", value) is None:
            raise ValueError("has no meaning without client_ca_file")
        return value

    @field_validator("client_auth")
    @classmethod
    def _needs_authority(cls, value: ClientAuth, info: ValidationInfo) -> ClientAuth:
        if value is not ClientAuth.NONE and info.data.get("client_ca_file", value) is None:
            raise ValueError(f"{value} needs client_ca_file")
        return value

    @model_validator(mode="after")
    def _usable(self) -> TlsConfig:
        must_build(server_context, self)
        return self
