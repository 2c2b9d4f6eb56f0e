"""Takes files into use again when they change: certificates, keys, authorities, revocation lists, key sets.

Folders are watched with inotify, and every few seconds looked at as well: that finds what inotify does not
tell, such as links further up that lead elsewhere now, and stands in for it where it cannot be had. What
counts is what the files hold. New contents that cannot be used leave the old ones in use.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from watchfiles import awatch

from gateway import observe

log = structlog.get_logger(__name__)

LOOK_INTERVAL_S: Final = 5.0
_MAX_FILE_BYTES: Final = 16 << 20
# Several files that belong together are rarely written in one moment.
_SETTLE_MS: Final = 300
_STEP_MS: Final = 50


@dataclass(slots=True)
class _Watched:
    source: str
    files: tuple[Path, ...]
    reload: Callable[[], None]
    seen: bytes | None = None


class FileWatch:
    """The files of this process that may change while it runs; `run` watches them until cancelled."""

    def __init__(self, *, look_interval_s: float = LOOK_INTERVAL_S, notify: bool = True) -> None:
        self._look_interval_s = look_interval_s
        self._notify = notify
        self._watched: list[_Watched] = []

    def add(self, source: str, files: Iterable[Path | None], reload: Callable[[], None]) -> None:
        """Calls `reload`, in a thread, whenever one of the files holds something new, and once at the start.

        It raises if it cannot use what they hold. `source` names them in logs and metrics.
        """
        self._watched.append(_Watched(source, tuple(file for file in files if file is not None), reload))

    async def run(self) -> None:
        """Watches until it is cancelled."""
        if not self._watched:
            return
        await self._look()
        async for _ in self._wakes():
            await self._look()

    async def _wakes(self) -> AsyncIterator[None]:
        while True:
            if self._notify:
                try:
                    async for _ in awatch(
                        *self._folders(),
                        watch_filter=None,
                        debounce=_SETTLE_MS,
                        step=_STEP_MS,
                        rust_timeout=int(self._look_interval_s * 1000),
                        yield_on_timeout=True,
                        recursive=False,
                    ):
                        yield
                except (OSError, RuntimeError) as error:
                    # A folder that is gone for now, or no inotify watches left.
                    log.warning("files.not_watched", error=str(error), look_interval_s=self._look_interval_s)
            yield
            await asyncio.sleep(self._look_interval_s)

    def _folders(self) -> set[Path]:
        return {file.parent for watched in self._watched for file in watched.files}

    async def _look(self) -> None:
        for watched in self._watched:
            await asyncio.to_thread(_reload_if_new, watched)


def _reload_if_new(watched: _Watched) -> None:
    holds = _digest(watched.files)
    if holds == watched.seen:
        return
    first, watched.seen = watched.seen is None, holds
    try:
        watched.reload()
    except Exception as error:  # noqa: BLE001 - whatever it is, what is in use stays in use
        observe.reload_failures.labels(watched.source).inc()
        files = [str(file) for file in watched.files]
        log.error("files.not_reloaded", source=watched.source, files=files, error=str(error))
        return
    observe.reload_success_seconds.labels(watched.source).set_to_current_time()
    if not first:
        log.info("files.reloaded", source=watched.source)


def _digest(files: Iterable[Path]) -> bytes:
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as opened:
                content = opened.read(_MAX_FILE_BYTES)
        except OSError as error:
            content = f"cannot be read: {error.errno}".encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.digest()
