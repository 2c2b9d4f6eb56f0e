"""Questions and answers between worker processes, here all in one."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.peers import ALONE, Answer, NoAnswer, Peers, PeerSilent, Worker


def saying(text: str) -> Answer:
    async def answer() -> str:
        return text

    return answer


@asynccontextmanager
async def serving(worker: Worker, answers: Mapping[str, Answer]) -> AsyncIterator[Peers]:
    peers = Peers(worker)
    await peers.serve(answers)
    try:
        yield peers
    finally:
        await peers.close()


async def test_every_other_worker_is_asked(tmp_path: Path) -> None:
    first = Peers(Worker(0, 3, tmp_path))
    async with (
        serving(Worker(1, 3, tmp_path), {"who": saying("one\nof three")}),
        serving(Worker(2, 3, tmp_path), {"who": saying("")}),
    ):
        assert await first.ask_others("who", timeout_s=5) == {1: "one\nof three", 2: ""}


async def test_one_that_is_not_there_is_silent(tmp_path: Path) -> None:
    answers = await Peers(Worker(0, 2, tmp_path)).ask_others("who", timeout_s=5)
    assert isinstance(answers[1], PeerSilent)
    assert str(answers[1]) == "worker 1 does not answer"


async def test_one_that_takes_too_long_is_silent(tmp_path: Path) -> None:
    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    async with serving(Worker(1, 2, tmp_path), {"who": never}):
        with pytest.raises(PeerSilent):
            await Peers(Worker(0, 2, tmp_path)).ask(1, "who", timeout_s=0.1)


async def test_an_unknown_question_gets_no_answer(tmp_path: Path) -> None:
    async with serving(Worker(1, 2, tmp_path), {"who": saying("me")}):
        with pytest.raises(PeerSilent):
            await Peers(Worker(0, 2, tmp_path)).ask(1, "why", timeout_s=5)


async def test_an_endless_question_gets_no_answer(tmp_path: Path) -> None:
    async with serving(Worker(1, 2, tmp_path), {"who": saying("me")}) as peers:
        with pytest.raises(PeerSilent):
            await peers.ask(1, "w" * 1000, timeout_s=5)


async def test_an_answer_that_is_cut_off_is_none(tmp_path: Path) -> None:
    def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"half an answer\n")
        writer.close()

    server = await asyncio.start_unix_server(cut, tmp_path / "worker-1.sock")
    with pytest.raises(PeerSilent):
        await Peers(Worker(0, 2, tmp_path)).ask(1, "who", timeout_s=5)
    server.close()


async def test_a_worker_that_was_started_again_takes_over_its_socket(tmp_path: Path) -> None:
    (tmp_path / "worker-1.sock").touch()
    async with serving(Worker(1, 2, tmp_path), {"who": saying("me")}):
        assert await Peers(Worker(0, 2, tmp_path)).ask(1, "who", timeout_s=5) == "me"


async def test_alone_there_is_nobody_to_ask() -> None:
    async with serving(ALONE, {}) as peers:
        assert await peers.ask_others("who", timeout_s=5) == {}
        with pytest.raises(PeerSilent):
            await peers.ask(1, "who", timeout_s=5)


async def test_all_are_asked_until_each_has_answered(tmp_path: Path) -> None:
    first = Peers(Worker(0, 3, tmp_path))
    asked = 0

    async def not_yet() -> str:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise NoAnswer("not yet")
        return "yes"

    async with serving(Worker(1, 3, tmp_path), {"there": not_yet}):
        hearing = asyncio.get_running_loop().create_task(first.hear_all("there", timeout_s=10))
        await asyncio.sleep(0.3)
        assert not hearing.done()
        async with serving(Worker(2, 3, tmp_path), {"there": saying("yes")}):
            assert await hearing
    assert asked == 3


async def test_one_that_never_answers_is_not_waited_for_longer(tmp_path: Path) -> None:
    async with serving(Worker(1, 3, tmp_path), {"there": saying("yes")}):
        assert not await Peers(Worker(0, 3, tmp_path)).hear_all("there", timeout_s=0.3)


async def test_alone_all_have_answered() -> None:
    assert await Peers(ALONE).hear_all("there", timeout_s=0)
