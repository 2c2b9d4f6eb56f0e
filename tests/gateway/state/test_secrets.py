import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.state.secrets import Secrets, SecretsError

KEY = bytes(range(32))


@given(st.text().filter(lambda text: text.isprintable()))
def test_what_is_encrypted_is_decrypted(text: str) -> None:
    stored = Secrets(KEY).encrypt(text)
    assert Secrets(KEY).decrypt(stored) == text
    assert stored != Secrets(KEY).encrypt(text)


def test_the_stored_form_does_not_show_the_text() -> None:
    stored = Secrets(KEY).encrypt("correct horse")
    assert "horse" not in stored
    assert b"horse" not in base64.b64decode(stored.partition(":")[2])


@pytest.mark.parametrize("position", [0, 11, 12, 20, -1])
def test_a_changed_secret_is_refused(position: int) -> None:
    form, _, data = Secrets(KEY).encrypt("text").partition(":")
    changed = bytearray(base64.b64decode(data))
    changed[position] ^= 1
    with pytest.raises(SecretsError):
        Secrets(KEY).decrypt(f"{form}:{base64.b64encode(changed).decode()}")


@pytest.mark.parametrize("stored", ["", "plain text", "aes256gcm:", "aes256gcm:!!", "other:" + "A" * 64])
def test_what_is_no_secret_is_refused_without_being_quoted(stored: str) -> None:
    with pytest.raises(SecretsError) as refused:
        Secrets(KEY).decrypt(stored)
    assert not stored or stored not in str(refused.value)


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(SecretsError, match="another key"):
        Secrets(bytes(32)).decrypt(Secrets(KEY).encrypt("text"))


def test_without_a_key_nothing_is_stored_in_the_clear() -> None:
    with pytest.raises(SecretsError, match="secrets_key_file"):
        Secrets(None).encrypt("text")
    with pytest.raises(SecretsError, match="secrets_key_file"):
        Secrets(None).decrypt("text")
    with pytest.raises(ValueError, match="32 bytes"):
        Secrets(b"short")
