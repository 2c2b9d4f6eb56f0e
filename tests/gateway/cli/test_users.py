import json

from tests.gateway.admin.conftest import Admin
from tests.gateway.cli.conftest import Invoke

PASSWORD = "correct horse"


def test_a_user_comes_and_goes_and_its_password_is_never_shown(admin: Admin, causeway: Invoke) -> None:
    created = causeway("user", "create", "CP-and-CC-Linking", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert created.stdout == 'Created user "CP-and-CC-Linking".\n'
    again = causeway("user", "create", "CP-and-CC-Linking", "--password-stdin", stdin=PASSWORD, code=1)
    assert again.stderr == "Error: 40902: User 'CP-and-CC-Linking' already exists.\n"
    shown = causeway("user", "list").stdout
    assert "SCRAM-SHA-256, SCRAM-SHA-512" in shown
    listed = causeway("user", "list", "-o", "json").stdout
    assert [each["name"] for each in json.loads(listed)] == ["CP-and-CC-Linking"]
    assert PASSWORD not in created.output + again.output + shown + listed
    causeway("user", "delete", "CP-and-CC-Linking")
    assert admin.store.state.users == {}
    assert "404: User" in causeway("user", "delete", "CP-and-CC-Linking", code=1).stderr


def test_a_password_can_be_typed(admin: Admin, causeway: Invoke) -> None:
    typed = causeway("user", "create", "a/b c", stdin=f"{PASSWORD}\n{PASSWORD}\n")
    assert PASSWORD not in typed.output
    assert set(admin.store.state.users) == {"a/b c"}
    causeway("user", "create", "b", stdin="", code=1)
