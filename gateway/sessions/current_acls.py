"""The ACLs of the state topic as they are now, ready to be decided by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import structlog

from gateway.config import Authorization, Config
from gateway.security.acls import Acls
from gateway.state.records import AclRecord, State, acl_key
from protocol.acls import Acl

log = structlog.get_logger(__name__)


class AclStore(Protocol):
    """The state topic, as far as deciding is concerned."""

    @property
    def state(self) -> State: ...
    @property
    def staleness_s(self) -> float: ...


class CurrentAcls:
    """Follows the state; `max_staleness_s` after it was last known to be whole the ACLs are not known."""

    def __init__(
        self, store: AclStore, *, super_users: frozenset[str], allow_everyone: bool, max_staleness_s: float
    ) -> None:
        self._store = store
        self._super_users = super_users
        self._allow_everyone = allow_everyone
        self._max_staleness_s = max_staleness_s
        self._made_of: Mapping[str, AclRecord] | None = None
        self._acls = Acls((), super_users)

    def now(self) -> Acls | None:
        """What decides now, the same object until an ACL changes; None if the state was read too long ago."""
        if self._store.staleness_s > self._max_staleness_s:
            return None
        records = self._store.state.acls
        if records is not self._made_of:
            acls = (record.acl for record in records.values())
            self._acls = Acls(acls, self._super_users, self._allow_everyone)
            self._made_of = records
        return self._acls

    def owners(self, acl: Acl) -> tuple[str, ...]:
        """Who wants an ACL to be there: `admin`, and `link <name>`; nobody if it is gone."""
        record = self._store.state.acls.get(acl_key(acl))
        return () if record is None else owners(record)


def current_acls(config: Config, store: AclStore) -> CurrentAcls | None:
    """What decides by the configuration; None, and a warning, if everybody may do everything."""
    if config.authorization is Authorization.NONE:
        log.warning(
            "authorization.off",
            what="every client that a listener lets in may do whatever this gateway's own principal may do on"
            " the cluster; authorization: acls changes that",
        )
        return None
    return CurrentAcls(
        store,
        super_users=frozenset(config.super_users),
        allow_everyone=config.allow_everyone_if_no_acl_found,
        max_staleness_s=config.state.max_staleness_ms / 1000,
    )


def owners(record: AclRecord) -> tuple[str, ...]:
    """The owners of an ACL as they are shown."""
    return (*(("admin",) if record.admin else ()), *(f"link {name}" for name in record.link_names))
