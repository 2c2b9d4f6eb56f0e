from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app, main
from gateway.config import Config

CONFIG = """
cluster: {bootstrap_servers: ["127.0.0.1:9092"]}
authorization: none
"""


def test_a_right_configuration_is_said_to_be(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(CONFIG)
    result = CliRunner().invoke(app, ["check-config", "-c", str(file)])
    assert (result.exit_code, result.stdout) == (0, f"{file}: ok\n")


@pytest.mark.parametrize("command", ["run", "check-config"])
def test_every_mistake_is_shown_with_its_path(tmp_path: Path, command: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("cluster: {bootstrap_servers: [x], colour: red}\nsuper_users: 1\nauthorization: off\n")
    result = CliRunner().invoke(app, [command, "-c", str(file)])
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert all(line.startswith(f"{file}: ") for line in lines)
    for path in ("cluster.bootstrap_servers", "cluster.colour", "super_users", "authorization"):
        assert any(path in line for line in lines), (path, lines)


def test_the_exit_code_of_the_gateway_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(CONFIG)
    ran: list[Config] = []

    def run(config: Config) -> int:
        ran.append(config)
        return 7

    monkeypatch.setattr("gateway.app.run", run)
    assert CliRunner().invoke(app, ["run", "-c", str(file)]).exit_code == 7
    assert [config.cluster.bootstrap_servers for config in ran] == [["127.0.0.1:9092"]]


def test_no_command_is_no_use(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["causeway"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    shown = capsys.readouterr()
    for word in ("run", "check-config", "link", "mirror", "user"):
        assert word in shown.out + shown.err
