"""The names of client certificates by Kafka's `ssl.principal.mapping.rules` (KIP-371, SslPrincipalMapper).

    DEFAULT | RULE:pattern/replacement/[LU], ...

The first rule whose pattern matches the whole distinguished name gives the name. Rules are split, checked and
applied as Kafka does. Patterns are Java's; what Python's `re` would read otherwise is refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

DEFAULT_RULES: Final = "DEFAULT"

_RULE: Final = r"(DEFAULT)|RULE:((?:\\.|[^\\/])*)\/((?:\\.|[^\\/])*)\/([LU]?).*?|(.*?)"
_SPLITTER: Final = re.compile(rf"\s*({_RULE})\s*(,\s*|$)")
_PARSER: Final = re.compile(_RULE)
_ESCAPE: Final = re.compile(r"\\.")
_DIGITS: Final = re.compile(r"[0-9]+")
# Java's `.` and `$` stop at these, Python's only at \n; no honest certificate has one of them in its name.
_LINE_ENDS: Final = frozenset("\n\r\u0085\u2028\u2029")
_CASES: Final[dict[str, Callable[[str], str]]] = {"": str, "L": str.lower, "U": str.upper}


class NoMatchingRule(ValueError):
    """No rule gives that certificate a name."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """`pattern` None is DEFAULT; `replacement` is text and group numbers."""

    pattern: re.Pattern[str] | None
    replacement: tuple[str | int, ...] = ()
    change_case: Callable[[str], str] = str

    def apply(self, name: str) -> str | None:
        if self.pattern is None:
            return name
        if self.pattern.fullmatch(name) is None:
            return None
        return self.change_case(self.pattern.sub(self._expand, name))

    def _expand(self, match: re.Match[str]) -> str:
        return "".join(part if isinstance(part, str) else match[part] or "" for part in self.replacement)


class PrincipalMapper:
    """The rules of one listener; ValueError says which of them cannot be used and why."""

    def __init__(self, rules: str = DEFAULT_RULES) -> None:
        self._rules = [rule for text in _split(rules) if (rule := _parse(text)) is not None]

    def name(self, distinguished_name: str) -> str:
        """The name in the principal; NoMatchingRule."""
        breaks_lines = not _LINE_ENDS.isdisjoint(distinguished_name)
        for rule in self._rules:
            if breaks_lines and rule.pattern is not None:
                break
            name = rule.apply(distinguished_name)
            if name is not None:
                return name
        raise NoMatchingRule(f"no principal mapping rule applies to {distinguished_name!r}")


def _split(rules: str) -> list[str]:
    return [match[1] for match in _SPLITTER.finditer(rules.strip())]


def _parse(text: str) -> _Rule | None:
    match = _PARSER.match(text)
    if match is None or match.end() != len(text):
        rest = text if match is None else text[match.end() :]
        raise ValueError(f"invalid rule: {text!r}, unmatched substring: {rest!r}")
    if match[1] is not None:
        return _Rule(None)
    if match[2] is None:
        return None
    pattern = _compile(match[2], text)
    return _Rule(pattern, _replacement(match[3], pattern.groups, text), _CASES[match[4]])


def _compile(pattern: str, rule: str) -> re.Pattern[str]:
    if r"\Z" in _ESCAPE.findall(pattern):
        raise ValueError(f"invalid rule: {rule!r}: its pattern is not supported: use $ instead of \\Z")
    try:
        with warnings.catch_warnings():
            # Python warns of class operations such as [a&&b], which Java has and it has not.
            warnings.simplefilter("error", FutureWarning)
            # Java's classes \d \w \s and (?i) know ASCII only.
            return re.compile(pattern, re.ASCII)
    except (re.error, FutureWarning, OverflowError) as error:
        raise ValueError(f"invalid rule: {rule!r}: its pattern is not supported: {error}") from error


def _replacement(text: str, groups: int, rule: str) -> tuple[str | int, ...]:
    """Text and group numbers of a replacement, by the rules of Java's Matcher.appendReplacement."""
    parts: list[str | int] = []
    index = 0
    while index < len(text):
        if text[index] == "\\":
            # The splitter lets no backslash stand alone.
            parts.append(text[index + 1])
            index += 2
            continue
        if text[index] != "$":
            parts.append(text[index])
            index += 1
            continue
        digits = _DIGITS.match(text, index + 1)
        if digits is None:
            raise ValueError(f"invalid rule: {rule!r}: a $ in its replacement is followed by no group number")
        index, part = _group(digits[0], index + 1, groups)
        if isinstance(part, int) and part > groups:
            raise ValueError(f"invalid rule: {rule!r}: its pattern has no group {part}")
        parts.append(part)
    return tuple(parts)


def _group(digits: str, start: int, groups: int) -> tuple[int, str | int]:
    """Where the text goes on after a `$` with these digits, and the group or text that it stands for."""
    number, used = int(digits[0]), 1
    if groups and number > groups:
        # Kafka's escapeLiteralBackReferences: what is no group is text, if there are groups at all.
        return start, "$"
    while used < len(digits) and number * 10 + int(digits[used]) <= groups:
        number = number * 10 + int(digits[used])
        used += 1
    return start + used, number
