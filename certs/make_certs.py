"""Makes a test authority with server and client certificates: `python -m certs.make_certs [--directory DIR]`.

Certificates and keys are PEM, for Python, librdkafka and Java 2.7+ (KIP-651); brokers read PKCS12, which
older ones understand too. What is there and valid for another day is used again. Never for production: the
keys lie unencrypted in a directory that git ignores.
"""

import argparse
import datetime
import fcntl
import ipaddress
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DEFAULT_DIRECTORY = Path("build/certs")
# PKCS12 wants one; it protects nothing.
KEYSTORE_PASSWORD = "test-only"  # noqa: S105
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_LIFETIME = datetime.timedelta(days=365)
_STILL_GOOD = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Identity:
    """The files of one certificate: PEM chain and key, and both together as PKCS12."""

    certificate_file: Path
    key_file: Path
    keystore_file: Path


class TestAuthority:
    """A certificate authority in a directory; safe for several processes at once."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    def __init__(self, directory: Path = DEFAULT_DIRECTORY) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory.resolve()
        self.ca_file = self.directory / "ca.pem"
        self.truststore_file = self.directory / "ca.p12"
        with self._locked():
            if not _is_valid(self.ca_file):
                self._make_authority()
            self._certificate = x509.load_pem_x509_certificate(self.ca_file.read_bytes())
            self._key = _load_key(self.directory / "ca.key")

    def server(self, name: str = "server", hosts: Sequence[str] = ()) -> Identity:
        """A server certificate for this machine's loopback names and `hosts` (DNS names or addresses)."""
        names = [_general_name(host) for host in dict.fromkeys((*LOCAL_NAMES, *hosts))]
        return self._identity(name, name, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def client(self, common_name: str) -> Identity:
        """A client certificate whose subject is `CN=<common_name>`."""
        return self._identity(f"client-{common_name}", common_name, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def revocation_list(
        self, *revoked: Identity, lifetime: datetime.timedelta = datetime.timedelta(days=30)
    ) -> bytes:
        """The PEM text of a list that revokes these; one whose `lifetime` is negative is outdated."""
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now + min(lifetime, datetime.timedelta()) - datetime.timedelta(hours=1))
            .next_update(now + lifetime)
        )
        for identity in revoked:
            certificate = x509.load_pem_x509_certificate(identity.certificate_file.read_bytes())
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(certificate.serial_number)
                .revocation_date(now - datetime.timedelta(hours=1))
                .build()
            )
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def _identity(
        self, stem: str, common_name: str, usage: x509.ObjectIdentifier, names: list[x509.GeneralName]
    ) -> Identity:
        files = Identity(*(self.directory / f"{stem}.{suffix}" for suffix in ("pem", "key", "p12")))
        with self._locked():
            if not self._reusable(files, names):
                self._issue(files, common_name, usage, names)
        return files

    def _reusable(self, files: Identity, names: list[x509.GeneralName]) -> bool:
        if not (
            _is_valid(files.certificate_file) and files.key_file.exists() and files.keystore_file.exists()
        ):
            return False
        certificate = x509.load_pem_x509_certificate(files.certificate_file.read_bytes())
        present = _alternative_names(certificate)
        authority = self._certificate.public_bytes(Encoding.PEM)
        return authority in files.certificate_file.read_bytes() and set(names) <= present

    def _make_authority(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject("Causeway test authority")
        certificate = (
            _builder(subject, subject, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .sign(key, SHA256())
        )
        _write_key(self.directory / "ca.key", key)
        truststore = pkcs12.serialize_java_truststore(
            [pkcs12.PKCS12Certificate(certificate, b"ca")],
            BestAvailableEncryption(KEYSTORE_PASSWORD.encode()),
        )
        self.truststore_file.write_bytes(truststore)
        self.ca_file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def _issue(
        self, files: Identity, common_name: str, usage: x509.ObjectIdentifier, names: list[x509.GeneralName]
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(_subject(common_name), self._certificate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(authority_id, critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, SHA256())
        chain = [certificate, self._certificate]
        keystore = pkcs12.serialize_key_and_certificates(
            b"key",
            key,
            certificate,
            [self._certificate],
            BestAvailableEncryption(KEYSTORE_PASSWORD.encode()),
        )
        _write_key(files.key_file, key)
        files.keystore_file.write_bytes(keystore)
        files.certificate_file.write_bytes(b"".join(item.public_bytes(Encoding.PEM) for item in chain))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _alternative_names(certificate: x509.Certificate) -> set[x509.GeneralName]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return set()


def _is_valid(certificate_file: Path) -> bool:
    if not certificate_file.exists():
        return False
    certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    return certificate.not_valid_after_utc > datetime.datetime.now(datetime.UTC) + _STILL_GOOD


def _load_key(key_file: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(key_file.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{key_file} holds no elliptic curve key")
    return key


def _write_key(key_file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    key_file.touch(mode=0o600)
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def main() -> None:
    """Makes what is missing and prints where it lies."""
    parser = argparse.ArgumentParser(description="Makes a test authority and certificates.")
    parser.add_argument("--directory", type=Path, default=DEFAULT_DIRECTORY)
    parser.add_argument(
        "--server", metavar="NAME", action="append", default=[], help="a name or address more"
    )
    parser.add_argument("--client", metavar="CN", action="append", default=[], help="a client certificate")
    arguments = parser.parse_args()
    authority = TestAuthority(arguments.directory)
    authority.server(hosts=arguments.server)
    for common_name in arguments.client:
        authority.client(common_name)
    print(f"test certificates: {arguments.directory}")


if __name__ == "__main__":
    main()
