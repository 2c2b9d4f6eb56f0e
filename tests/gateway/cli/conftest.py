"""The command line against the real API, served over fakes on a real socket."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from gateway.cli import app
from tests.gateway.admin.conftest import Admin

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CAUSEWAY_URL", "CAUSEWAY_USER", "CAUSEWAY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    # Help and errors are made for a terminal of this size.
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def admin() -> Admin:
    """The gateway that is asked."""
    return Admin()


class Serve:
    """Serves an Admin in threads until closed."""

    def __init__(self) -> None:
        self._running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def __call__(self, admin: Admin, *, open_access: bool = True, tls: ssl.SSLContext | None = None) -> str:
        settings = uvicorn.Config(
            admin.build(open_access=open_access),
            host="127.0.0.1",
            port=0,
            ws="none",
            lifespan="off",
            log_config=None,
        )
        settings.load()
        settings.ssl = tls
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        self._running.append((server, thread))
        port = server.servers[0].sockets[0].getsockname()[1]
        return f"{'https' if tls else 'http'}://127.0.0.1:{port}"

    def close(self) -> None:
        """Stops all servers."""
        for server, thread in self._running:
            server.should_exit = True
            thread.join(10)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts API servers that end with the test."""
    serving = Serve()
    yield serving
    serving.close()


@pytest.fixture
def url(admin: Admin, serve: Serve) -> str:
    """Where the gateway's API is, open to all."""
    return serve(admin)


@pytest.fixture
def causeway(url: str) -> Invoke:
    """Runs a command against that gateway; asserts the exit code, 0 by default."""

    def invoke(*arguments: str, code: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(app, [*arguments, "--url", url], input=stdin)
        assert result.exit_code == code, (result.output, result.stderr, result.exception)
        return result

    return invoke
