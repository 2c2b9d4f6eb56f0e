"""Connections that share a budget of bytes, over real sockets."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack

from gateway.byte_budget import SMALL_BYTES, ByteBudget
from gateway.wire import FrameConnection
from tests.gateway.test_wire import Run, Tls, connected, fill, loop_name, run, tls

__all__ = ["loop_name", "run", "tls"]

MIB = 1 << 20
FRAMES = 3


async def exchange(client: FrameConnection, server: FrameConnection, body: bytes, seen: list[int]) -> None:
    """Sends some frames and takes them slowly; notes what is held of the budget."""
    account = server.account
    assert account is not None

    async def send() -> None:
        for _ in range(FRAMES):
            client.write_frame(body)
            await client.drain(20)

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        for _ in range(FRAMES):
            assert await server.read_frame(20) == body
            seen.append(account.held_bytes)
            await asyncio.sleep(0.01)
            server.put_down()


def test_frames_larger_than_the_budget_all_pass_and_are_counted(run: Run, tls: Tls) -> None:
    body = os.urandom(3 * MIB)

    async def scenario() -> None:
        budget, seen, pauses = ByteBudget(2 * MIB, on_full=lambda: pauses.append(1)), list[int](), list[int]()
        async with AsyncExitStack() as stack:
            async with asyncio.TaskGroup() as group:
                for _ in range(5):
                    client, server = await stack.enter_async_context(connected(tls))
                    server.charge_to(budget.open())
                    group.create_task(exchange(client, server, body, seen))
            assert (budget.used_bytes, budget.waiting) == (0, 0)
        assert pauses
        # The frame in hand, and what may have come behind it.
        assert all(len(body) <= held <= 2 * len(body) + MIB for held in seen)

    run(scenario())


def test_little_is_neither_counted_nor_held_back(run: Run, tls: Tls) -> None:
    async def scenario() -> None:
        budget = ByteBudget(1)
        async with connected(tls) as (client, server), connected(tls) as (other, full):
            # One has the turn, another waits.
            for connection in (full, server):
                connection.charge_to(budget.open())
            other.write_frame(bytes(2 * MIB))
            while budget.used_bytes < 2 * MIB:
                await asyncio.sleep(0.01)
            for _ in range(100):
                client.write_frame(bytes(SMALL_BYTES // 2))
                assert len(await server.read_frame(5)) == SMALL_BYTES // 2
            client.write_frame(bytes(10 * SMALL_BYTES))
            await asyncio.sleep(0.2)
            assert budget.waiting == 1
            assert server.next_frame() is None
            assert len(await full.read_frame(5)) == 2 * MIB
            full.put_down()
            assert len(await server.read_frame(5)) == 10 * SMALL_BYTES

    run(scenario())


def test_what_a_peer_does_not_take_is_counted_until_it_does_or_goes(run: Run, tls: Tls) -> None:
    async def scenario() -> None:
        budget = ByteBudget(MIB)
        async with connected(tls, max_queued_bytes=1000) as (client, server):
            client.charge_to(budget.open())
            await fill(client, bytes(MIB))
            # Not all of it: the kernel took some, and asyncio's TLS does not tell of what is encrypted.
            assert budget.used_bytes > MIB // 4
            before = budget.used_bytes
            client.write_frame(bytes(MIB))
            assert budget.used_bytes >= before + MIB // 2
            server.abort()
            await client.wait_closed()
            assert budget.used_bytes == 0

    run(scenario())


def test_whoever_goes_leaves_nothing_in_the_budget(run: Run, tls: Tls) -> None:
    async def scenario() -> None:
        budget = ByteBudget(MIB)
        for end in ("close", "abort", "charge elsewhere"):
            async with connected(tls) as (client, server):
                server.charge_to(budget.open())
                client.write_frame(bytes(2 * MIB))
                while budget.used_bytes < MIB:
                    await asyncio.sleep(0.01)
                if end == "charge elsewhere":
                    server.charge_to(None)
                    assert len(await server.read_frame(5)) == 2 * MIB
                elif end == "close":
                    server.close()
                else:
                    server.abort()
                assert budget.used_bytes == 0

    run(scenario())
