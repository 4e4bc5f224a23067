"""A JSON parser for model-written content of any depth, width and number size.

A model decides the content of its predictions' outputs and inputs, and these come back inside
Replicate's own responses: in the response to one creation, and among the rows of the account's
list. An output that Python's parser rejects must not invalidate the rest of such a response.
"""

import json
import re
from typing import Any

MAX_DEPTH = 32
"""Maximum nesting depth: a row of a page is at level 3, its output at level 4."""

MAX_VALUES = 50_000
"""Maximum number of values in one input or output; image models return a few URLs."""

_MAX_TOP_LEVEL_VALUES = 100 * MAX_VALUES
"""Maximum number of values at the first two levels: a page has at most 100 rows."""

_SIMPLE_COMMAS = 10_000
"""A body with fewer commas, and no more brackets than `MAX_DEPTH`, needs no structural scan."""

_LONG_NUMBER = rb"\d{41,}"
"""Pattern of numbers longer than any of Replicate's; Python refuses to parse 4,300 digits."""

_TOKEN = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]|-?' + _LONG_NUMBER + rb"[0-9.eE+-]*", re.DOTALL
)


def parse_json(body: bytes) -> Any:
    """Return the document in `body`, with null in place of values that exceed the limits.

    Args:
        body: UTF-8; invalid bytes become replacement characters.

    Raises:
        ValueError: the body is not JSON.
    """
    if not _is_simple(body):
        body = _reduced(body)
    return json.loads(body.decode(errors="replace"), strict=False)


def _is_simple(body: bytes) -> bool:
    return (
        body.count(b"[") + body.count(b"{") <= MAX_DEPTH
        and body.count(b",") <= _SIMPLE_COMMAS
        and re.search(_LONG_NUMBER, body) is None
    )


def _reduced(body: bytes) -> bytes:
    """Return `body` with null for each container or number beyond the limits above."""
    reduced = bytearray()
    copied = 0  # Position in `body` up to which it was copied or omitted.
    starts: list[int] = []  # Start of each open container in `reduced`.
    excess = 0  # Nesting levels beyond `MAX_DEPTH`.
    for token in _TOKEN.finditer(body):
        first = body[token.start()]
        if first == ord('"'):
            continue
        if first in b"[{":
            if excess or len(starts) == MAX_DEPTH:
                if not excess:
                    reduced += body[copied : token.start()] + b"null"
                excess += 1
                continue
            reduced += body[copied : token.start()]
            copied = token.start()
            starts.append(len(reduced))
        elif first in b"]}":
            if excess:
                excess -= 1
                copied = token.end()
                continue
            reduced += body[copied : token.end()]
            copied = token.end()
            if starts:
                most = _MAX_TOP_LEVEL_VALUES if len(starts) <= 2 else MAX_VALUES
                start = starts.pop()
                if reduced.count(b",", start) > most:
                    reduced[start:] = b"null"
        elif not excess:
            reduced += body[copied : token.start()] + b"null"
            copied = token.end()
    if not excess:
        reduced += body[copied:]
    return bytes(reduced)
