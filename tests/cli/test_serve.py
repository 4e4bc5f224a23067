"""`replicate-mcp serve --http`: who may use the server's token is asked for, and said."""

import pytest

from cli.conftest import CommandLine
from replicate_mcp.cli.main import main

HTTP = ("serve", "--http", "--port", "0")

HOW_TO_LET_LOCAL_PROGRAMS_IN = "replicate-mcp serve --http --local"


def said_at_the_start(replicate_mcp: CommandLine, *words: str, **environment: str) -> str:
    process = replicate_mcp.start(*HTTP, *words, **environment)
    assert process.stderr is not None
    assert "Serving on http://" in process.stderr.readline()
    return process.stderr.readline()


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        ((), {}, HOW_TO_LET_LOCAL_PROGRAMS_IN),
        (("--local",), {}, "Programs of this user on this machine use the server's token"),
        ((), {"REPLICATE_MCP_LOCAL": "1"}, "Programs of this user on this machine use"),
        ((), {"REPLICATE_MCP_ALLOW_ANONYMOUS": "1"}, "Whoever can connect uses the server's token"),
        ((), {"REPLICATE_API_TOKEN": ""}, "every caller has to bring a token"),
        (
            ("--local",),
            {"REPLICATE_MCP_ALLOWED_HOSTS": "images.example.com"},
            "has no effect beside REPLICATE_MCP_ALLOWED_HOSTS",
        ),
    ],
)
def test_it_says_at_its_start_who_may_use_the_servers_token_and_doctor_too(
    replicate_mcp: CommandLine, words: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    sentence = said_at_the_start(replicate_mcp, *words, **environment)
    assert said in sentence
    local = {"REPLICATE_MCP_LOCAL": "1"} if words else {}
    told = replicate_mcp("doctor", **environment, **local).stdout
    assert f"who may use the server's token over HTTP: {sentence}" in told


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "images.example.com"])
def test_what_is_for_this_machine_alone_is_not_served_to_others(
    host: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATE_API_TOKEN", "r8_acme_1")
    assert main([*HTTP, "--host", host, "--local"]) == 2
    assert f"and {host} is reached from others: leave out --host" in capsys.readouterr().err
    monkeypatch.setenv("REPLICATE_MCP_LOCAL", "1")
    assert main([*HTTP, "--host", host]) == 2
    assert "REPLICATE_MCP_LOCAL=1" in capsys.readouterr().err


def test_on_stdio_there_is_nobody_to_let_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--local"]) == 2
    assert "--local goes with --http" in capsys.readouterr().err
