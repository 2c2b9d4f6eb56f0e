"""`compose/compose.yaml` and the configurations it mounts: syntax, names, and what the gateway says."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from certs.make_certs import TestAuthority
from compose.kafka import DEFAULT_VERSION, ROOT
from gateway.config import check

COMPOSE_FILE = ROOT / "compose" / "compose.yaml"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded = yaml.safe_load(COMPOSE_FILE.read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_every_name_that_is_used_is_defined(document: dict[str, Any]) -> None:
    services = document["services"]
    assert set(services) == {"onprem-kafka", "cloud-kafka", "onprem-gateway", "cloud-gateway"}
    for service in services.values():
        assert set(service["networks"]) <= set(document["networks"])
        assert set(service.get("depends_on", {})) <= set(services)
        assert ("image" in service) != ("build" in service)


def test_both_clusters_are_the_default_version_and_differ(document: dict[str, Any]) -> None:
    clusters = [document["services"][name] for name in ("onprem-kafka", "cloud-kafka")]
    assert {cluster["image"] for cluster in clusters} == {f"apache/kafka:{DEFAULT_VERSION}"}
    assert len({cluster["environment"]["CLUSTER_ID"] for cluster in clusters}) == 2


def test_nothing_on_prem_can_be_reached_from_the_cloud(document: dict[str, Any]) -> None:
    assert "wan" not in document["services"]["onprem-kafka"]["networks"]
    onprem = yaml.safe_load((ROOT / "compose/demo/onprem.yaml").read_text())
    assert "listeners" not in onprem


def test_files_that_are_mounted_or_built_from_exist(document: dict[str, Any]) -> None:
    for service in document["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source == "../build/certs" or (COMPOSE_FILE.parent / source).is_file()
        if "build" in service:
            assert (
                COMPOSE_FILE.parent / service["build"]["context"] / service["build"]["dockerfile"]
            ).is_file()


@pytest.mark.parametrize("name", ["onprem", "cloud"])
def test_the_gateway_accepts_the_configuration(name: str, tmp_path: Path, authority: TestAuthority) -> None:
    authority.server()
    text = (ROOT / "compose" / "demo" / f"{name}.yaml").read_text()
    file = tmp_path / "gateway.yaml"
    file.write_text(text.replace("/certs/", f"{authority.directory}/"))

    assert check(file) == []


def test_docker_compose_accepts_it() -> None:
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("docker has no compose plugin")
    command = ["docker", "compose", "-f", str(COMPOSE_FILE), "config", "--quiet"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
