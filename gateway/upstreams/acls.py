"""DescribeAcls 1 to 3 (KIP-290): the ACLs of a cluster with an authorizer of its own."""

from __future__ import annotations

from typing import Any

from gateway.upstreams.cluster import Cluster
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import KafkaError
from protocol.acl_filters import AclFilter
from protocol.acls import Acl, Operation, PatternType, Permission, ResourceType
from protocol.api_keys import ApiKey
from protocol.messages import request_class


class StrangeAcl(Exception):
    """The cluster has an ACL that cannot be one, or that speaks of what this version does not know."""


async def describe_acls(
    cluster: Cluster, wanted: AclFilter, *, limit: int, timeout_s: float = 30
) -> set[Acl]:
    """The ACLs that a filter means, as the cluster says. KafkaError, StrangeAcl, and what `Cluster` raises.

    StrangeAcl too for more than `limit` of them. Not more than what was asked for is answered, whatever the
    cluster sends.
    """

    def message(connection: BrokerConnection) -> Any:
        request = request_class(ApiKey.DESCRIBE_ACLS, connection.pick_version(ApiKey.DESCRIBE_ACLS, 1, 3))
        return request(
            resource_type_filter=wanted.resource_type,
            resource_name_filter=wanted.name,
            pattern_type_filter=wanted.pattern_type,
            principal_filter=wanted.principal,
            host_filter=wanted.host,
            operation=wanted.operation,
            permission_type=wanted.permission,
        )

    response = await cluster.request(message, timeout_s=timeout_s, idempotent=True)
    if response.error_code:
        raise KafkaError(response.error_code, f"describing ACLs: {response.error_message or 'refused'}")
    count = sum(len(resource.acls) for resource in response.resources)
    if count > limit:
        raise StrangeAcl(f"the cluster has {count} ACLs of those that are wanted, more than {limit}")
    found = (_acl(resource, entry) for resource in response.resources for entry in resource.acls)
    return {acl for acl in found if wanted.matches(acl)}


def _acl(resource: Any, entry: Any) -> Acl:
    try:
        return Acl(
            ResourceType(resource.resource_type),
            PatternType(resource.pattern_type),
            resource.resource_name,
            entry.principal,
            entry.host,
            Operation(entry.operation),
            Permission(entry.permission_type),
        )
    except ValueError as error:
        raise StrangeAcl(f"an ACL about {resource.resource_name[:100]!r}: {error}") from None
