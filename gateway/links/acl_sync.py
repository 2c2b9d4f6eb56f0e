"""AclSync: the ACLs of the source that `acl.filters` name are this gateway's too, and go when they go there.

They belong to the link: nobody else's are touched, and what is an administrator's too, or another link's,
stays when this link lets go of it. What cannot be read whole is not followed in part, because a missing ACL
may be one that denies: then everything stays as it was, and the task says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog
from kio.schema.errors import ErrorCode

from gateway.links.acl_filters import parse_acl_filters
from gateway.links.configs import LinkConfig
from gateway.links.link_tasks import AUTHORIZATION_ERROR, MISCONFIGURATION_ERROR, NOT_SUPPORTED_ERROR
from gateway.links.mirror_making import RESERVED_PREFIX
from gateway.links.requests import TaskError
from gateway.state.acl_changes import follow_link
from gateway.state.records import AclRecord, Delete, LinkRecord, Record, State
from gateway.state.store import Store
from gateway.upstreams.acls import StrangeAcl, describe_acls
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.errors import KafkaError
from protocol.acls import Acl, Permission, ResourceType

ENABLE: Final = "acl.sync.enable"
FILTERS: Final = "acl.filters"
# More would make every gateway slow, and a link has no reason to bring them.
MAX_ACLS: Final = 10_000
MAX_ACL_BYTES: Final = 4 << 20
SOURCE_ERROR: Final = "SOURCE_ACLS_ERROR"

# The contract's words.
_NO_FILTERS: Final = (
    "ACL migration is enabled but acl.filters is not set. Please set acl.filters to proceed with ACL"
    " migration."
)
_PREFIX: Final = "ACLs cannot be synced by a link with cluster.link.prefix: the names would not fit."
_NOT_ENFORCED: Final = (
    "This gateway has `authorization: none`: nobody would ask the ACLs that this link brings. Set"
    " `authorization: acls` in its configuration."
)


# What one run says of them.
_NAMED_GRANTS: Final = 20

log = structlog.get_logger(__name__)


class AclSync:
    """The work of one link whose source is `source`; `enforced`: the gateway asks ACLs about its clients."""

    name = "AclSync"
    interval_key = "acl.sync.ms"

    def __init__(self, record: LinkRecord, source: Cluster, store: Store, *, enforced: bool) -> None:
        self._record = record
        self._source = source
        self._store = store
        self._enforced = enforced

    def is_on(self, config: LinkConfig) -> bool:
        """Whether `acl.sync.enable` is set."""
        return config.flag(ENABLE)

    def problems(self, config: LinkConfig) -> Sequence[TaskError]:
        """No filters, filters that cannot be read, a prefix, or nobody who would ask the ACLs."""
        found = []
        try:
            if not parse_acl_filters(config.text(FILTERS) or ""):
                found.append(TaskError(MISCONFIGURATION_ERROR, _NO_FILTERS))
        except ValueError as error:
            found.append(TaskError(MISCONFIGURATION_ERROR, f"acl.filters {error}"))
        if config.prefix:
            found.append(TaskError(MISCONFIGURATION_ERROR, _PREFIX))
        if not self._enforced:
            found.append(TaskError(MISCONFIGURATION_ERROR, _NOT_ENFORCED))
        return found

    async def run(self, config: LinkConfig) -> Sequence[TaskError]:
        """Make the link's ACLs those of the source."""
        filters = parse_acl_filters(config.text(FILTERS) or "")
        acls: set[Acl] = set()
        try:
            for wanted in filters:
                acls |= await describe_acls(self._source, wanted, limit=MAX_ACLS)
        except KafkaError as error:
            return [_refusal(error)]
        except StrangeAcl as error:
            return [_untouched(str(error))]
        # Whatever they say, the gateway's own topics and groups do not exist for clients.
        acls = {acl for acl in acls if not acl.name.startswith(RESERVED_PREFIX)}
        size = sum(len(acl.name) + len(acl.principal) + len(acl.host) for acl in acls)
        if len(acls) > MAX_ACLS or size > MAX_ACL_BYTES:
            return [_untouched(f"{len(acls)} ACLs of {size} characters, more than a link may bring")]

        def change(state: State) -> Sequence[Record | Delete]:
            link = state.links.get(self._record.link_name)
            # It may have gone, or changed, since the source was asked.
            if link is None or link.cluster_link_id != self._record.cluster_link_id:
                return []
            if any(link.configs.get(key) != config.values.get(key) for key in (ENABLE, FILTERS)):
                return []
            return follow_link(state, self._record.link_name, acls)

        changes = change(self._store.state)
        if changes:
            self._name_cluster_grants(changes)
            await self._store.update(change)
        return ()

    def _name_cluster_grants(self, changes: Sequence[Record | Delete]) -> None:
        """Whoever makes a link does not always think of what `any` includes."""
        coming = [each for each in changes if isinstance(each, AclRecord) and self._is_cluster_grant(each)]
        for record in coming[:_NAMED_GRANTS]:
            log.warning(
                "acl_sync.cluster_grant",
                link=self._record.link_name,
                principal=record.principal,
                host=record.host,
                operation=record.operation.name,
                granted=len(coming),
            )

    def _is_cluster_grant(self, record: AclRecord) -> bool:
        comes = self._record.link_name in record.link_names
        about_cluster = record.resource_type is ResourceType.CLUSTER
        return comes and about_cluster and record.permission is Permission.ALLOW


def _refusal(error: KafkaError) -> TaskError:
    match error.code:
        case ErrorCode.security_disabled:
            return TaskError(
                NOT_SUPPORTED_ERROR,
                f"The source cluster has no authorizer, and so no ACLs: {error}. The ACLs that this link has"
                " brought stay as they are.",
            )
        case ErrorCode.cluster_authorization_failed:
            return TaskError(
                AUTHORIZATION_ERROR,
                "The link's principal may not read ACLs at the source: it needs DESCRIBE on the cluster"
                f" ({error}). The ACLs that this link has brought stay as they are.",
            )
        case _:
            return _untouched(str(error))


def _untouched(what: str) -> TaskError:
    return TaskError(
        SOURCE_ERROR,
        f"The ACLs of the source cannot be taken over: {what}. Those that this link has brought stay as they"
        " are.",
    )
