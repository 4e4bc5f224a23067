"""The read-only commands: batches, models, doctor."""

import json
import signal
import sqlite3
from pathlib import Path

import pytest

from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.model_name import ALIASES, ModelName
from replicate_mcp.tasks.recommended_models import CATALOGUE

from .conftest import TOKEN, CommandLine, on_terminal


def test_batches_are_listed_and_one_is_shown(replicate_mcp: CommandLine) -> None:
    none = replicate_mcp("batches")
    assert (none.returncode, none.stdout) == (0, "")
    made = replicate_mcp("generate", "a red car", "a house [fail]", "--json")
    batch = json.loads(made.stdout)["batch_id"]

    listed = replicate_mcp("batches")
    *row, began, prompt = listed.stdout.rstrip("\n").split("\t")
    assert row == [batch, "completed", "1", "1", "2"]
    assert prompt == "a red car"
    (document,) = json.loads(replicate_mcp("batches", "--json").stdout)
    assert (document["batch_id"], document["failed_count"]) == (batch, 1)
    assert (document["first_prompt"], document["created_at"][:19]) == ("a red car", began[:19])

    shown = replicate_mcp("batches", batch)
    assert shown.returncode == 0
    assert shown.stdout.startswith("generated_image_1.webp\thttp://")
    assert json.loads(replicate_mcp("batches", "latest", "--json").stdout)["batch_id"] == batch


def test_terminal_list_does_not_show_a_cancelled_batch_as_failed(
    replicate_mcp: CommandLine, simulator: Simulator
) -> None:
    process = replicate_mcp.start("generate", "a house [hang]", "a house [fail]")
    simulator.wait_for(account="acme", in_flight=1, failed=1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert "0 of 2 made, 1 cancelled, 1 failed." in err
    shown = on_terminal(replicate_mcp, "batches", columns="100")
    assert "failed" not in shown
    assert "  canceled  0 of 2  a house [hang]" in shown


def test_missing_semaphores_are_reported_on_stderr(replicate_mcp: CommandLine) -> None:
    none = replicate_mcp("semaphores", REPLICATE_API_TOKEN="")
    assert (none.returncode, none.stdout) == (0, "")
    assert none.stderr == "No process uses a semaphore now, and none was set by hand.\n"


def test_models_lists_recommended_models_without_any_request(replicate_mcp: CommandLine) -> None:
    ran = replicate_mcp("models", REPLICATE_API_TOKEN="")
    assert ran.returncode == 0
    rows = [line.split("\t") for line in ran.stdout.splitlines()]
    assert [row[1] for row in rows] == [known.name for known in CATALOGUE]
    assert {row[0] for row in rows if row[0]} == set(ALIASES)


def test_listed_model_names_are_usable_in_tasks() -> None:
    assert len({known.name for known in CATALOGUE}) == len(CATALOGUE)
    assert all(str(ModelName.parse(known.name)) == known.name for known in CATALOGUE)
    assert set(ALIASES.values()) <= {known.name for known in CATALOGUE}


def test_model_inputs_come_from_its_schema(replicate_mcp: CommandLine) -> None:
    ran = replicate_mcp("models", "flux-dev")
    assert ran.returncode == 0
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in ran.stdout.splitlines()}
    assert rows["prompt"][:2] == ["string", "required"]
    assert rows["num_outputs"][:3] == ["integer", "1", "1..4"]
    assert rows["output_format"][2] == "webp, jpg, png"


def test_unknown_model_is_reported(replicate_mcp: CommandLine) -> None:
    unknown = replicate_mcp("models", "nobody/nothing")
    assert unknown.returncode == 2
    assert "Replicate knows no model 'nobody/nothing'" in unknown.stderr


def test_models_search_includes_replicate(
    replicate_mcp: CommandLine,
) -> None:
    found = replicate_mcp("models", "--search", "sticker")
    assert found.stdout.split("\t")[1:3] == [
        "community/sticker-maker",
        "Makes stickers with transparent backgrounds",
    ]
    empty = replicate_mcp("models", "--search", " ")
    assert (empty.returncode, "--search takes the WORDS" in empty.stderr) == (2, True)
    nothing = replicate_mcp("models", "--search", "zeppelins")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert "No model was found" in nothing.stderr
    without = replicate_mcp("models", "--search", "posters", REPLICATE_API_TOKEN="")
    assert without.stdout.split("\t")[1] == "ideogram-ai/ideogram-v3-turbo"
    assert "https://replicate.com/account/api-tokens" in without.stderr


def test_doctor_passes_and_never_prints_the_token(
    replicate_mcp: CommandLine, tmp_path: Path
) -> None:
    settings = tmp_path / "settings.env"
    settings.write_text("REPLICATE_CONCURRENT_LIMIT=7\n")
    ran = replicate_mcp("doctor", "--env-file", settings)
    assert ran.returncode == 0, ran.stdout
    assert "✗" not in ran.stdout
    assert TOKEN not in ran.stdout + ran.stderr
    lines = {line.split()[0]: line for line in ran.stdout.splitlines() if line.strip()}
    assert "set, 9 characters, fingerprint" in lines["REPLICATE_API_TOKEN"]
    assert lines["REPLICATE_API_TOKEN"].endswith("environment")
    assert lines["REPLICATE_CONCURRENT_LIMIT"].split()[1:] == ["7", "file"]
    assert lines["REPLICATE_MCP_WAIT_SECONDS"].endswith("default")
    assert lines["REPLICATE_MCP_ALLOW_ANONYMOUS"].split()[1:] == ["not", "set", "default"]
    assert lines["REPLICATE_MCP_ALLOWED_HOSTS"].split()[1:] == ["not", "set", "default"]
    assert f"with SQLite {sqlite3.sqlite_version} and" in ran.stdout
    assert "token: it belongs to the account acme." in ran.stdout
    assert "0 of 7 in use" in ran.stdout
    assert "no other process uses it" in ran.stdout


def test_doctor_counts_living_processes(replicate_mcp: CommandLine, simulator: Simulator) -> None:
    replicate_mcp.start("generate", "a house [hang]")
    simulator.wait_for(account="acme", in_flight=1)
    ran = replicate_mcp("doctor")
    assert "1 other living process uses it" in ran.stdout
    assert "1 of 60 in use" in ran.stdout


def test_doctor_gives_advice_for_a_rejected_token(
    replicate_mcp: CommandLine, simulator: Simulator
) -> None:
    simulator.change_account("acme", revoke=[TOKEN])
    ran = replicate_mcp("doctor")
    assert ran.returncode == 1
    assert "✗ token: Replicate answered 401" in ran.stdout
    assert "https://replicate.com/account/api-tokens" in ran.stdout
    assert "✓ Replicate" in ran.stdout
    assert ran.stderr == ""
    assert TOKEN not in ran.stdout + ran.stderr


def test_doctor_reports_an_invalid_setting_and_masks_passwords(replicate_mcp: CommandLine) -> None:
    ran = replicate_mcp(
        "doctor",
        REPLICATE_CONCURRENT_LIMIT="none",
        REPLICATE_MCP_BACKEND="redis://user:hush@example.com/0",
    )
    assert ran.returncode == 1
    said = "✗ settings: The setting REPLICATE_CONCURRENT_LIMIT is wrong: must be a whole number, "
    assert f"{said}not none." in ran.stdout
    assert "hush" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hush@example.com",
        "https://user:h/ush@hush@example.com",
        "https://hush@example.com/x",
        "user:hush@example.com",
    ],
)
def test_doctor_hides_credentials_in_urls(replicate_mcp: CommandLine, url: str) -> None:
    ran = replicate_mcp("doctor", REPLICATE_BASE_URL=url, REPLICATE_MCP_PUBLIC_URL=url)
    assert "hush" not in ran.stdout + ran.stderr
    lines = {line.split()[0]: line for line in ran.stdout.splitlines() if line.strip()}
    for name in ("REPLICATE_BASE_URL", "REPLICATE_MCP_PUBLIC_URL"):
        shown = lines[name].split()[1]
        assert shown.startswith("https://…@example.com" if "://" in url else "set"), lines[name]


def test_doctor_reports_unknown_settings(replicate_mcp: CommandLine, tmp_path: Path) -> None:
    ran = replicate_mcp("doctor", REPLICATE_MCP_MAX_IMAGES_A_DAY="5")
    assert ran.returncode == 1
    assert "✗ settings: REPLICATE_MCP_MAX_IMAGES_A_DAY is an unknown setting" in ran.stdout
    file = tmp_path / "settings.env"
    file.write_text("REPLICATE_MCP_MAX_IMAGES_A_DAY=5\n")
    ran = replicate_mcp("doctor", "--env-file", file)
    assert ran.returncode == 1
    assert "✗ settings: In the file of settings, REPLICATE_MCP_MAX_IMAGES_A_DAY" in ran.stdout


def test_doctor_checks_the_image_folder(replicate_mcp: CommandLine, tmp_path: Path) -> None:
    assert (
        f"✓ images: {tmp_path}" in replicate_mcp("doctor", REPLICATE_MCP_FILES=str(tmp_path)).stdout
    )
    gone = replicate_mcp("doctor", REPLICATE_MCP_FILES=str(tmp_path / "gone"))
    assert gone.returncode == 1
    assert "✗ images: " in gone.stdout
    relative = replicate_mcp("doctor", REPLICATE_MCP_FILES="pictures")
    assert "REPLICATE_MCP_FILES is wrong: must be a folder's whole path" in relative.stdout


def test_doctor_reports_unreachable_replicate(replicate_mcp: CommandLine) -> None:
    ran = replicate_mcp("doctor", REPLICATE_BASE_URL="https://replicate.invalid")
    assert ran.returncode == 1
    assert "✗ Replicate: https://replicate.invalid cannot be reached" in ran.stdout
    ran = replicate_mcp("doctor", REPLICATE_BASE_URL="http://127.0.0.1:1")
    assert ran.returncode == 1
    assert "the simulator at http://127.0.0.1:1 does not answer: start it with" in ran.stdout


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_non_utf_8_settings_file_is_reported_in_one_line(
    replicate_mcp: CommandLine, tmp_path: Path, encoding: str
) -> None:
    file = tmp_path / "config.env"
    file.write_text("REPLICATE_CONCURRENT_LIMIT=7\r\n", encoding)
    ran = replicate_mcp("semaphores", "--env-file", file)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"The file {file} is not UTF-8 text: save it as UTF-8.\n"
