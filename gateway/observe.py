"""Logs and metrics: structlog events with fields, and the Prometheus series of the whole process.

Secrets never format: fields whose names speak of one are masked here as the last line of defence.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from protocol.api_keys import ApiKey, supported_versions

MASK = "[hidden]"
_SECRET_WORDS = ("password", "secret", "token", "jaas", "auth_bytes", "salted", "private", "credential")

_API_NAMES = {int(key): key.name for key in ApiKey}

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST
# More than there are keys and versions.
_MAX_KINDS = 1024


class _Flush(Collector):
    """Collected first: has every `Traffic` in its series before those are collected."""

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> list[Metric]:
        for traffic in _traffic.values():
            traffic.flush()
        return []


registry = CollectorRegistry()
registry.register(_Flush())

connections_total = Counter(
    "causeway_connections", "Client connections accepted.", ["listener"], registry=registry
)
connections_open = Gauge(
    "causeway_connections_open", "Client connections open now.", ["listener"], registry=registry
)
connections_refused = Counter(
    "causeway_connections_refused",
    "Client connections closed before they became a session.",
    ["listener", "reason"],
    registry=registry,
)
disconnects = Counter(
    "causeway_disconnects", "Client connections ended, by cause.", ["listener", "cause"], registry=registry
)
buffered_bytes = Gauge(
    "causeway_buffered_bytes",
    "Bytes of requests and responses held for clients, small ones aside.",
    registry=registry,
)
sessions_held_back = Gauge(
    "causeway_sessions_held_back",
    "Client sessions not read from now, because limits.max_buffered_bytes is reached.",
    registry=registry,
)
hold_backs = Counter(
    "causeway_hold_backs",
    "Times that a client session was not read from, because limits.max_buffered_bytes was reached.",
    registry=registry,
)
requests = Counter(
    "causeway_requests", "Client requests by API and version.", ["api", "version"], registry=registry
)
refusals = Counter(
    "causeway_refusals", "Requests, or parts of them, refused here.", ["api", "reason"], registry=registry
)
decisions = Counter(
    "causeway_authorizations", "What ACLs decided, by API and result.", ["api", "result"], registry=registry
)
in_flight_full = Counter(
    "causeway_in_flight_full",
    "Requests that waited because their connection had as many in flight as it may.",
    ["listener"],
    registry=registry,
)
request_bytes = Counter(
    "causeway_request_bytes", "Bytes of client requests.", ["listener"], registry=registry
)
response_bytes = Counter(
    "causeway_response_bytes", "Bytes of responses to clients.", ["listener"], registry=registry
)
authentications = Counter(
    "causeway_authentications", "Authentications by outcome.", ["mechanism", "outcome"], registry=registry
)
upstream_errors = Counter(
    "causeway_upstream_errors",
    "Broker connections that could not be made or broke.",
    ["cause"],
    registry=registry,
)
wrong_cluster = Counter(
    "causeway_wrong_cluster",
    "Connections that led to another cluster than the right one, and were refused.",
    registry=registry,
)
upstream_dial_seconds = Histogram(
    "causeway_upstream_dial_seconds", "Time to connect to a broker, authenticated.", registry=registry
)
reload_success_seconds = Gauge(
    "causeway_reload_success_timestamp_seconds",
    "When a file or URL that is watched was last read and taken into use.",
    ["source"],
    registry=registry,
)
reload_failures = Counter(
    "causeway_reload_failures",
    "New contents of watched files or URLs that could not be had or used; the old ones stay in use.",
    ["source"],
    registry=registry,
)
certificate_not_after_seconds = Gauge(
    "causeway_certificate_not_after_timestamp_seconds",
    "When the certificate in use, or the revocation list, ends to be valid.",
    ["source", "file"],
    registry=registry,
)
fillers_presented = Counter(
    "causeway_fillers_presented", "Filler batches shown to clients as control batches.", registry=registry
)
bound_refusals = Counter(
    "causeway_bound_refusals",
    "Requests of link peers refused by the link gate.",
    ["api", "reason"],
    registry=registry,
)
link_partitions_held = Gauge(
    "causeway_link_partitions_held",
    "Mirror partitions of a link that this gateway works on; the others are another gateway's.",
    ["link"],
    registry=registry,
)
link_gateways = Gauge(
    "causeway_link_gateways",
    "Gateways of this cluster that share the work of its links, this one included.",
    registry=registry,
)
link_task_runs = Counter(
    "causeway_link_task_runs",
    "Runs of a link's tasks, by outcome.",
    ["link", "task", "outcome"],
    registry=registry,
)
link_task_seconds = Gauge(
    "causeway_link_task_seconds",
    "What the last run of a link's task took.",
    ["link", "task"],
    registry=registry,
)
group_offsets_committed = Counter(
    "causeway_group_offsets_committed",
    "Offsets of source groups committed here, one for each group and partition.",
    ["link"],
    registry=registry,
)
groups_synced = Gauge(
    "causeway_groups_synced",
    "Groups with offsets of mirrored topics in the last run of ConsumerOffsetSync.",
    ["link"],
    registry=registry,
)
groups_local = Gauge(
    "causeway_groups_local",
    "Groups of a link that go on here and are left alone.",
    ["link"],
    registry=registry,
)
groups_ahead = Gauge(
    "causeway_groups_ahead",
    "Groups that are further here than at their source, without being known as local, in the last run.",
    ["link"],
    registry=registry,
)


def remove(collector: Collector) -> None:
    """No longer ask it for series; nothing happens if nobody did."""
    with contextlib.suppress(KeyError):
        registry.unregister(collector)


def api_name(api_key: int) -> str:
    """The name of an API for labels and logs; a client can make up keys, but not labels."""
    return _API_NAMES.get(api_key, "UNKNOWN")


class Traffic:
    """What one listener's requests and responses come to; see `traffic_of`.

    Labelled series have locks and cost as much as the rest of a small request's way: here are plain numbers,
    which go into the series when somebody asks for them.
    """

    def __init__(self, listener: str) -> None:
        self.response_bytes = 0
        self._request_bytes = 0
        self._requests: dict[tuple[int, int], int] = {}
        self._listener = listener

    def add_request(self, api_key: int, version: int, size_bytes: int) -> None:
        """Counts one request of that size."""
        counts, kind = self._requests, (api_key, version)
        # A client can make up versions, but not series.
        if kind not in counts and len(counts) >= _MAX_KINDS:
            self.flush()
        counts[kind] = counts.get(kind, 0) + 1
        self._request_bytes += size_bytes

    def flush(self) -> None:
        """Moves everything into the series."""
        for (api_key, version), count in self._requests.items():
            known = supported_versions(api_key)
            label = str(version) if known is not None and version in known else "other"
            requests.labels(api_name(api_key), label).inc(count)
        self._requests.clear()
        if self._request_bytes:
            request_bytes.labels(self._listener).inc(self._request_bytes)
        if self.response_bytes:
            response_bytes.labels(self._listener).inc(self.response_bytes)
        self._request_bytes = self.response_bytes = 0


_traffic: dict[str, Traffic] = {}


def traffic_of(listener: str) -> Traffic:
    """The counters of a listener, shared by its sessions."""
    traffic = _traffic.get(listener)
    if traffic is None:
        traffic = _traffic[listener] = Traffic(listener)
    return traffic


def metrics_page() -> bytes:
    """The Prometheus text exposition of this process."""
    return generate_latest(registry)


def mask_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: replaces the value of every field whose name speaks of a secret."""
    for name in event:
        lowered = name.lower()
        if any(word in lowered for word in _SECRET_WORDS):
            event[name] = MASK
    return event


def configure_logging(level: str = "INFO", style: Literal["json", "console"] = "json") -> None:
    """Sets up structlog to stderr and sends the standard library's loggers (uvicorn, aiokafka) through it."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        mask_secrets,
    ]
    renderer: list[Any]
    if style == "json":
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        renderer = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
