"""Edits of JSONC change one value and leave the rest of the text unchanged."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_mcp.cli.install.jsonc_edit import NotJson, append, read, remove, set_value, value_at

SETTINGS = """\
{
    // of the team
    "inputs": [],
    "servers": {
        "files": {"command": "npx", "args": ["-y", "files"]}, // by hand: 1.0e3
        /* "old": {} */
    },
}
"""


def test_added_member_keeps_others_and_comments() -> None:
    assert set_value(
        SETTINGS, ("servers", "replicate"), {"command": "/bin/it"}
    ) == SETTINGS.replace(
        '        /* "old": {} */\n',
        '        /* "old": {} */\n'
        '        "replicate": {\n            "command": "/bin/it"\n        },\n',
    )


def test_missing_parent_objects_are_created() -> None:
    made = set_value('{\n\t"a": 1\n}\n', ("mcpServers", "replicate", "command"), "/bin/it")
    assert made == (
        '{\n\t"a": 1,\n\t"mcpServers": {\n\t\t"replicate": {\n\t\t\t"command": "/bin/it"\n'
        "\t\t}\n\t}\n}\n"
    )


def test_single_line_text_stays_on_one_line() -> None:
    assert set_value('{"a": {"b": 1}}', ("a", "c"), {"d": 2}) == '{"a": {"b": 1, "c": {"d": 2}}}'


def test_windows_line_endings_are_kept() -> None:
    made = set_value('{\r\n  "a": {}\r\n}\r\n', ("a", "b"), {"c": 1})
    assert "\n" not in made.replace("\r\n", "")


def test_setting_an_equal_value_changes_no_byte() -> None:
    assert set_value(SETTINGS, ("servers", "files", "command"), "npx") == SETTINGS


def test_removing_an_added_value_restores_the_text() -> None:
    put_there = set_value(SETTINGS, ("servers", "replicate"), {"command": "/bin/it"})
    assert remove(put_there, ("servers", "replicate")) == SETTINGS
    assert remove(SETTINGS, ("servers", "replicate")) == SETTINGS


def test_item_is_appended_and_removed() -> None:
    made = append(SETTINGS, ("inputs",), {"id": "token"})
    assert value_at(made, ("inputs",)) == [{"id": "token"}]
    assert remove(made, ("inputs", 0)) == SETTINGS


@pytest.mark.parametrize(
    "broken",
    ["", "{", '{"a": 1', '{"a" 1}', '{"a": 1 "b": 2}', "{'a': 1}", '{"a": NaN}', "{} {}", "[1,,2]",
     '{"a": /* ', "{,}", "[" * 100_000],
)  # fmt: skip
def test_malformed_json_is_rejected(broken: str) -> None:
    with pytest.raises(NotJson):
        set_value(broken, ("a",), 1)


@pytest.mark.parametrize("text", ['{"s": [], "s": {}}', '{"s": 5}', "[]"])
def test_texts_with_an_ambiguous_or_unusable_path_are_rejected(text: str) -> None:
    with pytest.raises(NotJson):
        set_value(text, ("s", "replicate"), 1)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
documents = st.dictionaries(st.text(max_size=3), values, max_size=4)
layouts = st.sampled_from([None, 0, 1, 4, "\t"])
keys = st.text(max_size=4)


def with_comments(text: str) -> str:
    """Add a comment to the end of each line that ends with a comma."""
    return re.sub(r",$", ', // {"a": 1}', text, flags=re.MULTILINE)


@given(documents, layouts, keys, values)
def test_editing_keeps_the_rest_of_any_document(
    document: dict[str, Any], layout: int | str | None, key: str, value: Any
) -> None:
    text = with_comments(json.dumps(document, indent=layout, ensure_ascii=False))
    assert read(text).value == document
    changed = set_value(text, (key,), value)
    assert read(changed).value == document | {key: value}
    assert read(remove(changed, (key,))).value == {
        other: each for other, each in document.items() if other != key
    }
    if key not in document:
        deeper = set_value(text, (key, "deeper"), value)
        assert read(deeper).value == document | {key: {"deeper": value}}
