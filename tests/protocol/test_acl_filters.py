from __future__ import annotations

from typing import Any

import pytest

from protocol.acl_filters import AclFilter
from protocol.acls import Acl, Operation, PatternType, Permission, ResourceType

LITERAL = Acl(
    ResourceType.TOPIC, PatternType.LITERAL, "orders", "User:a", "h1", Operation.READ, Permission.ALLOW
)
PREFIXED = Acl(ResourceType.TOPIC, PatternType.PREFIXED, "ord", "User:b", "*", Operation.ALL, Permission.DENY)
WILDCARD = Acl(ResourceType.GROUP, PatternType.LITERAL, "*", "User:*", "*", Operation.READ, Permission.ALLOW)
ALL = [LITERAL, PREFIXED, WILDCARD]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ({}, ALL),
        ({"resource_type": ResourceType.TOPIC}, [LITERAL, PREFIXED]),
        ({"resource_type": ResourceType.USER}, []),
        ({"pattern_type": PatternType.LITERAL}, [LITERAL, WILDCARD]),
        ({"pattern_type": PatternType.PREFIXED}, [PREFIXED]),
        ({"pattern_type": PatternType.MATCH}, ALL),
        ({"name": "orders"}, [LITERAL]),
        ({"name": "ord"}, [PREFIXED]),
        ({"name": "*"}, [WILDCARD]),
        ({"name": "ord", "pattern_type": PatternType.LITERAL}, []),
        ({"name": "orders", "pattern_type": PatternType.PREFIXED}, []),
        ({"name": "orders", "pattern_type": PatternType.MATCH}, ALL),
        ({"name": "or", "pattern_type": PatternType.MATCH}, [WILDCARD]),
        ({"name": "order", "pattern_type": PatternType.MATCH}, [PREFIXED, WILDCARD]),
        (
            {"name": "orders", "pattern_type": PatternType.MATCH, "resource_type": ResourceType.GROUP},
            [WILDCARD],
        ),
        ({"principal": "User:a"}, [LITERAL]),
        ({"principal": "User:*"}, [WILDCARD]),
        ({"host": "h1"}, [LITERAL]),
        ({"host": "*"}, [PREFIXED, WILDCARD]),
        ({"operation": Operation.READ}, [LITERAL, WILDCARD]),
        ({"operation": Operation.ALL}, [PREFIXED]),
        ({"permission": Permission.DENY}, [PREFIXED]),
    ],
)
def test_which_are_meant(words: dict[str, Any], meant: list[Acl]) -> None:
    assert [acl for acl in ALL if AclFilter(**words).matches(acl)] == meant


@pytest.mark.parametrize(
    "words",
    [
        {"resource_type": ResourceType.UNKNOWN},
        {"pattern_type": PatternType.UNKNOWN},
        {"operation": Operation.UNKNOWN},
        {"permission": Permission.UNKNOWN},
    ],
)
def test_nothing_unknown(words: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="UNKNOWN"):
        AclFilter(**words)
