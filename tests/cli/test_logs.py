"""The log has one printable line per record, and no content of request bodies."""

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import jsonschema
import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter

from cli.hostile import HOSTILE, LONG, assert_printable
from conftest import environment
from http_api.conftest import Server, running_server
from http_api.raw_client import request, wire_to
from replicate_mcp.cli.logs import LineFormatter
from replicate_mcp.simulator import Simulator

TOKEN = "r8_" + "SecretOfACaller" * 4
JSON = {"content-type": "application/json"}
HALVES = (TOKEN[3:20], TOKEN[-20:])


@pytest.fixture
def serving(simulator: Simulator, tmp_path: Path) -> AbstractContextManager[Server]:
    """Run a server for one block, after which its log is complete."""
    return running_server(environment(simulator, tmp_path))


@contextmanager
def sse_session(server: Server) -> Iterator[str]:
    """Return the path to which messages of an open session are posted."""
    with server.client.stream("GET", "/sse") as stream:
        lines = stream.iter_lines()
        yield next(line.removeprefix("data: ") for line in lines if line.startswith("data: "))


def test_client_input_cannot_forge_log_lines_or_leak_its_token(
    serving: AbstractContextManager[Server],
) -> None:
    forged = "\x1b[2J\r\nCRITICAL forged: \x1b]52;c;aGk=\x07\u202e\u2028\x9b2J"
    hostile_name = b"evil\x9b2J\x85CRITICAL forged: \xe2\x80\xae.example"
    with serving as server:
        refused = server.client.post(f"/messages/?session_id={quote(forged)}", json={})
        assert refused.status_code == 400
        own = urlsplit(server.url).netloc.encode()
        for host, origin in (
            (hostile_name, b"null"),
            (b"evil.example", b"null"),
            (own, b"http://" + hostile_name),
        ):
            with wire_to(server.url) as wire:
                head = request(
                    "POST", "/messages/", **JSON, host="HOST", origin="ORIGIN", content_length="0"
                )
                wire.send(head.encode().replace(b"HOST", host).replace(b"ORIGIN", origin))
                assert re.match(r"HTTP/1.1 4\d\d ", wire.headers())
        with sse_session(server) as path:
            for body in (
                json.dumps({"jsonrpc": "2.0", "id": 1, "method": ["tools/call"], "token": TOKEN}),
                json.dumps({"jsonrpc": TOKEN}),
                f'{{"token": "{TOKEN}\x1b[2J',
                f'"{TOKEN}"',
            ):
                answer = server.client.post(path, content=body.encode(), headers=JSON)
                assert answer.status_code == 400
    log = "".join(server.log)
    assert_printable(log, log.count("\n"))
    assert log.count("Failed to parse message") == 4
    assert log.count("Received invalid session ID") == 1
    assert "Invalid Origin header: http://evil" in log
    assert not [line for line in server.log if line.startswith(("CRITICAL", "forged"))]
    assert not [half for half in HALVES if half in log]
    assert 'File "' in log  # The location of the error is still included.


def test_non_http_requests_are_logged_by_the_same_formatter(
    serving: AbstractContextManager[Server],
) -> None:
    with serving as server, wire_to(server.url) as wire:
        wire.send(b"\x1b[2J\x07 / HTTP/1.1\r\n\r\n")
        assert " 400 " in wire.headers()
    logged = [line for line in server.log if line.startswith("WARNING")]
    assert logged == ["WARNING uvicorn.error: Invalid HTTP request received.\n"]
    assert not any("\x1b" in line for line in server.log)


def logged(message: object, *arguments: object, error: BaseException | None = None) -> str:
    """Return the log output of a record."""
    about = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("test", logging.WARNING, "", 1, message, arguments, about)
    return LineFormatter().format(record) + "\n"


def failures() -> list[Exception]:
    """Return exceptions that quote unreadable input, as libraries raise them."""
    errors: list[Exception] = [RequestValidationError([{"input": TOKEN}, {"input": TOKEN}])]
    for parse in (
        lambda: TypeAdapter(int).validate_python(TOKEN),
        lambda: TypeAdapter(list[int]).validate_json(json.dumps([TOKEN, TOKEN])),
        lambda: json.loads(f"{TOKEN} is no JSON"),
        lambda: jsonschema.validate(TOKEN, {"type": "integer"}),
    ):
        try:
            parse()
        except Exception as error:
            errors.append(error)
    assert len(errors) == 5
    return errors


@pytest.mark.parametrize("error", failures(), ids=lambda error: type(error).__name__)
def test_log_messages_quoting_a_body_are_withheld(error: Exception) -> None:
    text = logged("refused: %s", error) + logged(error)
    for outer in (RuntimeError(f"outer: {HOSTILE}"), ExceptionGroup("both", [error, ValueError()])):
        try:
            try:
                raise error
            except Exception:
                raise outer  # noqa: B904 - what is under test
        except Exception as raised:
            text += logged("It failed: %s", HOSTILE, error=raised)
    assert not [half for half in HALVES if half in text], text
    assert_printable(text, text.count("\n"))
    assert type(error).__name__ in text
    assert "the message is withheld, since it quotes the input" in text
    assert text.count("During handling of the above exception") == 2
    assert text.count("Traceback (most recent call last):") == 5
    assert "raise error" in text
    assert text.endswith("  | ValueError\n")


def test_validation_errors_inside_other_messages_are_truncated() -> None:
    quoting = str(failures()[1])
    assert logged(f"Failed: {quoting}. Message was: {TOKEN}") == (
        "WARNING test: Failed: 1 validation error for (withheld)\n"
    )
    assert logged("odd %d", quoting) == "WARNING test: odd %d (its arguments do not fit)\n"


def test_log_record_is_bounded_and_hides_tokens() -> None:
    assert len(logged("%s", LONG)) < 5_000
    assert logged("token %s\nforged", TOKEN) == "WARNING test: token r8_… forged\n"


def test_internal_error_is_logged_without_quoted_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from replicate_mcp.cli import main
    from replicate_mcp.cli.commands import models

    def fail(_: object) -> int:
        TypeAdapter(int).validate_python(TOKEN)
        return 0

    monkeypatch.setattr(models, "run", fail)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        assert main.main(["models"]) == 1
    finally:
        root.handlers = handlers
    shown = capsys.readouterr().err
    assert shown.startswith("CRITICAL replicate_mcp.cli.main: The command failed")
    assert "ValidationError: (1 error; the message is withheld" in shown
    assert not [half for half in HALVES if half in shown]
