"""The audit: a line per decision, with who, from where, what, by which ACL; failed logins; admin actions.

What was refused is told at INFO, always; what was allowed at DEBUG, a share of it or all, as configured.
Lines go to a file of their own, or to the log. Decisions are counted by API and result whatever is told.
Never in it: secrets, and what records hold.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TextIO

import structlog

from gateway import observe
from gateway.config import AuditConfig
from gateway.security.acls import AclDecision
from protocol.acls import Acl, Operation, ResourceType
from protocol.headers import RequestHeader

_ALLOWED: Final = "allowed"
_DENIED: Final = "denied"
# More than there are APIs.
_MAX_SERIES: Final = 512

Owners = Callable[[Acl], Sequence[str]]


class Decided(Protocol):
    """A decision and what it was about."""

    @property
    def operation(self) -> Operation: ...
    @property
    def resource(self) -> ResourceType: ...
    @property
    def name(self) -> str: ...
    @property
    def decision(self) -> AclDecision: ...


def _nobody(_acl: Acl) -> Sequence[str]:
    return ()


class AuditError(Exception):
    """The audit cannot be written; the text says where and why."""


class Audit:
    """Tells what was decided. `allowed_share` of what was allowed is told too, from 0 (nothing) to 1 (all).

    Lines go to `file`, which is appended to, or to the log. `owners` says who wants an ACL to be there.
    OSError if the file cannot be written.
    """

    @classmethod
    def of(cls, config: AuditConfig, owners: Owners | None) -> Audit:
        """As configured; AuditError."""
        try:
            return cls(allowed_share=config.allowed_share, file=config.file, owners=owners or _nobody)
        except OSError as error:
            raise AuditError(f"audit.file cannot be written: {error}") from error

    def __init__(
        self, *, allowed_share: float = 0.0, file: Path | None = None, owners: Owners = _nobody
    ) -> None:
        self._share = allowed_share
        self._owners = owners
        # Line by line: it is there when its request is answered, and lines of other processes stay whole.
        self._output = None if file is None else file.open("a", buffering=1, encoding="utf-8")
        self._log: Any = structlog.get_logger("audit") if self._output is None else _file_logger(self._output)
        self._counters: dict[tuple[int, str], Any] = {}

    def close(self) -> None:
        """Closes the file; idempotent."""
        if self._output is not None:
            self._output.close()

    @property
    def tells_allowed(self) -> bool:
        """Whether what was allowed is told too, or some of it."""
        return self._share > 0

    def decided(
        self,
        header: RequestHeader,
        listener: str,
        principal: str,
        host: str,
        allowed: int,
        noted: Sequence[Decided],
    ) -> None:
        """Takes the decisions about one request: how many allowed something, and those to be told."""
        if allowed:
            self._counter(header.api_key, _ALLOWED).inc(allowed)
        for each in noted:
            if each.decision.allowed:
                if self._share < 1 and random.random() >= self._share:  # noqa: S311 - no secret
                    continue
            else:
                self._counter(header.api_key, _DENIED).inc()
            self._tell(
                _ALLOWED if each.decision.allowed else _DENIED,
                api=observe.api_name(header.api_key),
                correlation_id=header.correlation_id,
                listener=listener,
                principal=principal,
                host=host,
                operation=each.operation.name,
                resource_type=each.resource.name,
                resource=each.name,
                **self._grounds(each.decision),
            )

    def login_refused(self, listener: str, host: str, reason: str) -> None:
        """A client that was not let in; `reason` is what the log says, never what the client sent."""
        self._write("info", "login", result=_DENIED, listener=listener, host=host, reason=reason)

    def admin_action(self, principal: str | None, host: str, method: str, path: str, status: int) -> None:
        """A request to the REST API that changed something, or was refused."""
        result = _DENIED if status in {401, 403} else _ALLOWED
        self._write(
            "info",
            "admin",
            result=result,
            principal=principal,
            host=host,
            method=method,
            path=path,
            status=status,
        )

    def _grounds(self, decision: AclDecision) -> dict[str, Any]:
        if decision.acl is None:
            return {"by": str(decision.reason)}
        return {"by": "acl", "acl": acl_text(decision.acl), "owners": list(self._owners(decision.acl))}

    def _tell(self, result: str, **fields: Any) -> None:
        self._write("debug" if result == _ALLOWED else "info", "decision", result=result, **fields)

    def _write(self, level: str, what: str, **fields: Any) -> None:
        getattr(self._log, level)(f"audit.{what}", **fields)

    def _counter(self, api_key: int, result: str) -> Any:
        counter = self._counters.get((api_key, result))
        if counter is None:
            if len(self._counters) >= _MAX_SERIES:
                self._counters.clear()
            counter = observe.decisions.labels(observe.api_name(api_key), result)
            self._counters[api_key, result] = counter
        return counter


def acl_text(acl: Acl) -> str:
    """An ACL in one line."""
    pattern = f"{acl.resource_type.name}:{acl.pattern_type.name}:{acl.name}"
    return f"{acl.permission.name} {acl.principal} {acl.operation.name} on {pattern} from {acl.host}"


def _file_logger(output: TextIO) -> Any:
    return structlog.wrap_logger(
        structlog.WriteLogger(output),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            observe.mask_secrets,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )
