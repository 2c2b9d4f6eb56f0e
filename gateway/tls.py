"""TLS contexts from files or PEM texts: TLS 1.2 and newer; a broker's certificate is always verified."""

from __future__ import annotations

import ssl
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class TlsError(Exception):
    """A certificate, key or CA cannot be used; the message names the file."""


class ClientAuth(StrEnum):
    """Whether a listener asks clients for a certificate (Kafka's `ssl.client.auth`)."""

    NONE = "none"
    REQUESTED = "requested"
    REQUIRED = "required"


class ServerTls(Protocol):
    """What `server_context` needs; the `tls` sections of the configuration have it."""

    @property
    def certificate_file(self) -> Path: ...
    @property
    def key_file(self) -> Path: ...
    @property
    def client_ca_file(self) -> Path | None: ...
    @property
    def client_auth(self) -> ClientAuth: ...


class ClientTls(Protocol):
    """What `client_context` needs; the `security` section of the configuration has it."""

    @property
    def ca_file(self) -> Path | None: ...
    @property
    def certificate_file(self) -> Path | None: ...
    @property
    def key_file(self) -> Path | None: ...
    @property
    def verify_hostname(self) -> bool: ...


_VERIFY_MODES = {
    ClientAuth.NONE: ssl.CERT_NONE,
    ClientAuth.REQUESTED: ssl.CERT_OPTIONAL,
    ClientAuth.REQUIRED: ssl.CERT_REQUIRED,
}


def server_context(config: ServerTls) -> ssl.SSLContext:
    """The context of a listener; TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_identity(context, config.certificate_file, config.key_file, None)
    if config.client_ca_file is not None:
        _load_authorities(context, config.client_ca_file)
    context.verify_mode = _VERIFY_MODES[config.client_auth]
    return context


def client_context(config: ClientTls) -> ssl.SSLContext:
    """The context for connections to brokers; the system's CAs where `ca_file` is None; TlsError."""
    context = _new_client_context(verify_hostname=config.verify_hostname)
    if config.ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_authorities(context, config.ca_file)
    if config.certificate_file is not None:
        _load_identity(context, config.certificate_file, config.key_file, None)
    return context


def client_context_from_pem(
    *,
    ca_pem: str | None,
    certificate_pem: str | None = None,
    key_pem: str | None = None,
    key_password: str | None = None,
    verify_hostname: bool = True,
) -> ssl.SSLContext:
    """As `client_context`, from PEM texts as Kafka's `ssl.*` keys hold them (KIP-651); TlsError."""
    context = _new_client_context(verify_hostname=verify_hostname)
    if ca_pem is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(cadata=ca_pem)
        except (OSError, ValueError) as error:
            raise TlsError(f"cannot use the CA certificates: {error}") from error
    if certificate_pem is not None:
        # OpenSSL's wrapper takes an identity from files only; this one is private to us and gone right after.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(f"{key_pem or ''}\n{certificate_pem}\n")
            file.flush()
            try:
                _load_identity(context, Path(file.name), None, key_password)
            except TlsError as error:
                raise TlsError(f"cannot use the certificate chain and key: {error.__cause__}") from error
    return context


def _new_client_context(*, verify_hostname: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = verify_hostname
    return context


def _load_identity(
    context: ssl.SSLContext, certificate_file: Path, key_file: Path | None, key_password: str | None
) -> None:
    try:
        # Without a password of ours OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate_file, key_file, password=key_password or "")
    except (OSError, ValueError) as error:
        raise TlsError(f"cannot use certificate {certificate_file} with key {key_file}: {error}") from error


def _load_authorities(context: ssl.SSLContext, ca_file: Path) -> None:
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ValueError) as error:
        raise TlsError(f"cannot use CA file {ca_file}: {error}") from error
