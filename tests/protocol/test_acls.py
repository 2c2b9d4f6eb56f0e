from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.acls import Acl, Operation, PatternType, Permission, ResourceType

ACL = Acl(ResourceType.TOPIC, PatternType.LITERAL, "t", "User:a", "*", Operation.READ, Permission.ALLOW)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"resource_type": ResourceType.UNKNOWN}, "resource type UNKNOWN"),
        ({"resource_type": ResourceType.ANY}, "resource type ANY"),
        ({"pattern_type": PatternType.UNKNOWN}, "pattern type UNKNOWN"),
        ({"pattern_type": PatternType.ANY}, "pattern type ANY"),
        ({"pattern_type": PatternType.MATCH}, "pattern type MATCH"),
        ({"operation": Operation.UNKNOWN}, "operation UNKNOWN"),
        ({"operation": Operation.ANY}, "operation ANY"),
        ({"permission": Permission.UNKNOWN}, "permission UNKNOWN"),
        ({"permission": Permission.ANY}, "permission ANY"),
        ({"name": ""}, "name"),
        ({"principal": "alice"}, "Type:name"),
        ({"principal": ""}, "Type:name"),
    ],
)
def test_what_is_no_acl(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(ACL, **change)  # type: ignore[arg-type]


def test_a_principal_may_have_an_empty_name() -> None:
    assert replace(ACL, principal="User:").principal == "User:"
    # Kafka takes this too; nobody is it.
    assert replace(ACL, principal=":a").principal == ":a"
