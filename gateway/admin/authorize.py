"""Which permission each route of the REST API needs, as Confluent's security page has it for cluster links.

DESCRIBE, ALTER and ALTER_CONFIGS on the cluster for links, their groups and ACLs, CREATE and ALTER on the
topic for mirror topics. A route without a row is for super users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import Depends, Request

from gateway.admin import views
from gateway.admin.asker import ASKER, Asker
from gateway.admin.gate import OPEN_PATHS
from gateway.links.errors import LinkError
from protocol.acls import Operation

_CLUSTER: Final = f"{views.API}/{{cluster_id}}"
_LINKS: Final = f"{_CLUSTER}/links"
_ACLS: Final = f"{_CLUSTER}/acls"
_GROUPS: Final = "/causeway/v1/links/{link_name}/groups"
_USERS: Final = "/causeway/v1/users"
# What must be allowed on the cluster; None: whoever is known may, or the route asks about topics itself.
NEEDS: Final[Mapping[tuple[str, str], Operation | None]] = {
    ("GET", views.API): None,
    ("GET", _CLUSTER): None,
    ("GET", _LINKS): Operation.DESCRIBE,
    ("POST", _LINKS): Operation.ALTER,
    ("GET", f"{_LINKS}/{{link_name}}"): Operation.DESCRIBE,
    ("DELETE", f"{_LINKS}/{{link_name}}"): Operation.ALTER,
    ("GET", f"{_LINKS}/{{link_name}}/configs"): Operation.DESCRIBE_CONFIGS,
    ("GET", f"{_LINKS}/{{link_name}}/configs/{{config_name}}"): Operation.DESCRIBE_CONFIGS,
    ("PUT", f"{_LINKS}/{{link_name}}/configs/{{config_name}}"): Operation.ALTER_CONFIGS,
    ("DELETE", f"{_LINKS}/{{link_name}}/configs/{{config_name}}"): Operation.ALTER_CONFIGS,
    ("PUT", f"{_LINKS}/{{link_name}}/configs:alter"): Operation.ALTER_CONFIGS,
    ("GET", f"{_LINKS}/-/mirrors"): Operation.DESCRIBE,
    ("GET", f"{_LINKS}/{{link_name}}/mirrors"): Operation.DESCRIBE,
    ("GET", f"{_LINKS}/{{link_name}}/mirrors/{{mirror_topic_name}}"): Operation.DESCRIBE,
    ("POST", f"{_LINKS}/{{link_name}}/mirrors"): None,
    ("POST", f"{_LINKS}/{{link_name}}/mirrors:{{verb}}"): None,
    ("GET", _GROUPS): Operation.DESCRIBE,
    ("POST", f"{_GROUPS}:describe"): Operation.DESCRIBE,
    ("POST", f"{_GROUPS}:move"): Operation.ALTER,
    ("POST", f"{_GROUPS}:follow"): Operation.ALTER,
    ("GET", _ACLS): Operation.DESCRIBE,
    ("POST", _ACLS): Operation.ALTER,
    ("POST", f"{_ACLS}:batch"): Operation.ALTER,
    ("DELETE", _ACLS): Operation.ALTER,
    ("POST", f"{_ACLS}:import"): Operation.ALTER,
    # As Kafka has it for the credentials of users.
    ("GET", _USERS): Operation.DESCRIBE,
    ("POST", _USERS): Operation.ALTER,
    ("DELETE", f"{_USERS}/{{name}}"): Operation.ALTER,
}


def asker_of(request: Request) -> Asker:
    """Who asks, as the gate found it."""
    asker: Asker = request.scope[ASKER]
    return asker


By = Annotated[Asker, Depends(asker_of)]


def refused(asker: Asker, operation: Operation, resource: str) -> LinkError:
    """The refusal of a permission that is missing: 403, as Confluent's 40301."""
    return LinkError(
        403, 40301, f"{asker.principal} may not do this: it needs {operation.name} on {resource}."
    )


async def authorize(request: Request) -> None:
    """Before every route: LinkError 403 unless whoever asks may."""
    path = request.scope["route"].path
    if path in OPEN_PATHS:
        return
    asker = asker_of(request)
    key = (request.method, path)
    if key not in NEEDS:
        if asker.acls is not None and not asker.is_super_user:
            raise LinkError(403, 40301, f"{asker.principal} is not a super user of this gateway.")
        return
    needed = NEEDS[key]
    if needed is not None and not asker.may_cluster(needed):
        raise refused(asker, needed, "the cluster")
