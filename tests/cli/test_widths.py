"""Output of the commands on terminals of several widths."""

import json
import re
import sys

import pytest

from replicate_mcp.cli.printing import wrapped
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.model_name import ALIASES
from replicate_mcp.tasks.recommended_models import CATALOGUE

from .conftest import CommandLine
from .conftest import on_terminal as drawn_on_terminal

WIDTHS = ["60", "120"]
LONG = (
    "a red car driving along the coast at sunset, with long shadows and a very blue sea beside it"
)


def on_terminal(replicate_mcp: CommandLine, *words: str, columns: str, stderr: bool = False) -> str:
    """Return only the text, without bold and dim."""
    drawn = drawn_on_terminal(replicate_mcp, *words, columns=columns, stderr=stderr)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)


def lines_of(shown: str) -> list[str]:
    return [line.rstrip() for line in shown.splitlines()]


@pytest.mark.parametrize("columns", ["40", "200"])
def test_results_show_task_and_prompt_with_each_file_or_reason(
    replicate_mcp: CommandLine, columns: str
) -> None:
    made = json.loads(replicate_mcp("generate", LONG, "a house [fail]", "--json").stdout)
    (success,), (failure,) = made["successful_results"], made["failed_results"]
    shown = on_terminal(replicate_mcp, "batches", "latest", columns=columns)
    (file,) = success["generated_files"]
    first, second = shown.index(LONG[:20]), shown.index("a house [fail]")
    assert first < shown.index(file["filename"]) < shown.index(file["url"]) < second
    assert second < shown.index("generated_image_2") < shown.index("prediction_failed: ")
    lines = [line for line in lines_of(shown) if "a red car" in line or "a house" in line]
    assert [line.split()[0] for line in lines] == [str(success["task_index"]), "1"]
    assert failure["task_index"] == 1
    # Only a URL may be wider than the terminal.
    assert all(len(line) <= int(columns) for line in lines_of(shown) if file["url"] not in line)


@pytest.mark.parametrize("columns", WIDTHS)
def test_batch_list_shows_whole_ids_counts_and_first_prompts(
    replicate_mcp: CommandLine, columns: str
) -> None:
    ids = [
        json.loads(replicate_mcp("generate", *prompts, "--json").stdout)["batch_id"]
        for prompts in ((LONG, "a house [fail]"), ("一只红色的猫",))
    ]
    shown = on_terminal(replicate_mcp, "batches", columns=columns)
    for batch, made, prompt in zip(ids, ("1 of 2", "1 of 1"), (LONG, "一只红色的猫"), strict=True):
        after = shown.split(batch)[1]
        assert after.index("completed") < after.index(made) < after.index(prompt[:20])
    assert all(len(line) <= int(columns) for line in lines_of(shown))


@pytest.mark.parametrize("columns", WIDTHS)
def test_model_list_wraps_between_words(replicate_mcp: CommandLine, columns: str) -> None:
    shown = on_terminal(replicate_mcp, "models", columns=columns)
    assert [known.name for known in CATALOGUE if known.name not in shown] == []
    words = {word for known in CATALOGUE for word in known.good_at.split()}
    assert words <= set(shown.split())
    assert all(f"{alias})" in shown for alias in ALIASES)
    # A column narrower than a few words would split each into many lines.
    assert len(lines_of(shown)) <= 3 * len(CATALOGUE)


@pytest.mark.parametrize("columns", WIDTHS)
def test_model_inputs_are_not_split_across_lines(replicate_mcp: CommandLine, columns: str) -> None:
    shown = on_terminal(replicate_mcp, "models", "flux-dev", columns=columns)
    for words in ("num_inference_steps  integer  28", "prompt_strength", "required"):
        assert re.search(words.replace("  ", " +"), shown)
    assert {"reproducible", "generation"} <= set(shown.split())
    assert len(lines_of(shown)) < 40


@pytest.mark.parametrize("columns", WIDTHS)
def test_semaphore_table_truncates_nothing(
    replicate_mcp: CommandLine, simulator: Simulator, columns: str
) -> None:
    replicate_mcp.start("generate", "a [hang]", "b [hang]", REPLICATE_CONCURRENT_LIMIT="1")
    simulator.wait_for(account="acme", in_flight=1)
    shown = on_terminal(replicate_mcp, "semaphores", columns=columns)
    assert "…" not in shown
    words = [
        "replicate-global",
        "(acme)",
        "generate",
        "in",
        "use",
        "waiting",
        "creations",
        "minute",
    ]
    assert [word for word in words if word not in shown.split()] == []
    assert re.search(r"replicate-global.* 1 of 1 +1 ", shown)


@pytest.mark.parametrize("columns", WIDTHS)
def test_messages_wrap_between_words_and_commands_get_their_own_line(
    replicate_mcp: CommandLine, columns: str
) -> None:
    shown = on_terminal(replicate_mcp, "batches", "b_none", columns=columns, stderr=True)
    sentence = replicate_mcp("batches", "b_none").stderr
    assert all(len(line) <= int(columns) for line in lines_of(shown))
    assert " ".join(lines_of(shown)) == sentence.rstrip()

    shown = on_terminal(replicate_mcp, "generate", "a car", columns=columns, stderr=True)
    command = rf"  {re.escape(sys.executable)} -m replicate_mcp download b_\w+ --to DIR"
    assert re.fullmatch(command, lines_of(shown)[-1])


def test_doctor_output_wraps_between_words(replicate_mcp: CommandLine) -> None:
    lines = lines_of(on_terminal(replicate_mcp, "doctor", columns="80"))
    database = replicate_mcp.environment["REPLICATE_MCP_BACKEND"]
    assert all(len(line) <= 80 for line in lines if database.split("//")[1] not in line)
    place = next(i for i, line in enumerate(lines) if "REPLICATE_MCP_BACKEND" in line)
    assert lines[place].split() == ["REPLICATE_MCP_BACKEND", "environment"]
    assert lines[place + 1] == f"    {database}"
    whole = " ".join(" ".join(lines).split())
    assert " ".join(replicate_mcp("doctor").stdout.partition("Checks")[2].split()) in whole


def test_demo_output_wraps_between_words(replicate_mcp: CommandLine) -> None:
    words = ("demo", "--tasks", "2", "--seconds", "0.1")
    lines = lines_of(on_terminal(replicate_mcp, *words, columns="60"))
    assert "demo --keep" in lines[-1]
    assert all(len(line) <= 60 for line in lines[:-1] if "http://" not in line)
    assert "images:" in lines[-2]


def test_rejected_batch_leaves_no_progress_bar(replicate_mcp: CommandLine) -> None:
    words = ("generate", "a car", "--input", "aspect_ratio=7:1")
    drawn = drawn_on_terminal(replicate_mcp, *words, columns="100", stderr=True)
    # The last drawing is erased: the cursor moves up to its line and clears it.
    assert drawn.rindex("0/1 done") < drawn.rindex("\x1b[1A\x1b[2K") < drawn.index("7:1")


def test_commands_to_type_are_not_wrapped() -> None:
    notice = (
        "Nothing answers there: start it with `replicate-mcp simulate --port 8765`, or unset it."
    )
    lines = wrapped(notice, 40).splitlines()
    assert "`replicate-mcp simulate --port 8765`, or" in lines
    assert " ".join(lines) == notice
