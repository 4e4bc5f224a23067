"""The message about each kind of invalid input, and the suggested names and values."""

import math
from typing import Any

import pytest

from replicate_mcp.tasks.effort import Effort, spending
from replicate_mcp.tasks.input_schema import InputSchema
from replicate_mcp.tasks.validation_messages import (
    INPUT_SYNONYMS,
    did_you_mean,
    is_hinted,
    listed,
    nearest,
    quoted,
    unknown_input,
)

JSON = dict[str, Any]
FILE = {"type": "string", "format": "uri"}
EDITING_HINT = (
    ". Models that edit images: black-forest-labs/flux-kontext-max (more with find_models)"
)


def unknown(name: str, *fields: str, beside: tuple[str, ...] = ()) -> str:
    return unknown_input(name, fields, "acme/model", beside)


@pytest.mark.parametrize(
    ("name", "fields", "hint"),
    [
        ("zoom", ["seed"], ". Its inputs: seed"),
        ("sed", ["seed"], ": did you mean 'seed'? Its inputs: seed"),
        (
            "Aspect-Ratio",
            ["aspect_ratio"],
            ": did you mean 'aspect_ratio'? Its inputs: aspect_ratio",
        ),
        ("x" * 61, ["x" * 60], f". Its inputs: {'x' * 60}"),
        # Synonyms; the first one that the model has.
        ("n", ["seed", "num_images"], ": did you mean 'num_images'? Its inputs: seed, num_images"),
        ("image", ["images"], ": did you mean 'images'? Its inputs: images"),
        ("text", ["caption", "prompt"], ": did you mean 'prompt'? Its inputs: caption, prompt"),
        *(
            (name, ["seed"], f". Its inputs: seed{EDITING_HINT}")
            for name in ("image", "input_image", "image_input")
        ),
        *(
            (name, ["seed"], f". Its inputs: seed{EDITING_HINT}")
            for name in ("input_images", "images", "image_prompt")
        ),
        ("mask", ["seed"], ". Its inputs: seed"),
    ],
)
def test_unknown_input_suggests_the_intended_one(name: str, fields: list[str], hint: str) -> None:
    shown = name if len(name) <= 60 else name[:59] + "…"
    assert unknown(name, *fields) == f"'{shown}' is not an input of acme/model{hint}"


@pytest.mark.parametrize(
    "group",
    [
        "num_outputs max_images number_of_images num_images n",
        "image input_image image_input input_images images image_prompt",
        "prompt text instruction instructions text_prompt prompt_text caption",
        "output_filename filename file_name output_file output_name",
        "model model_name model_id",
    ],
)
def test_each_synonym_suggests_every_other_one(group: str) -> None:
    names = group.split()
    assert tuple(names) in INPUT_SYNONYMS
    for name in names:
        for other in names:
            if name != other:
                assert f": did you mean '{other}'? Its inputs: {other}" in unknown(name, other)


def test_misplaced_task_field_is_reported_with_its_place() -> None:
    beside = ("model", "input")
    assert unknown("model", "seed", beside=beside) == (
        "'model' is not an input of acme/model: it goes beside input, not into it"
    )
    assert unknown("input", "seed", beside=beside) == (
        "'input' is not an input of acme/model. Its inputs: seed"
    )
    assert unknown("modle", "seed", beside=beside) == (
        "'modle' is not an input of acme/model: did you mean 'model'? Its inputs: seed"
    )


def test_message_with_a_hint_is_recognised() -> None:
    sentence = unknown("promt", "prompt", "seed")
    assert is_hinted("prompt", sentence)
    assert not is_hinted("seed", sentence)


def problem(schema: JSON, value: Any) -> str:
    document = {"components": {"schemas": {"Input": {"properties": {"x": schema}}}}}
    (found,) = InputSchema.from_openapi(document, subject="it").problems({"x": value})
    return found.sentence


TEXT = {"type": "string"}
WHOLE = {"type": "integer"}
LIST = {"type": "array"}
OBJECT = {"type": "object"}


@pytest.mark.parametrize(
    ("schema", "value", "sentence"),
    [
        # Types.
        (WHOLE, "4", "x '4' is text, not a whole number: did you mean 4?"),
        (WHOLE, " 4.0 ", "x ' 4.0 ' is text, not a whole number: did you mean 4?"),
        (WHOLE, "4.5", "x '4.5' is not a whole number"),
        (WHOLE, "inf", "x 'inf' is not a whole number"),
        (WHOLE, "four", "x 'four' is not a whole number"),
        (WHOLE, True, "x true is not a whole number"),
        (WHOLE, 4.5, "x 4.5 is not a whole number"),
        (WHOLE, ["4"], 'x ["4"] is not a whole number'),
        ({"type": "number"}, "4", "x '4' is text, not a number: did you mean 4?"),
        ({"type": "number"}, "4.5", "x '4.5' is text, not a number: did you mean 4.5?"),
        ({"type": "number"}, "nan", "x 'nan' is not a number"),
        ({"type": "number"}, "four", "x 'four' is not a number"),
        (
            {"type": "boolean"},
            " TRUE",
            "x ' TRUE' is text, not true or false: did you mean true?",
        ),
        (
            {"type": "boolean"},
            "false",
            "x 'false' is text, not true or false: did you mean false?",
        ),
        ({"type": "boolean"}, "yes", "x 'yes' is not true or false"),
        ({"type": "boolean"}, 0, "x 0 is not true or false"),
        (TEXT, 4.0, "x 4 is a number, not text: did you mean '4'?"),
        (TEXT, 4.5, "x 4.5 is a number, not text: did you mean '4.5'?"),
        (TEXT, True, "x true is not text"),
        (TEXT, [4], "x [4] is not text"),
        (LIST, "a", "x 'a' is not a list: did you mean a list that holds it?"),
        (LIST, 4, "x 4 is not a list"),
        (LIST, {"a": 1}, 'x {"a": 1} is not a list'),
        (OBJECT, "a", "x 'a' is not an object"),
        (OBJECT, ["a"], 'x ["a"] is not an object'),
        (FILE, ["u"], "x [\"u\"] is a list, not one URL: did you mean 'u'?"),
        (FILE, ["u", "v"], 'x ["u", "v"] is a list, not one URL'),
        (FILE, [4], "x [4] is a list, not one URL"),
        (FILE, [], "x [] is a list, not one URL"),
        (FILE, {"url": "u"}, 'x {"url": "u"} is not a URL'),
        ({"type": ["integer", "boolean"]}, "4", "x '4' is not a whole number or true or false"),
        ({"type": ["array", "object"]}, "a", "x 'a' is not a list or an object"),
        ({"type": ["string", "boolean"]}, 4, "x 4 is not text or true or false"),
        # JSON text.
        (LIST, '["a', "x is JSON text that is cut off at character 4"),
        (OBJECT, '{"a', "x is JSON text that is cut off at character 4"),
        (OBJECT, '["a"]', "x '[\"a\"]' is not an object"),
        (WHOLE, '["a', "x '[\"a' is not a whole number"),
        # URLs.
        (FILE, "a.png", "x 'a.png' is not a URL: give an https:// link or a data: URI"),
        (FILE, '["a"]', "x '[\"a\"]' is JSON text, not one URL: give the URL alone"),
        (
            {"items": FILE},
            ["a.png"],
            "x[0] 'a.png' is not a URL: give an https:// link or a data: URI",
        ),
        # Values.
        (
            {"enum": ["16:9", "1:1", None]},
            "16x9",
            "x '16x9' is not one of 16:9, 1:1: did you mean '16:9'?",
        ),
        ({"enum": [1, 2]}, True, "x true is not one of 1, 2"),
        ({"const": "a"}, "b", "x 'b' is not 'a', the only value it takes"),
        ({"minimum": 2}, 1, "x 1 is less than 2, the least it takes"),
        ({"maximum": 2}, 3.0, "x 3 is more than 2, the most it takes"),
        ({"exclusiveMinimum": 2}, 2, "x 2 is not more than 2, as it requires"),
        ({"exclusiveMaximum": 2.0}, 2, "x 2 is not less than 2, as it requires"),
        ({"multipleOf": 8}, 9, "x 9 is not a multiple of 8"),
        ({"minLength": 1}, "", "x has 0 characters, it takes at least 1"),
        ({"minLength": 2}, "a", "x has 1 character, it takes at least 2"),
        ({"maxLength": 1}, "ab", "x has 2 characters, it takes at most 1"),
        ({"minItems": 3}, [1, 2], "x has 2 items, it takes at least 3"),
        ({"minItems": 2}, [1], "x has 1 item, it takes at least 2"),
        ({"maxItems": 0}, [1], "x has 1 item, it takes at most 0"),
        ({"maxItems": 1}, [1, 1, 1], "x has 3 items, it takes at most 1"),
        ({"uniqueItems": True}, [1, 1], "x [1, 1] is not what it takes (uniqueItems)"),
        (
            {"anyOf": [WHOLE, {"enum": ["a", "b"]}]},
            "c",
            "x 'c' is not a whole number or one of a, b",
        ),
        ({"anyOf": [{"minimum": 5}, LIST]}, 4, "x 4 is not of another kind or a list"),
        (
            {"anyOf": [{"type": "null"}, LIST, WHOLE]},
            "c",
            "x 'c' is not null or a list or a whole number",
        ),
        (
            {"oneOf": [WHOLE, {"anyOf": [FILE, FILE, TEXT]}]},
            [],
            "x [] is not a whole number or a URL or text",
        ),
        # Location.
        (
            {"properties": {"a": {"items": WHOLE}}},
            {"a": [1, "b"]},
            "x['a'][1] 'b' is not a whole number",
        ),
    ],
)
def test_invalid_value_is_reported_with_the_valid_ones(
    schema: JSON, value: Any, sentence: str
) -> None:
    assert problem(schema, value) == sentence


def test_invalid_combination_of_inputs_is_reported() -> None:
    schema = {"properties": {"x": {}, "y": {}}, "maxProperties": 1}
    model = InputSchema.from_openapi({"components": {"schemas": {"Input": schema}}}, subject="it")
    (found,) = model.problems({"x": 1, "y": 1})
    assert found.sentence == "the inputs together are not what it takes (maxProperties)"


@pytest.mark.parametrize(
    ("value", "choices", "found"),
    [
        ("16x9", ["1:1", "16:9"], "16:9"),
        ("16 × 9", ["1:1", "16:9"], "16:9"),
        ("16_9", ["16/9"], "16/9"),
        ("2:1", ["1:1", "2:2"], None),
        ("2 k", ["1K", "2K"], "2K"),
        ("Aspect-Ratio", ["aspect_ratio"], "aspect_ratio"),
        ("JPG", ["jpg", "JPG"], "jpg"),
        ("hihg", ["low", "high"], "high"),
        ("h1gh", ["low", "high"], "high"),
        ("zoom", ["low", "high"], None),
        (4.0, ["4", "5"], "4"),
        (4, [4.0], 4.0),
        ("x" * 59 + "y", ["x" * 60], "x" * 60),
        ("x" * 60 + "y", ["x" * 61], None),
        ("", [""], None),
        ("-", ["_"], None),
        (None, ["null"], None),
        (["a"], ['["a"]'], None),
        ("a", [], None),
        ("mutan", [], None),
    ],
)
def test_nearest_of_several_choices_is_suggested(
    value: object, choices: list[Any], found: Any
) -> None:
    assert nearest(value, choices) == found


def test_no_suggestion_beyond_the_comparison_limit() -> None:
    with spending(Effort()):
        assert nearest("hihg", ["high"] * 50_000) == "high"
        assert nearest("high", ["high"]) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("", "''"),
        ("é\x1b", "'é\\u001b'"),
        ("x" * 60, f"'{'x' * 60}'"),
        ("x" * 61, f"'{'x' * 59}…'"),
        (4, "4"),
        (4.0, "4"),
        (-0.5, "-0.5"),
        (1e300, f"{int(1e300)}"[:59] + "…"),
        (True, "true"),
        (None, "null"),
        ({"é": [1.0, "a"]}, '{"é": [1.0, "a"]}'),
        ({1, 2}, '"{1, 2}"'),
        (["a" * 10] * 9, '["aaaaaaaaaa", "aaaaaaaaaa", "aaaaaaaaaa", "aaaaaaaaaa", "a…'),
        (math.inf, "Infinity"),
    ],
)
def test_value_is_shown_in_at_most_sixty_characters(value: object, text: str) -> None:
    assert quoted(value) == text


def test_value_of_any_size_is_formatted_quickly() -> None:
    class Counted(dict[str, int]):
        asked = 0

        def items(self) -> Any:
            for key in range(100_000):
                self.asked += 1
                yield str(key), key

    value = Counted(a=1)
    assert quoted(value).startswith('{"0": 0, "1": 1, ')
    assert value.asked < 1_000


def test_at_most_fifteen_allowed_values_are_listed() -> None:
    assert listed([]) == ""
    assert listed(["a", 4.0, None, "x" * 61]) == f"a, 4, null, {'x' * 59}…"
    assert listed(range(15)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14"
    assert listed(range(16)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, …"


def test_suggestion_is_phrased_as_a_question() -> None:
    assert did_you_mean("a") == ": did you mean 'a'?"
    assert did_you_mean(False) == ": did you mean false?"
    assert did_you_mean(None) == ""
