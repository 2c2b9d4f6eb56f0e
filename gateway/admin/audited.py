"""The REST API with its audit: who changed what, and who was turned away."""

from __future__ import annotations

from typing import Final

from gateway.admin.asker import ASKER
from gateway.admin.gate import App, Message, Receive, Scope, Send
from gateway.security.audit import Audit

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_REFUSED: Final = frozenset({401, 403})


class AuditedApi:
    """ASGI application around the API."""

    def __init__(self, api: App, audit: Audit) -> None:
        self._api = api
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on, and tells the audit of requests that change something or are refused."""
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._api(scope, receive, noting)
        finally:
            if scope["type"] == "http" and (scope["method"] not in _READS or status in _REFUSED):
                asker = scope.get(ASKER)
                client = scope.get("client")
                self._audit.admin_action(
                    None if asker is None else asker.principal,
                    client[0] if client else "",
                    scope["method"],
                    scope["path"],
                    status,
                )
