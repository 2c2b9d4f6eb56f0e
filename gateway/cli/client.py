"""The REST API as the command line uses it: one gateway, one cluster, refusals and failures as exceptions."""

import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, ParamSpec
from urllib.parse import quote

import httpx
import typer

P = ParamSpec("P")
_REFUSED: Final = 1
_USAGE: Final = 2
_UNREACHABLE: Final = 3
_TIMEOUT_S: Final = 60.0
_API: Final = "/kafka/v3/clusters"


class CommandError(Exception):
    """Ends the command with one line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int = _USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Client:
    """Requests to a gateway's REST API. CommandError when it refuses or cannot be reached."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._cluster_id: str | None = None

    @property
    def cluster_id(self) -> str:
        """Id of the cluster that the gateway fronts."""
        if self._cluster_id is None:
            self._cluster_id = str(self.call("GET", _API)["data"][0]["cluster_id"])
        return self._cluster_id

    def cluster(self, method: str, *path: str, **options: Any) -> Any:
        """A request about the cluster, by the parts of its path; the decoded answer, or None."""
        return self.call(method, "/".join([_API, *map(_segment, (self.cluster_id, *path))]), **options)

    def call(self, method: str, path: str, *, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        """A request by its path."""
        try:
            response = self._http.request(method, path, params=query, json=body)
        except httpx.HTTPError as error:
            text = str(error) or type(error).__name__
            raise CommandError(f"cannot reach {self._http.base_url}: {text}", _UNREACHABLE) from error
        if response.is_success:
            return response.json() if response.content else None
        try:
            refusal = response.json()
            message = f"{refusal['error_code']}: {refusal['message']}"
        except (ValueError, KeyError, TypeError):
            message = f"HTTP {response.status_code} {response.reason_phrase}"
        raise CommandError(message, _REFUSED)


def _segment(text: str) -> str:
    return quote(text, safe=":-")


@dataclass(frozen=True, slots=True)
class Connection:
    """The options that say which gateway is meant, and who asks."""

    url: Annotated[str, typer.Option("--url", envvar="CAUSEWAY_URL", help="Admin address of the gateway.")]
    user: Annotated[str | None, typer.Option("--user", envvar="CAUSEWAY_USER", help="Who you are.")]
    password: Annotated[str | None, typer.Option(envvar="CAUSEWAY_PASSWORD", hidden=True)] = field(repr=False)
    password_file: Annotated[Path | None, typer.Option(help="File with your password.")]
    ca_file: Annotated[
        Path | None, typer.Option(envvar="CAUSEWAY_CA_FILE", help="CA of the gateway's certificate (PEM).")
    ]
    certificate_file: Annotated[Path | None, typer.Option(help="Your client certificate (PEM).")]
    key_file: Annotated[Path | None, typer.Option(help="Its key (PEM), if not in the same file.")]

    @contextmanager
    def open(self) -> Iterator[Client]:
        """A client for these options; CommandError if they do not fit."""
        with httpx.Client(
            base_url=self.url, auth=self._login(), verify=self._tls(), timeout=_TIMEOUT_S
        ) as http:
            yield Client(http)

    def _login(self) -> tuple[str, str] | None:
        if self.user is None:
            return None
        if self.password_file is not None:
            return self.user, read_secret(self.password_file)
        if self.password is not None:
            return self.user, self.password
        if not sys.stdin.isatty():
            raise CommandError("--user needs --password-file or CAUSEWAY_PASSWORD")
        return self.user, typer.prompt(f"Password of {self.user}", hide_input=True, err=True)

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.key_file)
        except (OSError, ValueError) as error:
            raise CommandError(f"cannot use the CA or certificate file: {error}") from error
        return context


_DEFAULTS: Final = {"url": "http://127.0.0.1:8090"}


def connected(command: Callable[Concatenate[Client, P], None]) -> Callable[..., None]:
    """A command with the options of `Connection` besides its own, which is given the client they make."""
    own = list(signature(command, eval_str=True).parameters.values())[1:]
    shared = signature(Connection, eval_str=True).parameters.values()

    def run(**options: Any) -> None:
        connection = Connection(**{each.name: options.pop(each.name) for each in shared})
        try:
            with connection.open() as client:
                command(client, **options)  # type: ignore[call-arg] # they are `own`, which only Typer sees
        except CommandError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error

    added = [each.replace(kind=Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(each.name)) for each in shared]
    parameters = [*(each.replace(kind=Parameter.KEYWORD_ONLY) for each in own), *added]
    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined] # what Typer reads
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def read_secret(path: Path) -> str:
    """A password from a file, without the newline that editors add. CommandError."""
    try:
        return path.read_text().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read {path}: {error}") from error
