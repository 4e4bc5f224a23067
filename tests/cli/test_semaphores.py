"""`replicate-mcp semaphores`: limits on the command line."""

import json
import os
import signal
import subprocess
import sys

import pytest

from cli.conftest import CommandLine, open_terminal
from replicate_mcp.simulator import Simulator


def test_usage_is_shown_across_all_processes(
    replicate_mcp: CommandLine, simulator: Simulator
) -> None:
    for prompts in (["a [hang]", "b [hang]", "c [hang]"], ["d [hang]"]):
        replicate_mcp.start("generate", *prompts, REPLICATE_CONCURRENT_LIMIT="2")
    simulator.wait_for(account="acme", in_flight=2)
    (own,) = json.loads(replicate_mcp("semaphores", "--json").stdout)
    assert (own["limit"], own["in_use"], own["available"]) == (2, 2, 0)
    holders = [each["holder"] for each in own["holders"]]
    assert all(each.startswith("replicate_mcp generate [") for each in holders)
    listed = replicate_mcp("semaphores").stdout
    assert listed.startswith("replicate-global (acme)\t2\t2\t")


def test_manual_limit_persists_and_can_be_set_for_a_new_name(
    replicate_mcp: CommandLine,
) -> None:
    result = replicate_mcp("semaphores", "set", "replicate-global", 3)
    assert result.stdout == "replicate-global: 3 at once, 0 in use, 0 waiting.\n"
    assert replicate_mcp("semaphores", "set", "thumbnails", 5).returncode == 0
    assert replicate_mcp("semaphores", "set", "thumbnails", 4).returncode == 0
    assert replicate_mcp("semaphores").stdout == (
        "replicate-global (acme)\t3\t0\t0\nthumbnails\t4\t0\t0\n"
    )


def test_doctor_reports_manual_limit_beside_the_setting(
    replicate_mcp: CommandLine,
) -> None:
    assert "by hand" not in replicate_mcp("doctor").stdout
    result = replicate_mcp("semaphores", "set", "replicate-global", 70)
    assert result.stderr.endswith("semaphores unset replicate-global\n")
    assert "(70 was set by hand; the setting here says 60)" in replicate_mcp("doctor").stdout
    back = replicate_mcp("semaphores", "unset", "replicate-global")
    assert back.stdout == "replicate-global: 60 at once, 0 in use, 0 waiting.\n"
    assert "by hand" not in replicate_mcp("doctor").stdout
    replicate_mcp("semaphores", "set", "replicate-global", 20)
    assert (
        "(20 was set by hand, or another process's setting is lower; the setting here says 60)"
        in replicate_mcp("doctor").stdout
    )


def test_registered_name_can_be_removed(replicate_mcp: CommandLine) -> None:
    for undo in ("remove", "unset"):
        replicate_mcp("semaphores", "set", "thumbnials", 5)
        result = replicate_mcp("semaphores", undo, "thumbnials")
        assert (result.returncode, result.stdout[:19]) == (0, "thumbnials: removed")
        assert replicate_mcp("semaphores").stdout == ""


def test_name_in_use_cannot_be_removed(replicate_mcp: CommandLine, simulator: Simulator) -> None:
    replicate_mcp("semaphores", "set", "thumbnails", 1)
    replicate_mcp.start("generate", "a [hang]", "b [hang]", "--semaphore", "thumbnails")
    simulator.wait_for(account="acme", in_flight=1)
    result = replicate_mcp("semaphores", "remove", "thumbnails")
    assert (result.returncode, result.stdout) == (2, "")
    assert "semaphore 'thumbnails' is in use (1 in use, 1 waiting)" in result.stderr
    assert "\nthumbnails\t1\t1\t1\n" in replicate_mcp("semaphores").stdout


def test_usage_error_suggests_correct_usage(replicate_mcp: CommandLine) -> None:
    for words, sentence in (
        (["set", "thumbnails"], "semaphores set thumbnails 5"),
        (["set", "thumbnails", "0"], "limit 0 must be a whole number from 1"),
        (["set", "a/b", "5"], "semaphore 'a/b' is not a name"),
        (["list"], "'list' is not known here"),
        (["unset"], "semaphores unset thumbnails"),
        (["remove", "a", "b"], "semaphores remove thumbnails"),
        (["remove", "thumbnails"], "semaphore 'thumbnails' is not registered"),
        (["unset", "thumbnails"], "semaphore 'thumbnails' is not registered"),
        (["remove", "replicate-global"], "is the account's own limit and cannot be removed"),
    ):
        result = replicate_mcp("semaphores", *words)
        assert (result.returncode, result.stdout) == (2, "")
        assert sentence in result.stderr


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_watch_prints_each_change_to_a_pipe_immediately(
    replicate_mcp: CommandLine, words: tuple[str, ...]
) -> None:
    replicate_mcp("semaphores", "set", "thumbnails", 5)
    watching = replicate_mcp.start("semaphores", "--watch", *words)
    printed = watching.stdout
    assert printed is not None

    def read_until(limit: int) -> None:
        expected = f'"thumbnails", "limit": {limit},' if words else f"thumbnails\t{limit}\t"
        while expected not in (line := printed.readline()):
            assert line

    read_until(5)
    replicate_mcp("semaphores", "set", "thumbnails", 4)
    read_until(4)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(10) == 0
    assert printed.read() == ""


def test_watch_runs_until_ctrl_c(replicate_mcp: CommandLine, simulator: Simulator) -> None:
    replicate_mcp.start("generate", "a [hang]", "b [hang]", REPLICATE_CONCURRENT_LIMIT="1")
    simulator.wait_for(account="acme", in_flight=1)
    ours, theirs = open_terminal()
    with subprocess.Popen(
        [sys.executable, "-m", "replicate_mcp", "semaphores", "--watch"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=replicate_mcp.environment | {"COLUMNS": "120", "TERM": "xterm"},
    ) as watching:
        os.close(theirs)
        shown = b""
        while shown.count(b"replicate_mcp generate [") < 2:  # Drawn twice.
            shown += os.read(ours, 4096)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0
    os.close(ours)
    assert "replicate-global (acme)" in shown.decode()
