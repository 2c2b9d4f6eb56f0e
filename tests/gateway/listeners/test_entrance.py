"""PROXY headers, server names and what is no TLS at all, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from certs.make_certs import TestAuthority
from gateway.config import TlsConfig
from gateway.listeners.entrance import Arrival, Entrance, NotEntered
from gateway.tls import server_context
from gateway.wire import ConnectionClosed, FrameConnection
from protocol.proxy_protocol import SIGNATURE

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")]
NAMES: Mapping[str, int | None] = {"kafka.example.com": None, "b1.example.com": 1, "b2.example.com": 2}
Scenario = Callable[[], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    """Runs a scenario on one of the loops."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else None

    def runs(scenario: Scenario) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await scenario()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return runs


@pytest.fixture
def server_tls(authority: TestAuthority) -> ssl.SSLContext:
    identity = authority.server("names", [*NAMES, "b9.example.com"])
    return server_context(TlsConfig(certificate_file=identity.certificate_file, key_file=identity.key_file))


class Door:
    """An entrance behind a listening socket: connect, and see what becomes of it."""

    def __init__(self, listening: socket.socket, entrance: Entrance) -> None:
        self.address = listening.getsockname()[:2]
        self._listening = listening
        self._entrance = entrance

    @contextlib.contextmanager
    def plain(self, data: bytes = b"") -> Any:
        with socket.create_connection(self.address, timeout=5) as client:
            client.sendall(data)
            yield client

    async def take(self) -> socket.socket:
        return (await asyncio.get_running_loop().sock_accept(self._listening))[0]

    async def accept(self, node_id: int | None = None) -> Arrival:
        return await self.enter(await self.take(), node_id)

    async def enter(self, accepted: socket.socket, node_id: int | None = None) -> Arrival:
        try:
            return await self._entrance.open(accepted, await self._entrance.identify(accepted), node_id)
        finally:
            self.closed = accepted.fileno() == -1

    async def refused(self) -> NotEntered:
        with pytest.raises(NotEntered) as refusal:
            await self.accept()
        assert self.closed
        return refusal.value

    async def handshake(
        self, authority: TestAuthority, server_name: str | None, before: bytes = b""
    ) -> tuple[Arrival | NotEntered, Exception | None]:
        """What both sides have of a TLS client that asks for that name."""
        context = ssl.create_default_context(cafile=str(authority.ca_file))
        context.check_hostname = False

        def connect() -> Exception | None:
            with socket.create_connection(self.address, timeout=5) as raw:
                raw.sendall(before)
                try:
                    with context.wrap_socket(raw, server_hostname=server_name) as client:
                        client.sendall(b"\0\0\0\2hi")
                        client.recv(1)
                except OSError as error:
                    return error
            return None

        connecting = asyncio.get_running_loop().run_in_executor(None, connect)
        result: Arrival | NotEntered
        try:
            result = await self.accept()
        except NotEntered as refusal:
            result = refusal
        else:
            assert await result.wire.read_frame() == b"hi"
            result.wire.close()
            await result.wire.wait_closed()
        return result, await connecting


@asynccontextmanager
async def door(host: str = "127.0.0.1", **settings: Any) -> AsyncIterator[Door]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    options = {"max_frame_bytes": 1000, "timeout_s": 5.0, "ssl_context": None} | settings
    with socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::") as listening:
        listening.setblocking(False)
        yield Door(listening, Entrance("test", **options))


async def leave(arrival: Arrival) -> None:
    arrival.wire.abort()
    await arrival.wire.wait_closed()


def header(source: str, *, local: bool = False) -> bytes:
    address = ipaddress.ip_address(source)
    body = address.packed * 2 + struct.pack(">HH", 4711, 9092)
    family = 0x11 if address.version == 4 else 0x21
    return SIGNATURE + bytes([0x20 if local else 0x21, family]) + struct.pack(">H", len(body)) + body


# --- without anything ---------------------------------------------------------------------------------------


def test_a_plain_connection_keeps_its_node_id_and_address(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with door() as entrance:
            with entrance.plain(b"\0\0\0\2hi") as client:
                arrival = await entrance.accept(3)
                assert arrival.node_id == 3
                assert arrival.wire.peer == f"127.0.0.1:{client.getsockname()[1]}"
                assert arrival.wire.peer_host == "127.0.0.1"
                assert await arrival.wire.read_frame() == b"hi"
                await leave(arrival)

    run(scenario)


def test_a_client_of_ipv4_at_two_colons_is_one_of_ipv4(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with door("::") as entrance:
            with socket.create_connection(("127.0.0.1", entrance.address[1])) as client:
                arrival = await entrance.accept()
                assert arrival.wire.peer == f"127.0.0.1:{client.getsockname()[1]}"
                assert arrival.wire.peer_host == "127.0.0.1"
                await leave(arrival)
            with socket.create_connection(("::1", entrance.address[1])) as client:
                arrival = await entrance.accept()
                assert arrival.wire.peer == f"[::1]:{client.getsockname()[1]}"
                assert arrival.wire.peer_host == "::1"
                await leave(arrival)

    run(scenario)


# --- PROXY protocol -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 5, 1000])
def test_the_address_of_the_header_is_the_clients(run: Callable[[Scenario], None], pieces: int) -> None:
    async def scenario() -> None:
        async with door(proxies=LOOPBACK) as entrance:
            for source, peer in (
                ("192.0.2.7", "192.0.2.7:4711"),
                ("2001:db8::7", "[2001:db8::7]:4711"),
                ("::ffff:192.0.2.7", "192.0.2.7:4711"),
            ):
                with entrance.plain() as client:
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    data = header(source) + b"\0\0\0\2hi"

                    async def send(client: socket.socket = client, data: bytes = data) -> None:
                        for at in range(0, len(data), pieces):
                            client.sendall(data[at : at + pieces])
                            await asyncio.sleep(0.001)

                    sending = asyncio.create_task(send())
                    arrival = await entrance.accept(2)
                    await sending
                    assert (arrival.node_id, arrival.wire.peer) == (2, peer)
                    assert arrival.wire.peer_host == peer.rpartition(":")[0].strip("[]")
                    assert await arrival.wire.read_frame() == b"hi"
                    await leave(arrival)

    run(scenario)


def test_a_balancers_own_connection_keeps_its_own_address(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with door(proxies=LOOPBACK) as entrance:
            for local in (header("192.0.2.7", local=True), b"PROXY UNKNOWN\r\n"):
                with entrance.plain(local) as client:
                    arrival = await entrance.accept()
                    assert arrival.wire.peer == f"127.0.0.1:{client.getsockname()[1]}"
                    await leave(arrival)

    run(scenario)


def test_nobody_but_a_proxy_is_believed(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with door(proxies=[ipaddress.ip_network("10.0.0.0/8")]) as entrance:
            with entrance.plain(header("192.0.2.7")):
                refusal = await entrance.refused()
            assert (refusal.reason, refusal.loud) == ("proxy", True)
            assert str(refusal) == "127.0.0.1 is not in proxy_protocol_from"

    run(scenario)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\0\0\0\x20\0\x12\0\x03", "no PROXY protocol header"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "no PROXY protocol header but TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "no PROXY protocol header but HTTP"),
        (header("192.0.2.7")[:13] + b"\x13" + header("192.0.2.7")[14:], "unknown family"),
        (SIGNATURE + b"\x21\x11\xff\xff", "65535 bytes, the limit is"),
    ],
)
def test_what_is_no_header_is_refused(run: Callable[[Scenario], None], data: bytes, what: str) -> None:
    async def scenario() -> None:
        async with door(proxies=LOOPBACK) as entrance:
            with entrance.plain(data):
                refusal = await entrance.refused()
            assert (refusal.reason, refusal.loud) == ("proxy", True)
            assert what in str(refusal)

    run(scenario)


@pytest.mark.parametrize("data", [b"", SIGNATURE, header("192.0.2.7")[:-1]])
def test_a_header_must_come_in_time(run: Callable[[Scenario], None], data: bytes) -> None:
    async def scenario() -> None:
        async with door(proxies=LOOPBACK, timeout_s=0.2) as entrance:
            with entrance.plain(data):
                refusal = await entrance.refused()
            assert (refusal.reason, str(refusal)) == ("lost", "took longer than 0.2 s")
            with entrance.plain(data):
                pass
            refusal = await entrance.refused()
            assert (refusal.reason, refusal.loud) == ("lost", False)
            assert "closed before" in str(refusal)

    run(scenario)


def test_header_and_handshake_share_one_deadline(
    run: Callable[[Scenario], None], server_tls: ssl.SSLContext
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with door(proxies=LOOPBACK, timeout_s=0.4, ssl_context=server_tls) as entrance:
            for rest in (b"", b"\x16"):
                began = loop.time()
                with entrance.plain() as client:
                    loop.call_later(0.3, client.sendall, header("192.0.2.7") + rest)
                    refusal = await entrance.refused()
                assert refusal.reason == "tls"
                assert 0.3 < loop.time() - began < 0.65

    run(scenario)


# --- server names -------------------------------------------------------------------------------------------


def test_the_server_name_says_which_broker(
    run: Callable[[Scenario], None], server_tls: ssl.SSLContext, authority: TestAuthority
) -> None:
    async def scenario() -> None:
        async with door(ssl_context=server_tls, server_names=NAMES) as entrance:
            for name, node_id in (
                ("b1.example.com", 1),
                ("b2.example.com", 2),
                ("B2.Example.COM", 2),
                ("kafka.example.com", None),
            ):
                arrival, error = await entrance.handshake(authority, name)
                assert error is None
                assert isinstance(arrival, Arrival)
                assert arrival.node_id == node_id

    run(scenario)


def test_many_at_once_are_not_mixed_up(
    run: Callable[[Scenario], None], server_tls: ssl.SSLContext, authority: TestAuthority
) -> None:
    async def scenario() -> None:
        async with door(ssl_context=server_tls, server_names=NAMES) as entrance:
            context = ssl.create_default_context(cafile=str(authority.ca_file))

            async def ask(number: int) -> FrameConnection:
                wire = FrameConnection(max_frame_bytes=1000, name="client")
                await asyncio.get_running_loop().create_connection(
                    lambda: wire, *entrance.address, ssl=context, server_hostname=f"b{number}.example.com"
                )
                wire.write_frame(str(number).encode())
                return wire

            async def serve() -> FrameConnection:
                async with one_at_a_time:
                    accepted = await entrance.take()
                arrival = await entrance.enter(accepted)
                assert bytes(await arrival.wire.read_frame()) == str(arrival.node_id).encode()
                return arrival.wire

            one_at_a_time = asyncio.Lock()
            numbers = [1, 2] * 10
            wires = await asyncio.gather(*map(ask, numbers), *(serve() for _ in numbers))
            for wire in wires:
                wire.abort()
                await wire.wait_closed()

    run(scenario)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("b9.example.com", "no broker has the name 'b9.example.com'"),
        ("b01.example.com", "no broker has the name 'b01.example.com'"),
        ("xb1.example.com", "no broker has the name 'xb1.example.com'"),
        ("b1.example.com.evil.example", "no broker has the name 'b1.example.com.evil.example'"),
        ("b1.example.co", "no broker has the name 'b1.example.co'"),
        (None, "no server name in the handshake (SNI)"),
        # Clients send no name for an address.
        ("127.0.0.1", "no server name in the handshake (SNI)"),
    ],
)
def test_no_broker_is_guessed(
    run: Callable[[Scenario], None],
    server_tls: ssl.SSLContext,
    authority: TestAuthority,
    name: str | None,
    why: str,
) -> None:
    async def scenario() -> None:
        async with door(ssl_context=server_tls, server_names=NAMES) as entrance:
            refusal, error = await entrance.handshake(authority, name)
            assert isinstance(refusal, NotEntered)
            assert (refusal.reason, str(refusal), refusal.loud) == ("server_name", why, True)
            assert isinstance(error, OSError)
            # The door is open for others.
            arrival, error = await entrance.handshake(authority, "b1.example.com")
            assert isinstance(arrival, Arrival)
            assert error is None

    run(scenario)


def test_without_names_any_name_will_do(
    run: Callable[[Scenario], None], server_tls: ssl.SSLContext, authority: TestAuthority
) -> None:
    async def scenario() -> None:
        async with door(ssl_context=server_tls) as entrance:
            for name in (None, "b9.example.com"):
                arrival, error = await entrance.handshake(authority, name)
                assert isinstance(arrival, Arrival)
                assert error is None

    run(scenario)


def test_header_then_server_name(
    run: Callable[[Scenario], None], server_tls: ssl.SSLContext, authority: TestAuthority
) -> None:
    async def scenario() -> None:
        async with door(ssl_context=server_tls, server_names=NAMES, proxies=LOOPBACK) as entrance:
            arrival, error = await entrance.handshake(authority, "b2.example.com", header("192.0.2.7"))
            assert isinstance(arrival, Arrival)
            assert (arrival.node_id, arrival.wire.peer) == (2, "192.0.2.7:4711")
            assert error is None

    run(scenario)


def test_names_need_tls() -> None:
    with pytest.raises(ValueError, match="TLS"):
        Entrance("test", max_frame_bytes=1, timeout_s=1, ssl_context=None, server_names=NAMES)


# --- no TLS -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "what"),
    [
        (b"\0\0\0\x20\0\x12\0\x03", " but Kafka without TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", " but HTTP"),
        (b"SSH-2.0-x\r\n", " but SSH"),
        (header("192.0.2.7"), " but a PROXY protocol header"),
        (b"?", ""),
    ],
)
def test_what_is_no_tls_is_named(
    run: Callable[[Scenario], None], server_tls: ssl.SSLContext, first: bytes, what: str
) -> None:
    async def scenario() -> None:
        async with door(ssl_context=server_tls) as entrance:
            with entrance.plain(first):
                refusal = await entrance.refused()
            assert (refusal.reason, refusal.loud) == ("not_tls", True)
            assert str(refusal) == f"this listener speaks TLS, the client does not{what}"

    run(scenario)


def test_whoever_says_nothing_is_no_reason_for_alarm(
    run: Callable[[Scenario], None], server_tls: ssl.SSLContext
) -> None:
    async def scenario() -> None:
        async with door(ssl_context=server_tls, timeout_s=0.2) as entrance:
            with entrance.plain():
                refusal = await entrance.refused()
            assert (refusal.reason, refusal.loud) == ("tls", False)
            with entrance.plain():
                pass
            refusal = await entrance.refused()
            assert (refusal.reason, refusal.loud) == ("lost", False)

    run(scenario)


def test_a_cancelled_entrance_closes_its_socket(
    run: Callable[[Scenario], None], server_tls: ssl.SSLContext
) -> None:
    async def scenario() -> None:
        for settings in ({"ssl_context": server_tls}, {"proxies": LOOPBACK}):
            async with door(**settings) as entrance:
                with entrance.plain() as client:
                    accepting = asyncio.create_task(entrance.accept())
                    await asyncio.sleep(0.1)
                    accepting.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await accepting
                    assert entrance.closed
                    with contextlib.suppress(ConnectionClosed):
                        assert client.recv(1) == b""

    run(scenario)
