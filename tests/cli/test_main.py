"""The command line as a whole: help, exit codes and startup cost."""

import subprocess
import sys

import pytest

from replicate_mcp.cli.main import COMMANDS, main


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for name, what in COMMANDS.items():
        assert name in shown
        assert what.split(",")[0] in " ".join(shown.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    assert f"replicate-mcp {name}" in capsys.readouterr().out


def test_simulator_options_name_their_value_types(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["simulate", "--help"])
    shown = capsys.readouterr().out
    for option in ("--fault-next FAULTS", "--requests-per-minute N", "--settle-seconds SECONDS"):
        assert f"{option}\n" in shown or f"{option}  " in shown


def test_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["paint"])
    assert left.value.code == 2
    assert "paint" in capsys.readouterr().err


def test_invalid_port_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--http", "--port", "70000"]) == 2
    assert "port must be 0-65535" in capsys.readouterr().err


def test_help_imports_no_heavy_modules() -> None:
    program = (
        "import sys\n"
        "from replicate_mcp.cli.main import main\n"
        "for words in (['--help'], ['generate', '--help'], ['demo', '--help']):\n"
        "    try:\n"
        "        main(words)\n"
        "    except SystemExit:\n"
        "        pass\n"
        "heavy = {'mcp', 'rich', 'httpx', 'anyio', 'pydantic', 'replicate'} & set(sys.modules)\n"
        "print(heavy, file=sys.stderr)\n"
        "sys.exit(bool(heavy))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_startup_loads_no_certificates() -> None:
    program = (
        "import sys\n"
        "import replicate_mcp.cli.commands.serve, replicate_mcp.mcp_server.server\n"
        "from replicate_mcp.settings_loader import load_settings\n"
        "from replicate_mcp import tls\n"
        "load_settings()\n"
        "heavy = {'truststore', 'certifi', 'httpx'} & set(sys.modules)\n"
        "print(heavy, tls._client_context.cache_info().currsize)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "set() 0\n", ran.stderr


@pytest.mark.parametrize("words", [("install", "cursor", "--yes"), ("semaphores",), ("batches",)])
def test_user_without_a_home_directory_is_asked_to_set_home(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_such_user(_: int) -> None:
        raise KeyError

    for name in ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "REPLICATE_MCP_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_such_user)
    monkeypatch.setenv("REPLICATE_API_TOKEN", "r8_acme_1")
    assert main(words) == 2
    assert "set HOME" in capsys.readouterr().err
    monkeypatch.setenv("REPLICATE_MCP_BACKEND", "memory")
    if words[0] != "install":
        assert main(words) == 0
