"""The deployment files are consistent with the rest of the project."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from dotenv import dotenv_values
from redis import Redis

from backends.servers import running_server as running_redis
from conftest import environment
from deploy.files import ROOT, compose, given, health_check
from deploy.proxy import CADDYFILE
from http_api.conftest import running_server
from replicate_mcp.backends.redis.config_checks import config_warnings
from replicate_mcp.settings import SETTING_NAMES
from replicate_mcp.settings_loader import load_settings
from replicate_mcp.simulator import Simulator

REPLICAS = ("replica-1", "replica-2")

LOCKS = (Path("deploy/image.lock"), Path("deploy/image-build.lock"))


def test_image_build_copies_only_existing_allowed_paths() -> None:
    context = ROOT / ".dockerignore"
    let_in = [line[1:] for line in context.read_text().splitlines() if line.startswith("!")]
    for copied in given("COPY"):
        if not copied.startswith("--from"):
            for source in copied.split()[:-1]:
                assert (ROOT / source).exists()
                top = source.removeprefix("./")
                assert any(Path(top).match(pattern) for pattern in let_in), source
    assert {".env", ".git", "tests"}.isdisjoint(let_in)


def test_image_version_label_matches_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"VERSION={project['version']}" in given("ARG")
    (labels,) = given("LABEL")
    assert f'licenses="{project["license"]}"' in labels


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_image_uses_the_tested_versions(lock: Path) -> None:
    def pins(path: Path) -> dict[str, set[str]]:
        requirements = re.split(r"\n(?=\S)", (ROOT / path).read_text().replace("\\\n", ""))
        return {
            requirement.split()[0]: set(re.findall(r"--hash=\S+", requirement))
            for requirement in requirements
        }

    tested, used = pins(Path("requirements.lock")), pins(lock)
    assert used
    assert all(used.values())
    assert used.items() <= tested.items()
    assert "pytest" not in lock.read_text()


def test_image_runs_unprivileged_and_listens_on_the_exposed_port() -> None:
    (user,) = given("USER")
    assert user.isdigit()
    assert user != "0"
    (command,) = given("CMD")
    port = json.loads(command)[-1]
    assert given("EXPOSE") == [port]
    assert port in health_check()[-1]
    proxy = compose()["services"]["proxy"]["environment"]
    assert {proxy["REPLICA_1"], proxy["REPLICA_2"]} == {f"{name}:{port}" for name in REPLICAS}


def test_every_setting_in_compose_file_and_example_exists() -> None:
    example = dotenv_values(ROOT / ".env.example")
    read = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert read <= example.keys()
    for name in REPLICAS:
        replica = compose()["services"][name]
        assert replica["env_file"] == ".env"
        variables = example | replica["environment"]
        assert variables.keys() - read <= SETTING_NAMES.keys()
        settings = load_settings({key: value or "" for key, value in variables.items()})
        assert settings.allowed_hosts == ("localhost",)
        assert settings.backend == "redis://valkey:6379/0"


def test_proxy_configuration_uses_the_variables_of_the_compose_file() -> None:
    proxy = compose()["services"]["proxy"]
    read = set(re.findall(r"\{\$(\w+)\}", CADDYFILE.read_text()))
    assert read == proxy["environment"].keys()
    assert "./deploy/Caddyfile:/etc/caddy/Caddyfile:ro" in proxy["volumes"]


def test_only_the_proxy_is_exposed_and_services_stop_concurrently() -> None:
    services = compose()["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    assert services["valkey"]["networks"] == ["state"]
    assert compose()["networks"]["state"]["internal"] is True
    assert "depends_on" not in services["proxy"]


def test_valkey_of_the_compose_file_passes_the_config_checks() -> None:
    program, *options = compose()["services"]["valkey"]["command"]
    assert program == "valkey-server"
    with running_redis("valkey", *options) as server, Redis(port=server.port) as client:
        assert config_warnings(client.info()) == []
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_health_check_distinguishes_healthy_from_unhealthy(
    simulator: Simulator, tmp_path: Path
) -> None:
    with running_server(environment(simulator, tmp_path)) as server:
        check = health_check()[-1].replace("8000", server.url.rpartition(":")[2])
        command = [sys.executable, "-c", check]
        assert subprocess.run(command).returncode == 0
        server.terminate()
        assert subprocess.run(command, capture_output=True).returncode != 0
