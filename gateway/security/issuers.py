"""The issuers of tokens that the listeners trust; listeners that name the same source of keys share it."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from gateway.config import OAuthBearerConfig
from gateway.security.jwks import FileKeys, UrlKeys
from gateway.security.tokens import TokenRules, TokenValidator

_Source: TypeAlias = tuple[str, Path | None]


class TokenIssuers:
    """Made with the configuration, `start`ed when a loop runs, `close`d at the end."""

    def __init__(self) -> None:
        self.files: dict[Path, FileKeys] = {}
        self._urls: dict[_Source, UrlKeys] = {}

    def validator(self, section: OAuthBearerConfig) -> TokenValidator:
        """Checks tokens by the rules of one listener; JwksError if its file cannot be used."""
        rules = TokenRules(
            issuer=section.issuer,
            audience=section.audience,
            algorithms=section.algorithms,
            clock_skew_s=section.clock_skew_ms / 1000,
            principal_claim=section.principal_claim,
            scope_claim=section.scope_claim,
            required_scopes=section.required_scopes,
        )
        return TokenValidator(rules, self._keys(section))

    def _keys(self, section: OAuthBearerConfig) -> FileKeys | UrlKeys:
        path, url = section.jwks_file, section.jwks_url
        if path is not None:
            if path not in self.files:
                self.files[path] = FileKeys(path)
            return self.files[path]
        if url is None:
            raise ValueError("no source of keys")
        source = (url, section.jwks_ca_file)
        if source not in self._urls:
            refresh_s = section.jwks_refresh_ms / 1000
            self._urls[source] = UrlKeys(url, refresh_s=refresh_s, ca_file=section.jwks_ca_file)
        return self._urls[source]

    def start(self) -> None:
        """Begins to fetch what comes from URLs."""
        for keys in self._urls.values():
            keys.start()

    async def close(self) -> None:
        """Ends that. Idempotent."""
        for keys in self._urls.values():
            await keys.close()
