"""Foreign text reaches terminals, pipes and logs only as printable text."""

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text

from cli.hostile import HOSTILE, LONG, assert_printable, hostile_replicate
from replicate_mcp.cli.console import PrintableConsole
from replicate_mcp.cli.printing import guard_streams
from replicate_mcp.simulator import Simulator

from .conftest import TOKEN, CommandLine, on_terminal

FIELDS = (
    *("output", "error", "detail", "title", "description", "username", "logs", "default"),
    *("enum", "owner", "name", "url", "cover_image_url"),
)
OF_RESULTS = ("output", "error", "detail", "title", "username", "logs")
"""Without what a model's lookup needs to be as it is."""

STYLES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def hostile(simulator: Simulator, replicate_mcp: CommandLine) -> Iterator[CommandLine]:
    """Return the command line with a simulator whose results, errors and names are hostile."""
    with hostile_replicate(simulator, OF_RESULTS) as url:
        replicate_mcp.environment["REPLICATE_BASE_URL"] = url
        yield replicate_mcp


def test_results_and_reasons_are_single_lines_everywhere(
    hostile: CommandLine, tmp_path: Path
) -> None:
    ran = hostile(
        "generate", "a red car", "a house [fail]", "--filename", "a.webp", "--filename", "b"
    )
    assert ran.returncode == 1, ran.stderr
    assert ran.stdout == ""  # A non-URL output is not a file.
    assert_printable(ran.stderr, 4)  # Two reasons, the summary and the command to retry.
    assert "onerror" in ran.stderr

    assert_printable(hostile("batches").stdout, 1)
    shown = hostile("batches", "latest")
    assert_printable(shown.stderr, 3)
    assert_printable(hostile("download", "latest", "--to", "pictures").stderr, 1)
    assert list((tmp_path / "pictures").iterdir()) == []


def test_foreign_url_in_the_journal_is_printed_on_one_line(
    replicate_mcp: CommandLine, simulator: Simulator, tmp_path: Path
) -> None:
    replicate_mcp("generate", "a red car", "--filename", "a.webp")
    with closing(sqlite3.connect(tmp_path / "state" / "state.db")) as journal:
        ((row,),) = journal.execute("SELECT row FROM result").fetchall()
        written = json.loads(row)
        hostile = HOSTILE.replace("\ud800", "")
        written["generated_files"][0]["url"] += hostile
        journal.execute("UPDATE result SET row = ?", (json.dumps(written),))
        journal.commit()
    ran = replicate_mcp("batches", "latest")
    assert ran.returncode == 0, ran.stderr
    shown = ran.stdout
    assert_printable(shown, 1)
    assert shown.startswith("a.webp\thttp://")
    assert shown.endswith("end\n")
    saved = replicate_mcp("download", "latest", "--to", "pictures")
    assert (saved.returncode, saved.stdout) == (1, "")
    assert_printable(saved.stderr, 2)
    assert "a.webp is not saved: its URL" in saved.stderr
    document = replicate_mcp("batches", "latest", "--json").stdout
    assert document.isascii()
    assert_printable(document, document.count("\n"))
    (made,) = json.loads(document)["successful_results"]
    assert made["generated_files"][0]["url"].endswith(hostile)


def test_json_output_escapes_terminal_control_characters(hostile: CommandLine) -> None:
    for words in (("generate", "a house [fail]", "--json"), ("batches", "latest", "--json")):
        document = hostile(*words).stdout
        assert document.isascii()
        assert_printable(document, document.count("\n"))
        assert not {"\t", "\x7f"} & set(document)
        (row,) = json.loads(document)["failed_results"]
        assert "onerror" in row["error"]


def test_terminal_output_has_only_our_own_escape_sequences(hostile: CommandLine) -> None:
    hostile("generate", "a red car", "a house [fail]")
    for words in (("batches", "latest"), ("batches",), ("semaphores",)):
        for columns in ("60", "2000"):
            shown = on_terminal(hostile, *words, columns=columns).replace("\r\n", "\n")
            assert_printable(STYLES.sub("", shown), shown.count("\n"))
            assert "\n]]>" not in shown
    assert "[/red][bold]" in on_terminal(hostile, "batches", "latest", columns="2000")


def test_doctor_and_error_output_stay_on_their_lines(
    hostile: CommandLine, simulator: Simulator
) -> None:
    fine = hostile("doctor").stdout
    assert "token: it belongs to the account acme" in fine
    assert_printable(fine, fine.count("\n  ") + 3)
    simulator.change_account("acme", revoke=[TOKEN])
    refused = hostile("doctor").stdout
    assert "✗ token: Replicate answered 401" in refused
    assert_printable(refused, refused.count("\n  ") + 3)
    error = hostile("generate", "a red car")
    assert_printable(error.stderr, 2)  # The reason and the summary.


@pytest.mark.parametrize("words", [("--search", "sticker"), ("flux-dev",)])
def test_models_and_inputs_are_printed_on_one_line_each(
    replicate_mcp: CommandLine, simulator: Simulator, words: tuple[str, ...]
) -> None:
    usual = replicate_mcp("models", *words).stdout
    # An impossible model name is not listed at all.
    fields = set(FIELDS) - {"owner", "name"}
    with hostile_replicate(simulator, fields) as url:
        ran = replicate_mcp("models", *words, REPLICATE_BASE_URL=url)
        assert ran.returncode == 0, ran.stderr
        assert_printable(ran.stdout, usual.count("\n"))
        assert "onerror" in ran.stdout
        assert_printable(ran.stderr, 0)
        terminal = {"REPLICATE_BASE_URL": url}
        replicate_mcp.environment |= terminal
        shown = on_terminal(replicate_mcp, "models", *words, columns="100").replace("\r\n", "\n")
        assert_printable(STYLES.sub("", shown), shown.count("\n"))


def test_hostile_process_name_cannot_break_the_table(
    replicate_mcp: CommandLine, simulator: Simulator
) -> None:
    name = HOSTILE.replace("/", "").replace("\0", "").replace("\ud800", "")
    script = replicate_mcp.folder / f"{name[:60]}.py"
    script.write_text(
        "import replicate_mcp as r, anyio\nanyio.run(r.generate_images, ['a [hang]'])"
    )
    with subprocess.Popen(
        [sys.executable, str(script)], env=replicate_mcp.environment, stderr=subprocess.DEVNULL
    ) as process:
        try:
            simulator.wait_for(account="acme", in_flight=1)
            document = replicate_mcp("semaphores", "--json").stdout
            (own,) = json.loads(document)
            assert "\x1b" in own["holders"][0]["holder"]
            assert_printable(document, document.count("\n"))
            shown = on_terminal(replicate_mcp, "semaphores", columns="200").replace("\r\n", "\n")
            assert "52;c;aGk=" in shown
            assert_printable(STYLES.sub("", shown), shown.count("\n"))
        finally:
            process.kill()


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "a", "--model", f"{HOSTILE}/b"),
        ("generate", "a", "--semaphore", HOSTILE),
        ("generate", "a", "--filename", HOSTILE),
        ("generate", "a", "--input", HOSTILE),
        ("generate", "--file", f"{HOSTILE}.json"),
        ("batches", HOSTILE),
        ("download", HOSTILE, "--to", "x"),
        ("semaphores", "set", HOSTILE, "5"),
        ("semaphores", HOSTILE),
        ("models", HOSTILE),
        ("models", LONG),
        ("batches", LONG),
    ],
)
def test_error_quotes_the_invalid_value_on_one_line(
    replicate_mcp: CommandLine, words: tuple[str, ...]
) -> None:
    given = [word.replace("\0", "").replace("\ud800", "") for word in words]
    ran = replicate_mcp(*given)
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert_printable(ran.stdout, 0)
    assert_printable(ran.stderr, 1)
    assert len(ran.stderr) < 5_000


def test_demo_shows_one_line_per_file(capsys: pytest.CaptureFixture[str]) -> None:
    from replicate_mcp.cli.commands.demo import _show_files

    made = {"task_index": 0, "generated_files": [{"filename": HOSTILE, "url": HOSTILE}]}
    failed = {"output_filename": HOSTILE, "error": HOSTILE}
    _show_files([{"successful_results": [made], "failed_results": [failed]}])
    assert_printable(capsys.readouterr().out, 4)


def test_configuration_diff_has_one_output_line_per_line(replicate_mcp: CommandLine) -> None:
    keys = {f"\u202e\u2028\u2066\x85\x7f{HOSTILE}": "a"}
    file = replicate_mcp.folder / "home" / ".cursor" / "mcp.json"
    file.parent.mkdir(parents=True)
    text = json.dumps({"mcpServers": {"other": keys}}, indent=2, ensure_ascii=False)
    file.write_bytes(text.encode("utf-8", "replace"))
    shown = replicate_mcp("install", "cursor", "--dry-run").stdout
    assert_printable(shown, shown.count("\n"))
    assert all(re.match(r"---|\+\+\+|@@|[ +-] *[\"{}\]]", line) for line in shown.splitlines()), (
        shown
    )


def test_guarded_streams_make_any_output_printable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    guard_streams()
    print(HOSTILE)
    print(HOSTILE, file=sys.stderr)
    sys.stdout.writelines([HOSTILE])
    written: Any = capsys.readouterr()
    assert_printable(written.out, written.out.count("\n"))
    assert_printable(written.err, written.err.count("\n"))
    assert written.out.count("end") == 2


def test_tables_make_any_cell_printable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table()
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    for shown in (HOSTILE, Text(HOSTILE), table):
        PrintableConsole().print(shown, soft_wrap=True)
        PrintableConsole(stderr=True).print(shown, soft_wrap=True)
    written = capsys.readouterr()
    for text in written:
        assert_printable(text, text.count("\n"))
        assert text.count("[/red][bold]") == 4
