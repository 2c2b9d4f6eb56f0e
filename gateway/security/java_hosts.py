"""Addresses of clients as ACLs name them: the text of Java's `InetAddress.getHostAddress()`."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address


def java_host(address: str) -> str:
    """An address as Java writes it: `::1` is `0:0:0:0:0:0:0:1`, `::ffff:10.0.0.1` is `10.0.0.1`.

    A link-local address keeps its zone, as the number of the interface. ValueError if it is no address.
    """
    parsed = ip_address(address)
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    packed = parsed.packed
    groups = ":".join(f"{int.from_bytes(packed[at : at + 2]):x}" for at in range(0, 16, 2))
    return groups if parsed.scope_id is None else f"{groups}%{_zone(parsed.scope_id)}"


def _zone(scope: str) -> str:
    if scope.isdecimal():
        return scope
    try:
        return str(socket.if_nametoindex(scope))
    except OSError:
        # The interface is gone since: no ACL can name it by number.
        return scope
