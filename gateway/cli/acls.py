"""`causeway acl`: what clients may do, by the ACLs of the gateway."""

from typing import Annotated, Any, Final

import typer

from gateway.cli.client import Client, CommandError, connected
from gateway.cli.output import Output, OutputOption, show_json, show_table

app = typer.Typer(no_args_is_help=True, help="ACLs of the gateway.")

_CLUSTER: Final = "kafka-cluster"
_FIELDS: Final = (
    "resource_type",
    "resource_name",
    "pattern_type",
    "principal",
    "host",
    "operation",
    "permission",
)

Allow = Annotated[bool, typer.Option("--allow", help="ACLs that allow.")]
Deny = Annotated[bool, typer.Option("--deny", help="ACLs that deny.")]
Who = Annotated[
    str | None,
    typer.Option("--principal", help="Such as User:alice; User:* is everybody.", metavar="TYPE:NAME"),
]
Host = Annotated[str | None, typer.Option("--host", help="Address of the client; * is any.")]
Operations = Annotated[
    list[str] | None, typer.Option("--operation", help="Such as read or describe-configs; may be repeated.")
]
Topic = Annotated[str | None, typer.Option("--topic", help="Name of a topic, or *.")]
Group = Annotated[str | None, typer.Option("--consumer-group", help="Name of a group, or *.")]
Transaction = Annotated[str | None, typer.Option("--transactional-id", help="A transactional id, or *.")]
Scope = Annotated[bool, typer.Option("--cluster-scope", help="The cluster itself.")]
Prefix = Annotated[bool, typer.Option("--prefix", help="The name is the beginning of names.")]


@app.command("create")
@connected
def create(
    client: Client,
    principal: Who = None,
    operation: Operations = None,
    host: Host = None,
    topic: Topic = None,
    consumer_group: Group = None,
    transactional_id: Transaction = None,
    *,
    allow: Allow = False,
    deny: Deny = False,
    cluster_scope: Scope = False,
    prefix: Prefix = False,
) -> None:
    """Create ACLs, one for each operation."""
    if allow == deny:
        raise CommandError("one of --allow and --deny is needed")
    if principal is None or not operation:
        raise CommandError("--principal and --operation are needed")
    resource = _resource(topic, consumer_group, transactional_id, cluster_scope=cluster_scope)
    if resource is None:
        raise CommandError("--topic, --consumer-group, --transactional-id or --cluster-scope is needed")
    acls = [
        {
            "resource_type": resource[0],
            "resource_name": resource[1],
            "pattern_type": "PREFIXED" if prefix else "LITERAL",
            "principal": principal,
            "host": host or "*",
            "operation": _word(each),
            "permission": "ALLOW" if allow else "DENY",
        }
        for each in operation
    ]
    client.cluster("POST", "acls:batch", body={"data": acls})
    _show(acls)


@app.command("list")
@connected
def list_(
    client: Client,
    principal: Who = None,
    operation: Operations = None,
    host: Host = None,
    topic: Topic = None,
    consumer_group: Group = None,
    transactional_id: Transaction = None,
    *,
    allow: Allow = False,
    deny: Deny = False,
    cluster_scope: Scope = False,
    prefix: Prefix = False,
    output: OutputOption = Output.HUMAN,
) -> None:
    """Show the ACLs that fit, all by default, and who wants each to be there: an administrator or a link."""
    resource = _resource(topic, consumer_group, transactional_id, cluster_scope=cluster_scope)
    found: list[dict[str, Any]] = []
    for each in operation or (None,):
        query = _query(principal, each, host, resource, allow=allow, deny=deny, prefix=prefix)
        found += client.cluster("GET", "acls", query=query)["data"]
    if output is Output.JSON:
        show_json(found)
        return
    _show(found)


@app.command("delete")
@connected
def delete(
    client: Client,
    principal: Who = None,
    operation: Operations = None,
    host: Host = None,
    topic: Topic = None,
    consumer_group: Group = None,
    transactional_id: Transaction = None,
    *,
    allow: Allow = False,
    deny: Deny = False,
    cluster_scope: Scope = False,
    prefix: Prefix = False,
    force: Annotated[bool, typer.Option("--force", help="Also without a resource or principal.")] = False,
) -> None:
    """Delete the ACLs that fit; those that a link keeps stay."""
    resource = _resource(topic, consumer_group, transactional_id, cluster_scope=cluster_scope)
    if resource is None and principal is None and not force:
        raise CommandError(
            "this would delete ACLs of everybody on everything: name a resource or a --principal"
        )
    gone: list[dict[str, Any]] = []
    for each in operation or (None,):
        query = _query(principal, each, host, resource, allow=allow, deny=deny, prefix=prefix)
        whole = {"resource_type": "ANY", "pattern_type": "ANY", "operation": "ANY", "permission": "ANY"}
        gone += client.cluster("DELETE", "acls", query=whole | query)["data"]
    _show(gone)


@app.command("import")
@connected
def import_(
    client: Client,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show them only.")] = False,
) -> None:
    """Take over the ACLs of the cluster behind the gateway, once, where it has an authorizer."""
    new = client.cluster("POST", "acls:import", query={"validate_only": dry_run})["data"]
    _show(new)
    typer.echo(f"{'Could import' if dry_run else 'Imported'} {len(new)} ACLs.")


def _resource(
    topic: str | None, group: str | None, transactional_id: str | None, *, cluster_scope: bool
) -> tuple[str, str] | None:
    named = {
        "TOPIC": topic,
        "GROUP": group,
        "TRANSACTIONAL_ID": transactional_id,
        "CLUSTER": _CLUSTER if cluster_scope else None,
    }
    given = [(kind, name) for kind, name in named.items() if name is not None]
    if len(given) > 1:
        raise CommandError(
            "only one of --topic, --consumer-group, --transactional-id and --cluster-scope can be given"
        )
    return given[0] if given else None


def _query(
    principal: str | None,
    operation: str | None,
    host: str | None,
    resource: tuple[str, str] | None,
    *,
    allow: bool,
    deny: bool,
    prefix: bool,
) -> dict[str, Any]:
    if allow and deny:
        raise CommandError("only one of --allow and --deny can be given")
    query = {
        "principal": principal,
        "host": host,
        "operation": None if operation is None else _word(operation),
        "permission": "ALLOW" if allow else "DENY" if deny else None,
        "pattern_type": "PREFIXED" if prefix else None,
    }
    if resource is not None:
        query |= {"resource_type": resource[0], "resource_name": resource[1]}
        query["pattern_type"] = "PREFIXED" if prefix else "LITERAL"
    return {name: value for name, value in query.items() if value is not None}


def _word(text: str) -> str:
    return text.upper().replace("-", "_")


def _show(acls: list[dict[str, Any]]) -> None:
    show_table(
        ("Resource", "Name", "Pattern", "Principal", "Host", "Operation", "Permission", "Owner"),
        ([*(each[name] for name in _FIELDS), ", ".join(each.get("owners", ["admin"]))] for each in acls),
    )
