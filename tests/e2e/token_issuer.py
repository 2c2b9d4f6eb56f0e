"""An issuer of tokens as a web server: `/keys` has its key set, `/token` gives a token to whoever asks."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.gateway.security.issuer import AUDIENCE, ISSUER, Issuer


class WebIssuer:
    """Serves on a loopback port until `close`; tokens are about `subject` and last `lifetime_s`."""

    def __init__(self, subject: str = "robot", lifetime_s: int = 300) -> None:
        self.issuer = Issuer("RS256")
        self.subject = subject
        self.lifetime_s = lifetime_s
        self.tokens = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def token(self) -> str:
        """A new token."""
        self.tokens += 1
        return self.issuer.token(sub=self.subject, exp=int(time.time()) + self.lifetime_s)

    def section(self, **more: Any) -> dict[str, Any]:
        """The `oauthbearer` section of a listener that trusts it."""
        return {"jwks_url": f"{self.url}/keys", "issuer": ISSUER, "audience": [AUDIENCE]} | more

    def close(self) -> None:
        """Ends the server."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(issuer.issuer.jwks)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                token = {
                    "access_token": issuer.token(),
                    "expires_in": issuer.lifetime_s,
                    "token_type": "Bearer",
                }
                self._answer(json.dumps(token).encode())

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        return Handler
