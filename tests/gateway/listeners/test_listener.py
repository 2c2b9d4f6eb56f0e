from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from certs.make_certs import TestAuthority
from gateway.config import LimitsConfig, TlsConfig
from gateway.listeners.admission import Admission
from gateway.listeners.endpoints import Endpoint
from gateway.listeners.listener import Listener
from gateway.tls import server_context
from gateway.wire import ConnectionClosed, FrameConnection


class Echo:
    """A session that says its node id and then repeats what it hears."""

    made: list[Echo]

    def __init__(self, wire: FrameConnection, node_id: int | None) -> None:
        self.wire = wire
        self.node_id = node_id
        self.causes: list[str] = []
        self.draining = False

    async def run(self) -> None:
        try:
            self.wire.write_frame(str(self.node_id).encode())
            while True:
                self.wire.write_frame(await self.wire.read_frame())
        except ConnectionClosed:
            self.wire.close()

    async def drain(self) -> None:
        self.draining = True

    def close(self, cause: str, reason: str) -> None:
        self.causes.append(cause)
        self.wire.close()

    def abort(self) -> None:
        self.wire.abort()

    def idle_s(self) -> float:
        return 60.0 if self.node_id == 7 else 0.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def listening(
    *,
    limits: LimitsConfig | None = None,
    ssl_context: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    make: Callable[[FrameConnection, int | None], Echo] = Echo,
) -> AsyncIterator[tuple[Listener, list[Echo]]]:
    made: list[Echo] = []

    def make_session(wire: FrameConnection, node_id: int | None) -> Echo:
        made.append(make(wire, node_id))
        return made[-1]

    listener = Listener(
        "test",
        (Endpoint(host, 0, None), Endpoint(host, 0, 4), Endpoint(host, 0, 7)),
        make_session,
        limits=limits or LimitsConfig(),
        ssl_context=ssl_context,
    )
    await listener.start()
    try:
        yield listener, made
    finally:
        await listener.drain(0)


async def connect(
    listener: Listener,
    node_id: int | None = None,
    host: str = "127.0.0.1",
    ssl_context: ssl.SSLContext | None = None,
) -> FrameConnection:
    wire = FrameConnection(max_frame_bytes=1 << 20, name="test client")
    await asyncio.get_running_loop().create_connection(
        lambda: wire,
        host,
        listener.ports[node_id],
        ssl=ssl_context,
        server_hostname="localhost" if ssl_context else None,
    )
    return wire


async def gone(wire: FrameConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await wire.read_frame(5)
    wire.abort()
    await wire.wait_closed()


async def test_each_port_says_which_broker_it_stands_for() -> None:
    async with listening() as (listener, _):
        for node_id in (None, 4, 7):
            client = await connect(listener, node_id)
            assert await client.read_frame(5) == str(node_id).encode()
            client.close()
            await client.wait_closed()
        assert set(listener.ports) == {None, 4, 7}


async def test_a_taken_port_binds_none_and_says_which() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = free_port()
        endpoints = (Endpoint("127.0.0.1", other, None), Endpoint("127.0.0.1", port, 0))
        listener = Listener("test", endpoints, Echo, limits=LimitsConfig())
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            await listener.start()
        assert not listener.bound
        socket.create_server(("127.0.0.1", other)).close()


@pytest.mark.parametrize("client_host", ["127.0.0.1", "::1"])
async def test_two_colons_take_both_families(client_host: str) -> None:
    async with listening(host="::") as (listener, _):
        client = await connect(listener, None, client_host)
        assert await client.read_frame(5) == b"None"
        client.close()
        await client.wait_closed()


async def test_the_connection_limit_closes_the_surplus_and_frees_with_the_others() -> None:
    async with listening(limits=LimitsConfig(max_connections=2)) as (listener, _):
        first, second = await connect(listener), await connect(listener)
        await first.read_frame(5)
        await second.read_frame(5)
        await gone(await connect(listener))
        first.close()
        await first.wait_closed()
        while listener.sessions == 2:
            await asyncio.sleep(0.01)
        third = await connect(listener)
        assert await third.read_frame(5) == b"None"
        for wire in (second, third):
            wire.close()
            await wire.wait_closed()


async def test_one_address_cannot_take_every_place_and_a_listener_may_have_a_limit_of_its_own() -> None:
    async with (
        listening(limits=LimitsConfig(max_connections_per_ip=2, max_connections=5), host="::") as (
            listener,
            _,
        ),
    ):
        # Both are the same client, whichever family its packets have.
        first, second = await connect(listener), await connect(listener, host="::ffff:127.0.0.1")
        await first.read_frame(5)
        await second.read_frame(5)
        with capture_logs() as logs:
            for _ in range(3):
                await gone(await connect(listener))
        assert [(line["event"], line["limit"], line["client"]) for line in logs] == [
            ("connection.refused", "max_connections_per_ip", "127.0.0.1")
        ]
        other = await connect(listener, host="::1")
        assert await other.read_frame(5) == b"None"
        for wire in (first, second, other):
            wire.close()
            await wire.wait_closed()


async def test_a_request_that_drips_is_not_waited_for() -> None:
    async with listening(limits=LimitsConfig(frame_timeout_ms=300)) as (listener, made):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.ports[None])
        await reader.readexactly(8)
        writer.write(b"\0\0\0\x64")
        async with asyncio.timeout(10):
            while not made[0].causes:
                writer.write(b"x")
                await asyncio.sleep(0.05)
        assert made[0].causes[0] == "slow"
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_client_that_takes_nothing_is_closed() -> None:
    async with listening(limits=LimitsConfig(frame_timeout_ms=300)) as (listener, made):
        _, writer = await asyncio.open_connection("127.0.0.1", listener.ports[None], limit=1)
        async with asyncio.timeout(10):
            while not made:
                await asyncio.sleep(0.01)
            while not made[0].causes:
                if not made[0].wire.closed:
                    made[0].wire.write_frame(bytes(1 << 20))
                await asyncio.sleep(0.02)
        assert made[0].causes[0] == "slow"
        writer.transport.abort()


async def test_silent_clients_are_closed_and_busy_ones_are_not() -> None:
    async with listening(limits=LimitsConfig(idle_timeout_ms=200)) as (listener, made):
        silent, busy = await connect(listener, 7), await connect(listener, 4)
        await gone(silent)
        assert made[0].causes == ["idle"]
        await busy.read_frame(5)
        busy.write_frame(b"still here")
        assert await busy.read_frame(5) == b"still here"
        busy.close()
        await busy.wait_closed()


async def test_accepting_survives_the_end_of_file_descriptors() -> None:
    loop = asyncio.get_running_loop()
    async with listening() as (listener, _):
        with socket.socket() as client, capture_logs() as logs:
            client.setblocking(False)
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
            taken: list[int] = []
            try:
                # Those below that are free.
                with suppress(OSError):
                    while len(taken) <= highest:
                        taken.append(os.dup(client.fileno()))
                await loop.sock_connect(client, ("127.0.0.1", listener.ports[None]))
                await asyncio.sleep(0.3)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
                for descriptor in taken:
                    os.close(descriptor)
            assert [line["event"] for line in logs] == ["listener.cannot_accept"]
            assert await loop.sock_recv(client, 100) == b"\0\0\0\4None"


async def test_draining_closes_the_ports_waits_and_then_aborts() -> None:
    async with listening() as (listener, made):
        client = await connect(listener)
        await client.read_frame(5)
        draining = asyncio.get_running_loop().create_task(listener.drain(0.3))
        await asyncio.sleep(0.1)
        assert made[0].draining
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", made[0].wire.local_port)
        client.write_frame(b"in flight")
        assert await client.read_frame(5) == b"in flight"
        await draining
        await gone(client)
        assert listener.sessions == 0


async def test_many_drains_leave_nothing_behind(authority: TestAuthority) -> None:
    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), len(asyncio.all_tasks())

    admission = Admission(LimitsConfig())
    before = held()
    for _ in range(15):
        listener = Listener(
            "test",
            (Endpoint("127.0.0.1", 0, None),),
            Echo,
            limits=LimitsConfig(),
            admission=admission,
            ssl_context=tls_context(authority),
        )
        await listener.start()
        # Some have shaken hands, some are about to, some have said nothing.
        clients = [await connect(listener, ssl_context=client_side(authority.ca_file)) for _ in range(3)]
        silent = [await asyncio.open_connection("127.0.0.1", listener.ports[None]) for _ in range(6)]
        for _, writer in silent[:3]:
            writer.write(b"\x16\x03\x01")
        async with asyncio.timeout(5):
            while len(admission) < 9 or listener.sessions < 3:
                await asyncio.sleep(0.001)
        began = time.monotonic()
        draining = asyncio.get_running_loop().create_task(listener.drain(30))
        # Those that have no session have nothing to finish.
        for reader, writer in silent:
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        for client in clients:
            client.close()
            await client.wait_closed()
        await draining
        assert time.monotonic() - began < 10
        assert (len(admission), listener.sessions) == (0, 0)
    await asyncio.sleep(0)
    assert held() == before


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("certs"))


def tls_context(authority: TestAuthority) -> ssl.SSLContext:
    server = authority.server()
    return server_context(TlsConfig(certificate_file=server.certificate_file, key_file=server.key_file))


def client_side(ca_file: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca_file))


async def test_tls_and_a_failed_handshake_hurts_nobody_else(authority: TestAuthority) -> None:
    async with listening(ssl_context=tls_context(authority)) as (listener, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.ports[None])
        with capture_logs() as logs:
            writer.write(b"\x16\x03 and nothing that belongs to a handshake")
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            while not logs:
                await asyncio.sleep(0.01)
        assert logs[0]["event"] == "connection.handshake_failed"
        writer.close()
        await writer.wait_closed()
        client = await connect(listener, 4, ssl_context=client_side(authority.ca_file))
        assert await client.read_frame(5) == b"4"
        client.close()
        await client.wait_closed()


async def test_a_client_that_never_does_its_handshake_is_dropped(authority: TestAuthority) -> None:
    limits = LimitsConfig(authentication_timeout_ms=200)
    async with listening(ssl_context=tls_context(authority), limits=limits) as (listener, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.ports[None])
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
