"""The commands that need no account: `demo` and `simulate`."""

import json
import re
import signal
import sys
import urllib.request

import pytest

from replicate_mcp.cli.utilisation import fullness

from .conftest import CommandLine


def test_demo_stays_within_the_limit_and_reports_utilisation(
    replicate_mcp: CommandLine,
) -> None:
    ran = replicate_mcp("demo", "--tasks", 6, "--limit", 3, "--seconds", 0.2)
    assert ran.returncode == 0, ran.stderr
    closing = r"^6 images in \d+\.\d s\. The limit of 3 was never exceeded and kept \d+% full"
    assert re.search(closing, ran.stdout, re.MULTILINE)
    row = r"^  red_car\.jpg +http://127\.0\.0\.1:\d+/delivery/\w+/out-0\.jpg$"
    assert re.search(row, ran.stdout, re.MULTILINE)
    assert "Traceback" not in ran.stderr
    # The command as the user started it, so that it can be typed.
    assert ran.stdout.endswith(f"images:\n  {sys.executable} -m replicate_mcp demo --keep\n")


def test_demo_reads_all_pages_of_a_long_batch(replicate_mcp: CommandLine) -> None:
    ran = replicate_mcp("demo", "--tasks", 60, "--limit", 60, "--seconds", 0.05)
    assert ran.returncode == 0, ran.stderr
    assert "… and 50 more" in ran.stdout
    assert "60 images in" in ran.stdout


def test_demo_rejects_an_invalid_duration(replicate_mcp: CommandLine) -> None:
    ran = replicate_mcp("demo", "--seconds", "soon")
    assert ran.returncode == 2
    assert "--seconds takes a number" in ran.stderr


def test_utilisation_excludes_the_tail_without_waiting_tasks() -> None:
    # Two slots, three tasks of one second: the last runs alone, from 1 to 2.
    timeline = [(0.0, 1), (0.0, 2), (1.0, 1), (1.0, 2), (1.0, 1), (2.0, 0)]
    seen = fullness(timeline, limit=2, tasks=3)
    assert (seen.most, seen.prediction_seconds, seen.share) == (2, 3.0, 1.0)


def test_utilisation_counts_gaps_between_an_end_and_the_next_creation() -> None:
    timeline = [(0.0, 1), (1.0, 0), (2.0, 1), (3.0, 0)]
    assert fullness(timeline, limit=1, tasks=2).share == pytest.approx(0.5)


def test_utilisation_is_omitted_when_no_task_waited() -> None:
    timeline = [(0.0, 1), (0.1, 2), (1.0, 1), (1.1, 0)]
    assert fullness(timeline, limit=8, tasks=2).share is None


def test_simulate_serves_until_ctrl_c(replicate_mcp: CommandLine) -> None:
    process = replicate_mcp.start("simulate", "--port", 0, "--json")
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    request = urllib.request.Request(f"{url}/v1/account", headers={"authorization": "Bearer r8_a"})
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["username"] == "a"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) in (0, 130)


def test_simulate_prints_the_settings_to_export(replicate_mcp: CommandLine) -> None:
    process = replicate_mcp.start("simulate", "--port", 0)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    (url,) = re.findall(r"^Simulated Replicate at (\S+)\. In another terminal:$", lines[0].rstrip())
    assert lines[1] == f"  export REPLICATE_BASE_URL={url} REPLICATE_API_TOKEN=r8_demo\n"
    assert lines[2] == "Ctrl-C stops it.\n"
    help_text = replicate_mcp("simulate", "--help").stdout
    usage, _, rest = help_text.partition("\n\n")
    assert len(usage.splitlines()) <= 2
    assert "--throttle-wording" in rest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--settings", "[]"), '--settings takes a JSON object, like {"predict_seconds": 2}.'),
        (("--settings", '{"luck": 1}'), "--luck is no setting of the simulator"),
        (("--failing", "2"), "--failing is wrong: it should be less than or equal to 1."),
        (("--predict-seconds", "soon"), "--predict-seconds is wrong: expected seconds"),
        (("--port", "70000"), "Cannot listen on 127.0.0.1:70000"),
    ],
)
def test_invalid_simulate_option_is_reported_in_one_line(
    replicate_mcp: CommandLine, words: tuple[str, ...], said: str
) -> None:
    ran = replicate_mcp("simulate", *words)
    assert ran.returncode in (1, 2)
    assert ran.stderr.startswith(said)
    assert ran.stderr.count("\n") == 1
