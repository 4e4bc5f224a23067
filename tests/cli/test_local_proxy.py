"""Proxies of the environment are not used for programs on this machine."""

import http.client
import json
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cli.conftest import CommandLine

CLOSED = "http://127.0.0.1:1"
"""A proxy that is not there: what is sent through it fails."""

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
PROXIES = {name: CLOSED for upper in NAMES for name in (upper, upper.lower())}


@pytest.fixture
def proxied(replicate_mcp: CommandLine) -> CommandLine:
    replicate_mcp.environment |= PROXIES
    return replicate_mcp


def test_images_are_generated_and_saved_with_the_simulator(
    proxied: CommandLine, tmp_path: Path
) -> None:
    done = proxied("generate", "a red car", "--json", "--out", tmp_path / "pictures")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["successful_count"] == 1
    assert len(list((tmp_path / "pictures").glob("*.webp"))) == 1


def test_doctor_reaches_the_simulator_without_a_proxy(proxied: CommandLine) -> None:
    done = proxied("doctor")
    assert done.returncode == 0, done.stdout
    assert "✓ proxy: none for 127.0.0.1." in done.stdout


def test_demo_runs_without_the_proxy(proxied: CommandLine) -> None:
    done = proxied("demo", "--tasks", 3, "--limit", 2, "--seconds", 0.1)
    assert done.returncode == 0, done.stderr
    assert "3 images in" in done.stdout


def test_http_server_makes_images(proxied: CommandLine) -> None:
    server = proxied.start("serve", "--http", "--local", "--port", 0)
    assert server.stderr is not None
    url = server.stderr.readline().split()[2]
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    body = json.dumps({"prompt": "a red car"})
    with closing(connection):
        connection.request("POST", "/generate", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
