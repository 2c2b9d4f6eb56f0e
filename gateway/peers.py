"""What the worker processes of one gateway tell each other, over Unix sockets in a directory of their own.

A question is one line, its answer everything up to the end of the connection. Every worker answers; the
first, which has the links and the admin address, asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from gateway.tasks import Tasks

log = structlog.get_logger(__name__)

Answer = Callable[[], Awaitable[str]]

# Of a gateway, or a worker, that cannot work, whatever happens, and has said why.
EXIT_FAILED: Final = 1

_MAX_QUESTION_BYTES: Final = 100
_ASK_AGAIN_S: Final = 0.1
_ANSWER_WITHIN_S: Final = 60.0


class NoAnswer(Exception):
    """Raised by an answer that cannot be given; whoever asks finds the worker silent."""


class PeerSilent(Exception):
    """A worker gave no answer, or none in time: it has ended, or is too busy."""


@dataclass(frozen=True, slots=True)
class Worker:
    """The place of a process among the `count` workers of a gateway; `directory` has their sockets."""

    index: int = 0
    count: int = 1
    directory: Path | None = None

    @property
    def is_first(self) -> bool:
        """Whether it has the links and the admin address."""
        return self.index == 0

    @property
    def others(self) -> range:
        """All but the first."""
        return range(1, self.count)


# The one process of a gateway without workers.
ALONE: Final = Worker()


class Peers:
    """This worker's end. Without a directory there is nobody to talk to."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._tasks = Tasks("peers")
        self._server: asyncio.Server | None = None

    async def serve(self, answers: Mapping[str, Answer]) -> None:
        """Answers these questions until `close`. OSError."""
        if self._worker.directory is None:
            return

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._tasks.spawn(self._answer(answers, reader, writer), name="answer")

        path = _socket(self._worker.directory, self._worker.index)
        # One that ended in no order has left it.
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(connected, path, limit=_MAX_QUESTION_BYTES)

    async def close(self) -> None:
        """Answers no more. Idempotent."""
        if self._server is not None:
            self._server.close()
        await self._tasks.close()

    async def ask(self, index: int, question: str, *, timeout_s: float) -> str:
        """What that worker answers; PeerSilent."""
        if self._worker.directory is None:
            raise PeerSilent(f"worker {index} is not there")
        try:
            async with asyncio.timeout(timeout_s):
                return await _ask(_socket(self._worker.directory, index), question)
        except (OSError, EOFError) as error:
            # TimeoutError is an OSError.
            raise PeerSilent(f"worker {index} does not answer") from error

    async def ask_others(self, question: str, *, timeout_s: float) -> dict[int, str | PeerSilent]:
        """What every worker but the first answers, asked at the same time."""
        others = self._worker.others
        answers = await asyncio.gather(
            *(self.ask(index, question, timeout_s=timeout_s) for index in others), return_exceptions=True
        )
        found: dict[int, str | PeerSilent] = {}
        for index, answer in zip(others, answers, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, PeerSilent):
                raise answer
            found[index] = answer
        return found

    async def hear_all(self, question: str, *, timeout_s: float) -> bool:
        """Asks every worker but the first until each has answered; False if one has not in time."""
        deadline = time.monotonic() + timeout_s
        missing = set(self._worker.others)
        while missing:
            for index in sorted(missing):
                with contextlib.suppress(PeerSilent):
                    await self.ask(index, question, timeout_s=max(deadline - time.monotonic(), 0.0))
                    missing.discard(index)
            if time.monotonic() >= deadline:
                break
            if missing:
                await asyncio.sleep(_ASK_AGAIN_S)
        return not missing

    async def _answer(
        self, answers: Mapping[str, Answer], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                question = (await reader.readline()).decode().strip()
                answer = await answers[question]()
                # An answer that was cut off must not look whole.
                writer.write(f"{answer}\n.\n".encode())
                await writer.drain()
        except (OSError, ValueError, KeyError, NoAnswer) as error:
            log.debug("peer.not_answered", error=repr(error))
        finally:
            writer.close()


async def _ask(path: Path, question: str) -> str:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(f"{question}\n".encode())
        answer = (await reader.read(-1)).decode()
    finally:
        writer.close()
    if not answer.endswith("\n.\n"):
        raise EOFError
    return answer.removesuffix("\n.\n")


def _socket(directory: Path, index: int) -> Path:
    return directory / f"worker-{index}.sock"
