"""The ACLs of the client path's measurement: a thousand, of which the measured client needs a few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

COUNT: Final = 1000


def grant(settings: Mapping[str, str], user: str) -> None:
    """Makes them, as whoever `settings` log in: `user` may do what the measurement does, others something."""
    needed = [
        (ResourceType.TOPIC, "bench-", ResourcePatternType.PREFIXED),
        (ResourceType.TOPIC, "idle-", ResourcePatternType.PREFIXED),
        (ResourceType.GROUP, "bench", ResourcePatternType.LITERAL),
    ]
    bindings = [_allow(kind, name, pattern, user) for kind, name, pattern in needed]
    for number in range(COUNT - len(bindings)):
        # Some about the same topics, of all lengths; most about others.
        name = f"bench-{number}" if number % 10 else f"{'b' * (1 + number % 40)}{number}"
        pattern = ResourcePatternType.LITERAL if number % 2 else ResourcePatternType.PREFIXED
        bindings.append(_allow(ResourceType.TOPIC, name, pattern, f"somebody-{number % 50}"))
    admin = AdminClient(dict(settings))
    for future in admin.create_acls(bindings).values():
        future.result(60)


def _allow(kind: ResourceType, name: str, pattern: ResourcePatternType, user: str) -> AclBinding:
    return AclBinding(kind, name, pattern, f"User:{user}", "*", AclOperation.ALL, AclPermissionType.ALLOW)
