"""What to write so that ACLs come and go; each stays as long as an administrator or a link wants it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from gateway.state.records import AclRecord, Delete, Record, State, acl_key
from protocol.acls import Acl


def add_for_admin(state: State, acls: Iterable[Acl]) -> list[Record | Delete]:
    """What an administrator wants to be there; those that were there stay as they are."""
    changes: dict[str, Record | Delete] = {}
    for acl in acls:
        key = acl_key(acl)
        record = state.acls.get(key)
        if record is None or not record.admin:
            changes[key] = AclRecord.of(
                acl, admin=True, link_names=() if record is None else record.link_names
            )
    return list(changes.values())


def remove_for_admin(state: State, acls: Iterable[Acl]) -> list[Record | Delete]:
    """What an administrator wants no longer; those of links are not to be asked for."""
    keys = dict.fromkeys(map(acl_key, acls))
    return [Delete("acl", key) for key in keys if key in state.acls and not state.acls[key].link_names]


def follow_link(state: State, link_name: str, acls: Iterable[Acl]) -> list[Record | Delete]:
    """What makes the ACLs of a link these, and no others: nobody else's go."""
    wanted = {acl_key(acl): acl for acl in acls}
    changes = list(_release(state, link_name, wanted))
    for key, acl in wanted.items():
        record = state.acls.get(key)
        if record is None:
            changes.append(AclRecord.of(acl, admin=False, link_names=(link_name,)))
        elif link_name not in record.link_names:
            changes.append(AclRecord.of(acl, admin=record.admin, link_names=(*record.link_names, link_name)))
    return changes


def drop_link(state: State, link_name: str) -> list[Record | Delete]:
    """What lets go of the ACLs of a link: those that nobody else wants go with it."""
    return list(_release(state, link_name, {}))


def keep_for_admin(state: State, link_name: str) -> list[Record | Delete]:
    """What makes the ACLs of a link the administrator's."""
    return [
        AclRecord.of(record.acl, admin=True, link_names=_others(record, link_name))
        for record in state.acls.values()
        if link_name in record.link_names
    ]


def _release(state: State, link_name: str, wanted: Mapping[str, Acl]) -> Iterator[Record | Delete]:
    for key, record in state.acls.items():
        if link_name not in record.link_names or key in wanted:
            continue
        others = _others(record, link_name)
        if record.admin or others:
            yield AclRecord.of(record.acl, admin=record.admin, link_names=others)
        else:
            yield Delete("acl", key)


def _others(record: AclRecord, link_name: str) -> list[str]:
    return [name for name in record.link_names if name != link_name]
