"""What a fuzz has found stays found: each case is played again, and mutation is the same every time."""

from __future__ import annotations

import asyncio
import random
import struct
from typing import Any

import pytest
from structlog.testing import capture_logs

from protocol.api_keys import ApiKey
from protocol.headers import RequestHeader
from tests.e2e.raw_client import make
from tests.fuzz.cases import Case, cases
from tests.fuzz.corpus import Corpus
from tests.fuzz.hostile_broker import Answers
from tests.fuzz.mutation import alter, mutate
from tests.gateway.sessions.lab import Lab, lab


async def play(case: Case, here: Lab) -> None:
    """Sends the case's frames; the broker answers each with the answer that it had."""
    answers = iter(case.responses)

    async def answer(header: RequestHeader, body: bytes) -> Any:
        data, connection = next(answers, b""), here.broker.connections[-1]
        if len(data) < 8:
            connection.abort()
        elif connection._transport is not None:
            # As it was, its size too, which may be wrong; only the id is of another run.
            connection._transport.write(data[:4] + struct.pack(">i", header.correlation_id) + data[8:])

    ours = dict(here.broker.handlers)
    here.broker.handlers.update(
        {key: answer for key in here.broker.versions if key not in {ApiKey.API_VERSIONS, ApiKey.METADATA}}
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", here.listener.ports[1])
    try:
        writer.write(b"".join(case.requests))
        writer.write_eof()
        async with asyncio.timeout(10):
            await reader.read()
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
        here.broker.handlers.update(ours)


@pytest.mark.parametrize(("name", "case"), cases(), ids=lambda value: value if isinstance(value, str) else "")
async def test_a_find_does_no_harm_again(name: str, case: Case) -> None:
    async with lab() as here:
        with capture_logs() as logs:
            await play(case, here)
            client = await here.client()
            assert (await client.call(make(ApiKey.API_VERSIONS, 0))).api_keys
            async with asyncio.timeout(4):
                while here.listener.sessions > 1:
                    await asyncio.sleep(0.01)
        assert [line for line in logs if line["log_level"] == "error"] == []


async def test_a_case_that_does_harm_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus(1, {ApiKey.HEARTBEAT})
    heartbeat = next(each for each in corpus.requests if each.api_key == ApiKey.HEARTBEAT and each.valid)
    frame = struct.pack(">i", len(heartbeat.data)) + heartbeat.data
    case = Case("made up", [frame], [Answers(corpus, 1).to(heartbeat.data)[0]])
    assert Case.parse(case.text()) == case

    def broken(*_: Any) -> Any:
        raise RuntimeError("broken")

    async with lab() as here:
        monkeypatch.setattr("gateway.sessions.request_path.peek_correlation_id", broken)
        with capture_logs() as logs:
            await play(case, here)
            async with asyncio.timeout(4):
                while here.listener.sessions:
                    await asyncio.sleep(0.01)
        assert "error" in [line["log_level"] for line in logs]


def test_a_seed_makes_the_same_changes_every_time() -> None:
    first, second, other = (Corpus(seed, {ApiKey.METADATA}) for seed in (7, 7, 8))
    assert first.requests == second.requests
    assert first.requests != other.requests

    def changed(seed: int) -> list[bytes]:
        rng = random.Random(seed)
        return [mutate(rng, first.pick(rng).data, first.pick(rng).data, 8) for _ in range(200)]

    assert changed(1) == changed(1)
    assert changed(1) != changed(2)


def test_changes_leave_the_first_bytes_alone_and_are_changes() -> None:
    rng = random.Random(1)
    data = bytes(range(100))
    results = [mutate(rng, data, b"other" * 20, 10) for _ in range(500)]
    assert all(result[:10] == data[:10] for result in results)
    assert len(set(results)) > 400
    assert all(len(alter(rng, data, 10)) == 100 for _ in range(100))
    assert mutate(rng, b"", b"", 5) is not None


def test_answers_depend_on_the_request_and_the_seed_but_not_on_the_correlation_id() -> None:
    corpus = Corpus(1, {ApiKey.PRODUCE})
    data = corpus.requests[0].data
    again = data[:4] + b"\1\2\3\4" + data[8:]
    answer, other = Answers(corpus, 1).to(data)[0], Answers(corpus, 1).to(again)[0]
    assert answer[8:] == other[8:]
    assert other[4:8] in {b"\1\2\3\4", answer[4:8]}
    many = {Answers(corpus, seed).to(data)[0] for seed in range(20)}
    assert len(many) > 10


async def test_cases_end_connections_in_time() -> None:
    # What `play` relies on: half-closed, a connection ends once everything is answered.
    async with lab() as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.listener.ports[1])
        writer.write_eof()
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
