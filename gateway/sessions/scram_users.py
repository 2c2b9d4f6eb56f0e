"""DescribeUserScramCredentials 0 and AlterUserScramCredentials 0 (KIP-554), answered from the state topic.

`kafka-configs --entity-type users` and Kafka's admin clients manage the same users as `causeway user`. Errors
and their texts are those of Kafka's ScramImage and ScramControlManager.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Protocol

from kio.schema.errors import ErrorCode

from gateway.security.credentials import DEFAULT_ITERATIONS, SCRAM_SHA_256, SCRAM_SHA_512
from gateway.security.user_names import name_refusal
from gateway.state.records import Delete, Record, ScramKeys, State, UserRecord
from gateway.state.store import Change, StateUnavailable
from gateway.upstreams.metadata import nested_class
from protocol.api_keys import ApiKey
from protocol.messages import encode_response, response_class
from protocol.sasl import HASHES

# Kafka's ScramMechanism and ScramControlManager.
_MECHANISMS: Final[Mapping[int, str]] = {1: SCRAM_SHA_256, 2: SCRAM_SHA_512}
_TYPES: Final = {name: number for number, name in _MECHANISMS.items()}
_MAX_ITERATIONS: Final = 16_384
_MAX_SALT_BYTES: Final = 1024

_Refusal = tuple[ErrorCode, str]


class UserStore(Protocol):
    """The state topic, as far as users are concerned."""

    @property
    def state(self) -> State: ...
    async def update(self, change: Change) -> State: ...


class ScramUsers:
    """The users of the state; those of the configuration, `static_names`, are shown and changed by nobody."""

    def __init__(self, store: UserStore, static_names: Collection[str] = ()) -> None:
        self._store = store
        self._static_names = frozenset(static_names)

    def describe(self, request: Any, *, allowed: bool) -> bytes:
        """The body of the answer; without `allowed` a refusal."""
        if not allowed:
            return _described((), ErrorCode.cluster_authorization_failed, "Cluster authorization failed.")
        users = self._store.state.users
        asked = Counter(user.name for user in request.users or ()) or Counter(iter(users))
        return _described([_describe(name, count, users.get(name)) for name, count in asked.items()])

    async def alter(self, request: Any, *, allowed: bool) -> bytes:
        """The body of the answer, after all users that can be changed were changed, at once."""
        names = dict.fromkeys(each.name for each in (*request.deletions, *request.upsertions))
        if not allowed:
            refusal = ErrorCode.cluster_authorization_failed, "Cluster authorization failed."
            return _altered(names, dict.fromkeys(names, refusal))
        refused: dict[str, _Refusal] = {}

        def change(state: State) -> Sequence[Record | Delete]:
            refused.clear()
            refused.update(self._refusals(request, state.users))
            return [_changed(name, request, state.users.get(name)) for name in names if name not in refused]

        try:
            await self._store.update(change)
        except StateUnavailable as error:
            text = f"The gateway cannot write its state: {error}"
            return _altered(names, dict.fromkeys(names, (ErrorCode.request_timed_out, text)))
        return _altered(names, refused)

    def _refusals(self, request: Any, users: Mapping[str, UserRecord]) -> dict[str, _Refusal]:
        """By user what stands against its changes: one of several keeps all of them from being made."""
        refused: dict[str, _Refusal] = {}
        seen: set[tuple[str, int]] = set()
        deleted = {deletion.name for deletion in request.deletions}
        upserted = {upsertion.name for upsertion in request.upsertions}
        for each in (*request.deletions, *request.upsertions):
            # As a broker has it: not even of different mechanisms.
            if (each.name, each.mechanism) in seen or each.name in deleted & upserted:
                refused[each.name] = (
                    ErrorCode.duplicate_resource,
                    "A user credential cannot be altered twice in the same request",
                )
            seen.add((each.name, each.mechanism))
        for deletion in request.deletions:
            why = self._deletion_refusal(deletion, users.get(deletion.name))
            if why is not None:
                refused.setdefault(deletion.name, why)
        for upsertion in request.upsertions:
            why = self._upsertion_refusal(upsertion)
            if why is not None:
                refused.setdefault(upsertion.name, why)
        return refused

    def _refusal(self, change: Any) -> _Refusal | None:
        if not change.name:
            return ErrorCode.unacceptable_credential, "Username must not be empty"
        if change.mechanism not in _MECHANISMS:
            return ErrorCode.unsupported_sasl_mechanism, "Unknown SCRAM mechanism"
        return None

    def _deletion_refusal(self, deletion: Any, user: UserRecord | None) -> _Refusal | None:
        why = self._refusal(deletion)
        if why is None and (user is None or _MECHANISMS[deletion.mechanism] not in user.scram):
            why = (
                ErrorCode.resource_not_found,
                "Attempt to delete a user credential that does not exist",
            )
        return why

    def _upsertion_refusal(self, upsertion: Any) -> _Refusal | None:
        if (why := self._refusal(upsertion)) is not None:
            return why
        text = name_refusal(upsertion.name)
        if upsertion.iterations < DEFAULT_ITERATIONS:
            text = "Too few iterations"
        elif upsertion.iterations > _MAX_ITERATIONS:
            text = "Too many iterations"
        elif not 0 < len(upsertion.salt) <= _MAX_SALT_BYTES or not upsertion.salted_password:
            text = f"The salt must have 1 to {_MAX_SALT_BYTES} bytes, and the salted password some"
        elif upsertion.name in self._static_names:
            text = f"User {upsertion.name} is in the gateway's configuration"
        return None if text is None else (ErrorCode.unacceptable_credential, text)


def _changed(name: str, request: Any, user: UserRecord | None) -> Record | Delete:
    keys = dict(user.scram) if user is not None else {}
    for deletion in request.deletions:
        if deletion.name == name:
            keys.pop(_MECHANISMS[deletion.mechanism], None)
    for upsertion in request.upsertions:
        if upsertion.name == name:
            mechanism = _MECHANISMS[upsertion.mechanism]
            keys[mechanism] = _keys(upsertion, HASHES[mechanism])
    return UserRecord(name=name, scram=keys) if keys else Delete("user", name)


def _keys(upsertion: Any, algorithm: str) -> ScramKeys:
    """RFC 5802 §3 from the salted password, which is all that a client shows of the password."""
    salted = bytes(upsertion.salted_password)
    client_key = hmac.digest(salted, b"Client Key", algorithm)
    return ScramKeys(
        salt=bytes(upsertion.salt),
        iterations=upsertion.iterations,
        stored_key=hashlib.new(algorithm, client_key).digest(),
        server_key=hmac.digest(salted, b"Server Key", algorithm),
    )


def _describe(name: str, count: int, user: UserRecord | None) -> dict[str, Any]:
    error, text, keys = ErrorCode.none, None, dict[str, ScramKeys]()
    if count > 1:
        error = ErrorCode.duplicate_resource
        text = f"Cannot describe SCRAM credentials for the same user twice in a single request: {name}"
    elif user is None:
        error = ErrorCode.resource_not_found
        text = f"Attempt to describe a user credential that does not exist: {name}"
    else:
        keys = dict(user.scram)
    return {"user": name, "error_code": error, "error_message": text, "keys": keys}


def _described(
    results: Iterable[dict[str, Any]], error: ErrorCode = ErrorCode.none, message: str | None = None
) -> bytes:
    made = response_class(ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS, 0)
    result_class = nested_class(made, "DescribeUserScramCredentialsResult")
    info_class = nested_class(made, "CredentialInfo")

    def build(
        user: str, error_code: ErrorCode, error_message: str | None, keys: Mapping[str, ScramKeys]
    ) -> Any:
        infos = tuple(
            info_class(mechanism=_TYPES[mechanism], iterations=each.iterations)
            for mechanism, each in sorted(keys.items())
        )
        return result_class(
            user=user, error_code=error_code, error_message=error_message, credential_infos=infos
        )

    return encode_response(
        made(
            throttle_time=timedelta(),
            error_code=error,
            error_message=message,
            results=tuple(build(**result) for result in results),
        )
    )


def _altered(names: Iterable[str], refused: Mapping[str, _Refusal]) -> bytes:
    made = response_class(ApiKey.ALTER_USER_SCRAM_CREDENTIALS, 0)
    result_class = nested_class(made, "AlterUserScramCredentialsResult")
    results = []
    for name in names:
        error, text = refused.get(name, (ErrorCode.none, None))
        results.append(result_class(user=name, error_code=error, error_message=text))
    return encode_response(made(throttle_time=timedelta(), results=tuple(results)))
