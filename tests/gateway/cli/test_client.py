"""Which gateway is asked, who asks, and what happens when it does not answer."""

import socket
import ssl
from pathlib import Path

import pytest
from typer.testing import CliRunner

from certs.make_certs import TestAuthority
from gateway.cli import app
from gateway.links.errors import LinkError
from tests.fakes.links import link_record
from tests.gateway.admin.conftest import Admin
from tests.gateway.cli.conftest import Invoke, Serve


def run(*arguments: str, **options: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments, **options)  # type: ignore[arg-type] # only env and input
    return result.exit_code, result.stdout, result.stderr


def test_credentials_come_from_a_file_or_the_environment(
    admin: Admin, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.links.add(link_record())
    url = serve(admin, open_access=False)
    password = tmp_path / "password"
    password.write_text("open sesame\n")
    command = ("link", "list", "--url", url)
    assert run(*command) == (1, "", "Error: 40101: Authentication failed\n")
    assert run(*command, "--user", "admin", "--password-file", str(password))[0] == 0
    password.write_text("wrong")
    assert run(*command, "--user", "admin", "--password-file", str(password))[0] == 1
    assert run(*command, "--user", "admin")[0] == 2
    code, _, stderr = run(*command, "--user", "admin", "--password-file", str(tmp_path / "none"))
    assert (code, "cannot read" in stderr) == (2, True)
    monkeypatch.setenv("CAUSEWAY_URL", url)
    monkeypatch.setenv("CAUSEWAY_USER", "admin")
    monkeypatch.setenv("CAUSEWAY_PASSWORD", "open sesame")
    assert run("link", "list")[0] == 0
    monkeypatch.setenv("CAUSEWAY_USER", "bob")
    monkeypatch.setenv("CAUSEWAY_PASSWORD", "bobs:pass")
    assert run("link", "list") == (
        1,
        "",
        "Error: 40301: User:bob is not a super user of this gateway.\n",
    )


def test_the_gateways_certificate_is_verified(
    admin: Admin, serve: Serve, authority: TestAuthority, tmp_path: Path
) -> None:
    identity = authority.server("admin", ["127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(identity.certificate_file, identity.key_file)
    command = ("link", "list", "--url", serve(admin, tls=context))
    code, _, stderr = run(*command)
    assert code == 3
    assert "CERTIFICATE_VERIFY_FAILED" in stderr
    assert run(*command, "--ca-file", str(authority.ca_file))[0] == 0
    own = authority.client("ops")
    files = ("--certificate-file", str(own.certificate_file), "--key-file", str(own.key_file))
    assert run(*command, "--ca-file", str(authority.ca_file), *files)[0] == 0
    (tmp_path / "broken").write_text("x")
    assert run(*command, "--ca-file", str(tmp_path / "broken"))[0] == 2


def test_nobody_there_is_code_3() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        code, stdout, stderr = run("link", "list", "--url", url)
    assert (code, stdout) == (3, "")
    assert stderr.startswith(f"Error: cannot reach {url}")
    assert stderr.count("\n") == 1


def test_a_gateway_that_is_not_up_yet_says_so(admin: Admin, causeway: Invoke) -> None:
    admin.cluster_id = None
    assert "50003: The cluster behind this gateway" in causeway("link", "list", code=1).stderr
    admin.cluster_id = "id"
    admin.links.failure = LinkError(500, 500, "x")
    assert "500: x" in causeway("link", "create", "l", "--source-cluster", "s", code=1).stderr


def test_another_server_is_no_gateway() -> None:
    import http.server
    import threading

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(418)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert run("link", "list", "--url", url) == (1, "", "Error: HTTP 418 I'm a Teapot\n")
        server.shutdown()
        thread.join()
