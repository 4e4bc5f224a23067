"""Settings and their sources."""

import os
import re
import shlex
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from conftest import settings_for
from replicate_mcp.app.app import App
from replicate_mcp.errors import InvalidInput
from replicate_mcp.settings_loader import load_settings, read_settings, read_sources
from replicate_mcp.simulator import Simulator
from replicate_mcp.user_files import state_file


@pytest.mark.parametrize(
    "url",
    [
        "https://api.replicate.com",
        "https://API.example.com:8443/replicate",
        "https://bücher.example",
        "https://xn--bcher-kva.example",
        "https://api_2.example.com.",
        "https://10.0.0.7:443",
        "https://[2001:db8::1]:8443",
        "http://127.0.0.1:8765",
        "http://localhost",
        "http://[::1]:1",
    ],
)
def test_base_url_is_kept_as_given(url: str) -> None:
    assert load_settings({"REPLICATE_BASE_URL": url}).replicate_base_url == url


def test_environment_overrides_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "own.env"
    file.write_text("REPLICATE_CONCURRENT_LIMIT=7\nREPLICATE_MCP_WAIT_SECONDS=20\n")
    environ = {"REPLICATE_CONCURRENT_LIMIT": "9"}
    settings = load_settings(environ, file)
    assert settings.concurrent_limit == 9
    assert settings.wait_seconds == 20
    assert settings.batch_seconds == 3_600
    _, origins = read_sources(environ, file)
    assert origins["REPLICATE_CONCURRENT_LIMIT"] == "environment"
    assert origins["REPLICATE_MCP_WAIT_SECONDS"] == "file"
    assert origins["REPLICATE_MCP_BATCH_SECONDS"] == "default"


def test_env_file_of_the_current_folder_is_never_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("REPLICATE_API_TOKEN=r8_strangers\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert load_settings({}).token is None


def test_blank_setting_counts_as_unset(tmp_path: Path) -> None:
    file = tmp_path / "own.env"
    file.write_text("")
    settings = load_settings({"REPLICATE_API_TOKEN": "  ", "REPLICATE_MCP_BACKEND": ""}, file)
    assert settings.token is None
    assert settings.backend == "sqlite"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("REPLICATE_CONCURRENT_LIMIT", "0", "must be at least 1"),
        ("REPLICATE_CONCURRENT_LIMIT", "many", "must be a whole number, not many\\."),
        ("REPLICATE_CONCURRENT_LIMIT", '"60"', 'not "60": leave out the quotation marks\\.'),
        ("REPLICATE_CONCURRENT_LIMIT", "'60'", "not '60': leave out the quotation marks\\."),
        ("REPLICATE_CONCURRENT_LIMIT", "r8_s3cret", "must be a whole number\\."),
        ("REPLICATE_CONCURRENT_LIMIT", "s3cret" * 10, "must be a whole number\\."),
        ("REPLICATE_MCP_FILES", "pictures", "like /home/you/Pictures, not pictures\\."),
        ("REPLICATE_MCP_BACKEND", "mysql://ann:s3cret@x", "must be memory, sqlite"),
        ("REPLICATE_BASE_URL", "http://evil.example", "https address, or http on loopback"),
        ("REPLICATE_BASE_URL", "https://api.example.com?x", "an address without \\? and #"),
        ("REPLICATE_BASE_URL", "http://127.0.0.1:8765/#x", "an address without \\? and #"),
        ("REPLICATE_BASE_URL", "http://127.0.0.1:99999", "a port from 1 to 65535"),
        ("REPLICATE_BASE_URL", "http://127.0.0.1:-1", "a port from 1 to 65535"),
        ("REPLICATE_BASE_URL", "http://127.0.0.1:abc", "a port from 1 to 65535"),
        ("REPLICATE_BASE_URL", "http://[::1]:abc", "a port from 1 to 65535"),
        ("REPLICATE_BASE_URL", "http://127.0.0.1:0", "a port from 1 to 65535"),
        ("REPLICATE_BASE_URL", "https://", "the name of a host after //"),
        ("REPLICATE_BASE_URL", "https:api.example.com", "the name of a host after //"),
        ("REPLICATE_BASE_URL", "https://xn--", "the name of a host after //"),
        ("REPLICATE_BASE_URL", "https://a..b", "the name of a host after //"),
        ("REPLICATE_BASE_URL", "https://api example.com", "the name of a host after //"),
        ("REPLICATE_BASE_URL", "https://<host>", "the name of a host after //"),
        (
            "REPLICATE_MCP_PUBLIC_URL",
            "https://images.example.com/?",
            "without \\? and #: Replicate",
        ),
        ("REPLICATE_MCP_PUBLIC_URL", "https://images.example.com:x", "a port from 1 to 65535"),
        ("REPLICATE_BASE_URL", "https://ann:s3cret@api.example.com", "a user name or a password"),
        ("REPLICATE_BASE_URL", "https://s3cret@api.example.com", "a user name or a password"),
        ("REPLICATE_BASE_URL", "https://ann:s3cret@[api.example.com", "a user name or a password"),
        ("REPLICATE_BASE_URL", "https://[s3cret/", "https address, or http on loopback"),
        ("REPLICATE_MCP_PUBLIC_URL", "https://ann:s3cret@x.example", "a user name or a password"),
        ("REPLICATE_MCP_ADMIN_API_KEY", "s3cret-15-chars", "at least 16 characters, .* secrets"),
        ("REPLICATE_MCP_LOCAL", "maybe", "must be 1 or 0"),
        ("REPLICATE_MCP_BACKEND", "mysql://x", "must be memory, sqlite"),
        ("REPLICATE_MCP_BACKEND", "sqlite://", "a file by its whole path"),
        ("REPLICATE_MCP_BACKEND", "sqlite:///", "a file by its whole path"),
        ("REPLICATE_MCP_BACKEND", "sqlite://state.db", "a file by its whole path"),
        ("REPLICATE_MCP_BACKEND", "sqlite:///./state.db", "a file by its whole path"),
        ("REPLICATE_MCP_BACKEND", "sqlite:///~no-such-user/state.db", "a file by its whole path"),
        ("REPLICATE_MCP_FILES", "~no-such-user/Pictures", "a folder's whole path"),
        ("REPLICATE_MCP_WAIT_SECONDS", "90", "must be at most 50"),
        ("REPLICATE_REQUESTS_PER_MINUTE", "9999999", "must be at most 1000000"),
        ("REPLICATE_REQUESTS_PER_MINUTE", "many", "must be a number"),
        ("REPLICATE_MCP_ALLOW_ANONYMOUS", "maybe", "must be 1 or 0"),
        ("REPLICATE_MCP_ALLOWED_HOSTS", "mcp.example.com/path", "names like mcp.example.com"),
    ],
)
def test_invalid_setting_is_reported_with_the_correct_form(
    name: str, value: str, sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "own.env"
    file.write_text("")
    with pytest.raises(InvalidInput, match=f"{name} is wrong: .*{sentence}") as raised:
        load_settings({name: value}, file)
    assert "s3cret" not in str(raised.value)


def test_suggested_command_creates_a_long_enough_admin_key(tmp_path: Path) -> None:
    file = tmp_path / "own.env"
    file.write_text("")
    with pytest.raises(InvalidInput) as raised:
        load_settings({"CONCURRENT_DOCKER_ADMIN_API_KEY": "short"}, file)
    command = str(raised.value).split("`")[1]
    made = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True).stdout
    settings = load_settings({"REPLICATE_MCP_ADMIN_API_KEY": made}, file)
    assert settings.admin_api_key is not None
    assert settings.admin_api_key.get_secret_value() == made.strip()


@pytest.mark.parametrize(
    ("backend", "file"),
    [
        ("sqlite:///a/path/state.db", "/a/path/state.db"),
        ("sqlite:////a/path/state.db", "/a/path/state.db"),
        ("sqlite:///~/state.db", "/home/ann/state.db"),
        ("sqlite://~/state.db", "/home/ann/state.db"),
        ("memory", None),
        ("redis://host", None),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="paths of another kind")
def test_state_file_path_is_absolute(
    backend: str, file: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert state_file(backend) == (None if file is None else Path(file))


async def test_servers_started_in_different_folders_share_the_named_file(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(
        simulator, tmp_path, REPLICATE_MCP_BACKEND=f"sqlite://{tmp_path.as_posix()}/state.db"
    )
    known = []
    async with AsyncExitStack() as stack:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            monkeypatch.chdir(tmp_path / name)
            app = await stack.enter_async_context(App.running(settings))
            await app.semaphores.register(f"of_{name}", 5)
            known.append({each.name for each in await app.semaphores.list_own()})
    assert known == [{"replicate-global", "of_one"}, {"replicate-global", "of_one", "of_two"}]


def test_misspelt_setting_warns_with_the_correct_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "own.env"
    file.write_text("DOMAIN=images.example.com\nREPLICATE_USERNAME=ann\n")
    environ = {
        "REPLICATE_MCP_MAX_IMAGES_A_DAY": "5",
        "REPLICATE_CONCURENT_LIMIT": "3",
        "REPLICATE_MCP_MAGIC": "1",
        "REPLICATE_OPENAPI": "/a/path",
        "HOME": "/home/ann",
    }
    load_settings(environ, file)
    assert [record.getMessage() for record in caplog.records] == [
        "REPLICATE_MCP_MAX_IMAGES_A_DAY is an unknown setting and is ignored: did you mean "
        "REPLICATE_MCP_MAX_IMAGES_PER_DAY?",
        "REPLICATE_CONCURENT_LIMIT is an unknown setting and is ignored: did you mean "
        "REPLICATE_CONCURRENT_LIMIT?",
        "REPLICATE_MCP_MAGIC is an unknown setting and is ignored: `replicate-mcp doctor` lists "
        "them all.",
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("REPLICATE_MCP_MAX_IMAGES_A_DAY=5", "did you mean REPLICATE_MCP_MAX_IMAGES_PER_DAY?"),
        ("replicate_mcp_confirm_above=5", "did you mean REPLICATE_MCP_CONFIRM_ABOVE?"),
        ("REPLICATE_MCP_CONFIRM_ABOVE", "REPLICATE_MCP_CONFIRM_ABOVE has no value"),
        ("REPLICATE_MCP_CONFIRM_ABOVE: 5", "Line 3 of {file} is not NAME=value"),
        ("set REPLICATE_MCP_CONFIRM_ABOVE=5", "Line 3 of {file} is not NAME=value: leave out what"),
        ('$env:REPLICATE_API_TOKEN="r8_x"', "Line 3 of {file} is not NAME=value: leave out what"),
        ("setx REPLICATE_API_TOKEN r8_x", "Line 3 of {file} is not NAME=value: leave out what"),
        ("REPLICATE_API_KEY=r8_x", "did you mean REPLICATE_API_TOKEN?"),
        ("REPLICATE_TOKEN=r8_x", "did you mean REPLICATE_API_TOKEN?"),
        ('REPLICATE_MCP_CONFIRM_ABOVE="5', "Line 3 of {file} is not NAME=value"),
        ("r8_s3cret", "Line 3 of {file} is not NAME=value: correct it"),
        ("export r8_s3cret", "Line 3 of {file} is not NAME=value: correct it"),
    ],
)
def test_file_with_an_unknown_setting_is_rejected(line: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "own.env"
    file.write_text(f"# Mine\n\n{line}\n")
    with pytest.raises(InvalidInput, match=re.escape(sentence.format(file=file))) as raised:
        load_settings({}, file)
    assert "s3cret" not in str(raised.value)


def test_valueless_foreign_variable_in_the_file_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "own.env"
    file.write_text("HOME\nREPLICATE_API_TOKEN=r8_acme_1\n")
    assert load_settings({}, file).token == "r8_acme_1"


def test_file_with_shell_syntax_is_parsed(tmp_path: Path) -> None:
    file = tmp_path / "own.env"
    file.write_text('export REPLICATE_API_TOKEN="r8_acme_1"\nREPLICATE_API_KEY=r8_anothers\n')
    assert load_settings({}, file).token == "r8_acme_1"


def test_token_variable_of_another_program_gives_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "own.env"
    file.write_text("HTTPS_PROXY=http://proxy.example\n")
    load_settings({"REPLICATE_API_KEY": "r8_x"}, file)
    load_settings({"REPLICATE_API_KEY": "r8_x", "REPLICATE_API_TOKEN": "r8_x"}, tmp_path / file)
    said = [record.getMessage() for record in caplog.records]
    assert said.count(
        "REPLICATE_API_KEY is an unknown setting and is ignored: did you mean REPLICATE_API_TOKEN?"
    ) == 1  # fmt: skip
    assert "HTTPS_PROXY in the file of settings has no effect: the proxy and the" in said[1]
    assert "r8_x" not in str(said)


def test_all_invalid_settings_are_reported_in_one_error(tmp_path: Path) -> None:
    file = tmp_path / "own.env"
    file.write_text("REPLICATE_MCP_MAGIC=1\n")
    environ = {"REPLICATE_CONCURRENT_LIMIT": "many", "REPLICATE_MCP_WAIT_SECONDS": "90"}
    with pytest.raises(InvalidInput) as raised:
        load_settings(environ, file)
    for name in (*environ, "REPLICATE_MCP_MAGIC"):
        assert name in str(raised.value)
    settings, problems = read_settings(environ, file)
    assert problems.keys() == {*environ, "REPLICATE_MCP_MAGIC"}
    assert (settings.concurrent_limit, settings.wait_seconds) == (60, 45)


def test_invalid_backend_url_never_becomes_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.env"
    file.write_text("")
    settings, problems = read_settings({"REPLICATE_MCP_BACKEND": "mysql://x"}, file)
    assert settings.backend == "memory"
    assert problems.keys() == {"REPLICATE_MCP_BACKEND"}


def test_allowed_hosts_are_normalised(tmp_path: Path) -> None:
    file = tmp_path / "own.env"
    file.write_text("")
    hosts = "https://MCP.example.com/, images.example.com:8443 [2001:db8::1]:80, ::1"
    settings = load_settings({"REPLICATE_MCP_ALLOWED_HOSTS": hosts}, file)
    assert settings.allowed_hosts == (
        "mcp.example.com",
        "images.example.com",
        "2001:db8::1",
        "::1",
    )


def test_missing_settings_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="given with --env-file is not there"):
        load_settings({}, tmp_path / "nope.env")
    with pytest.raises(InvalidInput, match="given with --env-file is a folder: give the file"):
        load_settings({}, tmp_path)
    for blank in ("", " "):
        with pytest.raises(InvalidInput, match="--env-file is empty: give the path of a file"):
            load_settings({}, blank)
