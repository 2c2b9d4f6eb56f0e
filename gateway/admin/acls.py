"""ACLs as an administrator manages them over the REST API, and the import of those of the fronted cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.links.errors import LinkError, invalid_request, unsupported
from gateway.sessions.acl_requests import AclChanges, Deleted
from gateway.state.records import AclRecord
from gateway.upstreams.acls import StrangeAcl, describe_acls
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.errors import KafkaError, UpstreamError
from protocol.acl_filters import AclFilter
from protocol.acls import CLUSTER_NAME, Acl, ResourceType

_MAX_IMPORTED: Final = 100_000


class AclService:
    """Every method may raise LinkError, and StateUnavailable. Without `changes` there are no ACLs here."""

    def __init__(self, changes: AclChanges | None, cluster: Cluster) -> None:
        self._changes = changes
        self._cluster = cluster

    def find(self, wanted: AclFilter) -> list[AclRecord]:
        """The ACLs that a filter means, in an order that stays."""
        return sorted(self._own().find(wanted), key=lambda record: record.acl)

    async def create(self, acls: Sequence[Acl]) -> None:
        """Has them all be there, those that were there included."""
        for acl in acls:
            if acl.resource_type is ResourceType.CLUSTER and acl.name != CLUSTER_NAME:
                raise invalid_request(f"The only valid name for the CLUSTER resource is {CLUSTER_NAME}")
        await self._own().create(acls)

    async def delete(self, wanted: AclFilter) -> list[Deleted]:
        """What the filter meant, gone but for what a link keeps; LinkError if nothing else was meant."""
        (found,) = await self._own().delete([wanted])
        kept = [each.kept for each in found if each.kept is not None]
        if kept and len(kept) == len(found):
            raise invalid_request(kept[0])
        return found

    async def import_all(self, *, validate_only: bool) -> list[Acl]:
        """Take over the ACLs that the fronted cluster has; those that were not here before."""
        own = self._own()
        try:
            there = await describe_acls(self._cluster, AclFilter(), limit=_MAX_IMPORTED)
        except KafkaError as error:
            raise invalid_request(
                f"The ACLs of the fronted cluster cannot be read: {error}. It needs an authorizer, and this"
                " gateway's principal DESCRIBE on the cluster."
            ) from error
        except StrangeAcl as error:
            raise invalid_request(f"The ACLs of the fronted cluster cannot be taken over: {error}") from error
        except (UpstreamError, TimeoutError, OSError) as error:
            raise LinkError(503, 50003, f"The fronted cluster cannot be asked: {error}") from error
        known = {record.acl for record in own.find(AclFilter()) if record.admin}
        new = sorted(there - known)
        if not validate_only:
            await own.create(new)
        return new

    def _own(self) -> AclChanges:
        if self._changes is None:
            raise unsupported(
                "This gateway has `authorization: none`, and so no ACLs. Set `authorization: acls` in its"
                " configuration."
            )
        return self._changes
