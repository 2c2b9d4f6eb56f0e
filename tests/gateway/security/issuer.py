"""An issuer of tokens: keys, the document that publishes them, tokens."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from gateway.security.jwks import parse_jwks
from gateway.security.tokens import TokenRules, TokenValidator

ISSUER, AUDIENCE = "https://issuer.example", "kafka"


class Issuer:
    """Signs with one key at a time; `rotate` adds the next, and forgets all before on demand."""

    def __init__(self, algorithm: str = "ES256") -> None:
        self.algorithm = algorithm
        self.keys: dict[str, Any] = {}
        self.key_id = ""
        self.rotate()

    def rotate(self, *, forget: bool = False) -> None:
        """Signs with a new key from now on."""
        if forget:
            self.keys.clear()
        self.key_id = f"key-{time.monotonic_ns()}"
        self.keys[self.key_id] = (
            ec.generate_private_key(ec.SECP256R1())
            if self.algorithm == "ES256"
            else rsa.generate_private_key(65537, 2048)
        )

    @property
    def jwks(self) -> bytes:
        """The document with the public keys."""
        make = ECAlgorithm if self.algorithm == "ES256" else RSAAlgorithm
        keys = [
            {**make.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig"}
            for key_id, key in self.keys.items()
        ]
        return json.dumps({"keys": keys}).encode()

    def claims(self, **claims: Any) -> dict[str, Any]:
        """What a token says unless told; times may be relative, and a claim of None is left out."""
        now = int(time.time())
        usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "robot", "iat": now, "exp": now + 300}
        said = {
            name: now + int(value.total_seconds()) if isinstance(value, timedelta) else value
            for name, value in (usual | claims).items()
        }
        return {name: value for name, value in said.items() if value is not None}

    def token(self, *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A signed token."""
        key = self.keys[self.key_id]
        named = {"kid": self.key_id} | (headers or {})
        return jwt.encode(self.claims(**claims), key, algorithm=self.algorithm, headers=named)

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """As whoever verifies tokens asks for keys."""
        return parse_jwks(self.jwks, "issuer").find(key_id)

    def validator(self, **rules: Any) -> TokenValidator:
        """Checks its tokens."""
        usual = {"issuer": ISSUER, "audience": [AUDIENCE], "algorithms": ["ES256", "RS256"]}
        return TokenValidator(TokenRules(**(usual | rules)), self)
