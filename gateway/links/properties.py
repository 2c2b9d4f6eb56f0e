"""Java properties files, as java.util.Properties.load reads them: link config files come in this form."""

import re
from typing import Final

_BLANK: Final = " \t\f"
_ESCAPES: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_ESCAPE: Final = re.compile(r"\\(u([0-9a-fA-F]{4})?|.)", re.DOTALL)


class PropertiesError(ValueError):
    """The text is not a properties file; says in which line."""


def parse_properties(text: str) -> dict[str, str]:
    """Keys and values, the last of equal keys winning. PropertiesError."""
    found: dict[str, str] = {}
    for number, line in _logical_lines(text):
        key_end = _key_end(line)
        rest = line[key_end:].lstrip(_BLANK)
        if rest[:1] in {"=", ":"}:
            rest = rest[1:].lstrip(_BLANK)
        found[_unescape(line[:key_end], number)] = _unescape(rest, number)
    return found


def _logical_lines(text: str) -> list[tuple[int, str]]:
    lines: list[tuple[int, str]] = []
    begun = ""
    begun_at = 0
    is_continued = False
    naturals = re.split(r"\r\n|\r|\n", text)
    for number, natural in enumerate(naturals, 1):
        # The end of a text right behind a line is no line of its own.
        if number == len(naturals) and not natural:
            break
        line = natural.lstrip(_BLANK)
        # As long as nothing stands in it, a line that was continued is still at its beginning.
        if not begun:
            is_continued = False
            if not line or line[0] in "#!":
                continue
            begun_at = number
        is_continued = (len(line) - len(line.rstrip("\\"))) % 2 == 1
        begun += line[:-1] if is_continued else line
        if not is_continued:
            lines.append((begun_at, begun))
            begun = ""
    # Java takes a lone backslash at the end for a line with nothing in it, but not before CR LF.
    if begun or (is_continued and not text.endswith("\r\n")):
        lines.append((begun_at, begun))
    return lines


def _key_end(line: str) -> int:
    at = 0
    while at < len(line) and line[at] not in "=: \t\f":
        at += 2 if line[at] == "\\" else 1
    return min(at, len(line))


def _unescape(text: str, line: int) -> str:
    def replace(match: re.Match[str]) -> str:
        escape = match[1]
        if escape[0] == "u":
            if match[2] is None:
                raise PropertiesError(f"line {line}: \\u needs four hexadecimal digits")
            return chr(int(match[2], 16))
        return _ESCAPES.get(escape, escape)

    return _ESCAPE.sub(replace, text)
