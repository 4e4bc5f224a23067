"""What a model wrote is parsed whatever its depth, width and numbers, and takes nothing with it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_mcp.replicate_api.json_body import MAX_DEPTH, MAX_VALUES, parse_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


@given(json_values)
def test_ordinary_documents_are_read_as_by_the_standard_library(value: Any) -> None:
    text = json.dumps(value)
    # Enough brackets in a string that its structure has to be looked at.
    padded = json.dumps([value, "[{" * MAX_DEPTH, '"]}'])
    assert repr(parse_json(text.encode())) == repr(json.loads(text))
    assert repr(parse_json(padded.encode())) == repr(json.loads(padded))


@pytest.mark.parametrize(
    "odd",
    [
        "[" * 1_500 + "]" * 1_500,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "9" * 5_000,
        "-" + "9" * 5_000 + "e5",
        "[" + ",".join(["1"] * (MAX_VALUES + 2)) + "]",
        "[" + ",".join(["[]"] * (MAX_VALUES + 2)) + "]",
    ],
)
def test_an_odd_output_becomes_null_and_its_neighbours_stay(odd: str) -> None:
    row = '{"id": "odd", "output": %s, "status": "succeeded"}'
    fine = '{"id": "fine", "output": ["https://replicate.delivery/a.png"]}'
    page = '{"results": [%s, %s], "next": null}'
    read = parse_json((page % (row % odd, fine)).encode())
    assert [each["id"] for each in read["results"]] == ["odd", "fine"]
    assert read["results"][1] == json.loads(fine)
    assert parse_json((row % odd).encode())["status"] == "succeeded"
    assert _depth(read) <= MAX_DEPTH + 1


def test_brackets_and_numbers_inside_strings_are_text() -> None:
    text = {"output": '[{"\\' + "[" * 500 + "9" * 500 + '"', "n": [[1]] * 40}
    assert parse_json(json.dumps(text).encode()) == text


@pytest.mark.parametrize("body", [b'{"a": "never ends', b"[1,", b"", b"[" * 100, b"]", b"{}{}"])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|Extra"):
        parse_json(body)


def test_bytes_that_are_not_utf8_and_bare_control_characters_are_read() -> None:
    assert parse_json(b'{"a": "\xff\x01\n"}') == {"a": "\ufffd\x01\n"}


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0
