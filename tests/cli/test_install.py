"""`replicate-mcp install` with the real configuration files of hosts, in temporary homes."""

import json
import os
import re
import select
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from cli.conftest import CommandLine, of_the_system, open_terminal
from conftest import environment
from replicate_mcp.cli.executable import own_command
from replicate_mcp.cli.install.config_file import ConfigFile
from replicate_mcp.cli.install.forwarded_settings import FORWARDED_SETTINGS
from replicate_mcp.cli.install.hosts import HOSTS
from replicate_mcp.errors import InvalidInput
from replicate_mcp.platform.paths import Machine
from replicate_mcp.settings import SETTING_NAMES
from replicate_mcp.simulator import Simulator

TOKEN = "r8_secret_of_mine"
FILES = {
    "claude": ".config/Claude/claude_desktop_config.json",
    "claude-code": ".claude.json",
    "cursor": ".cursor/mcp.json",
    "vscode": ".config/Code/User/mcp.json",
}
SERVERS = {host: known.servers for host, known in HOSTS.items()}


class Home:
    """A user's home, and the command line run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "home"
        self.folder.mkdir()
        self.environment = {
            **of_the_system(),
            **dict.fromkeys(("HOME", "USERPROFILE"), str(self.folder)),
            "REPLICATE_API_TOKEN": TOKEN,
        }
        self._run = CommandLine(self.folder, self.environment)

    def file(self, host: str) -> Path:
        return self.folder / FILES[host]

    def write(self, host: str, text: str) -> Path:
        self.file(host).parent.mkdir(parents=True, exist_ok=True)
        self.file(host).write_text(text)
        return self.file(host)

    def install(
        self, host: str, *words: str, code: int = 0, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        done = self._run("install", host, *words, **variables)
        assert done.returncode == code, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done

    def entry(self, host: str) -> dict[str, Any]:
        entry: dict[str, Any] = json.loads(self.file(host).read_text())[SERVERS[host]]["replicate"]
        return entry


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.mark.parametrize("host", HOSTS)
def test_entry_is_written_to_the_config_file_of_the_host(home: Home, host: str) -> None:
    report = home.install(host, "--yes").stdout
    assert str(home.file(host)) in report
    command = str(Path(sysconfig.get_path("scripts")) / "replicate-mcp")
    token = "${input:replicate-api-token}" if host == "vscode" else TOKEN
    expected: dict[str, Any] = {"command": command, "env": {"REPLICATE_API_TOKEN": token}}
    if host in ("vscode", "claude-code"):
        expected = {"type": "stdio"} | expected
    assert home.entry(host) == expected
    assert stat.S_IMODE(home.file(host).stat().st_mode) == 0o600
    written = home.file(host).read_bytes()
    assert "no change" in home.install(host).stdout
    assert home.file(host).read_bytes() == written
    home.install(host, "--remove", "--yes")
    assert json.loads(home.file(host).read_text())[SERVERS[host]] == {}


def test_vs_code_entry_prompts_for_the_token_and_never_stores_it(home: Home) -> None:
    home.write("vscode", '{"inputs": [{"id": "other"}], "servers": {}}')
    home.install("vscode", "--yes")
    written = json.loads(home.file("vscode").read_text())
    assert [(each["id"], each.get("password")) for each in written["inputs"]] == [
        ("other", None),
        ("replicate-api-token", True),
    ]
    assert all(TOKEN not in each.read_text() for each in home.file("vscode").parent.iterdir())
    home.install("vscode", "--remove", "--yes")
    assert json.loads(home.file("vscode").read_text())["inputs"] == [{"id": "other"}]


OTHERS = """\
{
  "apiKey": "sk-of-somebody",   // comments and all
  "mcpServers": {
    "files": {"command": "npx", "env": {"KEY": "sk-of-files"}},
  },
}
"""


def test_install_keeps_the_rest_of_the_file_and_a_backup(home: Home) -> None:
    file = home.write("cursor", OTHERS)
    report = home.install("cursor", "--yes").stdout
    assert "sk-of" not in report
    changed = file.read_text()
    assert changed.startswith(OTHERS.removesuffix("  },\n}\n"))
    (backup,) = file.parent.glob("*.bak")
    assert backup.read_text() == OTHERS
    assert str(backup) in report
    home.install("cursor", "--remove", "--yes")
    assert file.read_text() == OTHERS


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_file_with_the_token_and_its_backup_are_private(home: Home) -> None:
    file = home.write("cursor", OTHERS)
    file.chmod(0o644)
    said = "The file and its backup can be read by you alone now (mode 600)"
    assert said in home.install("cursor", "--yes").stdout
    (backup,) = file.parent.glob("*.bak")
    assert (mode(file), mode(backup)) == (0o600, 0o600)
    backup.unlink()
    assert "by you alone" not in home.install("cursor", "--remove", "--yes").stdout

    for each in file.parent.glob("*.bak"):
        each.unlink()
    file.chmod(0o400)
    assert "by you alone" not in home.install("cursor", "--yes").stdout
    assert {mode(each) for each in file.parent.iterdir()} == {0o400}


def test_file_without_the_token_keeps_its_mode_and_its_backup_is_private(home: Home) -> None:
    file = home.write("vscode", '{"servers": {}}')
    file.chmod(0o644)
    said = "The backup can be read by you alone now (mode 600)"
    assert said in home.install("vscode", "--yes").stdout
    (backup,) = file.parent.glob("*.bak")
    assert (mode(file), mode(backup)) == (0o644, 0o600)


def test_entry_without_a_script_imports_nothing_from_the_host_folder(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.folder / "replicate_mcp.py").write_text("print('from the current folder')")
    monkeypatch.setattr("replicate_mcp.cli.executable.NAME", "not-installed")
    command = own_command()
    assert command[1:] == ["-P", "-m", "replicate_mcp"]
    ran = subprocess.run(
        [*command, "--version"], cwd=home.folder, capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("replicate-mcp ")


def test_symlinked_config_file_stays_a_symlink(home: Home) -> None:
    real = home.folder / "dotfiles.json"
    real.write_text("{}")
    home.file("claude-code").symlink_to(real)
    home.install("claude-code", "--yes")
    assert home.file("claude-code").is_symlink()
    assert "replicate" in json.loads(real.read_text())["mcpServers"]


def test_user_additions_to_the_entry_are_kept(home: Home) -> None:
    home.write(
        "claude",
        '{"mcpServers": {"replicate": {"command": "/old/replicate-mcp", "disabled": true,'
        ' "env": {"REPLICATE_MCP_ADMIN_API_KEY": "k3y", "REPLICATE_API_TOKEN": "r8_old"}}}}',
    )
    report = home.install("claude", "--yes").stdout
    assert "k3y" not in report
    assert "r8_old" not in report
    assert home.entry("claude")["disabled"] is True
    assert home.entry("claude")["env"] == {
        "REPLICATE_MCP_ADMIN_API_KEY": "k3y", "REPLICATE_API_TOKEN": TOKEN
    }  # fmt: skip


OFFICIAL = """\
{
  "mcpServers": {
    "replicate": {
      "url": "https://mcp.replicate.com/sse",
      "headers": {"Authorization": "Bearer sk-of-mine"},
      "env": {"REPLICATE_MCP_BACKEND": "redis://:hunter2@host"}
    }
  }
}
"""
NPX = """\
{
  "mcpServers": {
    "replicate": {
      "command": "npx",
      "args": ["-y", "replicate-mcp@alpha", "--api-key", "sk-of-mine"],
      "env": {"REPLICATE_API_TOKEN": "r8_theirs", "HTTPS_PROXY": "http://me:hunter2@proxy"}
    }
  }
}
"""


@pytest.mark.parametrize(
    ("text", "leads_to", "settings"),
    [
        (OFFICIAL, "mcp.replicate.com", {"REPLICATE_MCP_BACKEND": "redis://:hunter2@host"}),
        (NPX, "npx", {}),
    ],
)
def test_replacing_another_server_needs_confirmation_and_hides_its_secrets(
    home: Home, text: str, leads_to: str, settings: dict[str, str]
) -> None:
    file = home.write("cursor", text)
    report = home.install("cursor", "--yes", code=2)
    assert (
        f"is not this server, it leads to {leads_to}. This server takes its place" in report.stdout
    )
    assert "give this one another name with --name" in report.stderr
    for secret in ("sk-of-mine", "hunter2", "r8_theirs"):
        assert secret not in report.stdout + report.stderr
    assert file.read_text() == text
    kept = in_a_terminal(home, (WHETHER_TO_REPLACE, b"n\n"), words=("cursor", "--yes"), token=TOKEN)
    assert kept[0] == 2
    assert file.read_text() == text
    code, seen = in_a_terminal(
        home, (WHETHER_TO_REPLACE, b"y\n"), words=("cursor", "--yes"), token=TOKEN
    )
    assert code == 0
    assert TOKEN.encode() not in seen
    entry = home.entry("cursor")
    assert entry.keys() == {"command", "env"}
    assert entry["env"] == settings | {"REPLICATE_API_TOKEN": TOKEN}
    (backup,) = file.parent.glob("*.bak")
    assert backup.read_text() == text


def test_entry_can_be_added_under_another_name(home: Home) -> None:
    file = home.write("cursor", NPX)
    home.install("cursor", "--yes", "--name", "images")
    servers = json.loads(file.read_text())["mcpServers"]
    assert servers["replicate"] == json.loads(NPX)["mcpServers"]["replicate"]
    assert servers["images"]["env"] == {"REPLICATE_API_TOKEN": TOKEN}
    home.install("cursor", "--yes", "--remove", "--name", "images")
    assert file.read_text() == NPX
    assert "letters, digits" in home.install("cursor", "--name", "a name", code=2).stderr


@pytest.mark.parametrize("text", [OFFICIAL, NPX])
def test_remove_keeps_another_server_of_that_name(home: Home, text: str) -> None:
    file = home.write("cursor", text)
    refused = home.install("cursor", "--remove", "--yes", code=2)
    assert "is not this server" in refused.stderr
    assert refused.stdout == ""
    assert file.read_text() == text
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    "started",
    [
        {"command": "uvx", "args": ["replicate-mcp[redis]"]},
        {"command": "C:\\Python\\python.exe", "args": ["-m", "replicate_mcp", "serve"]},
        {"command": "C:\\Python\\python.exe", "args": ["-P", "-m", "replicate_mcp", "serve"]},
    ],
)
def test_own_entry_is_recognised_for_every_start_command(
    home: Home, started: dict[str, Any]
) -> None:
    home.write("cursor", json.dumps({"mcpServers": {"replicate": started | {"cwd": "/here"}}}))
    assert "not this server" not in home.install("cursor", "--yes").stdout
    assert home.entry("cursor")["cwd"] == "/here"
    home.install("cursor", "--remove", "--yes")


def test_entry_keeps_its_token_when_the_environment_has_none(home: Home) -> None:
    home.install("cursor", "--yes")
    assert "no change" in home.install("cursor", "--yes", REPLICATE_API_TOKEN="").stdout
    assert home.entry("cursor")["env"] == {"REPLICATE_API_TOKEN": TOKEN}


SIMULATED = {"REPLICATE_BASE_URL": "http://127.0.0.1:8765", "REPLICATE_API_TOKEN": "r8_demo"}


@pytest.mark.parametrize("host", HOSTS)
def test_simulator_settings_are_removed_by_a_real_install(home: Home, host: str) -> None:
    home.install(host, "--yes", code=0, **SIMULATED)
    assert home.entry(host)["env"] == SIMULATED  # No host prompts for a token that is not secret.
    assert "inputs" not in json.loads(home.file(host).read_text())
    report = home.install(host, "--yes").stdout
    assert re.search(r'^- +"REPLICATE_BASE_URL": "http://127.0.0.1:8765"', report, re.MULTILINE)
    token = "${input:replicate-api-token}" if host == "vscode" else TOKEN
    assert home.entry(host)["env"] == {"REPLICATE_API_TOKEN": token}


def test_token_is_not_reused_for_another_base_url(home: Home) -> None:
    home.install("claude", "--yes", code=0, **SIMULATED)
    for url in ({}, {"REPLICATE_BASE_URL": "https://proxy.example"}):
        refused = home.install("claude", "--yes", code=2, REPLICATE_API_TOKEN="", **url).stderr
        assert "No token is set" in refused
        assert f"`{sys.executable} -m replicate_mcp simulate`" in refused
    assert home.entry("claude")["env"] == SIMULATED
    kept = home.install("claude", code=0, **SIMULATED | {"REPLICATE_API_TOKEN": ""})
    assert "no change" in kept.stdout


def test_token_in_the_diff_is_redacted(home: Home) -> None:
    asked_later = home.install("claude", "--dry-run", REPLICATE_API_TOKEN="").stdout
    assert '"REPLICATE_API_TOKEN": "(your token, asked for without --dry-run)"' in asked_later
    home.install("claude", "--yes", REPLICATE_API_TOKEN="r8_before")
    path = home.file("claude")
    changed = home.install("claude", "--yes").stdout
    assert changed.startswith(f"--- {path} (now)\n+++ {path} (after)\n")
    assert '-        "REPLICATE_API_TOKEN": "(the old token, hidden)"' in changed
    assert '+        "REPLICATE_API_TOKEN": "(your token, hidden)"' in changed


def test_value_unlike_a_token_gives_a_warning(home: Home) -> None:
    doubted = home.install("claude", "--dry-run", REPLICATE_API_TOKEN="sk-of-another")
    assert "does not begin with r8_" in doubted.stderr
    assert "r8_" not in home.install("cursor", "--dry-run").stderr


def test_dry_run_and_missing_confirmation_write_nothing(home: Home) -> None:
    dry = home.install("claude", "--dry-run")
    assert '+    "replicate": {' in dry.stdout
    assert "nothing was written" in dry.stderr
    refused = home.install("claude", code=2)
    assert "--yes" in refused.stderr
    assert not home.file("claude").parent.exists()


def test_malformed_config_file_is_rejected_with_the_entry_to_paste(home: Home) -> None:
    file = home.write("cursor", '{\n  "mcpServers": {\n    "a": {} "b": {}\n  }\n}')
    refused = home.install("cursor", "--yes", code=2).stderr
    assert "line 3, column 13" in refused
    snippet = json.loads(refused[refused.index("\n{") :])
    assert snippet["replicate"]["env"] == {"REPLICATE_API_TOKEN": "r8_your_token"}
    assert [each.name for each in file.parent.iterdir()] == ["mcp.json"]


def test_limits_are_forwarded_and_secrets_are_not(home: Home) -> None:
    report = home.install(
        "claude", "--yes",
        REPLICATE_CONCURRENT_LIMIT="7", REPLICATE_MCP_ADMIN_API_KEY="adm1n-of-the-server",
        REPLICATE_MCP_BACKEND="redis://:passw0rd@127.0.0.1/0",
    )  # fmt: skip
    assert "REPLICATE_MCP_BACKEND holds a password" in report.stderr
    assert home.entry("claude")["env"] == {
        "REPLICATE_CONCURRENT_LIMIT": "7", "REPLICATE_API_TOKEN": TOKEN
    }  # fmt: skip
    assert "passw0rd" not in report.stdout + report.stderr + home.file("claude").read_text()


def test_each_setting_is_forwarded_or_http_only() -> None:
    secret_or_over_http = {
        "REPLICATE_API_TOKEN", "REPLICATE_MCP_ADMIN_API_KEY", "REPLICATE_MCP_ALLOW_ANONYMOUS",
        "REPLICATE_MCP_PUBLIC_URL", "REPLICATE_MCP_ALLOWED_HOSTS", "REPLICATE_MCP_LOCAL",
    }  # fmt: skip
    assert set(FORWARDED_SETTINGS) == set(SETTING_NAMES) - secret_or_over_http


def test_settings_in_the_user_file_are_not_copied(home: Home) -> None:
    settings = home.folder / ".config" / "replicate-mcp" / "config.env"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"REPLICATE_API_TOKEN={TOKEN}\nREPLICATE_CONCURRENT_LIMIT=5\n")
    home.install("cursor", "--yes", REPLICATE_API_TOKEN="")
    assert "env" not in home.entry("cursor")
    settings.rename(home.folder / "mine.env")
    home.install("cursor", "--yes", "--env-file", "~/mine.env", REPLICATE_API_TOKEN="")
    assert home.entry("cursor")["args"] == ["serve", "--env-file", str(home.folder / "mine.env")]


def test_concurrent_change_of_the_config_file_is_not_overwritten(home: Home) -> None:
    file = home.write("claude-code", "{}")
    read = ConfigFile(file)
    file.write_text('{"theirs": 1}')
    with pytest.raises(InvalidInput, match="changed by another program"):
        read.replace('{"ours": 1}', holds_secret=True)
    assert file.read_text() == '{"theirs": 1}'
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def in_a_terminal(
    home: Home, *typed: tuple[bytes, bytes], words: tuple[str, ...] = ("claude",), token: str = ""
) -> tuple[int, bytes]:
    """Return the exit code and the output, with each prompt answered by the given text."""
    ours, theirs = open_terminal()
    process = subprocess.Popen(
        [sys.executable, "-m", "replicate_mcp", "install", *words],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=home.environment | {"REPLICATE_API_TOKEN": token},
    )  # fmt: skip
    os.close(theirs)
    seen = b""

    def read_until(end: bytes) -> None:
        nonlocal seen
        while end not in seen:
            assert select.select([ours], [], [], 30)[0], seen
            try:
                seen += os.read(ours, 4096)
            except OSError:  # The other end is closed: the program has exited.
                assert end == b"\0", seen
                return

    for prompt, answer in typed:
        read_until(prompt)
        os.write(ours, answer)
    read_until(b"\0")
    os.close(ours)
    return process.wait(30), seen


FOR_THE_TOKEN, WHETHER_TO_WRITE = b"not shown): ", b"[y/N] "
WHETHER_TO_REPLACE = b'Replace the other server "replicate"? [y/N] '
CTRL_D = b"\x04"


def test_terminal_prompts_for_hidden_token_and_confirmation(home: Home) -> None:
    token = TOKEN.encode() + b"\n"
    code, seen = in_a_terminal(home, (FOR_THE_TOKEN, token), (WHETHER_TO_WRITE, b"y\n"))
    assert code == 0
    assert TOKEN.encode() not in seen
    assert home.entry("claude")["env"] == {"REPLICATE_API_TOKEN": TOKEN}


def test_ctrl_d_at_a_prompt_changes_nothing(home: Home) -> None:
    token = TOKEN.encode() + b"\n"
    for typed in (
        [(FOR_THE_TOKEN, CTRL_D)],
        [(FOR_THE_TOKEN, token), (WHETHER_TO_WRITE, CTRL_D)],
    ):
        code, seen = in_a_terminal(home, *typed)
        assert code == 2
        assert b"Traceback" not in seen
        assert b"othing was" in seen
    assert not home.file("claude").exists()


async def test_server_started_by_the_written_entry_makes_images(
    home: Home, simulator: Simulator, tmp_path: Path
) -> None:
    home.environment.update(environment(simulator, tmp_path, token=TOKEN))
    home.install("cursor", "--yes")
    entry = home.entry("cursor")
    server = StdioServerParameters(
        command=entry["command"], env={"HOME": str(home.folder), **entry["env"]}
    )
    async with Client(stdio_client(server)) as client:
        made = await client.call_tool("generate_images", {"tasks": [{"prompt": "a red car"}]})
    assert made.structured_content is not None
    assert made.structured_content["successful_count"] == 1


def test_config_path_depends_on_the_operating_system(tmp_path: Path) -> None:
    mac = Machine("darwin", Path("/Users/you"), {})
    support = Path("/Users/you/Library/Application Support")
    assert HOSTS["claude"].file(mac) == support / "Claude" / "claude_desktop_config.json"
    assert HOSTS["vscode"].file(mac) == support / "Code" / "User" / "mcp.json"
    moved = Machine("linux", tmp_path, {"CLAUDE_CONFIG_DIR": "/elsewhere"})
    assert HOSTS["claude-code"].file(moved) == Path("/elsewhere/.claude.json")


def test_packaged_claude_on_windows_has_its_own_config_folder(tmp_path: Path) -> None:
    windows = Machine("win32", tmp_path, {})
    usual = tmp_path / "AppData" / "Roaming" / "Claude" / "claude_desktop_config.json"
    assert HOSTS["claude"].file(windows) == usual
    own = "AppData/Local/Packages/Claude_pzs8sxrjxfjjc/LocalCache/Roaming/Claude"
    (tmp_path / own).mkdir(parents=True)
    assert HOSTS["claude"].file(windows) == tmp_path / own / usual.name
