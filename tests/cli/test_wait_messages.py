"""Messages of `generate` while a batch waits for something other than its predictions."""

import re
import signal
import subprocess
from collections.abc import Callable

import pytest

from backends.servers import KINDS, RunningServer
from cli.conftest import CommandLine, on_terminal
from replicate_mcp.simulator import Simulator

UNANSWERED = re.compile(r"Replicate has not answered since \d\d:\d\d, trying again\.")


def lines_until(process: subprocess.Popen[str], words: re.Pattern[str]) -> list[str]:
    """Read stderr up to the line with these words."""
    assert process.stderr is not None
    lines = [""]
    while not words.search(lines[-1]):
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    return lines


def test_api_outage_is_shown_beside_progress_bar_and_batch_resumes_afterwards(
    replicate_mcp: CommandLine, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=4)
    simulator.fault_next("reset_after")
    process = replicate_mcp.start("generate", "a red car")
    simulator.wait_for(account="acme", created=1)
    simulator.configure(get_reset=1)
    lines_until(process, UNANSWERED)
    simulator.configure(get_reset=0)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert out.startswith("generated_image_1.webp\t")
    assert simulator.account("acme")["created"] == 1


def test_permit_left_by_ctrl_c_during_an_api_outage_is_freed_afterwards(
    replicate_mcp: CommandLine, simulator: Simulator
) -> None:
    process = replicate_mcp.start("generate", "a house [hang]", REPLICATE_CONCURRENT_LIMIT="1")
    simulator.wait_for(account="acme", in_flight=1)
    simulator.configure(get_reset=1, cancel_reset=1)
    process.send_signal(signal.SIGINT)
    lines_until(process, re.compile("Stopping"))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    simulator.configure(get_reset=0, cancel_reset=0)
    after = replicate_mcp("generate", "a red car", REPLICATE_CONCURRENT_LIMIT="1")
    assert after.returncode == 0, after.stderr
    seen = simulator.account("acme")
    assert (seen["in_flight"], seen["canceled"], seen["max_in_flight"]) == (0, 1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_waiting_for_a_new_redis_is_reported_with_its_duration(
    replicate_mcp: CommandLine, servers: Callable[[str], RunningServer], kind: str
) -> None:
    url = servers(kind).url(f"new-{kind}", lease=3)
    ran = replicate_mcp("generate", "a red car", REPLICATE_MCP_BACKEND=url)
    assert ran.returncode == 0, ran.stderr
    notice = "0/1 done, 0 running. Redis is new or was restarted: waiting [1-3] s for the other "
    assert re.match(notice, ran.stderr)
    again = replicate_mcp("generate", "a red car", REPLICATE_MCP_BACKEND=url)
    assert "Redis" not in again.stderr


def test_notice_is_drawn_below_the_progress_bar(
    replicate_mcp: CommandLine, servers: Callable[[str], RunningServer]
) -> None:
    replicate_mcp.environment["REPLICATE_MCP_BACKEND"] = servers("redis").url("drawn", lease=3)
    drawn = on_terminal(replicate_mcp, "generate", "a red car", columns="60", stderr=True)
    assert re.search(r"0/1 done, 0 running.*\n.*Redis is new or was restarted", drawn)
