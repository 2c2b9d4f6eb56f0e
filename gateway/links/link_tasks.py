"""A link's periodic work: the tasks of the REST contract, each with its switch, interval, deadline and state.

What a task does is its `Work`; when it runs, how long it may take, and what is shown of it, is decided here.
A run begins at once, and again at once when the link's configs change; then an interval after the last one
began. After a failure it is tried again with a backoff, sooner than a long interval would have it.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog
from kio.schema.errors import ErrorCode

from gateway import observe
from gateway.links.board import TRANSPORT_ERRORS, wait_for
from gateway.links.configs import LinkConfig
from gateway.links.errors import LinkError
from gateway.links.requests import TaskError, TaskState, TaskView
from gateway.state.records import LinkRecord
from gateway.state.store import StateUnavailable
from gateway.upstreams.errors import AuthenticationFailed, KafkaError
from protocol.errors import ProtocolError

# The contract's codes, and, as its enums are open, some of ours.
AUTHENTICATION_ERROR: Final = "AUTHENTICATION_ERROR"
AUTHORIZATION_ERROR: Final = "AUTHORIZATION_ERROR"
MISCONFIGURATION_ERROR: Final = "MISCONFIGURATION_ERROR"
INTERNAL_ERROR: Final = "INTERNAL_ERROR"
TIMEOUT_ERROR: Final = "TIMEOUT_ERROR"
UNREACHABLE_ERROR: Final = "BOOTSTRAP_TCP_CONNECTION_FAILED_ERROR"
NOT_SUPPORTED_ERROR: Final = "NOT_SUPPORTED_ERROR"

DEADLINE_S: Final = 120.0
BACKOFF_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
# Pages and logs show them all; a thousand times the same serves nobody.
MAX_ERRORS: Final = 20
# A run that takes longer than its interval does not follow itself without a pause.
_BREATH: Final = 0.5

_UNAUTHORIZED: Final = frozenset(
    {
        ErrorCode.topic_authorization_failed,
        ErrorCode.group_authorization_failed,
        ErrorCode.cluster_authorization_failed,
        ErrorCode.transactional_id_authorization_failed,
    }
)

# What is no fault of the program.
_EXPECTED: Final = (LinkError, StateUnavailable, *TRANSPORT_ERRORS)

log = structlog.get_logger(__name__)


class Work(Protocol):
    """What a task does. Runs of one task never overlap; each may be cancelled at any await."""

    @property
    def name(self) -> str:
        """As the REST contract has it."""
        ...

    @property
    def interval_key(self) -> str:
        """The config with the time from the beginning of one run to that of the next, in ms."""
        ...

    def is_on(self, config: LinkConfig) -> bool:
        """Whether the link's configs ask for it."""
        ...

    def problems(self, config: LinkConfig) -> Sequence[TaskError]:
        """Why it cannot run with these configs at all; it is not run as long as there is a reason."""
        ...

    async def run(self, config: LinkConfig) -> Sequence[TaskError]:
        """Do it once; what could not be done, the rest having been done. Any exception: nothing was."""
        ...


def config_of(record: LinkRecord) -> LinkConfig:
    """The configs of a link as its tasks need them: without what is secret, and unchecked."""
    return LinkConfig(record.link_mode, record.connection_mode, values=record.configs)


class LinkTask:
    """One task of one link. `held_back` says why it is not to run now, as the state that is then shown.

    `is_ours` says whether it runs on this gateway: of those that share a link one runs its tasks.
    """

    def __init__(
        self,
        work: Work,
        record: LinkRecord,
        *,
        held_back: Callable[[], TaskState | None] = lambda: None,
        is_ours: Callable[[], bool] = lambda: True,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._work = work
        self._config = config_of(record)
        self._held_back = held_back
        self._is_ours = is_ours
        self._deadline_s = deadline_s
        self._log = log.bind(link=record.link_name, task=work.name)
        self._changed = asyncio.Event()
        self._running = asyncio.Lock()
        self._errors: Sequence[TaskError] = ()
        self._failures = 0
        self._link_name = record.link_name

    @property
    def name(self) -> str:
        """The contract's name of the task."""
        return self._work.name

    @property
    def is_on(self) -> bool:
        """Whether the link's configs ask for it."""
        return self._work.is_on(self._config)

    def follow(self, record: LinkRecord) -> None:
        """Take over the link's configs as they are now; if they have changed it runs at once."""
        config = config_of(record)
        if config.values != self._config.values:
            self._config = config
            self._failures = 0
            self.wake()

    def wake(self) -> None:
        """Have it run now rather than at its time."""
        self._changed.set()

    def view(self) -> TaskView:
        """The task as it stands."""
        work, config = self._work, self._config
        if not work.is_on(config):
            return TaskView(work.name, TaskState.NOT_CONFIGURED)
        if problems := work.problems(config):
            return TaskView(work.name, TaskState.IN_ERROR, problems)
        if (held_back := self._held_back()) is not None:
            return TaskView(work.name, held_back, self._errors)
        return TaskView(work.name, TaskState.IN_ERROR if self._errors else TaskState.ACTIVE, self._errors)

    async def run_for_ever(self) -> None:
        """Run whenever it is time, until cancelled."""
        while True:
            self._changed.clear()
            began = time.monotonic()
            config = self._config
            if self._may_run(config):
                await self.run_once()
            else:
                self._errors = ()
            await wait_for(self._changed, self._pause_s(config, time.monotonic() - began))

    def _may_run(self, config: LinkConfig) -> bool:
        return self._is_ours() and self._can_run(config)

    def _can_run(self, config: LinkConfig) -> bool:
        work = self._work
        return work.is_on(config) and not work.problems(config) and self._held_back() is None

    def _pause_s(self, config: LinkConfig, took_s: float) -> float:
        if self._failures:
            backoff_s = BACKOFF_S[min(self._failures, len(BACKOFF_S)) - 1]
            return random.uniform(backoff_s / 2, backoff_s)  # noqa: S311 - no secret
        interval_s = config.number(self._work.interval_key) / 1000
        return max(interval_s - took_s, min(interval_s, took_s * _BREATH))

    async def run_once_if_on(self) -> Sequence[TaskError]:
        """As `run_once`, if it runs at all with the configs as they are, here or on another gateway."""
        return await self.run_once() if self._can_run(self._config) else ()

    async def run_once(self) -> Sequence[TaskError]:
        """Run now, after the run that is under way if there is one; what could not be done."""
        async with self._running:
            began = time.monotonic()
            config = self._config
            try:
                async with asyncio.timeout(self._deadline_s):
                    errors = list(await self._work.run(config))[:MAX_ERRORS]
            except _EXPECTED as error:
                errors = [error_of(error, f"within {self._deadline_s:g} s")]
            except Exception as error:
                log.exception("task_failed", link=self._link_name, task=self.name)
                errors = [error_of(error)]
            self._note(errors, time.monotonic() - began)
            return errors

    def _note(self, errors: Sequence[TaskError], took_s: float) -> None:
        outcome = "failed" if errors else "done"
        observe.link_task_runs.labels(self._link_name, self.name, outcome).inc()
        observe.link_task_seconds.labels(self._link_name, self.name).set(took_s)
        if errors and list(errors) != list(self._errors):
            first = errors[0]
            self._log.warning(
                "task_in_error", code=first.error_code, error=first.error_message, errors=len(errors)
            )
        elif self._errors and not errors:
            self._log.info("task_recovered")
        self._failures = self._failures + 1 if errors else 0
        self._errors = errors


def error_of(error: BaseException, patience: str = "in time") -> TaskError:
    """What a task shows of what went wrong."""
    text = str(error) or type(error).__name__
    match error:
        case LinkError():
            return TaskError(INTERNAL_ERROR, error.message)
        case StateUnavailable():
            return TaskError(INTERNAL_ERROR, text)
        case KafkaError() if error.code in _UNAUTHORIZED:
            return TaskError(AUTHORIZATION_ERROR, text)
        case AuthenticationFailed():
            return TaskError(AUTHENTICATION_ERROR, text)
        case TimeoutError():
            return TaskError(TIMEOUT_ERROR, f"no answer {patience}" + (f": {error}" if str(error) else ""))
        case KafkaError() | ProtocolError():
            return TaskError(INTERNAL_ERROR, text)
        case _ if isinstance(error, TRANSPORT_ERRORS):
            return TaskError(UNREACHABLE_ERROR, text)
    return TaskError(INTERNAL_ERROR, f"{type(error).__name__}: see the gateway's log")
