"""Reads the configuration file and says everything that is wrong with it at once, each with its path."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.config.listeners import ListenerConfig
from gateway.config.models import AdminConfig, ClusterConfig, Config, UserConfig


class ConfigError(Exception):
    """The configuration cannot be used; `errors` has one line per mistake, each with its path in the file."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


def load(path: Path) -> Config:
    """Reads and checks the file; ConfigError with everything that is wrong."""
    config, errors = _read(path)
    if config is None or errors:
        raise ConfigError(errors)
    return config


def check(path: Path) -> list[str]:
    """Every error of the file, one line each; empty if the gateway would take it."""
    return _read(path)[1]


def _read(path: Path) -> tuple[Config | None, list[str]]:
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        return None, [f"{path}: cannot be read: {error}"]
    except yaml.YAMLError as error:
        return None, [f"{path}: is not YAML: {' '.join(str(error).split())}"]
    if not isinstance(raw, dict):
        return None, [f"{path}: is not a mapping of sections"]
    errors = list(_duplicate_keys(node, "", set()))
    context = {"folder": path.parent}
    config = None
    try:
        config = Config.model_validate(raw, context=context)
    except ValidationError as error:
        errors += [_line(details) for details in error.errors(include_url=False, include_input=False)]
    errors += _between_sections(raw, context)
    return config, errors


def _duplicate_keys(node: yaml.Node | None, path: str, seen: set[int]) -> Iterator[str]:
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicate_keys(item, f"{path}[{index}]", seen)
    elif isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            name = f"{path}.{key.value}" if path else str(key.value)
            if name in keys:
                yield f"{name}: duplicate key (line {key.start_mark.line + 1})"
            keys.add(name)
            yield from _duplicate_keys(value, name, seen)


def _line(details: ErrorDetails) -> str:
    path = ""
    for part in details["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    path = path.removeprefix(".")
    kind = details["type"]
    message = {"missing": "is required", "extra_forbidden": "is not a known key"}.get(kind)
    if message is None:
        message = details["msg"].removeprefix("Value error, ")
        message = message if kind == "value_error" else message[:1].lower() + message[1:]
    return f"{path}: {message}"


def _between_sections(raw: Mapping[str, Any], context: dict[str, Any]) -> Iterator[str]:
    """Checked on every section that is right by itself, whatever is wrong with others."""
    listeners = {
        f"listeners[{index}]": listener
        for index, section in enumerate(_each(raw.get("listeners")))
        if (listener := _valid(ListenerConfig, section, context)) is not None
    }
    cluster: ClusterConfig | None = _valid(ClusterConfig, raw.get("cluster"), context)
    if cluster is not None:
        yield from _unusable_names(listeners, cluster.host_label)
    admin = _valid(AdminConfig, raw.get("admin", {}), context)
    yield from _repeated("name", {path: listener.name for path, listener in listeners.items()})
    yield from _repeated(
        "name",
        {
            f"users[{index}]": user.name
            for index, section in enumerate(_each(raw.get("users")))
            if (user := _valid(UserConfig, section, context)) is not None
        },
    )
    yield from _port_collisions(listeners, admin)


def _each(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _valid(model: type[Any], value: object, context: dict[str, Any]) -> Any:
    try:
        return model.model_validate(value, context=context)
    except ValidationError:
        return None


def _repeated(key: str, names: Mapping[str, str]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for path, name in names.items():
        if name in seen:
            yield f"{path}.{key}: {name!r} is the {key} of {seen[name]} already"
        seen.setdefault(name, path)


def _unusable_names(listeners: Mapping[str, ListenerConfig], cluster: str | None) -> Iterator[str]:
    for path, listener in listeners.items():
        try:
            listener.server_names(cluster)
        except ValueError as error:
            yield f"{path}.advertised_host: {error}"


def _port_collisions(listeners: Mapping[str, ListenerConfig], admin: AdminConfig | None) -> Iterator[str]:
    bound: list[tuple[str, int, str]] = []
    for path, listener in listeners.items():
        bound.append((listener.bind, listener.port, f"{path}.port"))
        bound.extend(
            (listener.bind, port, f"{path}.broker_port (node id {node_id})")
            for node_id, port in listener.broker_ports().items()
        )
    if admin is not None:
        bound.append((admin.bind, admin.port, "admin.port"))
    taken: dict[int, list[tuple[str, str]]] = {}
    for bind, port, path in bound:
        for other_bind, other in taken.get(port, []):
            if bind == other_bind or _is_wildcard(bind) or _is_wildcard(other_bind):
                yield f"{path}: port {port} is taken by {other}"
                break
        taken.setdefault(port, []).append((bind, path))


def _is_wildcard(address: str) -> bool:
    return ipaddress.ip_address(address).is_unspecified
