"""Watched files: exchanged, overwritten, swapped by links, half written, gone and back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway import observe, reload
from gateway.reload import FileWatch


class Reader:
    """Takes files into use, unless one says that it is broken."""

    def __init__(self, *files: Path) -> None:
        self.files = files
        self.taken: list[str] = []

    def reload(self) -> None:
        text = "+".join(file.read_text() for file in self.files)
        if "broken" in text:
            raise ValueError(f"{text} cannot be used")
        self.taken.append(text)


@contextlib.asynccontextmanager
async def watching(reader: Reader, source: str, *, notify: bool = True) -> AsyncIterator[None]:
    watch = FileWatch(look_interval_s=60 if notify else 0.05, notify=notify)
    watch.add(source, reader.files, reader.reload)
    running = asyncio.create_task(watch.run())
    try:
        await until(lambda: bool(reader.taken))
        # Until inotify has begun to watch.
        await asyncio.sleep(0.5 if notify else 0)
        yield
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


def failures(source: str) -> float:
    return observe.registry.get_sample_value("causeway_reload_failures_total", {"source": source}) or 0.0


either_way = pytest.mark.parametrize("notify", [True, False], ids=["inotify", "looking"])


@either_way
async def test_what_is_overwritten_or_replaced_is_taken(tmp_path: Path, notify: bool) -> None:
    file = tmp_path / "a.pem"
    file.write_text("one")
    reader = Reader(file)
    async with watching(reader, "test-replaced", notify=notify):
        file.write_text("two")
        await until(lambda: reader.taken[-1] == "two")
        (tmp_path / "new").write_text("three")
        (tmp_path / "new").rename(file)
        await until(lambda: reader.taken[-1] == "three")
    assert reader.taken == ["one", "two", "three"]
    assert observe.registry.get_sample_value(
        "causeway_reload_success_timestamp_seconds", {"source": "test-replaced"}
    )


@either_way
async def test_folders_that_kubernetes_swaps_are_followed(tmp_path: Path, notify: bool) -> None:
    for number in ("1", "2"):
        (tmp_path / f"..data_{number}").mkdir()
        (tmp_path / f"..data_{number}" / "tls.crt").write_text(number)
    (tmp_path / "..data").symlink_to("..data_1")
    (tmp_path / "tls.crt").symlink_to("..data/tls.crt")
    reader = Reader(tmp_path / "tls.crt")
    async with watching(reader, "test-kubernetes", notify=notify):
        (tmp_path / "..data_tmp").symlink_to("..data_2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        await until(lambda: reader.taken[-1] == "2")


async def test_what_cannot_be_used_is_said_once_and_leaves_the_old(tmp_path: Path) -> None:
    certificate, key = tmp_path / "a.pem", tmp_path / "a.key"
    certificate.write_text("one")
    key.write_text("one")
    reader = Reader(certificate, key)
    with capture_logs() as logs:
        async with watching(reader, "test-broken", notify=False):
            certificate.write_text("broken")
            await until(lambda: failures("test-broken") == 1)
            await asyncio.sleep(0.3)
            assert failures("test-broken") == 1, "the same contents are not tried again"
            certificate.unlink()
            await until(lambda: failures("test-broken") == 2)
            assert reader.taken == ["one+one"]
            certificate.write_text("two")
            await until(lambda: reader.taken[-1] == "two+one")
            key.write_text("two")
            await until(lambda: reader.taken[-1] == "two+two")
    errors = [entry for entry in logs if entry["event"] == "files.not_reloaded"]
    assert [entry["log_level"] for entry in errors] == ["error", "error"]
    assert errors[0]["error"] == "broken+one cannot be used"


async def test_touching_a_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.pem"
    file.write_text("one")
    reader = Reader(file)
    async with watching(reader, "test-touched", notify=False):
        file.touch()
        file.write_text("one")
        await asyncio.sleep(0.3)
    assert reader.taken == ["one"]


async def test_without_inotify_files_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuses(*_: object, **__: object) -> AsyncIterator[None]:
        for _each in (1,):
            raise OSError("inotify watch limit reached")
        yield

    monkeypatch.setattr(reload, "awatch", refuses)
    file = tmp_path / "a.pem"
    file.write_text("one")
    reader = Reader(file)
    watch = FileWatch(look_interval_s=0.05)
    watch.add("test-no-inotify", reader.files, reader.reload)
    with capture_logs() as logs:
        running = asyncio.create_task(watch.run())
        await until(lambda: bool(reader.taken))
        file.write_text("two")
        await until(lambda: reader.taken[-1] == "two")
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert "files.not_watched" in {entry["event"] for entry in logs}


async def test_with_nothing_to_watch_nothing_runs() -> None:
    async with asyncio.timeout(1):
        await FileWatch().run()
