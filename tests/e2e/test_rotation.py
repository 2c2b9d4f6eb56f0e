"""Certificates and revocation lists are exchanged while clients are at work."""

from __future__ import annotations

import ssl
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import confluent_kafka
import pytest
from cryptography import x509

from certs.make_certs import Identity, TestAuthority
from compose.kafka import KafkaCluster
from protocol.api_keys import ApiKey
from tests.e2e.conftest import Fronts
from tests.e2e.front import Access, Front
from tests.e2e.raw_client import Closed, make

Names = Callable[[], str]


def eventually(condition: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def serial(access: Access) -> int:
    """Of the certificate that a new connection is shown."""
    with access.connect() as client:
        der = client.socket.getpeercert(binary_form=True)  # type: ignore[attr-defined] # it is a TLS socket
    return x509.load_der_x509_certificate(der).serial_number


def serial_of(identity: Identity) -> int:
    return x509.load_pem_x509_certificate(identity.certificate_file.read_bytes()).serial_number


def gets_in(access: Access) -> bool:
    try:
        with access.connect() as client:
            client.call(make(ApiKey.API_VERSIONS, 0))
    except (OSError, Closed):
        return False
    return True


def series(front: Front, text: str) -> float:
    with urllib.request.urlopen(f"{front.gateway.admin_url}/metrics", timeout=5) as answer:
        page = str(answer.read().decode())
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(text))


def test_certificates_are_exchanged_under_load_and_a_revoked_client_is_kept_out(
    kafka_430: KafkaCluster, own_front: Fronts, authority: TestAuthority, tmp_path: Path, unique_name: Names
) -> None:
    first, second = authority.server("rotated-1"), authority.server("rotated-2")
    alice, mallory = authority.client("alice"), authority.client("mallory")
    tls = {name: tmp_path / f"server.{name}" for name in ("certificate", "key")}
    crl_file = tmp_path / "crl.pem"

    def put(identity: Identity) -> None:
        tls["certificate"].write_bytes(identity.certificate_file.read_bytes())
        tls["key"].write_bytes(identity.key_file.read_bytes())

    put(first)
    crl_file.write_bytes(authority.revocation_list())
    section = {
        "certificate_file": str(tls["certificate"]),
        "key_file": str(tls["key"]),
        "client_ca_file": str(authority.ca_file),
        "crl_file": str(crl_file),
        "client_auth": "required",
    }
    rules = "RULE:^CN=(.*)$/$1/U"
    listener = {"tls": section, "principal_mapping_rules": rules}
    front = own_front(kafka_430, ways=("mtls",), listener=listener)
    access = replace(front.access("mtls"), identity=alice)
    topic = unique_name()
    kafka_430.create_topic(topic)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(produce_until, access, topic, stop)
        try:
            with replace(access, identity=mallory).connect() as lives:
                lives.call(make(ApiKey.API_VERSIONS, 0))
                assert serial(access) == serial_of(first)
                put(second)
                eventually(lambda: serial(access) == serial_of(second))
                tls["key"].write_bytes(first.key_file.read_bytes())
                eventually(
                    lambda: series(front, 'causeway_reload_failures_total{source="listener mtls"}') > 0
                )
                assert serial(access) == serial_of(second), "a bad file leaves the good one in use"
                put(second)
                crl_file.write_bytes(authority.revocation_list(mallory))
                eventually(lambda: not gets_in(replace(access, identity=mallory)))
                assert gets_in(access)
                lives.call(make(ApiKey.API_VERSIONS, 0))
        finally:
            stop.set()
        errors, delivered = load.result()
    assert errors == []
    assert delivered > 0
    assert "files.not_reloaded" in front.gateway.log()
    until_s = series(
        front, 'causeway_certificate_not_after_timestamp_seconds{file="' + section["certificate_file"]
    )
    chain = x509.load_pem_x509_certificates(second.certificate_file.read_bytes())
    first_end = min(each.not_valid_after_utc.timestamp() for each in chain)
    assert until_s == pytest.approx(first_end, abs=1)


def produce_until(access: Access, topic: str, stop: threading.Event) -> tuple[list[str], int]:
    """Errors of a producer whose connections stay, and how much it delivered."""
    errors: list[str] = []
    delivered = 0

    def count(error: object, _: object) -> None:
        nonlocal delivered
        if error is None:
            delivered += 1
        else:
            errors.append(str(error))

    settings = {"error_cb": lambda error: errors.append(str(error)), "linger.ms": 1}
    producer = confluent_kafka.Producer(access.librdkafka() | settings)
    while not stop.is_set():
        producer.produce(topic, b"x", on_delivery=count)
        producer.poll(0.02)
    if left := producer.flush(20):
        errors.append(f"{left} not delivered")
    return errors, delivered


def test_the_rest_api_shows_the_new_certificate_too(
    kafka_430: KafkaCluster, own_front: Fronts, authority: TestAuthority, tmp_path: Path
) -> None:
    first, second = authority.server("rotated-1"), authority.server("rotated-2")
    certificate, key = tmp_path / "admin.pem", tmp_path / "admin.key"

    def put(identity: Identity) -> None:
        certificate.write_bytes(identity.certificate_file.read_bytes())
        key.write_bytes(identity.key_file.read_bytes())

    put(first)
    admin = {"tls": {"certificate_file": str(certificate), "key_file": str(key)}}
    front = own_front(kafka_430, ways=("plain",), config={"admin": admin}, wait=False)
    port = int(front.gateway.admin_url.rsplit(":", 1)[1])

    def shown() -> int | None:
        try:
            text = ssl.get_server_certificate(("127.0.0.1", port), ca_certs=str(authority.ca_file))
        except OSError:
            return None
        return x509.load_pem_x509_certificate(text.encode()).serial_number

    eventually(lambda: shown() == serial_of(first))
    put(second)
    eventually(lambda: shown() == serial_of(second))
