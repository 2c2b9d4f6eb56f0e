"""`causeway link configuration`: the configs of a link, while it is there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.cli.client import Client, CommandError, connected, read_secret
from gateway.cli.output import Output, OutputOption, show_fields, show_json, show_table
from gateway.links.configs import is_sensitive
from gateway.links.properties import PropertiesError, parse_properties

app = typer.Typer(no_args_is_help=True, help="Configs of a cluster link.")

HIDDEN: Final = "[hidden]"

Link = Annotated[str, typer.Argument(metavar="LINK", help="Name of the link.")]
Key = Annotated[str, typer.Argument(metavar="CONFIG", help="Name of the config.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check only.")]


@app.command("list")
@connected
def list_(
    client: Client,
    link: Link,
    output: OutputOption = Output.HUMAN,
    *,
    every: Annotated[bool, typer.Option("--all", help="Also what has its default.")] = False,
) -> None:
    """Show the configs that are set."""
    configs = [each for each in configs_of(client, link) if every or not each["is_default"]]
    if output is Output.JSON:
        show_json(configs)
        return
    show_configs(configs)


@app.command("get")
@connected
def get(client: Client, link: Link, config: Key, output: OutputOption = Output.HUMAN) -> None:
    """Show one config."""
    found = client.cluster("GET", "links", link, "configs", config)
    if output is Output.JSON:
        show_json(found)
        return
    show_fields(list(zip(_COLUMNS, _row(found), strict=True)))


@app.command("set")
@connected
def set_(
    client: Client,
    link: Link,
    config: Key,
    value: Annotated[str | None, typer.Argument(help="Its value, whatever characters it has.")] = None,
    value_file: Annotated[Path | None, typer.Option(help="File with the value: for secrets.")] = None,
    *,
    dry_run: DryRun = False,
) -> None:
    """Set one config."""
    if (value is None) == (value_file is None):
        raise CommandError("one of VALUE and --value-file is needed")
    text = read_secret(value_file) if value_file is not None else value
    _alter(client, link, {config: text}, dry_run=dry_run)


@app.command("update")
@connected
def update(
    client: Client,
    link: Link,
    config: Annotated[str, typer.Option(help="Properties file with configs, or k=v,k=v.")],
    *,
    dry_run: DryRun = False,
) -> None:
    """Set configs, all of them or none; those that are not given stay."""
    configs = read_configs(config)
    if not configs:
        raise CommandError("--config has no configs")
    _alter(client, link, configs, dry_run=dry_run)


@app.command("delete")
@connected
def delete(
    client: Client,
    link: Link,
    configs: Annotated[list[str], typer.Argument(metavar="CONFIG...", help="Names of configs.")],
    *,
    dry_run: DryRun = False,
) -> None:
    """Put configs back to their defaults, all of them or none."""
    _alter(client, link, dict.fromkeys(configs), dry_run=dry_run)


def _alter(client: Client, link: str, values: Mapping[str, str | None], *, dry_run: bool) -> None:
    data = [
        {"name": name, "operation": "DELETE"}
        if value is None
        else {"name": name, "operation": "SET", "value": value}
        for name, value in values.items()
    ]
    client.cluster(
        "PUT", "links", link, "configs:alter", query={"validate_only": dry_run}, body={"data": data}
    )
    typer.echo(f'{"Could update" if dry_run else "Updated"} cluster link "{link}":')
    for name, value in sorted(values.items()):
        typer.echo(f'"{name}"' + (" back to its default" if value is None else f'="{hidden(name, value)}"'))
    if not dry_run:
        warn_of_no_effect(client, link, values)


def hidden(name: str, value: str) -> str:
    """A value as it may be shown."""
    return HIDDEN if is_sensitive(name) else value


def configs_of(client: Client, link: str) -> list[dict[str, Any]]:
    """All configs of a link."""
    found: list[dict[str, Any]] = client.cluster("GET", "links", link, "configs")["data"]
    return found


def warn_of_no_effect(client: Client, link: str, names: Mapping[str, object]) -> None:
    """Say of which of these configs the link takes no notice."""
    if not names:
        return
    try:
        configs = configs_of(client, link)
    except CommandError:
        # What was asked for is done; this would only have been a hint.
        return
    for each in configs:
        if each["name"] in names and each["no_effect"] is not None and not each["is_default"]:
            typer.echo(f"Note: {each['name']} changes nothing here: {each['no_effect']}.", err=True)


_COLUMNS: Final = ("Config Name", "Config Value", "Read-Only", "Sensitive", "Source", "Without Effect")


def show_configs(configs: list[dict[str, Any]]) -> None:
    """A table of configs."""
    show_table(_COLUMNS, map(_row, configs))


def _row(config: dict[str, Any]) -> tuple[object, ...]:
    return (
        config["name"],
        HIDDEN if config["is_sensitive"] and not config["is_default"] else config["value"],
        config["is_read_only"],
        config["is_sensitive"],
        config["source"],
        config["no_effect"],
    )


def read_configs(text: str) -> dict[str, str]:
    """Configs out of `--config`: a properties file, or k=v,k=v. CommandError."""
    if not text:
        return {}
    path = Path(text)
    if "=" in text and not path.exists():
        return dict(parse_pair(pair) for pair in text.split(","))
    try:
        return parse_properties(path.read_text())
    except (OSError, UnicodeDecodeError, PropertiesError) as error:
        raise CommandError(f"cannot read {path}: {error}") from error


def parse_pair(text: str) -> tuple[str, str]:
    """Key and value of `key=value`. CommandError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise CommandError("a config has the form key=value")
    return key.strip(), value
