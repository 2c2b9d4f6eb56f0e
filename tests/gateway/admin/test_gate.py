import base64
from collections.abc import AsyncIterator

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

from certs.make_certs import TestAuthority
from gateway.admin.gate import CERTIFICATE_EXTENSION, MAX_BODY_BYTES, App, Receive, Scope, Send
from tests.fakes.links import link_record
from tests.gateway.admin.conftest import BASE, LINKS, Admin

JSON = {"content-type": "application/json"}


def client(app: App) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=BASE)


def basic(text: str | bytes) -> dict[str, str]:
    raw = text.encode() if isinstance(text, str) else text
    return {"authorization": f"Basic {base64.b64encode(raw).decode()}"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("admin:wrong"),
        basic("admin"),
        basic("nobody:open sesame"),
        basic(b"admin:\xff"),
        {"authorization": "Basic !!"},
        {"authorization": "Bearer token"},
        {"authorization": ""},
    ],
)
async def test_who_is_not_known_is_asked_to_log_in(admin: Admin, headers: dict[str, str]) -> None:
    async with client(admin.build()) as http:
        for path in (LINKS, "/causeway/v1/users", "/nowhere", "/livez/x"):
            response = await http.get(path, headers=headers)
            assert response.status_code == 401
            assert response.json() == {"error_code": 40101, "message": "Authentication failed"}
            assert response.headers["www-authenticate"].startswith("Basic ")


async def test_only_super_users_may_enter(admin: Admin) -> None:
    async with client(admin.build()) as http:
        assert (await http.get(LINKS, headers=basic("admin:open sesame"))).status_code == 200
        response = await http.get(LINKS, headers=basic("bob:bobs:pass"))
        assert response.status_code == 403
        assert response.json() == {
            "error_code": 40301,
            "message": "User:bob is not a super user of this gateway.",
        }


async def test_open_access_asks_nobody(admin: Admin) -> None:
    async with client(admin.build(open_access=True)) as http:
        assert (await http.get(LINKS)).status_code == 200


async def test_a_login_is_refused_before_the_body_is_read(admin: Admin) -> None:
    async with client(admin.build()) as http:
        response = await http.post(f"{LINKS}?link_name=l", content=b"{", headers=JSON)
        assert response.status_code == 401


async def test_long_bodies_are_refused(admin: Admin) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * (MAX_BODY_BYTES // 2)

    async with client(admin.build(open_access=True)) as http:
        for content in (b" " * (MAX_BODY_BYTES + 1), pieces()):
            response = await http.post(f"{LINKS}?link_name=l", content=content, headers=JSON)
            assert (response.status_code, response.json()["error_code"]) == (413, 413)
        exact = b"{" + b" " * (MAX_BODY_BYTES - 2) + b"}"
        assert (await http.post(f"{LINKS}?link_name=l", content=exact, headers=JSON)).status_code == 204
    assert len(admin.links.created) == 1


def with_certificate(app: App, der: bytes) -> App:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "extensions": {CERTIFICATE_EXTENSION: der}}, receive, send)

    return call


async def test_a_client_certificate_is_a_login(admin: Admin, authority: TestAuthority) -> None:
    admin.links.add(link_record())

    def der(common_name: str) -> bytes:
        pem = authority.client(common_name).certificate_file.read_bytes()
        return load_pem_x509_certificate(pem).public_bytes(Encoding.DER)

    async with client(with_certificate(admin.build(), der("ops"))) as http:
        assert (await http.get(LINKS)).status_code == 200
        # A password that is given counts, and nothing else.
        assert (await http.get(LINKS, headers=basic("admin:wrong"))).status_code == 401
    async with client(with_certificate(admin.build(), der("somebody"))) as http:
        assert (await http.get(LINKS)).status_code == 403
    async with client(with_certificate(admin.build(), b"no certificate")) as http:
        assert (await http.get(LINKS)).status_code == 401
