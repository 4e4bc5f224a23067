"""No line on stdin blocks the event loop: the largest input of each kind."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import environment, simulator_without_a_rate
from http_api.loop_holds import MAX_HOLD_SECONDS, Holds, largest_values
from mcp_server.stdio_wire import StdioWire, stdio_server
from pairs import pairs
from replicate_mcp.mcp_server.jsonrpc_lines import MAX_LINE_BYTES, MAX_LINE_MARKS, MIB


class Measured:
    """A server, and the longest hold of its event loop during one line."""

    def __init__(self, wire: StdioWire, holds: Holds) -> None:
        self._wire = wire
        self._holds = holds
        holds.longest(wire.process)

    def answer_to(self, line: bytes) -> Any:
        """Send a line, return its response, and check how long the loop was blocked."""
        answer = self._wire.answer_to(line)
        seconds, what = self._holds.longest(self._wire.process)
        assert seconds <= MAX_HOLD_SECONDS, f"{seconds * 1000:.0f} ms: {what}"
        return answer


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    """Return a server for all tests, after a first call that triggers its late imports."""
    folder: Path = tmp_path_factory.mktemp("holds")
    holds = Holds(folder)
    with (
        simulator_without_a_rate() as simulator,
        stdio_server(environment(simulator, folder), folder, holds.program()) as wire,
    ):
        wire.begin()
        wire.send(called("generate_images", b'{"tasks": [{"prompt": "x"}]}'))
        assert not wire.receive()["result"].get("isError")
        yield Measured(wire, holds)


def called(tool: str, arguments: bytes) -> bytes:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": "PARAMS"}
    params = b'{"name": "%s", "arguments": %s}' % (tool.encode(), arguments)
    return json.dumps(message).encode().replace(b'"PARAMS"', params)


PLACES = {
    "task": b'{"tasks": [{"prompt": "x", "junk": %s}]}',
    "tasks": b'{"tasks": %s}',
    "argument": b'{"tasks": [{"prompt": "x"}], "model": %s}',
    "arguments": b"%s",
}


LONG_KINDS = ("text", "escapes", "utf8", "data URI")
KINDS = [*LONG_KINDS, *(f"many {kind}" for kind in largest_values(100, 100))]


def largest(kind: str) -> bytes:
    """Return the largest value of a kind that one line may have."""
    if kind in LONG_KINDS:
        return largest_values(MAX_LINE_BYTES - 4_096, 100)[kind]
    return largest_values(4 * MIB, MAX_LINE_MARKS - 5_000)[kind.removeprefix("many ")]


LONGEST_CASES = [
    pytest.param(place, kind, marks=pytest.mark.soak) for place in PLACES for kind in LONG_KINDS[1:]
]


@pytest.mark.parametrize(
    ("place", "kind"),
    pairs(PLACES, [kind for kind in KINDS if kind not in LONG_KINDS[1:]]) + LONGEST_CASES,
)
def test_no_stdin_call_blocks_the_event_loop(measured: Measured, place: str, kind: str) -> None:
    answer = measured.answer_to(called("generate_images", PLACES[place] % largest(kind)))
    assert "error" in answer or answer["result"].get("isError") or kind == "many numbers"


@pytest.mark.parametrize("name", ["method", "id", "params"])
def test_no_other_stdin_message_blocks_the_event_loop(measured: Measured, name: str) -> None:
    value = largest("many names" if name == "params" else "text")
    message = {"jsonrpc": "2.0", "id": 1, "method": "ping", name: "VALUE"}
    measured.answer_to(json.dumps(message).encode().replace(b'"VALUE"', value))


@pytest.mark.soak
def test_no_rejected_line_blocks_the_event_loop(measured: Measured) -> None:
    for line in (
        b"[" * MAX_LINE_BYTES,
        b'"' * MAX_LINE_BYTES,
        b"\\" * MAX_LINE_BYTES,
        b"x" * (2 * MAX_LINE_BYTES),
        b"[%s1]" % (b"1," * (MAX_LINE_MARKS - 10)),
        b'{"id": 1, %s}' % (b'"id":1,' * (MAX_LINE_MARKS - 10)),
    ):
        answer = measured.answer_to(line)
        assert "error" in answer


@pytest.mark.soak
def test_no_large_response_blocks_the_event_loop(measured: Measured) -> None:
    tasks = [{"prompt": "é" * 600}] * 1_000
    begun = measured.answer_to(
        called("generate_images", json.dumps({"tasks": tasks, "wait_seconds": 0}).encode())
    )
    assert not begun["result"].get("isError")
    while True:
        asked = json.dumps({"limit": 1_000, "wait_seconds": 20, "after": 999}).encode()
        answer = measured.answer_to(called("get_batch", asked))
        if not answer["result"]["structuredContent"]["pending_count"]:
            break
    whole = measured.answer_to(called("get_batch", b'{"limit": 1000}'))
    assert len(whole["result"]["structuredContent"]["successful_results"]) > 300
