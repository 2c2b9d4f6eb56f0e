from __future__ import annotations

from certs.make_certs import TestAuthority
from gateway.listeners.certificate_names import uncovered


def test_names_addresses_and_wildcards(authority: TestAuthority) -> None:
    hosts = ["kafka.example.com", "*.kafka.example.com", "10.1.2.3", "2001:db8::7"]
    file = authority.server("covering", hosts).certificate_file
    covered = ["localhost", "Kafka.Example.com", "b1.kafka.example.com", "10.1.2.3", "2001:DB8::7", "::1"]
    lacking = [
        "example.com",
        "a.b1.kafka.example.com",
        "b1.example.com",
        "10.1.2.4",
        "2001:db8::8",
        "example",
    ]
    assert uncovered(file, [*covered, *lacking]) == lacking


def test_a_certificate_without_names(authority: TestAuthority) -> None:
    file = authority.client("nameless").certificate_file
    assert uncovered(file, ["localhost"]) == ["localhost"]
