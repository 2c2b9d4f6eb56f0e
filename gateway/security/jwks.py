"""The keys that sign tokens: a JSON Web Key Set (RFC 7517) from a file or a URL, refreshed and kept.

What was fetched last is used as long as nothing newer can be had. A token with an unknown key id causes one
fetch at most in `UNKNOWN_KEY_INTERVAL_S`, however many clients show such tokens.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import structlog

from gateway import observe
from gateway.tasks import Tasks
from gateway.tls import TlsError, authority_context

log = structlog.get_logger(__name__)

UNKNOWN_KEY_INTERVAL_S: Final = 10.0
_FETCH_TIMEOUT_S: Final = 10.0
_RETRY_S: Final = 5.0
_MAX_BYTES: Final = 1 << 20
_MAX_KEYS: Final = 1000
# Symmetric keys would let whoever verifies tokens make them.
_KINDS: Final = frozenset({"RSA", "EC", "OKP"})


class JwksError(Exception):
    """The key set cannot be had or used; the text says where it should have come from."""


class KeySet:
    """The keys of one document, by key id; immutable."""

    def __init__(self, keys: list[tuple[str | None, jwt.PyJWK]]) -> None:
        self._by_id = {key_id: key for key_id, key in keys if key_id is not None}
        self._only = keys[0][1] if len(keys) == 1 else None

    def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key of that id; without an id the only key there is."""
        return self._only if key_id is None else self._by_id.get(key_id)


def parse_jwks(document: bytes, source: str) -> KeySet:
    """The signature keys of a document; JwksError. Keys for anything else are passed over."""
    try:
        entries = json.loads(document)["keys"]
        if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
            raise TypeError
        usable = [entry for entry in entries if entry.get("kty") in _KINDS and entry.get("use") != "enc"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise JwksError(f"{source} is not a JSON Web Key Set") from None
    keys = [(entry.get("kid"), key) for entry in usable if (key := _parse_key(entry, source)) is not None]
    if not keys:
        raise JwksError(f"{source} has no key that signatures could be verified with")
    return KeySet(keys)


def _parse_key(entry: dict[str, Any], source: str) -> jwt.PyJWK | None:
    # A private key that was published by mistake: only its public half is used.
    public = {name: value for name, value in entry.items() if name not in {"d", "p", "q", "dp", "dq", "qi"}}
    try:
        return jwt.PyJWK(public)
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        # One of a kind that this version does not know must not take the others away.
        log.warning("jwks.key_ignored", source=source, kid=str(entry.get("kid"))[:100], error=str(error))
        return None


class FileKeys:
    """Keys from a file; `reload` reads it again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = self._read()

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key of that id, None if there is none."""
        return self._keys.find(key_id)

    def reload(self) -> None:
        """Takes what the file holds now; JwksError leaves everything as it was."""
        self._keys = self._read()

    def _read(self) -> KeySet:
        try:
            with self._path.open("rb") as file:
                document = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise JwksError(f"cannot read {self._path}: {error.strerror}") from error
        _check_size(len(document), str(self._path))
        return parse_jwks(document, str(self._path))


class UrlKeys:
    """Keys from a URL, fetched at `start`, every `refresh_s`, and for an unknown key id."""

    def __init__(
        self,
        url: str,
        *,
        refresh_s: float,
        ca_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._refresh_s = refresh_s
        self._ca_file = ca_file
        self._clock = clock
        self._keys: KeySet | None = None
        self._tried_at = float("-inf")
        self._reached = False
        self._fetching = asyncio.Lock()
        self._tasks = Tasks(f"keys of {url}")

    def start(self) -> None:
        """Begins to fetch; needs a running loop."""
        self._tasks.spawn(self._refresh_for_ever(), name="refresh")

    async def close(self) -> None:
        """Ends it. Idempotent."""
        await self._tasks.close()

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key of that id, None if there is none, after a fetch if one is due."""
        key = self._keys.find(key_id) if self._keys is not None else None
        if key is None:
            await self._fetch_at_most_every(UNKNOWN_KEY_INTERVAL_S)
            key = self._keys.find(key_id) if self._keys is not None else None
        return key

    async def _refresh_for_ever(self) -> None:
        while True:
            fetched = await self._fetch_at_most_every(0)
            await asyncio.sleep(self._refresh_s if fetched else min(_RETRY_S, self._refresh_s))

    async def _fetch_at_most_every(self, interval_s: float) -> bool:
        asked_at = self._clock()
        async with self._fetching:
            # Those who waited for another's fetch are served by it.
            if self._tried_at > asked_at - interval_s or self._tried_at > asked_at:
                return self._reached
            try:
                self._keys = parse_jwks(await self._get(), self._url)
            except (JwksError, TlsError, httpx.HTTPError, OSError, TimeoutError) as error:
                self._reached = False
                observe.reload_failures.labels(self._url).inc()
                log.error("jwks.not_fetched", url=self._url, error=str(error) or type(error).__name__)
            else:
                self._reached = True
                observe.reload_success_seconds.labels(self._url).set_to_current_time()
            finally:
                self._tried_at = self._clock()
            return self._reached

    async def _get(self) -> bytes:
        # Made anew each time, so that a file of authorities may be exchanged.
        context = await asyncio.to_thread(authority_context, self._ca_file)
        async with (
            asyncio.timeout(_FETCH_TIMEOUT_S),
            httpx.AsyncClient(verify=context, timeout=_FETCH_TIMEOUT_S, trust_env=False) as client,
            client.stream("GET", self._url, headers={"accept": "application/json"}) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise JwksError(f"{self._url} answers {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_bytes(_MAX_BYTES):
                body += chunk
                _check_size(len(body), self._url)
            return bytes(body)


def _check_size(size_bytes: int, source: str) -> None:
    if size_bytes > _MAX_BYTES:
        raise JwksError(f"{source} is longer than {_MAX_BYTES} bytes")
