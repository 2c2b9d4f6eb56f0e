"""Secrets in the state topic: AES-256-GCM (NIST SP 800-38D) under a key from a file of the gateways."""

import base64
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# Says how the rest was made, so that another way can follow.
_FORM: Final = "aes256gcm:"
_NONCE_BYTES: Final = 12


class SecretsError(Exception):
    """A secret cannot be stored or read; the text never has it."""


class Secrets:
    """Encrypts and decrypts texts with a 32-byte key, which is None where none is configured."""

    def __init__(self, key: bytes | None) -> None:
        if key is not None and len(key) != 32:
            raise ValueError(f"the key must have 32 bytes, not {len(key)}")
        self._cipher = None if key is None else AESGCM(key)

    def encrypt(self, text: str) -> str:
        """The text as it may be stored; never the same twice. SecretsError without a key."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._needed().encrypt(nonce, text.encode(), None)
        return _FORM + base64.b64encode(nonce + sealed).decode()

    def decrypt(self, stored: str) -> str:
        """The text that `encrypt` was given. SecretsError with another key, or if it was changed."""
        cipher = self._needed()
        try:
            data = base64.b64decode(stored.removeprefix(_FORM), validate=True)
            if not stored.startswith(_FORM):
                raise ValueError("another form")
            return cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], None).decode()
        except (ValueError, InvalidTag) as error:
            raise SecretsError(
                "a secret in the state topic cannot be decrypted: state.secrets_key_file has another key than"
                " the gateway that stored it, or the record was changed"
            ) from error

    def _needed(self) -> AESGCM:
        if self._cipher is None:
            raise SecretsError(
                "passwords and keys of a link are stored encrypted only: set state.secrets_key_file in the"
                " configuration to a file with 32 random bytes"
            )
        return self._cipher
