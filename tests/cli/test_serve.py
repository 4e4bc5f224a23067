"""`replicate-mcp serve --http`: who may use the server's token is explicit and printed."""

import argparse
import socket

import pytest

from cli.conftest import CommandLine
from replicate_mcp.cli.commands import serve
from replicate_mcp.cli.main import main
from replicate_mcp.simulator import Simulator

HTTP = ("serve", "--http", "--port", "0")

HOW_TO_LET_LOCAL_PROGRAMS_IN = "replicate-mcp serve --http --local"


def test_serving_without_arguments_is_the_same_with_and_without_the_parser() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--env-file")
    serve.add_arguments(parser)
    assert vars(parser.parse_args([])) == vars(serve.NO_ARGUMENTS)


def startup_output(replicate_mcp: CommandLine, *words: str, **environment: str) -> str:
    process = replicate_mcp.start(*HTTP, *words, **environment)
    assert process.stderr is not None
    listening = process.stderr.readline()
    assert "Serving on http://" in listening
    assert "a dashboard for browsers at /" in listening
    return process.stderr.readline()


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        ((), {}, HOW_TO_LET_LOCAL_PROGRAMS_IN),
        (("--local",), {}, "Programs of this user on this machine use the server's token"),
        ((), {"REPLICATE_MCP_LOCAL": "1"}, "Programs of this user on this machine use"),
        (
            (),
            {"REPLICATE_MCP_ALLOW_ANONYMOUS": "1"},
            "Any client that can connect uses the server's token",
        ),
        ((), {"REPLICATE_API_TOKEN": ""}, "every caller must send a token"),
        ((), {"REPLICATE_API_TOKEN": "${TOKEN}"}, "REPLICATE_API_TOKEN is not a token (it is"),
        (
            ("--local",),
            {"REPLICATE_MCP_ALLOWED_HOSTS": "images.example.com"},
            "has no effect beside REPLICATE_MCP_ALLOWED_HOSTS",
        ),
    ],
)
def test_startup_and_doctor_report_who_may_use_the_server_token(
    replicate_mcp: CommandLine, words: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    sentence = startup_output(replicate_mcp, *words, **environment)
    assert said in sentence
    local = {"REPLICATE_MCP_LOCAL": "1"} if words else {}
    report = replicate_mcp("doctor", **environment, **local).stdout
    assert f"who may use the server's token over HTTP: {sentence}" in report


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "images.example.com"])
def test_local_mode_is_rejected_on_public_addresses(
    host: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATE_API_TOKEN", "r8_acme_1")
    assert main([*HTTP, "--host", host, "--local"]) == 2
    assert f"and {host} is reached from others: leave out --host" in capsys.readouterr().err
    monkeypatch.setenv("REPLICATE_MCP_LOCAL", "1")
    assert main([*HTTP, "--host", host]) == 2
    assert "REPLICATE_MCP_LOCAL=1" in capsys.readouterr().err


def test_local_option_is_rejected_on_stdio(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--local"]) == 2
    assert "--local goes with --http" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--port", "9000"), ("--host", "0.0.0.0")])
def test_http_option_without_http_is_rejected(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *option]) == 2
    assert f"{option[0]} goes with --http: without it, MCP is" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("serve", "--http"), ("simulate",)])
def test_occupied_port_is_reported_with_the_usage_exit_code(
    replicate_mcp: CommandLine, command: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = replicate_mcp(*command, "--port", port)
    assert ran.returncode == 2
    assert str(port) in ran.stderr
    assert "--port" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("host", ["nohost.invalid", "192.0.2.1", "2001:db8::1", "::zz", "a..b"])
def test_foreign_bind_address_is_rejected_with_advice_on_host(
    replicate_mcp: CommandLine, host: str
) -> None:
    ran = replicate_mcp(*HTTP, "--host", host)
    assert ran.returncode == 2
    assert f"{host}:0 cannot be listened on" in ran.stderr
    assert "give an address of this machine as --host, like 127.0.0.1" in ran.stderr
    assert "another --port" not in ran.stderr


def test_invalid_settings_stop_an_http_server(replicate_mcp: CommandLine) -> None:
    ran = replicate_mcp(*HTTP, REPLICATE_CONCURRENT_LIMIT="many")
    assert ran.returncode == 2
    assert "REPLICATE_CONCURRENT_LIMIT is wrong: must be a whole number, not many." in ran.stderr
    assert "Traceback" not in ran.stderr


def test_rejected_token_is_reported_once(replicate_mcp: CommandLine, simulator: Simulator) -> None:
    simulator.change_account("acme", revoke=["r8_acme_1"])
    ran = replicate_mcp("generate", "a red car")
    assert ran.returncode == 2
    assert ran.stderr.count("Replicate refused the token") == 1
