"""`replicate-mcp doctor` reports each fault with its remedy, and still runs all other checks."""

import re
import shlex
import sqlite3
import subprocess
from pathlib import Path

import pytest

from cli.conftest import CommandLine
from network import NETWORK_VARIABLES, company
from replicate_mcp.backends.sqlite.database import _unavailable
from replicate_mcp.cli.diagnostics import state_advice
from replicate_mcp.simulator import Simulator

TOKEN_IS_FINE = "✓ token: it belongs to the account acme."


def test_command_suggested_by_doctor_moves_damaged_state_file_away(
    replicate_mcp: CommandLine, tmp_path: Path
) -> None:
    state = tmp_path / "a state" / "state.db"
    state.parent.mkdir()
    state.write_bytes(b"no database " * 1_000)
    named = {"REPLICATE_MCP_BACKEND": f"sqlite:///{state}"}
    made = replicate_mcp("generate", "a red car", **named)
    assert made.returncode == 2
    assert "`replicate-mcp doctor` says what to do" in made.stderr
    result = replicate_mcp("doctor", **named)
    assert result.returncode == 1
    assert f"✗ state: {state} is damaged (file is not a database)" in result.stdout
    assert "the batches of the last 24 hours" in result.stdout
    assert TOKEN_IS_FINE in result.stdout
    (command,) = re.findall(r": (mv .*?)\. What it knew", result.stdout)
    subprocess.run(shlex.split(command), check=True)
    assert "✓ state: " in replicate_mcp("doctor", **named).stdout


def test_unwritable_state_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE one (a)")
    connection.close()
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    assert "make the file and its folder yours and writable" in advice(connection, path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA max_page_count = 2")
    assert "its disk is full: free some space" in advice(connection, path)


def advice(connection: sqlite3.Connection, path: Path) -> str:
    """Return the advice for an error raised by a write."""
    with pytest.raises(sqlite3.OperationalError) as raised:
        connection.execute("INSERT INTO one VALUES (zeroblob(100000))")
    connection.close()
    error = _unavailable(str(path), raised.value)
    error.__cause__ = raised.value
    return state_advice(path, error)


def test_doctor_reports_every_invalid_setting_and_runs_the_other_checks(
    replicate_mcp: CommandLine,
) -> None:
    result = replicate_mcp(
        "doctor", REPLICATE_CONCURRENT_LIMIT="many", REPLICATE_MCP_BACKEND="mysql://x"
    )
    assert result.returncode == 1
    assert "✗ settings: The setting REPLICATE_CONCURRENT_LIMIT is wrong" in result.stdout
    assert "✗ settings: The setting REPLICATE_MCP_BACKEND is wrong" in result.stdout
    assert TOKEN_IS_FINE in result.stdout
    assert "state:" not in result.stdout
    result = replicate_mcp("doctor", "--env-file", "/nowhere/settings.env")
    assert (
        "✗ settings: The file /nowhere/settings.env given with --env-file is not" in result.stdout
    )
    assert TOKEN_IS_FINE in result.stdout


def test_doctor_reports_and_tries_certificates_and_proxy(
    replicate_mcp: CommandLine, simulator: Simulator, tmp_path: Path
) -> None:
    with company(tmp_path, int(simulator.url.rpartition(":")[2])) as network:
        fine = replicate_mcp("doctor", **network.environment)
        assert f"✓ certificates: those of SSL_CERT_FILE={network.authority.file} are" in fine.stdout
        proxy = f"the proxy http://127.0.0.1:{network.proxy.port} that HTTPS_PROXY names"
        assert f"✓ proxy: {proxy} is used." in fine.stdout
        assert TOKEN_IS_FINE in fine.stdout
        assert fine.returncode == 0
        untrusted = network.environment | dict.fromkeys(NETWORK_VARIABLES[:4], "")
        result = replicate_mcp("doctor", **untrusted)
    assert "✓ certificates: those of the system's store are trusted." in result.stdout
    assert "✗ Replicate: https://api.replicate.test cannot be reached: the cert" in result.stdout
    assert "set SSL_CERT_FILE to the file of its certificate authority" in result.stdout
    gone = network.environment | {"HTTPS_PROXY": "http://ann:s3cret@127.0.0.1:1"}
    result = replicate_mcp("doctor", **gone)
    assert "cannot be reached: the proxy http://127.0.0.1:1 that HTTPS_PROXY names" in result.stdout
    assert "s3cret" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [(("doctor",), 1), (("generate", "a red car"), 2), (("models", "flux-dev"), 2)],
)
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSLKEYLOGFILE"])
def test_variable_that_breaks_tls_is_reported_without_traceback(
    replicate_mcp: CommandLine, words: tuple[str, ...], code: int, variable: str
) -> None:
    wrong = {"REPLICATE_BASE_URL": "https://replicate.invalid", variable: "/nowhere/x"}
    ran = replicate_mcp(*words, **wrong)
    assert ran.returncode == code
    assert f"{variable} is /nowhere/x, which " in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


def test_doctor_reports_token_placeholder_without_trying_it(
    replicate_mcp: CommandLine, simulator: Simulator
) -> None:
    result = replicate_mcp("doctor", REPLICATE_API_TOKEN="${REPLICATE_API_TOKEN}")
    assert "✗ token: This is not a Replicate token: it is the name of a var" in result.stdout
    assert "✓ Replicate: " in result.stdout
