"""`replicate-mcp install` behind proxies, and with configuration files of real users."""

import json
import stat
from pathlib import Path

import pytest

from network import CertificateAuthority

from .test_install import TOKEN, Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_network_settings_are_forwarded_and_reported(home: Home, tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    network = {
        "https_proxy": "http://proxy.example:8080",
        "NO_PROXY": "localhost,.example",
        "SSL_CERT_FILE": str(authority.file),
    }
    installed = home.install("cursor", "--yes", code=0, **network)
    assert home.entry("cursor")["env"] == network | {"REPLICATE_API_TOKEN": TOKEN}
    assert "This environment's NO_PROXY, https_proxy, SSL_CERT_FILE goes along" in installed.stderr
    assert '"https_proxy": "http://proxy.example:8080"' in installed.stdout
    assert "password" not in installed.stderr
    assert "needs no change" in home.install("cursor", code=0, **network).stdout


@pytest.mark.parametrize("url", ["http://ann:hunter2@proxy:1", "ann:hunter2@proxy:1"])
@pytest.mark.parametrize("host", ["cursor", "vscode"])
def test_proxy_password_is_stored_privately_and_never_shown(
    home: Home, host: str, url: str
) -> None:
    file = home.write(host, "{}")
    file.chmod(0o644)
    installed = home.install(host, "--yes", code=0, HTTPS_PROXY=url)
    assert home.entry(host)["env"]["HTTPS_PROXY"] == url
    assert (
        "HTTPS_PROXY holds a password, which is kept in that file in the clear" in installed.stderr
    )
    assert "hunter2" not in installed.stdout + installed.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_proxy_password_is_hidden_in_the_entry_to_paste(home: Home) -> None:
    home.write("cursor", "{broken")
    installed = home.install("cursor", "--yes", code=2, HTTPS_PROXY="http://ann:hunter2@proxy:1")
    assert "hunter2" not in installed.stdout + installed.stderr
    assert '"HTTPS_PROXY": "(hidden: it holds a password)"' in installed.stderr


def test_missing_certificate_file_is_reported(home: Home) -> None:
    installed = home.install("cursor", "--dry-run", code=0, SSL_CERT_FILE="/nowhere/ca.pem")
    assert "SSL_CERT_FILE is /nowhere/ca.pem, which is not there" in installed.stderr


def test_relative_certificate_file_becomes_absolute(home: Home) -> None:
    CertificateAuthority(home.folder)
    home.install("cursor", "--yes", code=0, SSL_CERT_FILE="company-ca.pem")
    assert home.entry("cursor")["env"]["SSL_CERT_FILE"] == str(home.folder / "company-ca.pem")


def test_simulator_entry_has_no_network_settings(home: Home) -> None:
    simulated = {"REPLICATE_BASE_URL": "http://127.0.0.1:8765", "HTTPS_PROXY": "http://proxy:1"}
    home.install("cursor", "--yes", code=0, **simulated)
    assert "HTTPS_PROXY" not in home.entry("cursor")["env"]


def test_byte_order_mark_is_dropped(home: Home) -> None:
    file = home.write("claude", '\ufeff{"theirs": 1}')
    installed = home.install("claude", "--yes").stdout
    assert "The byte order mark at the beginning goes" in installed
    assert json.loads(file.read_bytes())["theirs"] == 1
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    home.install("claude", "--yes")
    assert file.read_bytes().startswith(b"{")


@pytest.mark.parametrize("text", ['{"a": 1, // mine\n}', '{"a": [1,],\n}', "{/* mine */}"])
def test_commented_config_of_a_strict_json_host_is_reported(home: Home, text: str) -> None:
    home.write("claude", text)
    for _ in range(2):
        installed = home.install("claude", "--yes")
        assert (
            "Claude Desktop reads strict JSON: take the comments and trailing" in installed.stderr
        )
    home.write("vscode", text)
    assert "strict JSON" not in home.install("vscode", "--yes").stderr


def test_unescaped_backslash_is_reported_with_advice_to_double_it(home: Home) -> None:
    home.write("claude", '{\n  "mcpServers": {"a": {"command": "C:\\Users\\me"}}\n}')
    installed = home.install("claude", "--yes", code=2).stderr
    assert r"line 2, column 38: a backslash is written twice in JSON, like C:\\Users" in installed


def test_removing_a_missing_entry_is_reported(home: Home) -> None:
    installed = home.install("cursor", "--remove", "--yes").stdout
    assert f'There is no "replicate" in {home.file("cursor")}: nothing to remove.' in installed


@pytest.mark.parametrize(("word", "host"), [("claude-desktop", "claude"), ("VS-Code", "vscode")])
def test_host_aliases_are_accepted(home: Home, word: str, host: str) -> None:
    home.install(word, "--yes")
    assert home.file(host).exists()


@pytest.mark.parametrize("token", ["${REPLICATE_API_TOKEN}", "your-token-here", '"r8_abc"'])
def test_token_placeholder_is_not_written(home: Home, token: str) -> None:
    installed = home.install("cursor", "--yes", code=2, REPLICATE_API_TOKEN=token)
    assert "This is not a Replicate token: it " in installed.stderr
    assert not home.file("cursor").exists()


def test_example_token_in_the_entry_counts_as_missing(home: Home) -> None:
    entry = {"command": "replicate-mcp", "env": {"REPLICATE_API_TOKEN": "r8_your_token"}}
    home.write("cursor", json.dumps({"mcpServers": {"replicate": entry}}))
    installed = home.install("cursor", "--yes", code=2, REPLICATE_API_TOKEN="")
    assert "No token is set" in installed.stderr
