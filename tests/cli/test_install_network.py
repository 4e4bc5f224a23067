"""`replicate-mcp install` on machines behind proxies, and in files as people have them."""

import json
import stat
from pathlib import Path

import pytest

from network import CertificateAuthority

from .test_install import TOKEN, Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_what_the_network_needs_goes_along_and_is_told(home: Home, tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    network = {
        "https_proxy": "http://proxy.example:8080",
        "NO_PROXY": "localhost,.example",
        "SSL_CERT_FILE": str(authority.file),
    }
    told = home.install("cursor", "--yes", code=0, **network)
    assert home.entry("cursor")["env"] == network | {"REPLICATE_API_TOKEN": TOKEN}
    assert "This environment's NO_PROXY, https_proxy, SSL_CERT_FILE goes along" in told.stderr
    assert '"https_proxy": "http://proxy.example:8080"' in told.stdout
    assert "password" not in told.stderr
    assert "needs no change" in home.install("cursor", code=0, **network).stdout


@pytest.mark.parametrize("url", ["http://ann:hunter2@proxy:1", "ann:hunter2@proxy:1"])
@pytest.mark.parametrize("host", ["cursor", "vscode"])
def test_a_proxys_password_is_kept_in_a_private_file_and_never_shown(
    home: Home, host: str, url: str
) -> None:
    file = home.write(host, "{}")
    file.chmod(0o644)
    told = home.install(host, "--yes", code=0, HTTPS_PROXY=url)
    assert home.entry(host)["env"]["HTTPS_PROXY"] == url
    assert "HTTPS_PROXY holds a password, which is kept in that file in the clear" in told.stderr
    assert "hunter2" not in told.stdout + told.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_proxys_password_is_not_in_what_to_paste(home: Home) -> None:
    home.write("cursor", "{broken")
    told = home.install("cursor", "--yes", code=2, HTTPS_PROXY="http://ann:hunter2@proxy:1")
    assert "hunter2" not in told.stdout + told.stderr
    assert '"HTTPS_PROXY": "(hidden: it holds a password)"' in told.stderr


def test_a_certificate_file_that_is_not_there_is_told(home: Home) -> None:
    told = home.install("cursor", "--dry-run", code=0, SSL_CERT_FILE="/nowhere/ca.pem")
    assert "SSL_CERT_FILE is /nowhere/ca.pem, which is not there" in told.stderr


def test_a_relative_certificate_file_becomes_a_whole_path(home: Home) -> None:
    CertificateAuthority(home.folder)
    home.install("cursor", "--yes", code=0, SSL_CERT_FILE="company-ca.pem")
    assert home.entry("cursor")["env"]["SSL_CERT_FILE"] == str(home.folder / "company-ca.pem")


def test_the_simulator_needs_no_network(home: Home) -> None:
    simulated = {"REPLICATE_BASE_URL": "http://127.0.0.1:8765", "HTTPS_PROXY": "http://proxy:1"}
    home.install("cursor", "--yes", code=0, **simulated)
    assert "HTTPS_PROXY" not in home.entry("cursor")["env"]


def test_a_byte_order_mark_is_dropped(home: Home) -> None:
    file = home.write("claude", '\ufeff{"theirs": 1}')
    told = home.install("claude", "--yes").stdout
    assert "The byte order mark at the beginning goes" in told
    assert json.loads(file.read_bytes())["theirs"] == 1
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    home.install("claude", "--yes")
    assert file.read_bytes().startswith(b"{")


@pytest.mark.parametrize("text", ['{"a": 1, // mine\n}', '{"a": [1,],\n}', "{/* mine */}"])
def test_a_host_that_takes_strict_json_is_named_where_the_file_is_not(
    home: Home, text: str
) -> None:
    home.write("claude", text)
    for _ in range(2):
        told = home.install("claude", "--yes")
        assert "Claude Desktop reads strict JSON: take the comments and trailing" in told.stderr
    home.write("vscode", text)
    assert "strict JSON" not in home.install("vscode", "--yes").stderr


def test_a_single_backslash_is_told_to_be_doubled(home: Home) -> None:
    home.write("claude", '{\n  "mcpServers": {"a": {"command": "C:\\Users\\me"}}\n}')
    told = home.install("claude", "--yes", code=2).stderr
    assert r"line 2, column 38: a backslash is written twice in JSON, like C:\\Users" in told


def test_removing_what_is_not_there_says_so(home: Home) -> None:
    told = home.install("cursor", "--remove", "--yes").stdout
    assert f'There is no "replicate" in {home.file("cursor")}: nothing to remove.' in told


@pytest.mark.parametrize(("word", "host"), [("claude-desktop", "claude"), ("VS-Code", "vscode")])
def test_other_words_for_a_host_are_known(home: Home, word: str, host: str) -> None:
    home.install(word, "--yes")
    assert home.file(host).exists()


@pytest.mark.parametrize("token", ["${REPLICATE_API_TOKEN}", "your-token-here", '"r8_abc"'])
def test_what_stands_for_a_token_is_not_written(home: Home, token: str) -> None:
    told = home.install("cursor", "--yes", code=2, REPLICATE_API_TOKEN=token)
    assert "This looks like no Replicate token: it " in told.stderr
    assert not home.file("cursor").exists()


def test_an_example_in_the_entry_is_asked_for_again(home: Home) -> None:
    entry = {"command": "replicate-mcp", "env": {"REPLICATE_API_TOKEN": "r8_your_token"}}
    home.write("cursor", json.dumps({"mcpServers": {"replicate": entry}}))
    told = home.install("cursor", "--yes", code=2, REPLICATE_API_TOKEN="")
    assert "No token is set" in told.stderr
