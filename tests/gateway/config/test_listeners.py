"""Where brokers are by the configuration: names on one port, proxies in front, addresses of IPv6."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from certs.make_certs import TestAuthority
from gateway.config import ClusterConfig, ListenerConfig, check, parse_host_port
from gateway.config.host_patterns import check_pattern
from gateway.config.values import format_host_port

BASE: dict[str, Any] = {"name": "a", "port": 9092, "authentication": "none"}
SNI = {"advertised_host": "b$(node_id).example.com", "bootstrap_host": "kafka.example.com"}


@pytest.fixture
def tls(authority: TestAuthority) -> dict[str, str]:
    identity = authority.server()
    return {"certificate_file": str(identity.certificate_file), "key_file": str(identity.key_file)}


def listener(**settings: Any) -> ListenerConfig:
    return ListenerConfig.model_validate(BASE | settings)


def complaints(**settings: Any) -> dict[str, str]:
    """The message by field of each mistake."""
    try:
        listener(**settings)
    except ValidationError as error:
        return {".".join(map(str, each["loc"])): each["msg"] for each in error.errors()}
    return {}


# --- names -------------------------------------------------------------------------------------------------


def test_brokers_by_name_are_all_at_one_port(tls: dict[str, str]) -> None:
    named = listener(tls=tls, node_ids="1-2,10", **SNI)
    assert named.by_server_name
    assert named.broker_ports() == {}
    assert named.advertised_bootstrap() == ("kafka.example.com", 9092)
    assert named.advertised_broker(10) == ("b10.example.com", 9092)
    assert named.advertised_broker(3) is None
    assert named.server_names(None) == {
        "kafka.example.com": None,
        "b1.example.com": 1,
        "b2.example.com": 2,
        "b10.example.com": 10,
    }


def test_the_advertised_port_is_one_for_all_names(tls: dict[str, str]) -> None:
    named = listener(tls=tls, node_ids="1", advertised_port=443, **SNI)
    assert named.advertised_bootstrap() == ("kafka.example.com", 443)
    assert named.advertised_broker(1) == ("b1.example.com", 443)


def test_names_of_the_cluster(tls: dict[str, str]) -> None:
    hosts = {
        "advertised_host": "B$(node_id).$(cluster).Example.com",
        "bootstrap_host": "$(cluster).Example.com",
    }
    named = listener(tls=tls, node_ids="7", **hosts)
    assert named.advertised_bootstrap("prod") == ("prod.Example.com", 9092)
    assert named.advertised_broker(7, "prod") == ("B7.prod.Example.com", 9092)
    assert named.server_names("prod") == {"prod.example.com": None, "b7.prod.example.com": 7}
    with pytest.raises(ValueError, match=r"\$\(cluster\) needs cluster.name"):
        named.server_names(None)
    with pytest.raises(ValueError, match="is longer than 253"):
        listener(
            tls=tls, advertised_host="b$(node_id).$(cluster)" + ".x" * 100, bootstrap_host="k.x"
        ).server_names("x" * 63)


def test_a_broker_with_the_name_of_the_bootstrap(tls: dict[str, str]) -> None:
    named = listener(tls=tls, node_ids="1-3", advertised_host="b$(node_id).x.com", bootstrap_host="B2.x.com")
    with pytest.raises(ValueError, match="node id 2 would have the name of the bootstrap"):
        named.server_names(None)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("$(cluster).example.com", r"must contain \$\(node_id\)"),
        ("b$(node).example.com", r"'\$\(node\)' is not known"),
        ("b$(node_id", r"'\$\(node_id' is not known"),
        ("b$(node_id)$.example.com", "not a host name"),
        ("b_$(node_id).example.com", "not a host name"),
        ("-$(node_id).example.com", "not a host name"),
        ("$(node_id)-.example.com", "not a host name"),
        ("b$(node_id)..example.com", "not a host name"),
        ("b$(node_id).example.com.", "not a host name"),
        ("*.$(node_id).example.com", "not a host name"),
        ("b$(node_id).exämple.com", "not a host name"),
        ("b$(node_id)", "must have a dot"),
        ("10.0.0.$(node_id)", "not end in a number"),
        ("x" * 54 + "$(node_id).example.com", "not a host name"),
        ("b$(node_id)" + ".x" * 122, "longer than 253"),
    ],
)
def test_patterns_that_make_no_names(pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_pattern(pattern, of_brokers=True)


@pytest.mark.parametrize(
    "host", ["b$(node_id).example.com", "localhost", "127.0.0.1", "a_b.example.com", "::1"]
)
def test_what_is_no_name_for_a_bootstrap(tls: dict[str, str], host: str) -> None:
    assert list(complaints(tls=tls, **SNI | {"bootstrap_host": host})) == ["bootstrap_host"]


def test_longest_labels(tls: dict[str, str]) -> None:
    assert complaints(tls=tls, **SNI | {"advertised_host": "x" * 53 + "$(node_id).example.com"}) == {}


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, []),
        ({"bootstrap_host": None}, ["bootstrap_host"]),
        ({"advertised_host": "kafka.example.com"}, ["bootstrap_host"]),
        ({"tls": None, "insecure": True}, ["tls"]),
        ({"broker_port": 9093}, ["broker_port"]),
        ({"advertised_broker_port": 9093}, ["advertised_broker_port"]),
        # Names need no ports.
        ({"port": 65535}, []),
    ],
)
def test_what_goes_with_a_pattern(tls: dict[str, str], change: dict[str, Any], wrong: list[str]) -> None:
    assert list(complaints(**{"tls": tls} | SNI | change)) == wrong


@pytest.mark.parametrize(
    ("cluster", "label"),
    [
        ({}, None),
        ({"cluster_id": "4L6g3nShT-eMCtK-X86sw"}, "4l6g3nsht-emctk-x86sw"),
        ({"cluster_id": "MkU3OEVBNTcwNTJENDM2Qg"}, "mku3oevbntcwntjendm2qg"),
        ({"cluster_id": "4L6g_nShT-eMCtK--X86sw"}, None),
        ({"cluster_id": "4L6g3nShT-eMCtK--X86s-"}, None),
        ({"cluster_id": "4L6g3nShT-eMCtK--X86s-", "name": "prod"}, "prod"),
    ],
)
def test_what_stands_for_the_cluster(cluster: dict[str, str], label: str | None) -> None:
    assert ClusterConfig.model_validate({"bootstrap_servers": ["k:1"]} | cluster).host_label == label


def test_a_name_of_a_cluster_is_part_of_a_host_name() -> None:
    for name in ("a.b", "a_b", "-a", "a-", "", "x" * 64):
        with pytest.raises(ValidationError):
            ClusterConfig.model_validate({"bootstrap_servers": ["k:1"], "name": name})


def test_the_whole_file_says_whether_the_cluster_has_a_name(tmp_path: Path, tls: dict[str, str]) -> None:
    hosts = {"advertised_host": "b$(node_id).$(cluster).x.com", "bootstrap_host": "$(cluster).x.com"}
    config: dict[str, Any] = {
        "cluster": {"bootstrap_servers": ["k:1"]},
        "listeners": [BASE | hosts | {"tls": tls}],
        "authorization": "none",
    }
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(config))
    (error,) = check(file)
    assert error.startswith("listeners[0].advertised_host: $(cluster) needs cluster.name")
    config["cluster"]["name"] = "prod"
    file.write_text(yaml.safe_dump(config))
    assert check(file) == []


# --- proxies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, []),
        ({"proxy_protocol": "required"}, ["proxy_protocol_from"]),
        ({"proxy_protocol": "required", "proxy_protocol_from": []}, ["proxy_protocol_from"]),
        ({"proxy_protocol_from": ["10.0.0.0/8"]}, ["proxy_protocol_from"]),
        ({"proxy_protocol": "required", "proxy_protocol_from": ["10.0.0.0/8", "fd00::/8", "10.1.1.1"]}, []),
        ({"proxy_protocol": "required", "proxy_protocol_from": ["10.0.0.1/8"]}, ["proxy_protocol_from.0"]),
        ({"proxy_protocol": "required", "proxy_protocol_from": ["balancer"]}, ["proxy_protocol_from.0"]),
        ({"proxy_protocol": "optional"}, ["proxy_protocol"]),
    ],
)
def test_proxies(change: dict[str, Any], wrong: list[str]) -> None:
    assert list(complaints(advertised_host="h", insecure=True, **change)) == wrong


# --- IPv6 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[2001:DB8::7]", "2001:db8::7"),
        ("gateway", "gateway"),
        ("10.0.0.1",) * 2,
    ],
)
def test_advertised_addresses_come_without_brackets(written: str, host: str) -> None:
    assert listener(advertised_host=written, insecure=True).advertised_bootstrap() == (host, 9092)


@pytest.mark.parametrize(
    "host", ["[gateway]", "[::", "::1]", "a:b", "gateway:9092", "[::]", "::", "[::1]:9092"]
)
def test_no_advertised_addresses(host: str) -> None:
    assert list(complaints(advertised_host=host, insecure=True)) == ["advertised_host"]


def test_bound_addresses_may_have_brackets() -> None:
    assert listener(advertised_host="h", insecure=True, bind="[::1]").bind == "::1"
    assert list(complaints(advertised_host="h", insecure=True, bind="[localhost]")) == ["bind"]


def test_hosts_with_ports() -> None:
    assert parse_host_port("[2001:DB8::7]:9092") == ("2001:db8::7", 9092)
    for wrong in ("::1:9092", "[::1]", "[kafka]:9092", "[]:9092", "[10.0.0.1]:9092"):
        with pytest.raises(ValueError, match="is not host:port"):
            parse_host_port(wrong)
    assert format_host_port("::1", 1) == "[::1]:1"
    assert format_host_port("kafka", 1) == "kafka:1"
