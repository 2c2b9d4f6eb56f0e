"""`causeway user`: who may log in."""

import sys
from typing import Annotated, Final
from urllib.parse import quote

import typer

from gateway.cli.client import Client, connected
from gateway.cli.output import Output, OutputOption, show_json, show_table

app = typer.Typer(no_args_is_help=True, help="Users of the gateway.")

_USERS: Final = "/causeway/v1/users"

Name = Annotated[str, typer.Argument(help="Name of the user.")]


@app.command("create")
@connected
def create(
    client: Client,
    name: Name,
    *,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the new user's password from the standard input.")
    ] = False,
) -> None:
    """Add a user; without --password-stdin its password is asked for."""
    if password_stdin:
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    else:
        password = typer.prompt(f"Password for {name}", hide_input=True, confirmation_prompt=True, err=True)
    client.call("POST", _USERS, body={"name": name, "password": password})
    typer.echo(f'Created user "{name}".')


@app.command("list")
@connected
def list_(client: Client, output: OutputOption = Output.HUMAN) -> None:
    """Show the users in the state topic; those of the configuration are not among them."""
    users = client.call("GET", _USERS)["data"]
    if output is Output.JSON:
        show_json(users)
        return
    show_table(("Name", "Mechanisms"), ((each["name"], ", ".join(each["mechanisms"])) for each in users))


@app.command("delete")
@connected
def delete(client: Client, name: Name) -> None:
    """Remove a user."""
    client.call("DELETE", f"{_USERS}/{quote(name, safe='')}")
    typer.echo(f'Deleted user "{name}".')
