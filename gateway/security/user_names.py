"""Which names and passwords users may have, whoever makes them."""

from __future__ import annotations

import re
from typing import Final

# A colon ends the name in HTTP Basic; a NUL ends name and password in SASL PLAIN.
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f:]{1,255}")
_RESERVED: Final = "_causeway"
_NOBODY: Final = "ANONYMOUS"


def name_refusal(name: str) -> str | None:
    """Why nobody can have that name, None if somebody can."""
    if _NAME.fullmatch(name) and not name.startswith(_RESERVED) and name != _NOBODY:
        return None
    return (
        "The user name must have 1 to 255 characters without ':' and control characters,"
        f" not begin with {_RESERVED}, and not be {_NOBODY}."
    )
