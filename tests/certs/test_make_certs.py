"""The test authority: certificates that verify, are used again, and are renewed when they must be."""

import datetime
import ipaddress
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12

from certs import make_certs
from certs.make_certs import KEYSTORE_PASSWORD, TestAuthority


def certificate_of(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_a_server_certificate_names_loopback_and_more(tmp_path: Path) -> None:
    identity = TestAuthority(tmp_path).server("gateway", ["cloud.example", "10.0.0.1"])

    names = certificate_of(identity.certificate_file).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["localhost", "cloud.example"]
    assert names.value.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(address) for address in ("127.0.0.1", "::1", "10.0.0.1")
    ]
    assert identity.key_file.stat().st_mode & 0o077 == 0


def test_both_sides_of_a_handshake_trust_it(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    server, client = authority.server(), authority.client("alice")
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca_file))
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_cert_chain(server.certificate_file, server.key_file)
    client_context = ssl.create_default_context(cafile=str(authority.ca_file))
    client_context.load_cert_chain(client.certificate_file, client.key_file)
    left, right = socket.socketpair()
    subjects: list[object] = []

    def serve() -> None:
        with server_context.wrap_socket(left, server_side=True) as tls:
            subjects.append(tls.getpeercert())
            tls.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with client_context.wrap_socket(right, server_hostname="127.0.0.1") as tls:
        tls.send(b"x")
        thread.join(10)
    assert "(('commonName', 'alice'),)" in str(subjects)


def test_what_is_valid_is_used_again(tmp_path: Path) -> None:
    first = TestAuthority(tmp_path).server()
    before = first.certificate_file.read_bytes()

    second = TestAuthority(tmp_path).server()

    assert second == first
    assert second.certificate_file.read_bytes() == before


def test_a_new_name_makes_a_new_certificate(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    before = authority.server().certificate_file.read_bytes()

    assert authority.server(hosts=["cloud.example"]).certificate_file.read_bytes() != before


def test_what_ends_within_a_day_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(make_certs, "_LIFETIME", datetime.timedelta(hours=12))
        before = TestAuthority(tmp_path).server().certificate_file.read_bytes()

    authority = TestAuthority(tmp_path)

    renewed = authority.server().certificate_file
    assert renewed.read_bytes() != before
    certificate_of(renewed).verify_directly_issued_by(certificate_of(authority.ca_file))


def test_the_keystore_holds_key_and_chain(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)

    store = pkcs12.load_pkcs12(authority.server().keystore_file.read_bytes(), KEYSTORE_PASSWORD.encode())

    assert store.key is not None
    assert [item.certificate for item in store.additional_certs] == [certificate_of(authority.ca_file)]


def test_the_command_line_makes_what_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["make_certs", "--directory", str(tmp_path), "--server", "cloud.example", "--client", "alice"]
    monkeypatch.setattr("sys.argv", arguments)

    make_certs.main()

    assert capsys.readouterr().out == f"test certificates: {tmp_path}\n"
    assert {"ca.pem", "server.pem", "client-alice.pem"} <= {file.name for file in tmp_path.iterdir()}
