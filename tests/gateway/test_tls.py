"""TLS contexts: who is let in, who is trusted, and what cannot be used."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from certs.make_certs import TestAuthority
from gateway.tls import ClientAuth, TlsError, client_context, client_context_from_pem, server_context


@dataclass(frozen=True)
class Server:
    certificate_file: Path
    key_file: Path
    client_ca_file: Path | None
    client_auth: ClientAuth = ClientAuth.NONE


@dataclass(frozen=True)
class Client:
    ca_file: Path | None
    certificate_file: Path | None = None
    key_file: Path | None = None
    verify_hostname: bool = True


@pytest.fixture
def server(authority: TestAuthority) -> Server:
    identity = authority.server()
    return Server(identity.certificate_file, identity.key_file, authority.ca_file)


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str = "localhost") -> ssl.SSLObject:
    """A handshake in memory; the server's end of it, after both have been heard out."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    open_ends = list(ends)
    for _ in range(10):
        for end in list(open_ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            open_ends.remove(end)
    assert not open_ends
    return ends[1]


def test_a_client_trusts_its_authority_and_the_right_host(server: Server, authority: TestAuthority) -> None:
    shake_hands(client_context(Client(authority.ca_file)), server_context(server))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(client_context(Client(authority.ca_file)), server_context(server), "other.example")
    lenient = client_context(Client(authority.ca_file, verify_hostname=False))
    shake_hands(lenient, server_context(server), "other.example")
    # Not verifying the name is not trusting everybody.
    for context in (client_context(Client(None)), client_context(Client(None, verify_hostname=False))):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(context, server_context(server))


def test_client_certificates(server: Server, authority: TestAuthority) -> None:
    identity = authority.client("alice")
    anonymous = client_context(Client(authority.ca_file))
    alice = client_context(Client(authority.ca_file, identity.certificate_file, identity.key_file))
    required = server_context(
        Server(server.certificate_file, server.key_file, authority.ca_file, ClientAuth.REQUIRED)
    )
    requested = server_context(
        Server(server.certificate_file, server.key_file, authority.ca_file, ClientAuth.REQUESTED)
    )
    for context in (required, requested):
        peer = shake_hands(alice, context).getpeercert()
        assert peer is not None
        assert peer["subject"] == ((("commonName", "alice"),),)
    assert not shake_hands(anonymous, requested).getpeercert()
    assert not shake_hands(alice, server_context(server)).getpeercert()
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake_hands(anonymous, required)


def test_old_protocols_are_refused(server: Server, authority: TestAuthority) -> None:
    assert server_context(server).minimum_version == ssl.TLSVersion.TLSv1_2
    assert client_context(Client(authority.ca_file)).minimum_version == ssl.TLSVersion.TLSv1_2


def test_contexts_from_pem_texts(server: Server, authority: TestAuthority) -> None:
    identity = authority.client("alice")
    ca, certificate, key = (
        path.read_text() for path in (authority.ca_file, identity.certificate_file, identity.key_file)
    )
    encrypted = (
        load_pem_private_key(key.encode(), None)
        .private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"opensesame"))
        .decode()
    )
    required = server_context(
        Server(server.certificate_file, server.key_file, authority.ca_file, ClientAuth.REQUIRED)
    )
    shake_hands(client_context_from_pem(ca_pem=ca, certificate_pem=certificate, key_pem=key), required)
    shake_hands(
        client_context_from_pem(
            ca_pem=ca, certificate_pem=certificate, key_pem=encrypted, key_password="opensesame"
        ),
        required,
    )
    shake_hands(client_context_from_pem(ca_pem=ca, verify_hostname=False), server_context(server), "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client_context_from_pem(ca_pem=None), server_context(server))
    for wrong in (None, "no", ""):
        with pytest.raises(TlsError, match="cannot use the certificate chain and key"):
            client_context_from_pem(
                ca_pem=ca, certificate_pem=certificate, key_pem=encrypted, key_password=wrong
            )
    with pytest.raises(TlsError, match="cannot use the certificate chain and key"):
        client_context_from_pem(ca_pem=ca, certificate_pem=certificate)
    with pytest.raises(TlsError, match="cannot use the CA certificates"):
        client_context_from_pem(ca_pem="junk")


def test_files_that_cannot_be_used(server: Server, authority: TestAuthority, tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    with pytest.raises(TlsError, match=r"cannot use certificate .*junk\.pem"):
        server_context(Server(junk, server.key_file, None))
    with pytest.raises(TlsError, match=r"cannot use CA file .*junk\.pem"):
        server_context(Server(server.certificate_file, server.key_file, junk))
    with pytest.raises(TlsError, match=r"cannot use CA file .*missing\.pem"):
        client_context(Client(tmp_path / "missing.pem"))
    key = load_pem_private_key(server.key_file.read_bytes(), None)
    secret_key = tmp_path / "secret.key"
    secret_key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"opensesame"))
    )
    # Nobody is asked for the pass phrase on the terminal.
    with pytest.raises(TlsError, match="cannot use certificate"):
        server_context(Server(server.certificate_file, secret_key, None))
