"""`consumer.offset.group.filters`: which groups of the source a link takes over.

EXCLUDE wins over INCLUDE; without an INCLUDE that matches nothing is taken. `*` LITERAL means all.
"""

import json
from dataclasses import dataclass
from typing import Final

ALL: Final = "*"


@dataclass(frozen=True, slots=True)
class NameFilters:
    """Names and prefixes that are included, and those that are not in spite of it."""

    literals: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    not_literals: frozenset[str] = frozenset()
    not_prefixes: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, field: str = "groupFilters") -> "NameFilters":
        """Of the config's JSON, which was checked when it was set; an empty text includes nothing."""
        found: dict[tuple[str, str], list[str]] = {}
        for entry in json.loads(text)[field] if text.strip() else ():
            kind = (str(entry["filterType"]).upper(), str(entry["patternType"]).upper())
            name = entry["name"]
            if kind[1] == "LITERAL" and name == ALL:
                kind, name = (kind[0], "PREFIXED"), ""
            found.setdefault(kind, []).append(name)
        return cls(
            frozenset(found.get(("INCLUDE", "LITERAL"), ())),
            tuple(found.get(("INCLUDE", "PREFIXED"), ())),
            frozenset(found.get(("EXCLUDE", "LITERAL"), ())),
            tuple(found.get(("EXCLUDE", "PREFIXED"), ())),
        )

    @property
    def includes_nothing(self) -> bool:
        """Whether no name can match."""
        return not self.literals and not self.prefixes

    def includes(self, name: str) -> bool:
        """Whether this name matches an INCLUDE and no EXCLUDE."""
        if name in self.not_literals or name.startswith(self.not_prefixes):
            return False
        return name in self.literals or name.startswith(self.prefixes)
