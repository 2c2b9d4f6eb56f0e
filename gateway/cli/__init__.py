"""The command line: `causeway run` is the gateway, all else asks a running one over its REST API.

Exit codes: 1 the gateway or the configuration refuses, 2 wrong usage, 3 the gateway cannot be reached.
"""

import asyncio
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


@app.command("check")
def check_way_around(config: ConfigFile) -> None:
    """Try to reach the brokers around the gateway, from this machine, as nobody; 1 if one of them answers."""
    # Only here: the other commands need none of it.
    from gateway.cli.way_around import look

    try:
        loaded = load(config)
    except ConfigError as error:
        _refuse(config, error.errors)
    doors, trouble = asyncio.run(look(loaded))
    for door in doors:
        state = "OPEN: it answers whoever asks" if door.open else f"closed ({door.reason})"
        typer.echo(f"{door.address} {door.protocol}: {state}")
    if trouble is not None:
        typer.echo(f"only the bootstrap servers were tried; the others are unknown: {trouble}", err=True)
    if any(door.open for door in doors):
        typer.echo(
            "Clients can go around this gateway, its ACLs and its read-only mirror topics. Let only gateways"
            " reach the brokers' ports, or let the brokers ask for a login or a certificate on all of their"
            " listeners.",
            err=True,
        )
        raise typer.Exit(1)


def main() -> None:
    """The `causeway` command."""
    app()


def _refuse(config: Path, errors: list[str]) -> None:
    for error in errors:
        typer.echo(f"{config}: {error}", err=True)
    raise typer.Exit(1)
