"""`sasl.jaas.config`: one JAAS login module with its options (Kafka's JaasConfig), for PLAIN and SCRAM."""

import re
from dataclasses import dataclass, field
from typing import Final

_TOKEN: Final = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/)
    |(?P<quoted>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<word>[\w.$-]+)
    |(?P<sign>[=;])""",
    re.VERBOSE | re.DOTALL,
)
# java.io.StreamTokenizer's escapes inside quotes.
_ESCAPE: Final = re.compile(r"\\([0-3][0-7]{1,2}|[0-7]{1,2}|.)", re.DOTALL)
_LETTERS: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_FLAGS: Final = frozenset({"required", "requisite", "sufficient", "optional"})


class JaasError(ValueError):
    """The JAAS config is malformed. The text never quotes it, since it holds a password."""


@dataclass(frozen=True, slots=True)
class LoginModule:
    """The module's class name and its options."""

    name: str
    options: dict[str, str] = field(repr=False)


def parse_jaas(text: str) -> LoginModule:
    """The only login module of a JAAS config. JaasError."""
    tokens = _tokens(text)
    if len(tokens) < 2 or tokens[1].lower() not in _FLAGS:
        raise JaasError("it must begin with a login module and its control flag, like `... required`")
    if tokens[-1] != ";" or tokens.count(";") != 1:
        raise JaasError("it must be one login module and end with `;`")
    name, options = tokens[0], tokens[2:-1]
    if len(options) % 3 or any(sign != "=" for sign in options[1::3]):
        raise JaasError('after the control flag it must have options of the form name="value"')
    return LoginModule(name, dict(zip(options[::3], map(_text, options[2::3]), strict=True)))


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise JaasError(f"character {at + 1} is not expected there, or a quote is not closed")
        if match.lastgroup != "skip":
            tokens.append(match[0])
        at = match.end()
    return tokens


def _text(token: str) -> str:
    if token[0] not in "'\"":
        return token
    return _ESCAPE.sub(
        lambda m: chr(int(m[1], 8)) if m[1].isdigit() and m[1] < "8" else _LETTERS.get(m[1], m[1]),
        token[1:-1],
    )
