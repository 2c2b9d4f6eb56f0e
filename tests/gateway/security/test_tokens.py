from __future__ import annotations

import base64
import hmac
import json
import time
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway.security.principals import user
from gateway.security.tokens import INSUFFICIENT_SCOPE, INVALID_TOKEN, Bearer, TokenRefused, scopes
from tests.gateway.security.issuer import ISSUER, Issuer


def after(seconds: int) -> timedelta:
    """So long after the token is made."""
    return timedelta(seconds=seconds)


def encode(part: bytes) -> bytes:
    """A part of a token."""
    return base64.urlsafe_b64encode(part).rstrip(b"=")


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_a_token_of_the_issuer_says_who_somebody_is(algorithm: str) -> None:
    issuer = Issuer(algorithm)
    token = issuer.token(sub="robot", exp=after(100))
    bearer = await issuer.validator().validate(token)
    assert bearer == Bearer(user("robot"), bearer.expires_at)
    assert bearer.expires_at == pytest.approx(time.time() + 100, abs=20)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"iss": "https://other.example"}, "InvalidIssuer"),
        ({"iss": None}, "iss"),
        ({"aud": "another service"}, "Audience"),
        ({"aud": None}, "aud"),
        ({"exp": after(-31)}, "ExpiredSignature"),
        ({"exp": None}, "exp"),
        ({"exp": "soon"}, "exp"),
        ({"nbf": after(60)}, "ImmatureSignature"),
        ({"iat": after(60)}, "ImmatureSignature"),
        ({"sub": None}, "'sub'"),
        ({"sub": ""}, "'sub'"),
        ({"sub": "a\nb"}, "'sub'"),
        ({"sub": "ANONYMOUS"}, "'sub'"),
    ],
)
async def test_what_a_token_must_say(claims: dict[str, Any], why: str) -> None:
    issuer = Issuer()
    with pytest.raises(TokenRefused, match=why) as refused:
        await issuer.validator().validate(issuer.token(**claims))
    assert refused.value.status == INVALID_TOKEN


async def test_clocks_may_differ_a_little() -> None:
    issuer = Issuer()
    early_and_late: list[dict[str, Any]] = [{"exp": after(-5)}, {"nbf": after(5)}, {"iat": after(5)}]
    for claims in early_and_late:
        bearer = await issuer.validator().validate(issuer.token(**claims))
        assert bearer.expires_at > time.time(), "a session that begins is not over"
    with pytest.raises(TokenRefused):
        await issuer.validator(clock_skew_s=0.0).validate(issuer.token(exp=after(-5)))


async def test_one_of_several_audiences_is_enough() -> None:
    issuer = Issuer()
    validator = issuer.validator(audience=["other", "kafka"])
    assert (await validator.validate(issuer.token(aud=["x", "kafka"]))).principal == user("robot")
    assert (await issuer.validator(audience=[]).validate(issuer.token(aud="anything"))).principal == user(
        "robot"
    )


async def test_another_claim_can_be_the_name() -> None:
    issuer = Issuer()
    validator = issuer.validator(principal_claim="client_id")
    assert (await validator.validate(issuer.token(client_id="app"))).principal == user("app")


async def test_scopes_are_required_where_they_are_configured() -> None:
    issuer = Issuer()
    validator = issuer.validator(required_scopes=["kafka", "write"])
    assert (await validator.validate(issuer.token(scope="write kafka other"))).principal == user("robot")
    with pytest.raises(TokenRefused, match="write") as refused:
        await validator.validate(issuer.token(scope="kafka"))
    assert refused.value.status == INSUFFICIENT_SCOPE
    assert scopes(["a", 1, "b"]) == {"a", "b"}
    assert scopes(None) == frozenset()


async def test_unsecured_tokens_are_refused() -> None:
    issuer = Issuer()
    for key in ({"kid": issuer.key_id}, {}):
        token = jwt.encode(issuer.claims(), "", algorithm="none", headers=key)
        with pytest.raises(TokenRefused, match="'none' is not allowed"):
            await issuer.validator().validate(token)
    head = encode(json.dumps({"alg": "NONE", "kid": issuer.key_id}).encode())
    with pytest.raises(TokenRefused, match="not allowed"):
        await issuer.validator().validate(f"{head.decode()}.{issuer.token().split('.')[1]}.")


async def test_a_public_key_is_no_shared_secret() -> None:
    issuer = Issuer("RS256")
    public = issuer.keys[issuer.key_id].public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)
    head = {"alg": "HS256", "typ": "JWT", "kid": issuer.key_id}
    signed = b".".join(encode(json.dumps(part).encode()) for part in (head, issuer.claims()))
    token = signed + b"." + encode(hmac.digest(public, signed, "sha256"))
    with pytest.raises(TokenRefused, match="'HS256' is not allowed"):
        await issuer.validator().validate(token.decode())


async def test_the_algorithm_must_fit_the_key() -> None:
    elliptic, other = Issuer("ES256"), Issuer("RS256")
    token = other.token(headers={"kid": elliptic.key_id})
    with pytest.raises(TokenRefused):
        await elliptic.validator().validate(token)


async def test_only_the_allowed_algorithms_pass() -> None:
    issuer = Issuer()
    with pytest.raises(TokenRefused, match="'ES256' is not allowed"):
        await issuer.validator(algorithms=["RS256"]).validate(issuer.token())


async def test_a_signature_that_was_made_by_another_key_is_refused() -> None:
    issuer, forger = Issuer(), Issuer()
    token = forger.token(headers={"kid": issuer.key_id})
    with pytest.raises(TokenRefused, match="InvalidSignature"):
        await issuer.validator().validate(token)
    with pytest.raises(TokenRefused, match="no key"):
        await issuer.validator().validate(forger.token())


async def test_claims_cannot_be_exchanged() -> None:
    issuer = Issuer()
    head, _, signature = issuer.token().split(".")
    _, body, _ = issuer.token(sub="admin").split(".")
    with pytest.raises(TokenRefused, match="InvalidSignature"):
        await issuer.validator().validate(f"{head}.{body}.{signature}")


async def test_without_a_key_id_the_only_key_is_taken() -> None:
    issuer = Issuer()
    key = issuer.keys[issuer.key_id]
    token = jwt.encode(issuer.claims(), key, algorithm="ES256")
    assert issuer.jwks
    assert (await issuer.validator().validate(token)).principal == user("robot")
    issuer.rotate()
    with pytest.raises(TokenRefused, match="no key"):
        await issuer.validator().validate(token)


ISSUER_OF_NOISE = Issuer()


@given(
    st.text(st.characters(codec="ascii"), max_size=100)
    | st.from_regex(r"[\w-]+\.[\w-]+\.[\w-]*", fullmatch=True)
)
async def test_no_text_does_anything_but_being_refused(token: str) -> None:
    with pytest.raises(TokenRefused):
        await ISSUER_OF_NOISE.validator().validate(token)
    assert ISSUER
