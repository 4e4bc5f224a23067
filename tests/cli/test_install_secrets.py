"""The diff of `install` shows no secret of a host's configuration, wherever it is."""

import pytest

from .test_install import SERVERS, Home

BESIDE = {
    "line comment": ('"two": {} // my key is r8_beside_it', '"two": {} // …'),
    "block comment": ('"two": {} /* my key is r8_beside_it */', '"two": {} /* … */'),
    "key": ('"r8_beside_it": {}', '"r8_…": {}'),
    "argument": ('"two": {"args": ["--key", "r8_beside_it"]}', '"two": {"args": ["…", "…"]}'),
    "variable": ('"two": {"env": {"KEY": "r8_beside_it"}}', '"two": {"env": {"KEY": "…"}}'),
    "address": ('"two": {"url": "https://me:r8_beside_it@x.example"}', '"two": {"url": "…"}'),
    "escaped": ('"two": {"url": "\\"r8_beside_it"}', '"two": {"url": "…"}'),
}
"""The line beside the change as it stands in the file, and as the diff shows it."""


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("host", ["claude", "vscode"])
@pytest.mark.parametrize("place", BESIDE)
def test_diff_next_to_a_secret_does_not_show_it(home: Home, host: str, place: str) -> None:
    line, shown_as = BESIDE[place]
    text = f'{{\n  "{SERVERS[host]}": {{\n    {line}\n  }}\n}}\n'
    file = home.write(host, text)
    shown = home.install(host, "--dry-run")
    assert '+    "replicate": {' in shown.stdout
    assert shown_as in shown.stdout.replace("},", "}"), "the line is shown, without its secret"
    assert "r8_beside_it" not in shown.stdout + shown.stderr
    assert file.read_text() == text
