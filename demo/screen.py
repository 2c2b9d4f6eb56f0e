"""What the demo shows: steps, commands as they are typed, tables. Readable in a terminal and in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

# A pipe has no width of its own.
PIPE_COLUMNS: Final = 110
_BAR_COLUMNS: Final = 16


class DemoFailed(Exception):
    """Something is not as it must be; the text says what."""


class Screen:
    """The one place that prints."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=PIPE_COLUMNS)
        self._step = 0

    def title(self, text: str) -> None:
        """The first lines."""
        self.console.print(f"[bold]{text}[/]")

    def step(self, text: str) -> None:
        """The next thing that happens."""
        self._step += 1
        self.console.print()
        self.console.print(f"[bold cyan]{self._step}. {text}[/]")

    def note(self, text: str) -> None:
        """A sentence about what was just seen; may have markup."""
        self.console.print(f"   {text}", soft_wrap=True)

    def good(self, text: str) -> None:
        """Something that was checked."""
        self.console.print(Text.assemble("   ", ("✔ ", "green"), text), soft_wrap=True)

    def command(self, text: str) -> None:
        """A command as a reader would type it."""
        self.console.print(Text.assemble("   ", ("$ ", "dim"), (text, "bold")), soft_wrap=True)

    def output(self, text: str) -> None:
        """What a command or a file says."""
        for line in text.splitlines():
            if line.strip():
                self.console.print(Text(f"   {line.rstrip()}", "dim"), soft_wrap=True)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """A spinner while nothing can be shown yet; nothing in a pipe."""
        if self.console.is_terminal:
            with self.console.status(f"[dim]{text}[/]"):
                yield
        else:
            yield

    @contextmanager
    def live(self, progress: Progress) -> Iterator[None]:
        """A table that follows `progress`; in a pipe its last state."""
        if self.console.is_terminal:
            with Live(progress, console=self.console, refresh_per_second=10):
                yield
        else:
            yield
            self.console.print(progress)

    def failure(self, text: str) -> None:
        """Why the demo ends early."""
        self.console.print()
        self.console.print(Text.assemble(("✘ ", "bold red"), (text, "red")), soft_wrap=True)


@dataclass(frozen=True)
class Span:
    """First offset of a partition's log, and the one that the next record will get."""

    start: int = 0
    end: int = 0

    @property
    def count(self) -> int:
        """How many offsets there are."""
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.start:,}–{self.end - 1:,}" if self.count else "empty"


@dataclass
class Progress:
    """How far the mirror is, as a live table; partitions in order."""

    source: Sequence[Span]
    mirror: list[Span] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def done(self) -> bool:
        """Whether every partition has all of its source."""
        return list(self.mirror) == list(self.source)

    def __rich__(self) -> Table:
        table = _table("Partition", "Source", "offsets", "Mirror", "offsets", "Progress")
        mirror = self.mirror or [Span()] * len(self.source)
        for index, (ours, theirs) in enumerate(zip(self.source, mirror, strict=True)):
            _progress_row(table, str(index), ours.count, str(ours), theirs.count, str(theirs))
        table.add_section()
        total, copied = (sum(span.count for span in spans) for spans in (self.source, mirror))
        _progress_row(table, "all", total, "", copied, f"{self.seconds:.1f} s")
        return table


def _progress_row(
    table: Table, name: str, wanted: int, wanted_offsets: str, there: int, there_offsets: str
) -> None:
    bar = ProgressBar(total=max(1, wanted), completed=there, width=_BAR_COLUMNS)
    table.add_row(name, f"{wanted:,}", wanted_offsets, f"{there:,}", there_offsets, bar)


def equality_table(fields: Sequence[str], rows: Iterable[tuple[str, int, Sequence[int]]]) -> Table:
    """Per partition how many records there are, and how many agree in each field."""
    table = _table("Partition", "Records", *fields)
    all_records, all_equal = 0, [0] * len(fields)
    for name, records, equal in rows:
        table.add_row(name, f"{records:,}", *(_checked(count, records) for count in equal))
        all_records += records
        all_equal = [a + b for a, b in zip(all_equal, equal, strict=True)]
    table.add_section()
    table.add_row("all", f"{all_records:,}", *(_checked(count, all_records) for count in all_equal))
    return table


def _checked(count: int, wanted: int) -> Text:
    return Text(f"{count:,} ✔", "green") if count == wanted else Text(f"{count:,} ✘", "bold red")


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in {"Partition", "Progress"} else "right")
    return table
