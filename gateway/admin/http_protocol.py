"""uvicorn as the admin address has it: the client's certificate is in the ASGI scope, and its own address."""

import asyncio
import ssl

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.admin.gate import CERTIFICATE_EXTENSION, App, Receive, Scope, Send


def server_settings(app: App, *, stop_s: float) -> uvicorn.Config:
    """How an application is served; what is under way at the end has `stop_s` seconds."""
    settings = uvicorn.Config(
        app,
        http=CertificateProtocol,
        # An address that the client itself says (X-Forwarded-For) is none for ACLs and audit to go by.
        proxy_headers=False,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(stop_s),
    )
    settings.load()
    return settings


class CertificateProtocol(H11Protocol):
    """Pass as `http` to uvicorn.Config."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Remembers the certificate that the TLS handshake has verified."""
        super().connection_made(transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        if certificate:
            self.app = _with_certificate(self.app, certificate)


def _with_certificate(app: App, certificate: bytes) -> App:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        extensions = {**scope.get("extensions", {}), CERTIFICATE_EXTENSION: certificate}
        await app({**scope, "extensions": extensions}, receive, send)

    return call
