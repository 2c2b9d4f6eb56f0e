"""uvicorn's HTTP/1.1 protocol, with the client's certificate put into the ASGI scope."""

import asyncio
import ssl

from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.admin.gate import CERTIFICATE_EXTENSION, App, Receive, Scope, Send


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
