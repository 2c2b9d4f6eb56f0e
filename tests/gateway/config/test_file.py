"""The configuration file as a whole: every mistake is told, at its path, all at once."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from certs.make_certs import TestAuthority
from gateway.config import Authentication, Authorization, ConfigError, SecurityProtocol, check, load

CLUSTER: dict[str, Any] = {"bootstrap_servers": ["kafka-1:9092", "[::1]:9093"]}
LISTENER: dict[str, Any] = {
    "name": "clients",
    "port": 9092,
    "advertised_host": "gateway.example",
    "node_ids": "1-3",
    "broker_port": 9101,
    "insecure": True,
    "authentication": "none",
}
MINIMAL: dict[str, Any] = {"cluster": CLUSTER, "authorization": "none"}


@pytest.fixture
def server_tls(authority: TestAuthority) -> dict[str, Any]:
    identity = authority.server()
    return {"certificate_file": str(identity.certificate_file), "key_file": str(identity.key_file)}


def errors_of(folder: Path, config: Any) -> list[str]:
    """The errors of a configuration, given as a value or as text; the same from `check` and `load`."""
    path = folder / "gateway.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    errors = check(path)
    if errors:
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert caught.value.errors == errors
        assert str(caught.value) == "\n".join(errors)
    else:
        load(path)
    return errors


def test_the_least_that_a_gateway_needs(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(MINIMAL))
    config = load(tmp_path / "gateway.yaml")
    assert config.listeners == []
    assert (config.admin.bind, config.admin.port, config.admin.insecure) == ("127.0.0.1", 8090, False)
    assert config.cluster.security.protocol is SecurityProtocol.PLAINTEXT
    assert config.limits.max_frame_bytes == 100 * 1024 * 1024
    assert config.state.secrets_key is None


def test_everything_that_can_be_said(
    tmp_path: Path, authority: TestAuthority, server_tls: dict[str, Any]
) -> None:
    (tmp_path / "upstream-password").write_text("s3cret word\n")
    (tmp_path / "alice-password").write_bytes("pässword\r\n".encode())
    (tmp_path / "key").write_bytes(base64.b64encode(bytes(range(32))) + b"\n")
    identity = authority.client("gateway")
    tls = {**server_tls, "client_ca_file": str(authority.ca_file), "client_auth": "required"}
    text = yaml.safe_dump(
        {
            "cluster": {
                **CLUSTER,
                "cluster_id": "abc",
                "connect_timeout_ms": 2000,
                "security": {
                    "protocol": "SASL_SSL",
                    "sasl_mechanism": "SCRAM-SHA-512",
                    "username": "gateway",
                    "password_file": "upstream-password",
                    "ca_file": str(authority.ca_file),
                    "certificate_file": str(identity.certificate_file),
                    "key_file": str(identity.key_file),
                    "verify_hostname": False,
                },
            },
            "listeners": [
                LISTENER | {"advertised_port": 19092, "advertised_broker_port": 19101},
                LISTENER
                | {
                    "name": "mtls",
                    "port": 9192,
                    "broker_port": 9201,
                    "tls": tls,
                    "insecure": False,
                    "authentication": "mtls",
                },
            ],
            "admin": {"bind": "0.0.0.0", "port": 8443, "tls": tls},
            "authorization": "none",
            "super_users": ["User:admin"],
            "users": [
                {"name": "alice", "password_file": "alice-password"},
                {"name": "bob", "password": "builder"},
            ],
            "state": {"replication_factor": 3, "secrets_key_file": "key", "max_staleness_ms": 1000},
            "limits": {"max_connections": 10},
            "drain_timeout_ms": 5,
            "logging": {"level": "DEBUG", "format": "console"},
        }
    )
    (tmp_path / "gateway.yaml").write_text(text)
    config = load(tmp_path / "gateway.yaml")
    passwords = [user.password.get_secret_value() for user in config.users if user.password is not None]
    assert passwords == ["pässword", "builder"]
    assert config.cluster.security.password is not None
    assert config.cluster.security.password.get_secret_value() == "s3cret word"
    assert config.state.secrets_key is not None
    assert config.state.secrets_key.get_secret_value() == bytes(range(32))
    plain, mtls = config.listeners
    assert plain.broker_ports() == {1: 9101, 2: 9102, 3: 9103}
    assert plain.advertised_bootstrap() == ("gateway.example", 19092)
    assert plain.advertised_broker(3) == ("gateway.example", 19103)
    assert plain.advertised_broker(4) is None
    assert mtls.advertised_bootstrap() == ("gateway.example", 9192)
    assert mtls.advertised_broker(1) == ("gateway.example", 9201)
    assert mtls.authentication is Authentication.MTLS
    for secret in ("s3cret", "pässword", "builder", repr(bytes(range(32)))):
        assert secret not in repr(config)
        assert secret not in config.model_dump_json()


def test_all_mistakes_are_told_at_once(tmp_path: Path, server_tls: dict[str, Any]) -> None:
    config = {
        "cluster": {"bootstrap_servers": ["kafka"], "security": {"protocol": "SASL_SSL", "username": "u"}},
        "listeners": [
            {"name": "a", "port": "many", "advertised_host": "h", "authentication": "none"},
            LISTENER | {"authentication": "mtls", "oops": 1},
            LISTENER | {"name": "c", "port": 9092},
            LISTENER | {"name": "c", "port": 8090, "broker_port": 9301},
        ],
        "users": [{"name": "u"}, {"name": "v", "password": "x"}, {"name": "v", "password": "x"}],
        "authorization": "off",
        "super_users": ["admin"],
        "logging": {"level": "LOUD"},
        "extra": {},
    }
    errors = errors_of(tmp_path, config)
    paths = [error.partition(": ") for error in errors]
    assert [f"{path}: {message[:40]}" for path, _, message in paths] == [
        "cluster.bootstrap_servers[0]: 'kafka' is not host:port",
        "cluster.security.sasl_mechanism: is required with protocol SASL_SSL",
        "cluster.security.password: is required with protocol SASL_SSL",
        "listeners[0].port: input should be a valid integer, unable ",
        "listeners[0].insecure: must be true for a listener without tls:",
        "listeners[1].authentication: mtls needs tls with client_ca_file and c",
        "listeners[1].oops: is not a known key",
        "authorization: input should be 'acls' or 'none'",
        "super_users[0]: 'admin' is not a principal such as User:",
        "users[0].password: password_file or password is required",
        "logging.level: input should be 'DEBUG', 'INFO', 'WARNIN",
        "extra: is not a known key",
        "listeners[3].name: 'c' is the name of listeners[2] already",
        "users[2].name: 'v' is the name of users[1] already",
        "admin.port: port 8090 is taken by listeners[3].port",
    ]


def test_duplicate_keys_are_refused_with_path_and_line(tmp_path: Path) -> None:
    text = (
        "cluster: {bootstrap_servers: ['a:1']}\n"
        "authorization: none\n"
        "admin:\n"
        "  port: 1\n"
        "  port: 2\n"
        "users:\n"
        "  - {name: a, password: x, name: b}\n"
        "authorization: none\n"
    )
    assert errors_of(tmp_path, text) == [
        "admin.port: duplicate key (line 5)",
        "users[0].name: duplicate key (line 7)",
        "authorization: duplicate key (line 8)",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("a: !!python/object:os.system {}", "is not YAML"),
        ("- a", "is not a mapping"),
        ("", "is not a mapping"),
        ("&a [*a]", "is not a mapping"),
        ("a: \x01", "is not YAML"),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    (error,) = errors_of(tmp_path, text)
    assert message in error


def test_recursive_yaml_ends(tmp_path: Path) -> None:
    assert errors_of(tmp_path, "cluster: &a {b: *a}\nauthorization: none") == [
        "cluster.bootstrap_servers: is required",
        "cluster.b: is not a known key",
    ]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (error,) = check(tmp_path / "missing.yaml")
    assert "missing.yaml: cannot be read" in error
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4")
    (error,) = check(tmp_path / "latin.yaml")
    assert "latin.yaml: cannot be read" in error


def test_acls_decide_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump({"cluster": CLUSTER}))
    config = load(path)
    assert config.authorization is Authorization.ACLS
    assert not config.allow_everyone_if_no_acl_found
    path.write_text(yaml.safe_dump(MINIMAL))
    assert load(path).authorization is Authorization.NONE


@pytest.mark.parametrize("value", ["standard", None, True])
def test_authorization_is_one_of_two(tmp_path: Path, value: object) -> None:
    errors = errors_of(tmp_path, MINIMAL | {"authorization": value})
    assert errors == ["authorization: input should be 'acls' or 'none'"]


@pytest.mark.parametrize(
    ("listeners", "admin", "errors"),
    [
        ([{}, {"name": "b", "bind": "127.0.0.2"}], {}, 4),  # 0.0.0.0 takes the ports of every address
        ([{"bind": "127.0.0.1"}, {"name": "b", "bind": "127.0.0.2"}], {}, 0),
        ([{"bind": "127.0.0.1"}, {"name": "b", "bind": "::"}], {}, 4),
        ([{"broker_port": 9090, "node_ids": "1-3"}], {}, 1),  # its own bootstrap port
        ([{"broker_port": 9091, "node_ids": "0,2"}], {}, 0),  # the gap at node id 1
        ([{"broker_port": 9091, "node_ids": "0-1"}], {}, 1),
        ([{"broker_port": None}], {"port": 9094}, 1),
        ([{"broker_port": None}], {"port": 9096}, 0),
        ([{"bind": "127.0.0.2"}], {"port": 9092}, 0),
    ],
)
def test_port_collisions(
    tmp_path: Path, listeners: list[dict[str, Any]], admin: dict[str, Any], errors: int
) -> None:
    config = MINIMAL | {"listeners": [LISTENER | listener for listener in listeners], "admin": admin}
    found = errors_of(tmp_path, config)
    assert len(found) == errors
    assert all("is taken by listeners[0]." in error for error in found)


def test_a_collision_names_both_places(tmp_path: Path) -> None:
    config = MINIMAL | {"listeners": [LISTENER, LISTENER | {"name": "b", "port": 9103, "broker_port": 9401}]}
    assert errors_of(tmp_path, config) == [
        "listeners[1].port: port 9103 is taken by listeners[0].broker_port (node id 3)"
    ]
