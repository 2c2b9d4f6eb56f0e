"""What a listener may say of how clients show who they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.config import ListenerConfig, OAuthBearerConfig
from tests.gateway.config.test_models import LISTENER, complaints

OPEN = LISTENER | {"insecure": True}
TOKENS: dict[str, Any] = {"jwks_url": "https://issuer.example/keys", "issuer": "i", "audience": ["a"]}


@pytest.mark.parametrize(
    ("section", "mechanisms"),
    [
        ({"authentication": "none"}, ()),
        ({"authentication": "sasl_plain"}, ("PLAIN",)),
        (
            {"authentication": "sasl", "sasl_mechanisms": ["SCRAM-SHA-512", "PLAIN"]},
            ("SCRAM-SHA-512", "PLAIN"),
        ),
        (
            {"authentication": "sasl", "sasl_mechanisms": ["OAUTHBEARER"], "oauthbearer": TOKENS},
            ("OAUTHBEARER",),
        ),
    ],
)
def test_a_listener_offers_the_mechanisms_it_names(
    section: dict[str, Any], mechanisms: tuple[str, ...]
) -> None:
    assert ListenerConfig.model_validate(OPEN | section).mechanisms == mechanisms


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        ({"authentication": "sasl"}, ["sasl_mechanisms"]),
        ({"authentication": "sasl", "sasl_mechanisms": []}, ["sasl_mechanisms"]),
        ({"authentication": "sasl", "sasl_mechanisms": ["PLAIN", "PLAIN"]}, ["sasl_mechanisms"]),
        ({"authentication": "sasl", "sasl_mechanisms": ["GSSAPI"]}, ["sasl_mechanisms.0"]),
        ({"authentication": "none", "sasl_mechanisms": ["PLAIN"]}, ["sasl_mechanisms"]),
        ({"authentication": "sasl_plain", "sasl_mechanisms": ["PLAIN"]}, ["sasl_mechanisms"]),
        ({"authentication": "sasl", "sasl_mechanisms": ["OAUTHBEARER"]}, ["oauthbearer"]),
        ({"authentication": "sasl_plain", "oauthbearer": TOKENS}, ["oauthbearer"]),
        ({"authentication": "none", "connections_max_reauth_ms": 1000}, ["connections_max_reauth_ms"]),
        ({"authentication": "sasl_plain", "connections_max_reauth_ms": 0}, ["connections_max_reauth_ms"]),
        (
            {"authentication": "sasl_plain", "principal_mapping_rules": "RULE:x/y/"},
            ["principal_mapping_rules"],
        ),
        (
            {"authentication": "sasl_plain", "principal_mapping_rules": "nonsense"},
            ["principal_mapping_rules"],
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(section: dict[str, Any], wrong: list[str]) -> None:
    assert list(complaints(ListenerConfig, OPEN | section)) == wrong


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"jwks_url": None}, ["jwks_url"]),
        ({"jwks_url": "http://issuer.example/keys"}, ["jwks_url"]),
        ({"jwks_url": "https://user:password@issuer.example/keys"}, ["jwks_url"]),
        ({"jwks_url": "file:///keys"}, ["jwks_url"]),
        ({"issuer": ""}, ["issuer"]),
        ({"audience": None}, ["audience"]),
        ({"algorithms": []}, ["algorithms"]),
        ({"algorithms": ["none"]}, ["algorithms.0"]),
        ({"algorithms": ["HS256"]}, ["algorithms.0"]),
        ({"jwks_refresh_ms": 1}, ["jwks_refresh_ms"]),
        ({"clock_skew_ms": -1}, ["clock_skew_ms"]),
    ],
)
def test_tokens_are_taken_of_one_issuer_only(change: dict[str, Any], wrong: list[str]) -> None:
    assert list(complaints(OAuthBearerConfig, TOKENS | change)) == wrong


def test_issuer_and_audience_must_be_said() -> None:
    assert list(complaints(OAuthBearerConfig, {"jwks_url": TOKENS["jwks_url"]})) == ["issuer", "audience"]


def test_keys_come_from_a_file_or_from_a_url(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text("{}")
    from_file = TOKENS | {"jwks_url": None, "jwks_file": path}
    assert complaints(OAuthBearerConfig, from_file) == {}
    assert list(complaints(OAuthBearerConfig, TOKENS | {"jwks_file": path})) == ["jwks_url"]
    assert list(complaints(OAuthBearerConfig, from_file | {"jwks_ca_file": path})) == ["jwks_ca_file"]
    for local in ("http://127.0.0.1:8080/keys", "http://[::1]/keys", "http://localhost/keys"):
        assert complaints(OAuthBearerConfig, TOKENS | {"jwks_url": local}) == {}
