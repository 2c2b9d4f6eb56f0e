"""The documents say what is so: every key, every API, every command, every link between them."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from certs.make_certs import TestAuthority
from compose.kafka import ROOT
from gateway import observe
from gateway.cli import app
from gateway.config import Config, LimitsConfig, check
from protocol.api_versions import table_markdown

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| `([a-z0-9_.\[\]]+)` \| ([^|]+) \| (.+) \|$", re.MULTILINE)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """File name and content of every block of code in a language."""
    for document in DOCUMENTS:
        for found, content in _BLOCK.findall(document.read_text()):
            if found == language:
                yield document.name, content


# --- configuration.md ----------------------------------------------------------------------------------


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key that has a value of its own, with its path."""
    for name, field in model.model_fields.items():
        section, is_list = _section(field.annotation)
        if section is None:
            yield f"{prefix}{name}", field
        else:
            yield from keys(section, f"{prefix}{name}{'[]' if is_list else ''}.")


def _section(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for argument in get_args(annotation):
        section, _ = _section(argument)
        if section is not None:
            return section, get_origin(annotation) is list
    return None, False


def as_written(field: FieldInfo) -> str:
    """A default as one would write it into the file."""
    default = field.default
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, tuple):
        return f"{default[0]}-{default[-1]}"
    if isinstance(default, list):
        return str(yaml.safe_dump(default, default_flow_style=True)).strip()
    return yaml.safe_dump(str(default) if isinstance(default, str) else default).splitlines()[0].strip("'")


def test_every_key_of_the_configuration_is_described_with_its_default() -> None:
    described = {
        key: default for key, default, _ in _ROW.findall((ROOT / "docs" / "configuration.md").read_text())
    }
    assert described == {path: as_written(field) for path, field in keys(Config)}


# --- limits.md -----------------------------------------------------------------------------------------


def test_every_limit_is_explained_and_every_metric_named_there_exists() -> None:
    text = (ROOT / "docs" / "limits.md").read_text()
    # The one is a part of the rate, the other explained where it is set.
    elsewhere = {"connection_burst_per_ip", "max_decoded_request_bytes"}
    assert {name for name in LimitsConfig.model_fields if f"`{name}`" not in text} <= elsewhere
    families = {family.name: family.type for family in observe.registry.collect()}
    known = {name + ("_total" if kind == "counter" else "") for name, kind in families.items()}
    assert set(re.findall(r"`(causeway_[a-z_]+)", text)) <= known


# --- protocol.md ---------------------------------------------------------------------------------------


def test_the_table_of_apis_is_the_one_in_the_code() -> None:
    document = ROOT / "docs" / "protocol.md"
    text = document.read_text()
    start = text.index("| Key | API |")
    if os.environ.get("UPDATE_DOCS") == "1":
        document.write_text(text[:start] + table_markdown())
    assert document.read_text()[start:] == table_markdown()


# --- examples ------------------------------------------------------------------------------------------


def commands() -> list[Any]:
    found = []
    for language in ("", "sh", "bash"):
        for document, content in blocks(language):
            for line in content.replace("\\\n", " ").splitlines():
                words = (
                    shlex.split(line, comments=True) if line.startswith(("causeway ", "$ causeway ")) else []
                )
                if words:
                    found.append(pytest.param(words[words.index("causeway") + 1 :], id=f"{document}: {line}"))
    return found


@pytest.mark.parametrize("arguments", commands())
def test_every_command_is_one_that_the_command_line_takes(arguments: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert arguments[0] in command.commands
        command = command.commands[arguments.pop(0)]
    redirected = arguments[: arguments.index("<")] if "<" in arguments else arguments
    # Raises UsageError for an unknown option, a missing or a surplus argument.
    command.make_context(command.name, redirected).close()


@pytest.mark.parametrize("example", [content for _, content in blocks("yaml")])
def test_every_configuration_is_taken(example: str, tmp_path: Path) -> None:
    identity = TestAuthority(tmp_path / "certs").server()
    (tmp_path / "gateway.pem").write_bytes(identity.certificate_file.read_bytes())
    (tmp_path / "gateway.key").write_bytes(identity.key_file.read_bytes())
    (tmp_path / "admin.password").write_text("admin-secret\n")
    (tmp_path / "secrets.key").write_bytes(bytes(32))
    (tmp_path / "gateway.yaml").write_text(example)
    assert check(tmp_path / "gateway.yaml") == []


def test_the_read_me_has_examples() -> None:
    assert len([name for name, _ in blocks("yaml") if name == "README.md"]) == 2
    assert len(commands()) > 8


# --- links between documents ---------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_link_leads_nowhere(document: Path) -> None:
    text = document.read_text()
    targets = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in target]
    named = re.findall(r"`((?:docs|compose|certs|demo|\.ci)/[\w./-]+)`", text)
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert missing + [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_that_is_named_exists(document: Path) -> None:
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", document.read_text(), re.MULTILINE)) <= set(targets)


# --- tests that documents name ---------------------------------------------------------------------------

_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_test_that_a_document_names_exists() -> None:
    named = {found for document in DOCUMENTS for found in _TEST.findall(document.read_text())}
    assert named
    missing = [
        f"{file}::{test}"
        for file, test in sorted(named)
        if not re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE)
    ]
    assert not missing
