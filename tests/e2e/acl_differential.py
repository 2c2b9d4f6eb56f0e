"""`make acl-differential`: what this gateway decides and answers about ACLs, against real Kafka, in full.

The last line of what it prints has the figures; the differences stand before it, and end it with 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Final

from tests.e2e import acl_comparison, real_authorizer

_CASES: Final = 200_000
_SHOWN: Final = 20


def authorizer() -> Mapping[str, int]:
    """Random cases against the class StandardAuthorizer."""
    found = real_authorizer.compare(_CASES, seed=2, timeout_s=600)
    for case in found.differences[:_SHOWN]:
        print(f"differs from StandardAuthorizer: {case}")
    return {"authorizer_cases": found.cases, "authorizer_differences": len(found.differences)}


PARTS: Final[tuple[Callable[[], Mapping[str, int]], ...]] = (authorizer, acl_comparison.full)


def main() -> int:
    """Runs every part; 1 if anything differed."""
    figures: dict[str, int] = {}
    for part in PARTS:
        figures.update(part())
    print(" ".join(f"{name}={value}" for name, value in figures.items()))
    return int(any(value for name, value in figures.items() if name.endswith("_differences")))


if __name__ == "__main__":
    sys.exit(main())
