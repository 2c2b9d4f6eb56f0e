from pathlib import Path

import pytest

from certs.make_certs import TestAuthority
from gateway.config import SecurityProtocol
from gateway.links.config_keys import KEYS
from gateway.links.configs import is_sensitive, show, validate
from gateway.links.errors import LinkError
from gateway.links.properties import parse_properties
from gateway.state.records import ConnectionMode, LinkMode, LinkRecord

PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
OUTBOUND = {"bootstrap.servers": "cloud:9092"}

ON_PREM = rf"""
link.mode=SOURCE
connection.mode=OUTBOUND
bootstrap.servers=cloud:9092
ssl.endpoint.identification.algorithm=https
security.protocol=SASL_SSL
sasl.mechanism=PLAIN
sasl.jaas.config={PLAIN} required username='CP-and-CC-Linking' password='pä$s';
local.security.protocol=SASL_SSL
local.sasl.mechanism=SCRAM-SHA-512
local.sasl.jaas.config={SCRAM} required username='link-reader' password='hush';
"""

CLOUD_TO_CLOUD = rf"""
consumer.offset.sync.enable=true
consumer.offset.group.filters=\{{"groupFilters": [\{{"name": "*","patternType": "LITERAL", \
  "filterType": "INCLUDE"\}}]\}}
consumer.offset.sync.ms=1000
acl.sync.enable=true
acl.sync.ms=1000
acl.filters=\{{ "aclFilters": [ \{{ "resourceFilter": \
   \{{ "resourceType": "any", "patternType": "any" \}}, \
   "accessFilter": \{{ "operation": "any", "permissionType": "any" \}} \}} ] \}}
topic.config.sync.ms=1000
security.protocol=SASL_SSL
sasl.mechanism=PLAIN
sasl.jaas.config={PLAIN} required username="secret" password="key";
"""


def refused(configs: dict[str, str]) -> LinkError:
    with pytest.raises(LinkError) as error:
        validate(configs)
    return error.value


def a_link(configs: dict[str, str]) -> LinkRecord:
    return LinkRecord(
        link_name="l",
        cluster_link_id="x",
        link_mode=LinkMode.DESTINATION,
        connection_mode=ConnectionMode.OUTBOUND,
        configs=configs,
        filler_key=bytes(16),
        created_ms=0,
    )


def test_the_source_half_of_a_hybrid_link() -> None:
    config = validate(parse_properties(ON_PREM))
    assert (config.link_mode, config.connection_mode) == (LinkMode.SOURCE, ConnectionMode.OUTBOUND)
    assert config.bootstrap_servers == ("cloud:9092",)
    assert config.security is not None
    assert config.security.protocol is SecurityProtocol.SASL_SSL
    assert (config.security.mechanism, config.security.username) == ("PLAIN", "CP-and-CC-Linking")
    assert config.security.password == "pä$s"
    assert config.security.ssl_context is not None
    assert config.security.ssl_context.check_hostname
    assert config.local_security is not None
    assert config.local_security.mechanism == "SCRAM-SHA-512"
    assert (config.local_security.username, config.local_security.password) == ("link-reader", "hush")
    assert "hush" not in repr(config)


def test_the_destination_half_of_a_hybrid_link_needs_nothing_more() -> None:
    config = validate({"link.mode": "DESTINATION", "connection.mode": "INBOUND"})
    assert (config.link_mode, config.connection_mode) == (LinkMode.DESTINATION, ConnectionMode.INBOUND)
    assert config.security is None
    assert config.local_security is None


def test_a_link_that_dials_its_source_with_everything_synced() -> None:
    config = validate(parse_properties(CLOUD_TO_CLOUD) | OUTBOUND)
    assert (config.link_mode, config.connection_mode) == (LinkMode.DESTINATION, ConnectionMode.OUTBOUND)
    assert config.number("acl.sync.ms") == 1000
    assert config.number("consumer.offset.sync.ms") == 1000
    assert config.flag("acl.sync.enable")
    assert not config.flag("auto.create.mirror.topics.enable")
    assert config.text(
        "acl.filters",
    ) == (
        '{ "aclFilters": [ { "resourceFilter": { "resourceType": "any", "patternType": "any" }, '
        '"accessFilter": { "operation": "any", "permissionType": "any" } } ] }'
    )
    assert config.prefix == ""


def test_nothing_said_is_a_link_that_dials_in_the_clear() -> None:
    config = validate(OUTBOUND)
    assert config.link_mode is LinkMode.DESTINATION
    assert config.security is not None
    assert config.security.protocol is SecurityProtocol.PLAINTEXT
    assert config.security.ssl_context is None


@pytest.mark.parametrize("listener", ["local.listener", "local.listener.name"])
def test_a_local_listener_alone_says_nothing_about_credentials(listener: str) -> None:
    config = validate({"link.mode": "SOURCE", listener: "BROKER", **OUTBOUND})
    assert config.local_security is None
    explicit = validate({"link.mode": "SOURCE", "local.security.protocol": "PLAINTEXT", **OUTBOUND})
    assert explicit.local_security is not None
    assert explicit.local_security.protocol is SecurityProtocol.PLAINTEXT


@pytest.mark.parametrize(
    ("configs", "code", "text"),
    [
        ({"link.mood": "SOURCE"}, 40002, "Unknown cluster link config 'link.mood'"),
        ({"link.mode": "BIDIRECTIONAL"}, 40035, "not yet supported"),
        ({"link.mode": "SOURCE", "connection.mode": "INBOUND"}, 40002, "cannot be INBOUND"),
        ({}, 40002, "'bootstrap.servers' is required: this half of the link dials the source"),
        ({"link.mode": "SOURCE"}, 40002, "is required: this half of the link dials the destination"),
        ({"bootstrap.servers": " , "}, 40002, "'bootstrap.servers' is required"),
        ({"bootstrap.servers": "cloud"}, 40002, "not host:port"),
        ({"bootstrap.servers": "cloud:0"}, 40002, "not host:port"),
        ({"bootstrap.servers": "cloud:65536"}, 40002, "not host:port"),
        ({"acl.sync.ms": "x"}, 40002, "'acl.sync.ms' must be a whole number"),
        ({"client.dns.lookup": "x" * 100_001}, 40002, "longer than"),
        ({"mirror.start.offset.spec": "soon"}, 40002, "must be earliest, latest or a time"),
        ({"cluster.link.prefix": "a.", "acl.sync.enable": "TRUE"}, 40002, "'acl.sync.enable' cannot be true"),
        ({"consumer.group.prefix.enable": "true"}, 40002, "needs 'cluster.link.prefix'"),
        ({"cluster.link.prefix": "a" * 13}, 40002, "at most 12"),
        ({"cluster.link.prefix": "a/"}, 40002, "cluster.link.prefix"),
        ({"security.protocol": "TLS"}, 40002, "'security.protocol' must be one of"),
        ({"security.protocol": "SASL_SSL"}, 40035, "'GSSAPI' is not supported"),
        (
            {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"},
            40002,
            "'sasl.jaas.config' is required",
        ),
    ],
)
def test_mistakes_are_named(configs: dict[str, str], code: int, text: str) -> None:
    base = {} if "required" in text and "jaas" not in text else OUTBOUND
    error = refused({**base, **configs})
    assert (error.status, error.error_code) == (400, code)
    assert text in error.message


@pytest.mark.parametrize(
    ("jaas", "text"),
    [
        (f"{PLAIN} required username='a' password='hush'", "is malformed"),
        ("some.Other required username='a' password='hush';", "must name one of the login modules"),
        (f"{SCRAM} required username='a' password='hush';", "names the login module of SCRAM-SHA-256"),
        (f"{PLAIN} required username='a' passwort='hush';", "needs the options username and password"),
        (f"{PLAIN} required username='' password='hush';", "needs the options username and password"),
    ],
)
@pytest.mark.parametrize("scope", ["", "local."])
def test_mistakes_in_credentials_are_named_without_them(scope: str, jaas: str, text: str) -> None:
    configs = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.jaas.config": jaas}
    error = refused(OUTBOUND | {scope + name: value for name, value in configs.items()})
    assert f"Config '{scope}sasl.jaas.config' {text}" in error.message
    assert "hush" not in error.message


def test_addresses_may_carry_a_protocol_and_be_many() -> None:
    config = validate({"bootstrap.servers": "SASL_SSL://a.b-c:1, [::1]:9092,PLAINTEXT://10.0.0.1:65535,"})
    assert config.bootstrap_servers == ("a.b-c:1", "[::1]:9092", "10.0.0.1:65535")


def test_a_prefix_that_only_looks_like_one() -> None:
    assert validate({"link.prefix": "x", **OUTBOUND}).prefix == ""
    assert validate({"cluster.link.prefix": "west.", **OUTBOUND}).prefix == "west."


def test_tls_material_comes_as_text_or_file(authority: TestAuthority, tmp_path: Path) -> None:
    ca_pem = authority.ca_file.read_text()
    base = {**OUTBOUND, "security.protocol": "SSL", "ssl.endpoint.identification.algorithm": ""}
    for configs in (
        {"ssl.truststore.type": "PEM", "ssl.truststore.certificates": ca_pem},
        {"ssl.truststore.location": str(authority.ca_file)},
    ):
        security = validate(base | configs).security
        assert security is not None
        assert security.ssl_context is not None
        assert not security.ssl_context.check_hostname
        assert len(security.ssl_context.get_ca_certs()) == 1
    store = tmp_path / "store.jks"
    store.write_bytes(b"\xfe\xed\xfe\xed")
    cases: list[tuple[dict[str, str], str]] = [
        ({"ssl.truststore.location": str(store)}, "'ssl.truststore.location' is not a PEM file"),
        ({"ssl.truststore.location": str(tmp_path / "none")}, "cannot be read: No such file"),
        ({"ssl.truststore.location": "a\0b"}, "cannot be read"),
        ({"ssl.truststore.certificates": "x"}, "The configs 'ssl.*' cannot be used"),
        ({"ssl.keystore.key": "x"}, "need each other"),
        ({"ssl.keystore.certificate.chain": "x"}, "need each other"),
        ({"ssl.keystore.key": "x", "ssl.keystore.certificate.chain": "y"}, "cannot be used"),
    ]
    for configs, text in cases:
        assert text in refused(base | configs).message


def test_a_client_certificate_is_taken(authority: TestAuthority) -> None:
    identity = authority.client("link")
    key_pem, chain_pem = identity.key_file.read_text(), identity.certificate_file.read_text()
    base = {**OUTBOUND, "security.protocol": "SSL", "ssl.truststore.location": str(authority.ca_file)}
    validate(base | {"ssl.keystore.key": key_pem, "ssl.keystore.certificate.chain": chain_pem})


def test_secrets_are_known_and_never_shown() -> None:
    for name in ("sasl.jaas.config", "local.sasl.jaas.config", "ssl.keystore.key", "local.ssl.key.password"):
        assert is_sensitive(name)
    assert is_sensitive("unknown.to.this.version")
    assert not is_sensitive("bootstrap.servers")
    shown = {view.name: view for view in show(a_link({"sasl.jaas.config": "hush", "acl.sync.ms": "2000"}))}
    assert shown.keys() == KEYS.keys()
    jaas = shown["sasl.jaas.config"]
    assert (jaas.value, jaas.is_default, jaas.is_sensitive) == (None, False, True)
    interval = shown["acl.sync.ms"]
    assert (interval.value, interval.is_default, interval.is_read_only) == ("2000", False, False)
    assert (shown["link.mode"].value, shown["link.mode"].is_read_only) == ("DESTINATION", True)
