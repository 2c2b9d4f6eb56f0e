"""What a fuzz has found, as files: the frames of one connection, and what the broker answered to each.

    # what went wrong
    request 0000000a...
    response 00000008...

Bytes are hexadecimal, with the sizes before the frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

DIRECTORY: Final = Path(__file__).parent / "finds"


@dataclass(frozen=True)
class Case:
    """One find."""

    what: str
    requests: list[bytes]
    responses: list[bytes]

    def text(self) -> str:
        """The content of its file."""
        lines = [f"# {self.what}"]
        lines += [f"request {data.hex()}" for data in self.requests]
        lines += [f"response {data.hex()}" for data in self.responses]
        return "\n".join(lines) + "\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the content of a file."""
        what, *lines = text.splitlines()
        frames: dict[str, list[bytes]] = {"request": [], "response": []}
        for line in lines:
            kind, _, data = line.partition(" ")
            frames[kind].append(bytes.fromhex(data))
        return cls(what.removeprefix("# "), frames["request"], frames["response"])


def cases() -> list[tuple[str, Case]]:
    """Every case that is kept, with the name of its file."""
    return [(path.name, Case.parse(path.read_text())) for path in sorted(DIRECTORY.glob("*.case"))]
