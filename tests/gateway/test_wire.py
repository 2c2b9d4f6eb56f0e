"""Framed connections over real sockets: plain and TLS, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import struct
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from certs.make_certs import TestAuthority
from gateway.tls import ClientAuth, client_context, server_context
from gateway.wire import ConnectionClosed, FrameConnection
from protocol.errors import DecodeError, FrameTooLarge

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
Run = Callable[[Awaitable[None]], None]


@pytest.fixture(params=LOOPS)
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(loop_name: str) -> Run:
    """Runs a scenario; fails on anything that the loop would only log, and on tasks left behind."""

    def runner(scenario: Awaitable[None]) -> None:
        complaints: list[dict[str, Any]] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: complaints.append(context))
            async with asyncio.timeout(30):
                await scenario
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(debug=True, loop_factory=LOOPS[loop_name]) as asyncio_runner:
            asyncio_runner.run(main())
        gc.collect()
        assert complaints == []

    return runner


class Tls:
    """The two contexts, or none."""

    def __init__(self, authority: TestAuthority | None) -> None:
        self.server: ssl.SSLContext | None = None
        self.client: ssl.SSLContext | None = None
        if authority is not None:
            self.server = server_context(_ServerFiles(authority))
            self.client = client_context(_ClientFiles(authority))


class _ServerFiles:
    def __init__(self, authority: TestAuthority) -> None:
        identity = authority.server()
        self.certificate_file = identity.certificate_file
        self.key_file = identity.key_file
        self.client_ca_file = authority.ca_file
        self.client_auth = ClientAuth.REQUESTED
        self.crl_file = None


class _ClientFiles:
    def __init__(self, authority: TestAuthority) -> None:
        identity = authority.client("somebody")
        self.ca_file = authority.ca_file
        self.certificate_file = identity.certificate_file
        self.key_file = identity.key_file
        self.verify_hostname = True


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, authority: TestAuthority) -> Tls:
    return Tls(authority if request.param == "tls" else None)


@asynccontextmanager
async def listening(tls: Tls, **settings: Any) -> AsyncIterator[tuple[int, asyncio.Queue[FrameConnection]]]:
    """A server: its port, and its connections as they come."""
    arrived: asyncio.Queue[FrameConnection] = asyncio.Queue()
    made: list[FrameConnection] = []

    def factory() -> FrameConnection:
        options: dict[str, Any] = {"max_frame_bytes": 1 << 24, "name": "server"}
        options.update(settings)
        made.append(FrameConnection(on_connected=arrived.put_nowait, **options))
        return made[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=tls.server)
    try:
        yield server.sockets[0].getsockname()[1], arrived
    finally:
        server.close()
        for connection in made:
            connection.abort()
            await connection.wait_closed()
        await server.wait_closed()


@asynccontextmanager
async def connected(tls: Tls, **settings: Any) -> AsyncIterator[tuple[FrameConnection, FrameConnection]]:
    """Client and server end; `settings` are the server's."""
    async with listening(tls, **settings) as (port, arrived):
        client = FrameConnection(max_frame_bytes=1 << 27, name="client")
        await asyncio.get_running_loop().create_connection(
            lambda: client,
            "127.0.0.1",
            port,
            ssl=tls.client,
            server_hostname="localhost" if tls.client is not None else None,
        )
        try:
            yield client, await arrived.get()
        finally:
            client.abort()
            await client.wait_closed()


@asynccontextmanager
async def raw_client(
    tls: Tls, **settings: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, FrameConnection]]:
    """A peer that may send anything, and the server end."""
    async with listening(tls, **settings) as (port, arrived):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            port,
            ssl=tls.client,
            server_hostname="localhost" if tls.client is not None else None,
        )
        try:
            yield reader, writer, await arrived.get()
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)


async def read_all(connection: FrameConnection) -> None:
    while True:
        await connection.read_frame(10)


async def fill(connection: FrameConnection, body: bytes) -> int:
    """Writes until the peer takes no more; returns how many frames that took, 1000 at most."""
    for sent in range(1, 1000):
        connection.write_frame(body)
        try:
            await connection.drain(0.3)
        except TimeoutError:
            return sent
    return 1000


def frame(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def test_frames_of_all_sizes_arrive_whole_and_in_order_both_ways(run: Run, tls: Tls) -> None:
    bodies = [os.urandom(size) for size in (0, 1, 100, 16_383, 16_384, 70_000, 3_000_000, 5, 1_000_000)]

    async def scenario() -> None:
        async with connected(tls) as (client, server):

            async def send(connection: FrameConnection) -> None:
                for body in bodies:
                    cut = len(body) // 3
                    connection.write_frame(
                        body[:cut], bytearray(body[cut : 2 * cut]), memoryview(body)[2 * cut :]
                    )
                    await connection.drain(10)

            async with asyncio.TaskGroup() as group:
                group.create_task(send(client))
                group.create_task(send(server))
                for body in bodies:
                    assert await server.read_frame(10) == body
                    assert await client.read_frame(10) == body

    run(scenario())


def test_a_full_queue_stops_reading_and_everything_still_arrives(run: Run, tls: Tls) -> None:
    async def scenario() -> None:
        async with connected(tls, max_queued_frames=3, max_queued_bytes=10_000) as (client, server):
            for number in range(5_000):
                client.write_frame(struct.pack(">i", number))
            await asyncio.sleep(0.05)
            for number in range(5_000):
                assert await server.read_frame(10) == struct.pack(">i", number)
            # And on it goes after the pause.
            client.write_frame(b"more")
            assert await server.read_frame(10) == b"more"

    run(scenario())


def test_a_peer_that_does_not_read_blocks_drain_until_it_does(run: Run, tls: Tls) -> None:
    body = bytes(100_000)

    async def scenario() -> None:
        async with connected(tls) as (client, server):
            sent = await fill(client, body)
            # What the kernel's socket buffers and one queue hold, far below the 100 MB offered.
            assert sent < 500
            blocked = asyncio.create_task(client.drain(10))
            for _ in range(sent):
                assert len(await server.read_frame(10)) == len(body)
            await blocked

    run(scenario())


def test_the_end_of_the_peer_is_told_after_its_last_frame(run: Run, tls: Tls) -> None:
    async def scenario() -> None:
        async with connected(tls, max_queued_frames=2) as (client, server):
            for number in range(100):
                client.write_frame(bytes([number]))
            client.close()
            assert client.closed
            for number in range(100):
                assert await server.read_frame(10) == bytes([number])
            for _ in range(2):
                with pytest.raises(ConnectionClosed) as caught:
                    await server.read_frame(10)
                assert "middle of a frame" not in caught.value.reason
            assert server.closed
            await client.wait_closed()

    run(scenario())


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 99])
def test_an_end_in_the_middle_of_a_frame_is_named(run: Run, tls: Tls, cut: int) -> None:
    async def scenario() -> None:
        async with raw_client(tls) as (_, writer, server):
            writer.write(frame(b"whole") + frame(bytes(96))[:cut])
            writer.close()
            assert await server.read_frame(10) == b"whole"
            with pytest.raises(ConnectionClosed, match="in the middle of a frame"):
                await server.read_frame(10)

    run(scenario())


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (struct.pack(">i", -1), DecodeError),
        (struct.pack(">i", 1001), FrameTooLarge),
        (b"GET / HTTP", FrameTooLarge),
    ],
)
def test_broken_framing_is_told_after_the_frames_before_it(
    run: Run, tls: Tls, bad: bytes, error: type[DecodeError]
) -> None:
    async def scenario() -> None:
        async with raw_client(tls, max_frame_bytes=1000) as (reader, writer, server):
            writer.write(frame(b"good") + frame(bytes(1000)) + bad + bytes(300_000))
            assert await server.read_frame(10) == b"good"
            assert await server.read_frame(10) == bytes(1000)
            for _ in range(2):
                with pytest.raises(error):
                    await server.read_frame(10)
            # An answer that says why can still be sent.
            assert not server.closed
            server.write_frame(b"no")
            assert await reader.readexactly(6) == frame(b"no")

    run(scenario())


def test_the_size_limit_may_be_raised_later(run: Run, tls: Tls) -> None:
    async def scenario() -> None:
        async with connected(tls, max_frame_bytes=10) as (client, server):
            client.write_frame(bytes(10))
            await server.read_frame(10)
            assert server.max_frame_bytes == 10
            server.max_frame_bytes = 1_000_000
            client.write_frame(bytes(1_000_000))
            assert len(await server.read_frame(10)) == 1_000_000

    run(scenario())


def test_close_sends_what_was_written(run: Run, tls: Tls) -> None:
    body = os.urandom(8_000_000)

    async def scenario() -> None:
        async with connected(tls) as (client, server):
            client.write_frame(body)
            client.close()
            client.close()
            with pytest.raises(ConnectionClosed, match="closed by us"):
                client.write_frame(b"late")
            with pytest.raises(ConnectionClosed, match="closed by us"):
                await client.read_frame()
            assert await server.read_frame(10) == body
            with pytest.raises(ConnectionClosed):
                await server.read_frame(10)
            await client.wait_closed()

    run(scenario())


def test_close_does_not_wait_for_a_peer_that_does_not_read(run: Run, tls: Tls) -> None:
    async def scenario() -> None:
        async with raw_client(tls, close_timeout_s=0.2) as (_, writer, server):
            writer.transport.pause_reading()  # type: ignore[attr-defined] # a Transport, declared as its base
            for _number in range(50):
                server.write_frame(bytes(1_000_000))
            began = time.monotonic()
            server.close()
            await server.wait_closed()
            assert 0.1 < time.monotonic() - began < 5

    run(scenario())


def test_abort_wakes_whoever_waits(run: Run, tls: Tls) -> None:
    async def scenario() -> None:
        async with connected(tls) as (client, server):
            reading = asyncio.create_task(client.read_frame())
            await fill(client, bytes(1_000_000))
            draining = [asyncio.create_task(client.drain()) for _ in range(3)]
            await asyncio.sleep(0.05)
            assert not reading.done()
            assert not any(task.done() for task in draining)
            client.abort()
            client.abort()
            client.close()
            for task in (reading, *draining):
                with pytest.raises(ConnectionClosed, match="aborted by us"):
                    await task
            await client.wait_closed()
            with pytest.raises(ConnectionClosed):
                await read_all(server)

    run(scenario())


def test_a_reset_is_told_with_its_cause(run: Run) -> None:
    async def scenario() -> None:
        async with raw_client(Tls(None)) as (_, writer, server):
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            writer.transport.abort()
            with pytest.raises(ConnectionClosed) as caught:
                await server.read_frame(10)
            assert isinstance(caught.value.cause, ConnectionResetError)
            await server.wait_closed()

    run(scenario())


def test_tls_that_ends_without_goodbye_is_an_end(run: Run, authority: TestAuthority) -> None:
    tls = Tls(authority)

    async def scenario() -> None:
        async with listening(tls) as (port, arrived):

            def vanish() -> None:
                assert tls.client is not None
                with (
                    socket.create_connection(("127.0.0.1", port)) as plain,
                    tls.client.wrap_socket(plain, server_hostname="localhost") as secure,
                ):
                    secure.sendall(frame(b"last words") + b"\0\0")
                    os.close(secure.detach())

            await asyncio.to_thread(vanish)
            server = await arrived.get()
            assert await server.read_frame(10) == b"last words"
            with pytest.raises(ConnectionClosed):
                await server.read_frame(10)
            await server.wait_closed()

    run(scenario())


def test_a_cancelled_or_timed_out_read_loses_nothing(run: Run, tls: Tls) -> None:
    async def scenario() -> None:
        async with connected(tls) as (client, server):
            with pytest.raises(TimeoutError):
                await server.read_frame(0.01)
            for number in range(200):
                reading = asyncio.create_task(server.read_frame(10))
                await asyncio.sleep(0)
                client.write_frame(bytes([number]))
                if number % 2:
                    await asyncio.sleep(0.001)
                reading.cancel()
                try:
                    got = await reading
                except asyncio.CancelledError:
                    got = await server.read_frame(10)
                assert got == bytes([number])

    run(scenario())


def test_there_is_one_reader_at_a_time(run: Run) -> None:
    async def scenario() -> None:
        async with connected(Tls(None)) as (client, server):
            first = asyncio.create_task(server.read_frame(10))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="reader"):
                await server.read_frame()
            client.write_frame(b"x")
            assert await first == b"x"

    run(scenario())


def test_an_owner_may_take_frames_as_they_arrive(run: Run, tls: Tls) -> None:
    async def scenario() -> None:
        async with connected(tls, max_queued_frames=2) as (client, server):
            got: list[bytes] = []
            ended = asyncio.Event()

            def take() -> None:
                try:
                    while (body := server.next_frame()) is not None:
                        got.append(bytes(body))
                except ConnectionClosed:
                    ended.set()

            server.on_readable = take
            assert server.next_frame() is None
            for number in range(100):
                client.write_frame(bytes([number]))
            client.close()
            await ended.wait()
            assert got == [bytes([number]) for number in range(100)]

    run(scenario())


def test_the_ends_know_each_other(run: Run, tls: Tls) -> None:
    async def scenario() -> None:
        async with connected(tls) as (client, server):
            assert server.peer == f"127.0.0.1:{client.local_port}"
            assert client.peer == f"127.0.0.1:{server.local_port}"
            assert (server.ssl_object is not None) is (tls.server is not None)
            if server.ssl_object is not None:
                assert (("commonName", "somebody"),) in server.ssl_object.getpeercert()["subject"]
            before = server.last_read_monotonic
            await asyncio.sleep(0.02)
            client.write_frame(b"ping")
            await server.read_frame(10)
            assert server.last_read_monotonic - before >= 0.01

    run(scenario())


def test_without_a_transport_nothing_hangs(run: Run) -> None:
    async def scenario() -> None:
        connection = FrameConnection(max_frame_bytes=10, name="never connected")
        with pytest.raises(RuntimeError):
            connection.write_frame(b"")
        connection.close()
        await connection.wait_closed()
        with pytest.raises(ConnectionClosed):
            await connection.read_frame()

    run(scenario())


@pytest.fixture
def discarding_server() -> Iterator[int]:
    """The port of a server that reads one connection to its end."""
    listener = socket.create_server(("127.0.0.1", 0))

    def discard() -> None:
        connection, _ = listener.accept()
        buffer = bytearray(1 << 20)
        with connection:
            while connection.recv_into(buffer):
                pass

    thread = threading.Thread(target=discard)
    thread.start()
    yield listener.getsockname()[1]
    thread.join()
    listener.close()


@pytest.mark.parametrize("loop_name", ["uvloop"])
def test_large_parts_are_not_copied(run: Run, discarding_server: int) -> None:
    body = bytes(64 << 20)

    async def scenario() -> None:
        connection = FrameConnection(max_frame_bytes=10, name="sender")
        await asyncio.get_running_loop().create_connection(lambda: connection, "127.0.0.1", discarding_server)
        tracemalloc.start()
        connection.write_frame(b"header", memoryview(body)[: 32 << 20], memoryview(body)[32 << 20 :])
        connection.close()
        await connection.wait_closed()
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak_bytes < 4 << 20

    run(scenario())
