"""What each section refuses, and what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from certs.make_certs import TestAuthority
from gateway.config import AdminConfig, ListenerConfig, SecurityConfig, StateConfig, TlsConfig, UserConfig

LISTENER: dict[str, Any] = {"name": "a", "port": 9092, "advertised_host": "h", "authentication": "sasl_plain"}


@pytest.fixture
def server_tls(authority: TestAuthority) -> dict[str, Any]:
    identity = authority.server()
    return {"certificate_file": identity.certificate_file, "key_file": identity.key_file}


def complaints(model: type[BaseModel], value: Any, folder: Path | None = None) -> dict[str, str]:
    """The message by field of each mistake."""
    try:
        model.model_validate(value, context={"folder": folder or Path()})
    except ValidationError as error:
        return {".".join(map(str, details["loc"])): details["msg"] for details in error.errors()}
    return {}


@pytest.mark.parametrize("authentication", ["none", "sasl_plain"])
def test_clear_text_must_be_wanted(authentication: str) -> None:
    listener = LISTENER | {"authentication": authentication}
    assert list(complaints(ListenerConfig, listener)) == ["insecure"]
    assert complaints(ListenerConfig, listener | {"insecure": True}) == {}


def test_mtls_needs_required_certificates(server_tls: dict[str, Any], authority: TestAuthority) -> None:
    listener = LISTENER | {"authentication": "mtls", "insecure": True}
    assert list(complaints(ListenerConfig, listener)) == ["authentication"]
    assert list(complaints(ListenerConfig, listener | {"tls": server_tls})) == ["authentication"]
    tls = server_tls | {"client_ca_file": authority.ca_file, "client_auth": "requested"}
    assert list(complaints(ListenerConfig, listener | {"tls": tls})) == ["authentication"]
    assert complaints(ListenerConfig, listener | {"tls": tls | {"client_auth": "required"}}) == {}


def test_asking_for_certificates_needs_an_authority(server_tls: dict[str, Any]) -> None:
    for client_auth in ("requested", "required"):
        assert complaints(TlsConfig, server_tls | {"client_auth": client_auth}) == {
            "client_auth": f"Value error, {client_auth} needs client_ca_file"
        }


def test_a_revocation_list_belongs_to_an_authority(
    server_tls: dict[str, Any], authority: TestAuthority, tmp_path: Path
) -> None:
    (tmp_path / "crl.pem").write_bytes(authority.revocation_list())
    tls = server_tls | {"crl_file": tmp_path / "crl.pem"}
    assert list(complaints(TlsConfig, tls)) == ["crl_file"]
    tls |= {"client_ca_file": authority.ca_file, "client_auth": "required"}
    assert complaints(TlsConfig, tls) == {}
    (tmp_path / "crl.pem").write_text("junk")
    assert "cannot use CRL file" in complaints(TlsConfig, tls)[""]


def test_certificates_must_be_usable(
    server_tls: dict[str, Any], authority: TestAuthority, tmp_path: Path
) -> None:
    other = authority.client("other")
    assert "cannot use certificate" in complaints(TlsConfig, server_tls | {"key_file": other.key_file})[""]
    (tmp_path / "junk.pem").write_text("junk")
    junk = tmp_path / "junk.pem"
    assert "cannot use CA file" in complaints(TlsConfig, server_tls | {"client_ca_file": junk})[""]
    security = {"protocol": "SSL", "ca_file": junk}
    assert "cannot use CA file" in complaints(SecurityConfig, security)[""]
    missing = complaints(TlsConfig, {"certificate_file": "no.pem", "key_file": "no.key"}, tmp_path)
    assert missing == {
        name: f"Value error, cannot read {tmp_path / file}: No such file or directory"
        for name, file in (("certificate_file", "no.pem"), ("key_file", "no.key"))
    }


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"port": 0}, ["port"]),
        ({"port": 65536}, ["port"]),
        ({"name": "_causeway-x"}, ["name"]),
        ({"name": "a b"}, ["name"]),
        ({"bind": "localhost"}, ["bind"]),
        ({"advertised_host": "0.0.0.0"}, ["advertised_host"]),
        ({"advertised_host": "::"}, ["advertised_host"]),
        ({"advertised_host": "a b"}, ["advertised_host"]),
        ({"advertised_host": "fe80::1"}, []),
        ({"broker_port": 65535, "node_ids": "7-8"}, ["broker_port"]),
        ({"broker_port": 65535, "node_ids": "7"}, []),
        ({"port": 65535, "node_ids": "7"}, ["broker_port"]),
        ({"port": 65534, "node_ids": "7"}, []),
        ({"advertised_broker_port": 65530}, ["advertised_broker_port"]),
        ({"node_ids": 5}, []),
        ({"node_ids": "1, 2,5-7"}, []),
        ({"node_ids": [2, 1, "5-7"]}, []),
        ({"node_ids": [True]}, ["node_ids"]),
        ({"node_ids": [-1]}, ["node_ids"]),
        ({"node_ids": None}, ["node_ids"]),
        ({"node_ids": []}, ["node_ids"]),
        ({"node_ids": ""}, ["node_ids"]),
        ({"node_ids": "a"}, ["node_ids"]),
        ({"node_ids": "3-1"}, ["node_ids"]),
        ({"node_ids": "-1"}, ["node_ids"]),
        ({"node_ids": "0-10000"}, ["node_ids"]),
        ({"node_ids": "0-999999999"}, ["node_ids"]),
        ({"authentication": "kerberos"}, ["authentication"]),
    ],
)
def test_listeners(change: dict[str, Any], wrong: list[str]) -> None:
    assert list(complaints(ListenerConfig, LISTENER | {"insecure": True} | change)) == wrong


@pytest.mark.parametrize("node_ids", ["5-7,1,6,2", ["5-7", 1, 6, 2]])
def test_node_ids_are_sorted_and_unique(node_ids: object) -> None:
    listener = ListenerConfig.model_validate(LISTENER | {"insecure": True, "node_ids": node_ids})
    assert listener.node_ids == (1, 2, 5, 6, 7)
    # Gaps keep their ports: a broker that comes later does not move the others.
    assert listener.broker_ports() == {1: 9093, 2: 9094, 5: 9097, 6: 9098, 7: 9099}


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.9.9.9", "::1"])
def test_admin_may_be_open_on_loopback(bind: str) -> None:
    assert complaints(AdminConfig, {"bind": bind, "insecure": True}) == {}


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "10.0.0.1"])
def test_admin_elsewhere_needs_tls(bind: str, server_tls: dict[str, Any]) -> None:
    assert list(complaints(AdminConfig, {"bind": bind})) == ["tls"]
    assert complaints(AdminConfig, {"bind": bind, "tls": server_tls}) == {}
    assert list(complaints(AdminConfig, {"bind": bind, "tls": server_tls, "insecure": True})) == ["insecure"]


SASL = {"sasl_mechanism": "PLAIN", "username": "u", "password": "p"}


@pytest.mark.parametrize(
    ("security", "wrong"),
    [
        ({}, []),
        ({"protocol": "SSL"}, []),
        ({"protocol": "SASL_PLAINTEXT"} | SASL, []),
        ({"protocol": "SASL_SSL"} | SASL, []),
        ({"protocol": "SASL_SSL"}, ["sasl_mechanism", "username", "password"]),
        (SASL, ["sasl_mechanism", "username", "password"]),
        ({"protocol": "SSL"} | SASL, ["sasl_mechanism", "username", "password"]),
        ({"protocol": "SASL_SSL", **SASL, "sasl_mechanism": "GSSAPI"}, ["sasl_mechanism"]),
        ({"protocol": "SASL_SSL", **SASL, "password": ""}, ["password"]),
        ({"protocol": "SASL_SSL", **SASL, "password": None, "password_file": "absent"}, ["password_file"]),
        ({"protocol": "tls"}, ["protocol"]),
    ],
)
def test_ways_into_the_cluster(security: dict[str, Any], wrong: list[str]) -> None:
    assert list(complaints(SecurityConfig, security)) == wrong


def test_tls_files_of_the_cluster(authority: TestAuthority) -> None:
    identity = authority.client("gateway")
    certificate, key = {"certificate_file": identity.certificate_file}, {"key_file": identity.key_file}
    tls = {"protocol": "SSL", "ca_file": authority.ca_file}
    assert complaints(SecurityConfig, tls | certificate | key) == {}
    assert list(complaints(SecurityConfig, tls | certificate)) == ["key_file"]
    assert list(complaints(SecurityConfig, tls | key)) == ["key_file"]
    assert list(complaints(SecurityConfig, {"ca_file": authority.ca_file})) == ["ca_file"]


def test_passwords(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "latin").write_bytes(b"\xe4")
    (tmp_path / "long").write_bytes(b"x" * 70_000)
    wrong: dict[str, dict[str, Any]] = {
        "password_file or password is required": {},
        "not both": {"password": "x", "password_file": "latin"},
        "is empty": {"password_file": "empty"},
        "not UTF-8": {"password_file": "latin"},
        "longer than": {"password_file": "long"},
    }
    for message, user in wrong.items():
        assert message in complaints(UserConfig, {"name": "u"} | user, tmp_path)["password"]
    for name in ("", "ANONYMOUS", "_causeway", "a\nb", "x" * 256):
        assert list(complaints(UserConfig, {"name": name, "password": "x"})) == ["name"]


def test_a_secret_is_not_in_the_complaint_about_it(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        UserConfig.model_validate({"name": "u", "password": ["hunter2"], "more": "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"\xff" * 40, b"AAAA"])
def test_keys_of_the_wrong_length(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    assert "does not hold 32 bytes" in complaints(StateConfig, {"secrets_key_file": "key"}, tmp_path)[""]


def test_a_raw_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(32))
    state = StateConfig.model_validate({"secrets_key_file": "key"}, context={"folder": tmp_path})
    assert state.secrets_key is not None
    assert state.secrets_key.get_secret_value() == bytes(32)
