"""Host names that stand for brokers: patterns with `$(node_id)`, and perhaps `$(cluster)`.

Names are those of RFC 1123, with a dot in them: Java's TLS sends no server name (SNI) for others.
"""

from __future__ import annotations

import re
from typing import Final

NODE_ID: Final = "$(node_id)"
CLUSTER: Final = "$(cluster)"

_VARIABLE: Final = re.compile(r"\$\(([^)]*)\)?")
_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_MAX_NAME: Final = 253
_LONGEST_NODE_ID: Final = 2**31 - 1


def is_pattern(host: str) -> bool:
    """Whether a host is meant as a pattern."""
    return "$" in host


def is_label(text: str) -> bool:
    """Whether the text can be a part of a host name, between dots."""
    return _LABEL.fullmatch(text) is not None


def check_host_name(name: str) -> str:
    """The name; ValueError if it is none that clients could ask for in a TLS handshake."""
    labels = name.split(".")
    wrong = next((label for label in labels if not is_label(label)), None)
    if wrong is not None:
        raise ValueError(
            f"{name!r} is not a host name: {wrong!r} is not 1 to 63 letters, digits and inner hyphens"
        )
    if len(name) > _MAX_NAME:
        raise ValueError(f"{name!r} is longer than {_MAX_NAME} characters")
    if len(labels) < 2 or labels[-1].isdigit():
        raise ValueError(
            f"{name!r} must have a dot and not end in a number: clients send no server name for it"
        )
    return name


def check_pattern(pattern: str, *, of_brokers: bool) -> str:
    """The pattern, if it makes host names, whatever the node id; ValueError.

    One `of_brokers` must have `$(node_id)`, another one may not.
    """
    for variable in _VARIABLE.finditer(pattern):
        if variable[0] not in {NODE_ID, CLUSTER}:
            raise ValueError(f"{variable[0]!r} is not known: there are {NODE_ID} and {CLUSTER}")
    if of_brokers != (NODE_ID in pattern):
        raise ValueError(f"must{'' if of_brokers else ' not'} contain {NODE_ID}")
    # Every name that comes of it is checked once the cluster's name is known.
    check_host_name(fill(pattern, _LONGEST_NODE_ID if of_brokers else None, "x"))
    return pattern


def fill(pattern: str, node_id: int | None, cluster: str | None) -> str:
    """The host name; ValueError if a name of the cluster is wanted and there is none."""
    if cluster is None and CLUSTER in pattern:
        raise ValueError(
            f"{CLUSTER} needs cluster.name, since cluster.cluster_id is not given or not fit for a host name"
        )
    return pattern.replace(NODE_ID, str(node_id)).replace(CLUSTER, cluster or "")
