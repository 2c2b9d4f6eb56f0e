"""Frames that real clients and a real broker exchanged, from `data/`, one file per client and version."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RealFrame:
    """A request or response frame without its size."""

    client: str
    kind: str
    api_key: int
    version: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.client}-{self.kind}-{self.api_key}-v{self.version}"


def _read(path: Path) -> list[RealFrame]:
    rows = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    return [
        RealFrame(path.stem, kind, int(key), int(version), bytes.fromhex(data))
        for kind, key, version, data in rows
    ]


FRAMES = [frame for path in sorted((Path(__file__).parent / "data").glob("*.hex")) for frame in _read(path)]
REQUESTS = [frame for frame in FRAMES if frame.kind == "request"]
RESPONSES = [frame for frame in FRAMES if frame.kind == "response"]
