"""uvicorn with our protocol over real TLS sockets: does the client's certificate reach the gate?"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn

from certs.make_certs import TestAuthority
from gateway.admin.gate import App, Receive, Scope, Send
from gateway.admin.http_protocol import server_settings
from gateway.tasks import Tasks
from tests.fakes.links import link_record
from tests.gateway.admin.conftest import LINKS, Admin


@asynccontextmanager
async def served(admin: Admin, context: ssl.SSLContext | None) -> AsyncIterator[int]:
    async with listening(admin.build(), context) as port:
        yield port


@asynccontextmanager
async def listening(app: App, context: ssl.SSLContext | None) -> AsyncIterator[int]:
    settings = server_settings(app, stop_s=1)
    settings.host, settings.port, settings.ssl = "127.0.0.1", 0, context
    server = uvicorn.Server(settings)
    tasks = Tasks("test")
    serving = tasks.spawn(server._serve(), name="serve")
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


def client(authority: TestAuthority, name: str | None) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=authority.ca_file)
    if name is not None:
        identity = authority.client(name)
        context.load_cert_chain(identity.certificate_file, identity.key_file)
    return httpx.AsyncClient(verify=context)


async def test_the_certificate_of_the_handshake_is_the_login(admin: Admin, authority: TestAuthority) -> None:
    admin.links.add(link_record())
    identity = authority.server("admin", ["127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca_file)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_cert_chain(identity.certificate_file, identity.key_file)
    async with served(admin, context) as port:
        url = f"https://127.0.0.1:{port}{LINKS}"
        for name, status in ((None, 401), ("somebody", 403), ("ops", 200)):
            async with client(authority, name) as http:
                response = await http.get(url)
                assert response.status_code == status
                if name == "ops":
                    assert response.json()["metadata"]["self"] == url
                    assert (await http.get(url)).status_code == 200
        async with client(authority, None) as http:
            assert (await http.get(url, auth=("admin", "open sesame"))).status_code == 200


async def test_without_tls_there_is_no_certificate(admin: Admin) -> None:
    async with served(admin, None) as port, httpx.AsyncClient() as http:
        assert (await http.get(f"http://127.0.0.1:{port}{LINKS}")).status_code == 401
        # A header is no certificate.
        headers = {"x-client-cert": "CN=ops", "ssl-client-cert": "CN=ops"}
        assert (await http.get(f"http://127.0.0.1:{port}{LINKS}", headers=headers)).status_code == 401


async def test_the_address_of_a_client_is_not_what_it_says() -> None:
    hosts = []

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        hosts.append(scope["client"][0])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    headers = {"x-forwarded-for": "10.9.9.9", "forwarded": "for=10.9.9.9", "x-real-ip": "10.9.9.9"}
    async with listening(app, None) as port, httpx.AsyncClient() as http:
        await http.get(f"http://127.0.0.1:{port}/", headers=headers)
    assert hosts == ["127.0.0.1"]
