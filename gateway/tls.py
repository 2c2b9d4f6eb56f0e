"""TLS contexts from files or PEM texts: TLS 1.2 and newer; a broker's certificate is always verified.

Clients' certificates are looked up in a revocation list (RFC 5280) if there is one. A `ReloadingContext`
takes what the files hold now into use for new connections.
"""

from __future__ import annotations

import re
import ssl
import tempfile
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol, Self

from cryptography import x509

_CRL_BLOCK: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


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
    def crl_file(self) -> Path | None: ...
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
    if config.crl_file is not None:
        _load_revocations(context, config.crl_file)
    context.verify_mode = _VERIFY_MODES[config.client_auth]
    if config.client_auth is not ClientAuth.NONE:
        # A session that is resumed is not verified again, so that a revoked client would still get in.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
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


def authority_context(ca_file: Path | None) -> ssl.SSLContext:
    """A client's context that trusts one file, or the system's CAs, and has no certificate; TlsError."""
    context = _new_client_context(verify_hostname=True)
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_authorities(context, ca_file)
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


class ReloadingContext(ssl.SSLContext):
    """Hands each new connection to the newest context that `build` has made; old connections keep theirs.

    For asyncio, which asks for nothing but `wrap_bio`. `build` raises TlsError.
    """

    _build: Callable[[], ssl.SSLContext]
    _current: ssl.SSLContext

    def __new__(cls, build: Callable[[], ssl.SSLContext]) -> Self:
        """Builds the first one; TlsError."""
        first = build()
        self = super().__new__(cls, first.protocol)
        self._build, self._current = build, first
        return self

    def __init__(self, build: Callable[[], ssl.SSLContext]) -> None:
        """Nothing more is needed."""

    def reload(self) -> None:
        """Builds it anew; TlsError leaves everything as it was."""
        newer = self._build()
        newer.sni_callback = self._current.sni_callback
        self._current = newer

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """The TLS of one connection."""
        return self._current.wrap_bio(*arguments, **options)

    @property
    def sni_callback(self) -> Any:
        """What is told of server names, whichever context is in use."""
        return self._current.sni_callback

    @sni_callback.setter
    def sni_callback(self, callback: Any) -> None:
        self._current.sni_callback = callback


def not_after(certificate_file: Path) -> float:
    """When the first certificate of a chain ends to be valid, in Unix time; TlsError."""
    try:
        certificates = x509.load_pem_x509_certificates(certificate_file.read_bytes())
    except (OSError, ValueError) as error:
        raise TlsError(f"cannot read certificate {certificate_file}: {error}") from error
    return min(each.not_valid_after_utc.timestamp() for each in certificates)


def next_update(crl_file: Path) -> float:
    """When the first list of a file ends to be valid, in Unix time; TlsError."""
    return min(
        each.next_update_utc.timestamp() if each.next_update_utc is not None else float("inf")
        for each in _revocation_lists(crl_file)
    )


def _revocation_lists(crl_file: Path) -> list[x509.CertificateRevocationList]:
    try:
        blocks = _CRL_BLOCK.findall(crl_file.read_bytes())
        lists = [x509.load_pem_x509_crl(block) for block in blocks]
    except (OSError, ValueError) as error:
        raise TlsError(f"cannot use CRL file {crl_file}: {error}") from error
    if not lists:
        raise TlsError(f"cannot use CRL file {crl_file}: it holds no list")
    return lists


def _load_revocations(context: ssl.SSLContext, crl_file: Path) -> None:
    # OpenSSL takes anything that has at least one thing to load.
    _revocation_lists(crl_file)
    try:
        context.load_verify_locations(crl_file)
    except (OSError, ValueError) as error:
        raise TlsError(f"cannot use CRL file {crl_file}: {error}") from error
    context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN


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
