"""JSON of models is parsed at any depth, width and size of numbers, without affecting the rest."""

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
def test_ordinary_documents_parse_like_the_standard_library(value: Any) -> None:
    text = json.dumps(value)
    # Enough brackets in a string to make the parser inspect the structure.
    padded = json.dumps([value, "[{" * MAX_DEPTH, '"]}'])
    assert repr(parse_json(text.encode())) == repr(json.loads(text))
    assert repr(parse_json(padded.encode())) == repr(json.loads(padded))


@pytest.mark.parametrize(
    "unusable",
    [
        "[" * 1_500 + "]" * 1_500,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "9" * 5_000,
        "-" + "9" * 5_000 + "e5",
        "[" + ",".join(["1"] * (MAX_VALUES + 2)) + "]",
        "[" + ",".join(["[]"] * (MAX_VALUES + 2)) + "]",
    ],
)
def test_unusable_output_becomes_null_and_neighbouring_values_stay(unusable: str) -> None:
    row = '{"id": "unusable", "output": %s, "status": "succeeded"}'
    fine = '{"id": "fine", "output": ["https://replicate.delivery/a.png"]}'
    page = '{"results": [%s, %s], "next": null}'
    read = parse_json((page % (row % unusable, fine)).encode())
    assert [each["id"] for each in read["results"]] == ["unusable", "fine"]
    assert read["results"][1] == json.loads(fine)
    assert parse_json((row % unusable).encode())["status"] == "succeeded"
    assert _depth(read) <= MAX_DEPTH + 1


def test_brackets_and_numbers_in_strings_are_text() -> None:
    text = {"output": '[{"\\' + "[" * 500 + "9" * 500 + '"', "n": [[1]] * 40}
    assert parse_json(json.dumps(text).encode()) == text


def nested(levels: int, innermost: str = "") -> str:
    return "[" * levels + innermost + "]" * levels


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        (nested(32), nested(32)),
        (nested(33), nested(32, "null")),
        (nested(32, "1, [2], {}, [[3]], 4"), nested(32, "1, null, null, null, 4")),
        (nested(32, '"x", {"a": 1}, "[y"'), nested(32, '"x", null, "[y"')),
        (f"[{nested(33)}, {nested(31)}, 5]", f"[{nested(31, 'null')}, {nested(31)}, 5]"),
        ("[1, %s, 2, -%s.5e9, 3]" % (("9" * 41,) * 2), "[1, null, 2, null, 3]"),
        (nested(33, "9" * 41), nested(32, "null")),
        ("9" * 40, "9" * 40),
        (f'["{"9" * 41}", 1]', f'["{"9" * 41}", 1]'),
        (f'"{"[" * 500}"', f'"{"[" * 500}"'),
    ],
)
def test_only_too_deep_or_too_long_values_become_null(text: str, same_as: str) -> None:
    assert parse_json(text.encode()) == json.loads(same_as)
    assert parse_json(f" {text}\n".encode()) == json.loads(same_as)


def ones(count: int) -> str:
    return f"[{'1,' * (count - 1)}1]"


def test_too_wide_values_become_null_except_at_the_levels_of_page_rows() -> None:
    for wide in (ones(50_001), ones(50_002)):
        kept = None if wide == ones(50_002) else [1] * 50_001
        assert parse_json(f"[0,[0,{wide},2]]".encode()) == [0, [0, kept, 2]]
        assert parse_json(f'[[{{"a":{wide}}}]]'.encode()) == [[{"a": kept}]]
    assert parse_json(f"[{ones(50_002)}]".encode()) == [[1] * 50_002]


def test_page_has_at_most_five_million_values() -> None:
    assert len(parse_json(ones(2_600_000).encode())) == 2_600_000
    assert parse_json(ones(5_000_002).encode()) is None


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"a": "never ends', b"[1,", b"", b"[" * 100, b"]", b"{}{}"),
        *(b"[" + b"[1]," * 40 + b"1]x", b"[]" * 40 + b"]"),
    ],
)
def test_invalid_json_is_rejected(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|Extra"):
        parse_json(body)


def test_invalid_utf_8_and_bare_control_characters_are_accepted() -> None:
    assert parse_json(b'{"a": "\xff\x01\n"}') == {"a": "\ufffd\x01\n"}


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0
