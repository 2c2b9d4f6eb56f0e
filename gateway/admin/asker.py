"""Who sends a request to the REST API, and what that one may do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.links.errors import LinkError
from gateway.security.acls import Acls
from protocol.acls import CLUSTER_NAME, Operation, ResourceType

# Where the gate puts who asks into the ASGI scope.
ASKER: Final = "causeway.asker"


@dataclass(frozen=True, slots=True)
class Asker:
    """Who sent a request to the REST API, and what decides about it: without `acls` everything is allowed."""

    principal: str
    host: str = ""
    is_super_user: bool = False
    acls: Callable[[], Acls | None] | None = None

    def may(self, operation: Operation, resource_type: ResourceType, name: str) -> bool:
        """Whether that is allowed; LinkError 503 if the ACLs are not known now."""
        if self.acls is None or self.is_super_user:
            return True
        acls = self.acls()
        if acls is None:
            raise LinkError(503, 50003, "The ACLs are not known: the state has not been read for too long.")
        return acls.allows(self.principal, self.host, operation, resource_type, name)

    def may_cluster(self, operation: Operation) -> bool:
        """The same for the cluster."""
        return self.may(operation, ResourceType.CLUSTER, CLUSTER_NAME)

    def may_topic(self, operation: Operation, topic: str) -> bool:
        """The same for a topic."""
        return self.may(operation, ResourceType.TOPIC, topic)

    def may_create_topic(self, topic: str) -> bool:
        """As CreateTopics: CREATE on the cluster will do, too."""
        return self.may_cluster(Operation.CREATE) or self.may_topic(Operation.CREATE, topic)
