"""The command line: `causeway run` is the gateway, all else asks a running one over its REST API.

Exit codes: 1 the gateway or the configuration refuses, 2 wrong usage, 3 the gateway cannot be reached.
"""

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli import acls, groups, links, mirrors, users
from gateway.config import ConfigError, check, load

app = typer.Typer(
    name="causeway",
    help="A Kafka gateway that links clusters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(acls.app, name="acl")
app.add_typer(links.app, name="link")
app.add_typer(mirrors.app, name="mirror")
app.add_typer(groups.app, name="group")
app.add_typer(users.app, name="user")

ConfigFile = Annotated[Path, typer.Option("-c", "--config", help="The gateway's configuration (YAML).")]


@app.command("run")
def run(config: ConfigFile) -> None:
    """Run a gateway until SIGTERM."""
    # Only here: the other commands need none of it.
    from gateway.workers import run as run_gateway

    try:
        loaded = load(config)
    except ConfigError as error:
        _refuse(config, error.errors)
    raise typer.Exit(run_gateway(loaded))


@app.command("check-config")
def check_config(config: ConfigFile) -> None:
    """Show everything that is wrong with a configuration."""
    errors = check(config)
    if errors:
        _refuse(config, errors)
    typer.echo(f"{config}: ok")


def main() -> None:
    """The `causeway` command."""
    app()


def _refuse(config: Path, errors: list[str]) -> None:
    for error in errors:
        typer.echo(f"{config}: {error}", err=True)
    raise typer.Exit(1)
