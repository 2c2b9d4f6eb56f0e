"""What to write so that ACLs come and go; each stays as long as an administrator or a link wants it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from gateway.state.records import AclRecord, Delete, LinkRecord, Record, State, acl_key
from protocol.acls import Acl, Permission


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


def kept_by(state: State, record: AclRecord) -> list[str]:
    """The links that would bring an ACL back if it were deleted by hand: those that sync ACLs."""
    return [name for name in record.link_names if _syncs_acls(state.links.get(name))]


def remove_for_admin(state: State, acls: Iterable[Acl]) -> list[Record | Delete]:
    """What an administrator wants no longer; what a link keeps stays, whoever wants it besides."""
    keys = dict.fromkeys(map(acl_key, acls))
    return [Delete("acl", key) for key in keys if key in state.acls and not kept_by(state, state.acls[key])]


def follow_link(state: State, link_name: str, acls: Iterable[Acl]) -> list[Record | Delete]:
    """What makes the ACLs of a link these, and no others: nobody else's go.

    Never in between is more allowed than before or after: what denies comes first and goes last.
    """
    wanted = {acl_key(acl): acl for acl in acls}
    coming: list[AclRecord] = []
    for key, acl in wanted.items():
        record = state.acls.get(key)
        if record is None:
            coming.append(AclRecord.of(acl, admin=False, link_names=(link_name,)))
        elif link_name not in record.link_names:
            coming.append(AclRecord.of(acl, admin=record.admin, link_names=(*record.link_names, link_name)))
    going = list(_release(state, link_name, wanted))
    return [
        *(change for change in coming if change.permission is Permission.DENY),
        *(change for denies, change in going if not denies),
        *(change for change in coming if change.permission is not Permission.DENY),
        *(change for denies, change in going if denies),
    ]


def drop_link(state: State, link_name: str) -> list[Record | Delete]:
    """What lets go of the ACLs of a link: those that nobody else wants go with it."""
    return [change for _, change in _release(state, link_name, {})]


def keep_for_admin(state: State, link_name: str) -> list[Record | Delete]:
    """What makes the ACLs of a link the administrator's."""
    return [
        AclRecord.of(record.acl, admin=True, link_names=_others(record, link_name))
        for record in state.acls.values()
        if link_name in record.link_names
    ]


def _release(
    state: State, link_name: str, wanted: Mapping[str, Acl]
) -> Iterator[tuple[bool, Record | Delete]]:
    """Whether an ACL denies, and what lets go of it."""
    for key, record in state.acls.items():
        if link_name not in record.link_names or key in wanted:
            continue
        others, denies = _others(record, link_name), record.permission is Permission.DENY
        if record.admin or others:
            yield denies, AclRecord.of(record.acl, admin=record.admin, link_names=others)
        else:
            yield denies, Delete("acl", key)


def _others(record: AclRecord, link_name: str) -> list[str]:
    return [name for name in record.link_names if name != link_name]


def _syncs_acls(link: LinkRecord | None) -> bool:
    return link is not None and link.configs.get("acl.sync.enable", "false").lower() == "true"
