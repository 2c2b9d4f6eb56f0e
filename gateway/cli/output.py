"""How the command line shows answers: tables for people, the API's JSON for programs."""

import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.console import Console
from rich.table import Table

# A table that goes into a file or a pipe is not cut to a screen.
_PIPE_COLUMNS: Final = 1000


class Output(StrEnum):
    """Forms of an answer."""

    HUMAN = "human"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("-o", "--output", help="human or json")]


def show_json(data: Any) -> None:
    """The data as the API gave it."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; None is shown as nothing."""
    table = Table(*columns, box=box.SIMPLE)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    console = _console()
    console.print(table, markup=False) if table.row_count else console.print("None.")


def show_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Names with their values, one per line."""
    table = Table(show_header=False, box=box.SIMPLE)
    for name, value in fields:
        table.add_row(name, "" if value is None else str(value))
    _console().print(table)


def _console() -> Console:
    console = Console(markup=False, highlight=False)
    return console if console.is_terminal else Console(markup=False, highlight=False, width=_PIPE_COLUMNS)
