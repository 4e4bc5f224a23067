"""Parsing of a client's lines as JSON-RPC messages, with errors that carry the request's id."""

import codecs
import json
import re
from typing import Any

from mcp_types import INVALID_REQUEST, PARSE_ERROR, JSONRPCMessage, jsonrpc_message_adapter
from pydantic import ValidationError

MIB = 1024 * 1024

MAX_LINE_BYTES = 64 * MIB
"""Maximum line: five 9 MB photographs as data URIs. Over HTTP the limit is 4 MiB."""

MAX_LINE_MARKS = 60_000
"""Maximum commas, `[` and `{` in a line, as over HTTP.

Each parsed value takes many times its size in memory.
"""

MAX_ID_CHARACTERS = 1_000
"""Maximum length of a request's id, which its answers repeat; clients use numbers or UUIDs."""

MAX_DEPTH = 200
"""Maximum levels of nesting, as in pydantic's parser, which parses requests over HTTP."""

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)

_SURROGATE = re.compile("[\ud800-\udfff]")

_ID = rb'\s*+:\s*+(-?\d{1,300}|"(?:[^"\\]|\\.){0,300}")\s*+[,}]'
_ID_VALUE = re.compile(_ID, re.DOTALL)
_ID_AT_THE_END = re.compile(rb'[{,]\s*+"id"' + _ID + rb"\s*+\Z", re.DOTALL)


class UnreadableLine(Exception):
    """The line is not a JSON-RPC message.

    Attributes:
        code: JSON-RPC's error code.
        request_id: the id of the request in the line; None if absent or unknown.
    """

    def __init__(self, code: int, sentence: str, request_id: int | str | None) -> None:
        super().__init__(sentence)
        self.code = code
        self.request_id = request_id


def parse_line(line: bytes) -> JSONRPCMessage:
    """Return the message in `line`.

    Raises:
        UnreadableLine: the line is not valid JSON, or not a JSON-RPC message.
    """
    line = line.removeprefix(codecs.BOM_UTF8).strip()
    if sum(map(line.count, (b",", b"[", b"{"))) > MAX_LINE_MARKS:
        raise _not_json(line, f"it has over {MAX_LINE_MARKS:,} commas and brackets")
    if _depth_over(line, MAX_DEPTH):
        raise _not_json(line, f"it is nested more than {MAX_DEPTH} deep")
    try:
        content = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise _not_json(line, f"byte {error.start + 1} is not UTF-8") from None
    except json.JSONDecodeError as error:
        reason = error.msg.removesuffix(" at")
        why = f"{reason[0].lower()}{reason[1:]} at character {error.pos + 1}"
        raise _not_json(line, why) from None
    except ValueError:
        raise _not_json(line, "it has a number of too many digits") from None
    return _message_of(content)


def line_too_long(start: bytes, end: bytes) -> UnreadableLine:
    """Return the error for a line that is too long, from its first and last bytes."""
    found = _ID_AT_THE_END.search(end)
    request_id = _find_id(start)
    if request_id is None and found is not None:
        request_id = _decoded(found[1])
    sentence = f"The message is over {MAX_LINE_BYTES // MIB} MiB"
    return UnreadableLine(INVALID_REQUEST, sentence, request_id)


def _not_json(line: bytes, why: str) -> UnreadableLine:
    return UnreadableLine(PARSE_ERROR, f"The message cannot be parsed: {why}", _find_id(line))


def _message_of(content: Any) -> JSONRPCMessage:
    if isinstance(content, list):
        raise UnreadableLine(
            INVALID_REQUEST,
            "MCP has no JSON-RPC batches: send each message on a line of its own",
            None,
        )
    if not isinstance(content, dict):
        raise UnreadableLine(INVALID_REQUEST, "A message is a JSON object", None)
    is_request = "method" in content
    request_id = content.get("id")
    if not _is_request_id(request_id):
        if is_request and "id" in content:
            raise UnreadableLine(
                INVALID_REQUEST, "The id of a request is an integer or a short text", None
            )
        request_id = None
    try:
        return jsonrpc_message_adapter.validate_python(content, by_name=False)
    except ValidationError:
        raise UnreadableLine(
            INVALID_REQUEST,
            'Invalid JSON-RPC 2.0 message: a request has `"jsonrpc": "2.0"`, an `id`, a '
            "`method`, and `params` that are an object, if any",
            # A response has the id of one of this server's requests.
            None if {"result", "error"} & content.keys() and not is_request else request_id,
        ) from None


def _is_request_id(value: object) -> bool:
    if isinstance(value, str):  # Every answer repeats it.
        return len(value) <= MAX_ID_CHARACTERS and _SURROGATE.search(value) is None
    return isinstance(value, int) and not isinstance(value, bool)


def _depth_over(line: bytes, most: int) -> bool:
    if line.count(b"[") + line.count(b"{") <= most:
        return False
    depth = 0
    for token in _TOKEN.finditer(line):
        first = line[token.start()]
        if first in b"[{":
            depth += 1
            if depth > most:
                return True
        elif first in b"]}":
            depth -= 1
    return False


def _find_id(line: bytes) -> int | str | None:
    """Return the `id` of the object at the start of a line, even if the rest is invalid."""
    depth = 0
    found: int | str | None = None
    for token in _TOKEN.finditer(line):
        first = line[token.start()]
        if first in b"[{":
            depth += 1
            if depth == 1 and first == ord("["):
                return None
        elif first in b"]}":
            depth -= 1
            if depth <= 0:
                break
        elif depth == 1 and token[0] == b'"id"' and (value := _ID_VALUE.match(line, token.end())):
            found = _decoded(value[1])
    return found


def _decoded(value: bytes) -> int | str | None:
    try:
        found: int | str = json.loads(value.decode())
    except ValueError:
        return None
    return found if _is_request_id(found) else None
