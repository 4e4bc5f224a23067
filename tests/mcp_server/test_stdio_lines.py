"""Every line on stdin gets a response, including invalid messages, and so does the next one."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import environment, simulator_without_a_rate
from hostile import HOSTILE_TEXTS
from mcp_server.stdio_wire import INITIALIZE, INITIALIZED, StdioWire, stdio_server
from replicate_mcp.http_api.limits.config import DEFAULT_LIMITS
from replicate_mcp.mcp_server.jsonrpc_lines import MAX_LINE_BYTES, MAX_LINE_MARKS, MIB
from replicate_mcp.simulator import Simulator

PARSE_ERROR, INVALID_REQUEST = -32700, -32600


@pytest.fixture(scope="module")
def own_simulator() -> Iterator[Simulator]:
    with simulator_without_a_rate() as running:
        yield running


@pytest.fixture(scope="module")
def wire(own_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StdioWire]:
    """Return a server for all tests: no line affects the responses to later ones."""
    folder = tmp_path_factory.mktemp("lines")
    with stdio_server(environment(own_simulator, folder), folder) as opened:
        opened.begin()
        yield opened


def call(prompt: str, request_id: object = 7, tool: str = "generate_images") -> bytes:
    """Return a tool call with one prompt, given as JSON."""
    arguments = b'{"tasks": [{"prompt": ' + prompt.encode() + b"}]}"
    message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call"}
    params = b'{"name": "%s", "arguments": %s}' % (tool.encode(), arguments)
    return json.dumps(message)[:-1].encode() + b', "params": ' + params + b"}"


NO_JSON = {
    "a number of 5,000 digits": (call("1" * 5_000), 7, "a number of too many digits"),
    "3,000 levels of lists": (call("[" * 3_000 + "]" * 3_000), 7, "nested more than 200 deep"),
    "3,000 levels of objects": (call('{"a":' * 3_000 + "1" + "}" * 3_000), 7, "nested more than"),
    "more levels than end": (call("[" * 3_000), 7, "nested more than 200 deep"),
    "very many values": (call(f"[{'1,' * MAX_LINE_MARKS}1]"), 7, "over 60,000 commas"),
    "a name in quotes": (call("'x'"), 7, "expecting value at character "),
    "NUL": (call('"a\0b"'), 7, "invalid control character at character "),
    "not UTF-8": (call('"caf\\u00e9"').replace(b"\\u00e9", b"\xe9"), 7, " is not UTF-8"),
    "UTF-16": (call('"x"').decode().encode("utf-16"), None, "byte 1 is not UTF-8"),
    "cut": (call('"x"', "seven")[:-20], "seven", " at character "),
    "cut inside of a text that has an id": (
        b'{"jsonrpc": "2.0", "id": 7, "params": {"prompt": "\\"id\\": 8, \\"id\\": 9 ',
        7,
        "unterminated string starting at character 50",
    ),
    "an id that belongs to something else": (
        b'{"params": {"id": 8}, "x": [{"id": 9}], "method": "id", "id": 7, nothing}',
        7,
        "expecting property name",
    ),
    "an id of many digits": (b'{"id": %s, "method": "ping"}' % (b"1" * 5_000), None, "digits"),
    "no id": (b'{"method": "ping", nothing}', None, "expecting property name"),
    "two ids": (b'{"id": 6, "id": 7, nothing}', 7, "expecting property name"),
    "words": (b"hello there", None, "expecting value at character 1"),
    "HTTP": (b"GET / HTTP/1.1\r", None, "expecting value at character 1"),
    "two messages on a line": (call('"x"') + call('"y"', 8), 7, "extra data at character "),
}


@pytest.mark.parametrize("name", NO_JSON)
def test_non_json_line_is_rejected_under_its_id_and_the_next_is_answered(
    wire: StdioWire, name: str
) -> None:
    line, request_id, reason = NO_JSON[name]
    wire.log()
    answer = wire.answer_to(line)
    assert answer["id"] == request_id
    assert answer["error"]["code"] == PARSE_ERROR
    assert reason in answer["error"]["message"]
    (logged,) = wire.log().splitlines()
    assert reason in logged
    assert len(logged) < 300


PING = {"jsonrpc": "2.0", "id": 7, "method": "ping"}

NO_REQUEST: dict[str, tuple[object, object]] = {
    "a batch": ([PING, PING | {"id": 8}], None),
    "an empty batch": ([], None),
    "a number": (7, None),
    "null": (None, None),
    "an empty object": ({}, None),
    "an id alone": ({"id": 7}, 7),
    "no version": ({"id": 7, "method": "ping"}, 7),
    "another version": (PING | {"jsonrpc": "1.0"}, 7),
    "params that are a list": (PING | {"params": []}, 7),
    "a method that is a number": (PING | {"method": 7, "id": "seven"}, "seven"),
    "an id that is null": (PING | {"id": None}, None),
    "an id that is a fraction": (PING | {"id": 1.5}, None),
    "an id that is a truth value": (PING | {"id": True}, None),
    "an id that is half a character": (PING | {"id": "\ud83d"}, None),
    "a response that is no object, whose id would be one of the server's": (
        {"jsonrpc": "2.0", "id": 7, "result": 5},
        None,
    ),
}


@pytest.mark.parametrize("name", NO_REQUEST)
def test_json_that_is_not_a_message_is_rejected_and_the_next_line_is_answered(
    wire: StdioWire, name: str
) -> None:
    content, request_id = NO_REQUEST[name]
    wire.log()
    answer = wire.answer_to(json.dumps(content).encode())
    assert (answer["id"], answer["error"]["code"]) == (request_id, INVALID_REQUEST)
    assert "A line on stdin cannot be read: " in wire.log()


def test_unusual_but_valid_lines_are_served(wire: StdioWire) -> None:
    wire.log()
    ping = json.dumps(PING).encode()
    for line in (ping + b"\r", b"\xef\xbb\xbf" + ping, b" \t" + ping + b" "):
        assert wire.answers_to(line) == [{"jsonrpc": "2.0", "id": 7, "result": {}}]
    for nothing in (b"", b"\r", b" \t ", b"\n\n"):
        assert wire.answers_to(nothing) == []
    unknown = {"jsonrpc": "2.0", "id": 99, "result": {}}
    assert wire.answers_to(json.dumps(unknown).encode()) == []
    last_counts = wire.answer_to(b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}')
    assert last_counts["id"] == 2
    assert wire.log() == ""


def test_byte_order_mark_before_the_handshake_is_ignored(
    simulator: Simulator, tmp_path: Path
) -> None:
    with stdio_server(environment(simulator, tmp_path), tmp_path) as wire:
        wire.send(b"\xef\xbb\xbf" + json.dumps(INITIALIZE).encode() + b"\r")
        assert "serverInfo" in wire.receive()["result"]
        wire.send(json.dumps(INITIALIZED).encode() + b"\r")
        assert wire.answers_to(b"") == []


def test_unsendable_value_is_rejected_naming_its_task_and_nothing_is_created(
    wire: StdioWire, own_simulator: Simulator
) -> None:
    for prompt, reason in (
        (r'"half \ud83d"', "prompt contains half a character"),
        ("NaN", "prompt"),
        ("[" * 150 + "]" * 150, "prompt"),
        ("1" * 4_000, "prompt"),
    ):
        answer = wire.answer_to(call(prompt))
        assert answer["id"] == 7
        assert answer["result"]["isError"], answer
        (content,) = answer["result"]["content"]
        assert content["text"].startswith("task 0: ")
        assert reason in content["text"]
    assert own_simulator.account("acme")["creations_seen"] == 0


@pytest.mark.parametrize("where", ["start", "end"])
def test_too_long_line_is_skipped_and_rejected_under_its_id(wire: StdioWire, where: str) -> None:
    long = b"x" * (MAX_LINE_BYTES + 1_000)
    line = {
        "start": b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"junk":"%s"}}',
        "end": b'{"method":"ping","params":{"junk":"%s"},"jsonrpc":"2.0","id":7}',
    }[where] % long
    answer = wire.answer_to(line)
    assert (answer["id"], answer["error"]["code"]) == (7, INVALID_REQUEST)
    assert answer["error"]["message"] == "The message is over 64 MiB."
    assert "The message is over 64 MiB" in wire.log()
    assert wire.answers_to(b"") == []


def test_long_data_uri_in_a_line_is_parsed(wire: StdioWire) -> None:
    junk = "A" * (MAX_LINE_BYTES // 4)
    answer = wire.answer_to(call(json.dumps(f"data:image/png;base64,{junk}")))
    assert answer["result"]["isError"]
    assert "prompt" in answer["result"]["content"][0]["text"]


PLACES: dict[str, Callable[[str], tuple[str, Any]]] = {
    "method": lambda text: (text, {}),
    "tool": lambda text: ("tools/call", {"name": text, "arguments": {}}),
    "argument of a prompt": lambda text: (
        "prompts/get",
        {"name": "variations", "arguments": {text: text}},
    ),
    "argument": lambda text: ("tools/call", {"name": "get_batch", "arguments": {text: 1}}),
    "batch": lambda text: ("tools/call", {"name": "get_batch", "arguments": {"batch_id": text}}),
    "resource": lambda text: ("resources/read", {"uri": f"replicate://batches/{text}"}),
    "prompt": lambda text: ("prompts/get", {"name": text}),
    "completion": lambda text: (
        "completion/complete",
        {"ref": {"type": "ref/prompt", "name": text}, "argument": {"name": text, "value": text}},
    ),
    "token": lambda text: ("tools/list", {"_meta": {"progressToken": text}, "cursor": text}),
}


@pytest.mark.parametrize("place", PLACES)
def test_hostile_text_anywhere_in_a_message_gets_a_response(wire: StdioWire, place: str) -> None:
    for number, text in enumerate(HOSTILE_TEXTS):
        method, params = PLACES[place](text)
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        answer = wire.answer_to(json.dumps(message).encode())
        assert answer["id"] == number
        if "error" in answer:
            assert answer["error"]["message"].isprintable()
        else:
            for content in answer["result"].get("content", ()):
                assert all(line.isprintable() for line in content["text"].split("\n"))


def test_client_that_stops_reading_loses_responses_but_its_batches_continue(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.configure(predict_seconds=0.5)
    with stdio_server(environment(simulator, tmp_path), tmp_path) as wire:
        wire.begin()
        assert wire.process.stdout is not None
        assert wire.process.stdin is not None
        wire.process.stdout.close()
        for number in range(3):
            wire.send(call('"x"', number))
        simulator.wait_for(account="acme", succeeded=3)
        wire.process.stdin.close()
        assert wire.process.wait(20) == 0
        log = wire.log()
        assert log.count("The client does not read its answers any more") == 1
        assert "Traceback" not in log


def test_documented_limits_match_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text("utf-8")
    documented = " ".join(page.partition("### Limits on stdio")[2].partition("\n## ")[0].split())
    longest = f"{MAX_LINE_BYTES // MIB} MiB, and {MAX_LINE_MARKS:,} commas, `[` and `{{`"
    assert f"A line has at most {longest}." in documented
    assert DEFAULT_LIMITS.mcp_body_marks == MAX_LINE_MARKS
