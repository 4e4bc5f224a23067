"""Parse JSON that a model wrote, whatever its depth, width and numbers.

A model decides what its predictions' outputs and inputs hold, and these come back inside
Replicate's own answers: in the answer to one creation, and among the rows of the account's list. An
output that Python's parser refuses may not take the rest of such an answer with it.
"""

import json
import re
from typing import Any

MAX_DEPTH = 32
"""Levels that are kept: a row of a page is at the third, its output at the fourth."""

MAX_VALUES = 50_000
"""Values in one input or output that are kept; image models give a few URLs."""

_MAX_TOP_LEVEL_VALUES = 100 * MAX_VALUES
"""Values at the first two levels: a page has at most 100 rows."""

_SIMPLE_COMMAS = 10_000
"""A body with fewer commas, and no more brackets than levels, needs no look at its structure."""

_LONG_NUMBER = rb"\d{41,}"
"""Nothing of Replicate's has so many digits; Python refuses to read 4,300 of them."""

_TOKEN = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]|-?' + _LONG_NUMBER + rb"[0-9.eE+-]*", re.DOTALL
)


def parse_json(body: bytes) -> Any:
    """Return the document in `body`, with null in place of what is too deep, wide or long.

    Args:
        body: UTF-8; bytes that are not become replacement characters.

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
    copied = 0  # Everything of `body` before it is in `reduced`, or was left out.
    starts: list[int] = []  # Where each open container begins in `reduced`.
    excess = 0  # Levels below the deepest that is kept.
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
