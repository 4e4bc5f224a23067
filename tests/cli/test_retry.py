"""`replicate-mcp retry`: which batch and which tasks, and the results."""

import json
from pathlib import Path

from cli.conftest import CommandLine
from replicate_mcp.simulator import Simulator


def test_newest_batch_with_something_to_retry_is_retried_once(
    replicate_mcp: CommandLine, simulator: Simulator, tmp_path: Path
) -> None:
    nothing = replicate_mcp("retry")
    assert nothing.returncode == 2
    assert "There is nothing to retry" in nothing.stderr
    simulator.configure(failing=1)
    failed = replicate_mcp("generate", "a", "[nsfw] b", "c", "--json")
    simulator.configure(failing=0)
    assert failed.returncode == 1
    batch = json.loads(failed.stdout)["batch_id"]
    assert "3 failed. To make the retryable tasks again:\n" in failed.stderr
    assert failed.stderr.splitlines()[-1].endswith(f"replicate_mcp retry {batch}")
    replicate_mcp("generate", "d")

    again = replicate_mcp("retry", "--json", "--out", "pictures")
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert (result["retry_of"], result["successful_count"]) == (batch, 2)
    assert [row["retried_task_index"] for row in result["successful_results"]] == [0, 2]
    assert len(list((tmp_path / "pictures").iterdir())) == 2
    assert replicate_mcp("retry").returncode == 2
    listed = {row["batch_id"]: row for row in json.loads(replicate_mcp("batches", "--json").stdout)}
    assert listed[result["batch_id"]]["retry_of"] == batch


def test_chosen_tasks_of_a_named_batch_get_new_seeds(
    replicate_mcp: CommandLine, simulator: Simulator
) -> None:
    made = json.loads(replicate_mcp("generate", "a", "b", "--json").stdout)
    for batch in ("latest", made["batch_id"]):
        again = replicate_mcp("retry", batch, "--task", 1, "--task", 1, "--new-seed", "--json")
        assert again.returncode == 0, again.stderr
        (row,) = json.loads(again.stdout)["successful_results"]
        assert row["prompt"] == "b"
        assert row["seed"] != made["successful_results"][1]["seed"]
    beyond = replicate_mcp("retry", made["batch_id"], "--task", 2)
    assert beyond.returncode == 2
    assert "task 2: there is no such task" in beyond.stderr
    assert replicate_mcp("retry", "--task", "-1").returncode == 2
    assert replicate_mcp("retry", "--max-mb", 3).returncode == 2
    unknown = replicate_mcp("retry", "b_unknown")
    assert (unknown.returncode, "There is no batch" in unknown.stderr) == (2, True)
