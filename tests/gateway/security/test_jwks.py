from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway import observe
from gateway.security import jwks
from gateway.security.jwks import FileKeys, JwksError, UrlKeys, parse_jwks
from tests.gateway.security.issuer import Issuer


def test_keys_are_found_by_their_ids() -> None:
    issuer = Issuer()
    first = issuer.key_id
    issuer.rotate()
    keys = parse_jwks(issuer.jwks, "test")
    assert keys.find(first) is not None
    assert keys.find(issuer.key_id) is not None
    assert keys.find("other") is None
    assert keys.find(None) is None, "which of the two it would be is not known"


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": [1]}', b"\xff", b'{"keys": ' + b"[" * 100_000],
)
def test_what_is_no_key_set_is_refused(document: bytes) -> None:
    with pytest.raises(JwksError, match="test is not a JSON Web Key Set"):
        parse_jwks(document, "test")


def test_a_key_set_without_a_usable_key_is_refused() -> None:
    entry = json.loads(Issuer().jwks)["keys"][0]
    for keys in (
        [],
        [{"kty": "oct", "k": "c2VjcmV0", "kid": "x"}],
        [entry | {"use": "enc"}],
        [entry | {"x": "?"}],
    ):
        with pytest.raises(JwksError, match="no key"):
            parse_jwks(json.dumps({"keys": keys}).encode(), "test")


def test_keys_of_unknown_kinds_are_passed_over() -> None:
    issuer = Issuer()
    entries = json.loads(issuer.jwks)["keys"]
    more = [{"kty": "EC", "crv": "P-999", "kid": "new"}, {"kty": "AKP", "kid": "newer"}, *entries]
    assert parse_jwks(json.dumps({"keys": more}).encode(), "test").find(issuer.key_id) is not None


async def test_a_file_is_read_again_when_told(tmp_path: Path) -> None:
    issuer, path = Issuer(), tmp_path / "jwks.json"
    path.write_bytes(issuer.jwks)
    keys = FileKeys(path)
    issuer.rotate(forget=True)
    assert await keys.find(issuer.key_id) is None
    path.write_bytes(issuer.jwks)
    keys.reload()
    assert await keys.find(issuer.key_id) is not None
    path.write_bytes(issuer.jwks[:50])
    with pytest.raises(JwksError):
        keys.reload()
    assert await keys.find(issuer.key_id) is not None, "what it had stays"
    path.unlink()
    with pytest.raises(JwksError, match="cannot read"):
        keys.reload()
    path.write_bytes(b"x" * (1 << 21))
    with pytest.raises(JwksError, match="longer than"):
        FileKeys(path)


class Web:
    """A web server with one document, which counts how often it was asked."""

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.status = 200
        self.asked = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        await asyncio.sleep(0.02)
        head = (
            f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(self.document)}\r\nconnection: close\r\n\r\n"
        )
        writer.write(head.encode() + self.document)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def web(document: bytes) -> AsyncIterator[Web]:
    made = Web(document)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
    async with server:
        yield made


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def url_keys(site: Web, **options: Any) -> UrlKeys:
    return UrlKeys(site.url, refresh_s=3600, **options)


async def test_keys_are_fetched_once_for_many_who_wait() -> None:
    issuer = Issuer()
    async with web(issuer.jwks) as site:
        keys = url_keys(site)
        found = await asyncio.gather(*(keys.find(issuer.key_id) for _ in range(50)))
        assert all(found)
        assert site.asked == 1


async def test_an_unknown_key_is_looked_for_but_not_always() -> None:
    issuer, clock = Issuer(), Clock()
    async with web(issuer.jwks) as site:
        keys = url_keys(site, clock=clock)
        assert await keys.find(issuer.key_id) is not None
        issuer.rotate()
        site.document = issuer.jwks
        for _ in range(20):
            assert await keys.find(issuer.key_id) is None
        assert site.asked == 1, "whoever shows such tokens must not make us hammer the issuer"
        clock.now += jwks.UNKNOWN_KEY_INTERVAL_S + 1
        assert await keys.find(issuer.key_id) is not None
        assert site.asked == 2


async def test_what_was_fetched_stays_when_nothing_newer_can_be_had() -> None:
    issuer, clock = Issuer(), Clock()
    async with web(issuer.jwks) as site:
        keys = url_keys(site, clock=clock)
        assert await keys.find(issuer.key_id) is not None
        for document, status in ((b"nonsense", 200), (issuer.jwks, 503), (b" " * (1 << 21), 200)):
            site.document, site.status = document, status
            clock.now += 100
            with capture_logs() as logs:
                assert await keys.find("unknown") is None
            assert [entry["event"] for entry in logs] == ["jwks.not_fetched"]
            assert await keys.find(issuer.key_id) is not None
    failures = observe.registry.get_sample_value("causeway_reload_failures_total", {"source": site.url})
    assert failures == 3
    assert observe.registry.get_sample_value(
        "causeway_reload_success_timestamp_seconds", {"source": site.url}
    )


async def test_keys_are_refreshed_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "_RETRY_S", 0.05)
    issuer = Issuer()
    async with web(b"") as site:
        keys = UrlKeys(site.url, refresh_s=0.05)
        keys.start()
        try:
            with capture_logs():
                async with asyncio.timeout(10):
                    while site.asked < 2:
                        await asyncio.sleep(0.01)
                    site.document = issuer.jwks
                    while keys._keys is None or await keys.find(issuer.key_id) is None:
                        await asyncio.sleep(0.01)
        finally:
            await keys.close()
