from __future__ import annotations

from certs.make_certs import TestAuthority
from gateway.config import Authentication, ListenerConfig
from gateway.listeners.endpoints import Endpoint, Endpoints


def listener(**changes: object) -> ListenerConfig:
    return ListenerConfig.model_validate(
        {
            "name": "public",
            "port": 9092,
            "bind": "127.0.0.1",
            "advertised_host": "kafka.example.com",
            "node_ids": "3-5",
            "insecure": True,
            "authentication": Authentication.NONE,
        }
        | changes
    )


def test_every_node_id_has_a_port_of_its_own_beside_the_bootstrap_port() -> None:
    assert Endpoints(listener()).bound == (
        Endpoint("127.0.0.1", 9092, None),
        Endpoint("127.0.0.1", 9093, 3),
        Endpoint("127.0.0.1", 9094, 4),
        Endpoint("127.0.0.1", 9095, 5),
    )


def test_clients_are_told_the_advertised_address_and_nothing_outside_the_range() -> None:
    endpoints = Endpoints(listener(broker_port=20000, advertised_broker_port=443))
    assert endpoints.bound[1] == Endpoint("127.0.0.1", 20000, 3)
    assert endpoints.advertised_hosts == ["kafka.example.com"]
    assert endpoints.server_names is None
    assert [endpoints.advertised(node_id) for node_id in (2, 3, 5, 6)] == [
        None,
        ("kafka.example.com", 443),
        ("kafka.example.com", 445),
        None,
    ]


def test_with_names_there_is_one_port(authority: TestAuthority) -> None:
    identity = authority.server()
    endpoints = Endpoints(
        listener(
            advertised_host="b$(node_id).$(cluster).example.com",
            bootstrap_host="$(cluster).example.com",
            advertised_port=443,
            tls={"certificate_file": identity.certificate_file, "key_file": identity.key_file},
        ),
        "prod",
    )
    assert endpoints.bound == (Endpoint("127.0.0.1", 9092, None),)
    assert endpoints.advertised(4) == ("b4.prod.example.com", 443)
    assert endpoints.advertised(6) is None
    brokers = [f"b{node_id}.prod.example.com" for node_id in (3, 4, 5)]
    assert endpoints.advertised_hosts == ["prod.example.com", *brokers]
    assert endpoints.server_names == {"prod.example.com": None, **dict(zip(brokers, (3, 4, 5), strict=True))}
