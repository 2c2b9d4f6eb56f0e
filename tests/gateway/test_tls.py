"""TLS contexts: who is let in, who is trusted, and what cannot be used."""

from __future__ import annotations

import contextlib
import ssl
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from certs.make_certs import Identity, TestAuthority
from gateway.tls import (
    ClientAuth,
    ReloadingContext,
    TlsError,
    client_context,
    client_context_from_pem,
    next_update,
    not_after,
    server_context,
)


@dataclass(frozen=True)
class Server:
    certificate_file: Path
    key_file: Path
    client_ca_file: Path | None
    client_auth: ClientAuth = ClientAuth.NONE
    crl_file: Path | None = None


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


# --- revocation --------------------------------------------------------------------------------------


def with_list(server: Server, authority: TestAuthority, crl: bytes, folder: Path) -> Server:
    file = folder / "crl.pem"
    file.write_bytes(crl)
    return Server(
        server.certificate_file, server.key_file, authority.ca_file, ClientAuth.REQUIRED, crl_file=file
    )


def identified(authority: TestAuthority, name: str) -> ssl.SSLContext:
    identity = authority.client(name)
    return client_context(Client(authority.ca_file, identity.certificate_file, identity.key_file))


def test_a_revoked_client_is_kept_out(server: Server, authority: TestAuthority, tmp_path: Path) -> None:
    listed = with_list(server, authority, authority.revocation_list(authority.client("mallory")), tmp_path)
    context = server_context(listed)
    shake_hands(identified(authority, "alice"), context)
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        shake_hands(identified(authority, "mallory"), context)


def test_a_list_that_is_outdated_or_of_another_authority_lets_nobody_in(
    server: Server, authority: TestAuthority, tmp_path: Path
) -> None:
    outdated = authority.revocation_list(lifetime=-timedelta(minutes=5))
    with pytest.raises(ssl.SSLCertVerificationError, match="CRL has expired"):
        shake_hands(
            identified(authority, "alice"), server_context(with_list(server, authority, outdated, tmp_path))
        )
    foreign = TestAuthority(tmp_path / "other").revocation_list()
    with pytest.raises(ssl.SSLCertVerificationError, match="CRL"):
        shake_hands(
            identified(authority, "alice"), server_context(with_list(server, authority, foreign, tmp_path))
        )


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"]
)
def test_what_is_no_revocation_list_is_refused(
    server: Server, authority: TestAuthority, tmp_path: Path, content: bytes
) -> None:
    with pytest.raises(TlsError, match=r"cannot use CRL file .*crl\.pem"):
        server_context(with_list(server, authority, content, tmp_path))
    with pytest.raises(TlsError, match=r"cannot use CRL file .*crl\.pem"):
        server_context(with_list(server, authority, authority.ca_file.read_bytes(), tmp_path))


def test_when_what_is_in_use_ends(authority: TestAuthority, tmp_path: Path) -> None:
    assert not_after(authority.server().certificate_file) > time.time() + 24 * 3600
    (tmp_path / "crl.pem").write_bytes(authority.revocation_list(lifetime=timedelta(days=2)))
    assert next_update(tmp_path / "crl.pem") == pytest.approx(time.time() + 2 * 24 * 3600, abs=60)
    with pytest.raises(TlsError, match="cannot read"):
        not_after(tmp_path / "crl.pem")


# --- exchange ----------------------------------------------------------------------------------------


def test_new_connections_have_the_new_files_and_a_bad_one_changes_nothing(
    authority: TestAuthority, tmp_path: Path
) -> None:
    first, second = authority.server("first"), authority.server("second")
    files = Server(tmp_path / "s.pem", tmp_path / "s.key", None)

    def put(identity: Identity) -> None:
        files.certificate_file.write_bytes(identity.certificate_file.read_bytes())
        files.key_file.write_bytes(identity.key_file.read_bytes())

    def subject() -> object:
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context(Client(authority.ca_file)).wrap_bio(
            to_client, to_server, server_hostname="localhost"
        )
        end = context.wrap_bio(to_server, to_client, server_side=True)
        for each in (client, end, client, end, client):
            with contextlib.suppress(ssl.SSLWantReadError):
                each.do_handshake()
        peer = client.getpeercert()
        assert peer is not None
        return peer["subject"]

    put(first)
    context = ReloadingContext(lambda: server_context(files))
    names: list[str | None] = []
    context.sni_callback = lambda _end, name, _context: names.append(name)
    assert subject() == ((("commonName", "first"),),)
    put(second)
    assert subject() == ((("commonName", "first"),),)
    context.reload()
    assert subject() == ((("commonName", "second"),),)
    files.key_file.write_bytes(first.key_file.read_bytes())
    with pytest.raises(TlsError, match="cannot use certificate"):
        context.reload()
    assert subject() == ((("commonName", "second"),),)
    assert names == ["localhost"] * 4, "whoever asked for the server's names is still told"
