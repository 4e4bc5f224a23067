"""Input schemas: the values read from a schema, and the message about each invalid input."""

import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from replicate_mcp.tasks import input_schema
from replicate_mcp.tasks.effort import Effort, EffortSpent
from replicate_mcp.tasks.input_schema import (
    MAX_SEED,
    InputProblem,
    InputSchema,
    count_unchecked,
    without_nulls,
)
from replicate_mcp.tasks.openapi_schema import streams_output

JSON = dict[str, Any]
SCHEMAS = "#/components/schemas/"


def openapi(
    properties: JSON, *, required: list[str], enums: dict[str, list[Any]], **others: Any
) -> JSON:
    """Return a model's document as cog writes it; `x-order` is the order of the inputs."""
    ordered = {name: {"x-order": i, **one} for i, (name, one) in enumerate(properties.items())}
    whole = {"type": "object", "title": "Input", "required": required, "properties": ordered}
    schemas: JSON = {"Input": whole | others}
    for name, values in enums.items():
        schemas[name] = {
            "type": "string" if isinstance(values[0], str) else "integer",
            "enum": values,
            "title": name,
            "description": "An enumeration.",
        }
    return {"openapi": "3.0.2", "components": {"schemas": schemas}}


def enum(name: str, default: Any) -> JSON:
    return {"allOf": [{"$ref": SCHEMAS + name}], "default": default}


PROMPT = {"type": "string", "title": "Prompt", "description": "Prompt for generated image"}
URI = {"type": "string", "format": "uri"}

FLUX_SCHNELL = openapi(
    {
        "prompt": PROMPT,
        "aspect_ratio": enum("aspect_ratio", "1:1") | {"description": "Aspect ratio"},
        "num_outputs": {"type": "integer", "minimum": 1, "maximum": 4, "default": 1},
        "num_inference_steps": {"type": "integer", "minimum": 1, "maximum": 4, "default": 4},
        "seed": {"type": "integer", "description": "Random seed.", "nullable": True},
        "output_format": enum("output_format", "webp"),
        "output_quality": {"type": "integer", "minimum": 0, "maximum": 100, "default": 80},
        "go_fast": {"type": "boolean", "default": True},
        "megapixels": enum("megapixels", "1"),
    },
    required=["prompt"],
    enums={
        "aspect_ratio": ["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16"],
        "output_format": ["webp", "jpg", "png"],
        "megapixels": ["1", "0.25"],
    },
)
FLUX_KONTEXT_MAX = openapi(
    {
        "prompt": PROMPT,
        "input_image": URI,
        "aspect_ratio": enum("aspect_ratio", "match_input_image"),
        "seed": {"anyOf": [{"type": "integer", "maximum": 9e9}, {"type": "null"}]},
        "output_format": enum("output_format", "png"),
        "safety_tolerance": {"type": "integer", "minimum": 0, "maximum": 6, "default": 2},
    },
    required=["prompt", "input_image"],
    enums={
        "aspect_ratio": ["match_input_image", "1:1", "16:9", "9:16"],
        "output_format": ["jpg", "png"],
    },
)
SEEDREAM_4 = openapi(
    {
        "prompt": PROMPT,
        "image_input": {"type": "array", "items": URI, "maxItems": 10, "default": []},
        "size": enum("size", "2K"),
        "width": {"type": "integer", "minimum": 1024, "maximum": 4096, "multipleOf": 8},
        "sequential_image_generation": enum("sequential_image_generation", "disabled"),
        "max_images": {"type": "integer", "minimum": 1, "maximum": 15, "default": 1},
        "enhance_prompt": {"type": "boolean", "default": True},
    },
    required=["prompt"],
    enums={
        "size": ["1K", "2K", "4K", "custom"],
        "sequential_image_generation": ["disabled", "auto"],
    },
)
GPT_IMAGE = openapi(
    {
        "prompt": PROMPT,
        "input_images": {"type": "array", "items": URI, "nullable": True},
        "number_of_images": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
        "quality": enum("quality", "auto"),
        "output_format": enum("output_format", "webp"),
    },
    required=["prompt"],
    enums={
        "quality": ["low", "medium", "high", "auto"],
        "output_format": ["png", "jpeg", "webp"],
    },
)
ODDS = openapi(
    {
        "steps": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
        "strength": {"type": "number", "minimum": 0.1, "maximum": 1.0},
        "name": {"type": "string", "minLength": 2, "maxLength": 5, "pattern": "^[a-z]+$"},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2, "uniqueItems": True},
        "size": {"anyOf": [{"type": "integer"}, {"$ref": SCHEMAS + "size"}]},
        "level": enum("level", 1),
        "version": {"const": "v2"},
        "options": {"type": "object", "properties": {"depth": {"type": "integer"}}},
        "style": enum("style", "s1"),
        "seed": {"type": "integer", "minimum": -1, "exclusiveMaximum": 1000},
    },
    required=[],
    enums={
        "size": ["small", "large"],
        "level": [1, 2],
        "style": [f"s{number}" for number in range(1, 21)],
    },
    maxProperties=4,
)
DOCUMENTS = {
    "flux-schnell": FLUX_SCHNELL,
    "flux-kontext-max": FLUX_KONTEXT_MAX,
    "seedream-4": SEEDREAM_4,
    "gpt-image-1.5": GPT_IMAGE,
    "odds": ODDS,
}
MODELS = {name: InputSchema.from_openapi(document) for name, document in DOCUMENTS.items()}
SCHNELL_INPUTS = (
    "prompt, aspect_ratio, num_outputs, num_inference_steps, seed, output_format, "
    "output_quality, go_fast, megapixels"
)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        (
            "aspect_ratio",
            "16x9",
            "aspect_ratio '16x9' is not one of 1:1, 16:9, 21:9, 3:2, 2:3, 4:5, 5:4, 3:4, 4:3, 9:16"
            ": did you mean '16:9'?",
        ),
        (
            "aspect_ratio",
            "2:1",
            "aspect_ratio '2:1' is not one of 1:1, 16:9, 21:9, 3:2, 2:3, 4:5, 5:4, 3:4, 4:3, 9:16",
        ),
        (
            "output_format",
            "jpeg",
            "output_format 'jpeg' is not one of webp, jpg, png: did you mean 'jpg'?",
        ),
        ("output_format", "tiff", "output_format 'tiff' is not one of webp, jpg, png"),
        ("megapixels", 1, "megapixels 1 is not one of 1, 0.25: did you mean '1'?"),
        ("megapixels", None, None),
        ("num_outputs", 9, "num_outputs 9 is more than 4, the most this model takes"),
        ("num_outputs", 0, "num_outputs 0 is less than 1, the least this model takes"),
        ("num_outputs", 4.0, None),
        ("num_outputs", 2.5, "num_outputs 2.5 is not a whole number"),
        ("num_outputs", True, "num_outputs true is not a whole number"),
        ("seed", "abc", "seed 'abc' is not a whole number"),
        ("seed", "42", "seed '42' is text, not a whole number: did you mean 42?"),
        ("seed", "42.0", "seed '42.0' is text, not a whole number: did you mean 42?"),
        ("seed", "1e999", "seed '1e999' is not a whole number"),
        ("seed", 2**70, "seed is a number of more than 64 bits"),
        ("seed", [7], "seed [7] is not a whole number"),
        ("go_fast", "True", "go_fast 'True' is text, not true or false: did you mean true?"),
        ("go_fast", 1, "go_fast 1 is not true or false"),
        ("prompt", 42, "prompt 42 is a number, not text: did you mean '42'?"),
        ("prompt", {"text": "a"}, 'prompt {"text": "a"} is not text'),
        ("prompt", "a\ud800", "prompt contains half a character, an unpaired surrogate"),
        ("prompt", ["a\x07" * 100], 'prompt ["' + "a\\u0007" * 8 + "a… is not text"),
        (
            "aspectratio",
            "1:1",
            "'aspectratio' is not an input of this model: did you mean 'aspect_ratio'? "
            f"Its inputs: {SCHNELL_INPUTS}",
        ),
        (
            "number_of_images",
            2,
            "'number_of_images' is not an input of this model: did you mean 'num_outputs'? "
            f"Its inputs: {SCHNELL_INPUTS}",
        ),
        (
            "mask",
            "x",
            f"'mask' is not an input of this model. Its inputs: {SCHNELL_INPUTS}",
        ),
    ],
)
def test_invalid_input_of_flux_schnell_is_reported(
    field: str, value: Any, sentence: str | None
) -> None:
    expected = [] if sentence is None else [InputProblem(field, sentence)]
    assert MODELS["flux-schnell"].problems({"prompt": "a red car", field: value}) == expected


@pytest.mark.parametrize(
    ("model", "inputs", "sentence"),
    [
        ("flux-kontext-max", {"prompt": "a"}, "input_image is required by this model"),
        (
            "flux-kontext-max",
            {"prompt": "a", "input_image": "cat.png"},
            "input_image 'cat.png' is not a URL: give an https:// link or a data: URI",
        ),
        (
            "flux-kontext-max",
            {"prompt": "a", "input_image": "C:\\cat.png"},
            "input_image 'C:\\cat.png' is not a URL: give an https:// link or a data: URI",
        ),
        (
            "flux-kontext-max",
            {"prompt": "a", "input_image": ["https://x/cat.png"]},
            'input_image ["https://x/cat.png"] is a list, not one URL: '
            "did you mean 'https://x/cat.png'?",
        ),
        (
            "flux-kontext-max",
            {"prompt": "a", "input_image": ["https://x/1.png", "https://x/2.png"]},
            'input_image ["https://x/1.png", "https://x/2.png"] is a list, not one URL',
        ),
        (
            "flux-kontext-max",
            {"prompt": "a", "input_image": "['cat.png']"},
            "input_image '['cat.png']' is JSON text, not one URL: give the URL alone",
        ),
        (
            "flux-kontext-max",
            {"prompt": "a", "input_image": "sandbox:/mnt/data/cat.png"},
            "input_image 'sandbox:/mnt/data/cat.png' is not a URL: "
            "give an https:// link or a data: URI",
        ),
        (
            "seedream-4",
            {"prompt": "a", "image_input": "data:image/png;base64," + "A" * 500_000},
            f"image_input 'data:image/png;base64,{'A' * 37}…' is not a list: "
            "did you mean a list that holds it?",
        ),
        (
            "seedream-4",
            {"prompt": "a", "image_input": ["https://x/1.png", "2.png"]},
            "image_input[1] '2.png' is not a URL: give an https:// link or a data: URI",
        ),
        (
            "seedream-4",
            {"prompt": "a", "image_input": ["https://x/1.png"] * 11},
            "image_input has 11 items, this model takes at most 10",
        ),
        (
            "seedream-4",
            {"prompt": "a", "size": "2k"},
            "size '2k' is not one of 1K, 2K, 4K, custom: did you mean '2K'?",
        ),
        ("seedream-4", {"prompt": "a", "width": 1025}, "width 1025 is not a multiple of 8"),
        (
            "gpt-image-1.5",
            {"prompt": "a", "quality": ["high"]},
            'quality ["high"] is not one of low, medium, high, auto',
        ),
        (
            "gpt-image-1.5",
            {"prompt": "a", "image": "https://x/1.png"},
            "'image' is not an input of this model: did you mean 'input_images'? "
            "Its inputs: prompt, input_images, number_of_images, quality, output_format",
        ),
        ("odds", {"steps": 0}, "steps 0 is not more than 0, as this model requires"),
        ("odds", {"steps": 10.0}, "steps 10 is not less than 10, as this model requires"),
        ("odds", {"steps": "2.5"}, "steps '2.5' is text, not a number: did you mean 2.5?"),
        ("odds", {"steps": "much"}, "steps 'much' is not a number"),
        ("odds", {"steps": float("nan")}, "steps is not a finite number"),
        ("odds", {"strength": 0}, "strength 0 is less than 0.1, the least this model takes"),
        ("odds", {"strength": 1.5}, "strength 1.5 is more than 1, the most this model takes"),
        ("odds", {"name": "a"}, "name has 1 character, this model takes at least 2"),
        ("odds", {"name": "abcdef"}, "name has 6 characters, this model takes at most 5"),
        ("odds", {"tags": [1, "a"]}, "tags[0] 1 is a number, not text: did you mean '1'?"),
        ("odds", {"tags": ["a"]}, "tags has 1 item, this model takes at least 2"),
        (
            "odds",
            {"tags": ["a", "a"]},
            'tags ["a", "a"] is not what this model takes (uniqueItems)',
        ),
        ("odds", {"size": 1.5}, "size 1.5 is not a whole number or one of small, large"),
        ("odds", {"level": "2"}, "level '2' is not one of 1, 2: did you mean 2?"),
        ("odds", {"version": "v1"}, "version 'v1' is not 'v2', the only value this model takes"),
        (
            "odds",
            {"options": {"depth": "3"}},
            "options['depth'] '3' is text, not a whole number: did you mean 3?",
        ),
        ("odds", {"options": 3}, "options 3 is not an object"),
        ("odds", {"options": {"of": {1, 2}}}, "options is nothing that JSON can hold"),
        (
            "odds",
            {"style": "none"},
            "style 'none' is not one of s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, "
            "s14, s15, …",
        ),
        (
            "odds",
            {"steps": 1, "strength": 1, "name": "ab", "level": 1, "seed": 1},
            "the inputs together are not what this model takes (maxProperties)",
        ),
    ],
)
def test_invalid_input_of_other_models_is_reported(model: str, inputs: JSON, sentence: str) -> None:
    assert [one.sentence for one in MODELS[model].problems(inputs)] == [sentence]


def test_too_deeply_nested_value_is_rejected() -> None:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    problems = MODELS["odds"].problems({"options": {"depth": value}})
    assert problems == [InputProblem("options", "options is nested more than 30 deep")]


def test_problems_follow_the_model_input_order_with_unknown_inputs_last() -> None:
    wrong = {"x": 1, "seed": "?", "num_outputs": 9, "y": 2}
    problems = MODELS["flux-schnell"].problems(wrong)
    assert [one.field for one in problems] == ["prompt", "num_outputs", "seed", "x", "y"]


@pytest.mark.parametrize("url", ["https://x/1.png", "data:image/png;base64,AAAA", "http://h:1/a b"])
def test_link_and_data_uri_are_accepted_as_files(url: str) -> None:
    assert MODELS["flux-kontext-max"].problems({"prompt": "a", "input_image": url}) == []


def test_null_input_counts_as_omitted() -> None:
    assert without_nulls({"prompt": "a", "seed": None, "go_fast": False}) == {
        "prompt": "a",
        "go_fast": False,
    }
    problems = MODELS["flux-schnell"].problems({"prompt": None, "seed": None, "unknown": None})
    assert problems == [InputProblem("prompt", "prompt is required by this model")]


def test_list_with_nullable_items_may_contain_null() -> None:
    tags = {"type": "array", "items": {"type": "string", "nullable": True}}
    schema = InputSchema.from_openapi(openapi({"tags": tags}, required=[], enums={}))
    assert schema.problems({"tags": ["a", None]}) == []


def test_additional_properties_of_a_model_are_accepted() -> None:
    document = openapi({"prompt": PROMPT}, required=[], enums={}, additionalProperties=True)
    assert InputSchema.from_openapi(document).problems({"anything": 1}) == []


def test_fields_are_in_the_order_of_the_model() -> None:
    backwards = {"b": {"type": "string", "x-order": 1}, "a": {"type": "string", "x-order": 0}}
    schema = InputSchema.from_openapi(openapi(backwards, required=[], enums={}))
    assert list(schema.fields) == ["a", "b"]


def test_field_has_choices_default_and_range() -> None:
    fields = MODELS["flux-schnell"].fields
    ratio, count = fields["aspect_ratio"], fields["num_outputs"]
    assert (ratio.type, ratio.default, ratio.description) == ("string", "1:1", "Aspect ratio")
    assert ratio.choices is not None
    assert ratio.choices[:2] == ("1:1", "16:9")
    assert (count.type, count.minimum, count.maximum, count.choices) == ("integer", 1, 4, None)
    assert fields["output_format"].description == ""
    assert fields["prompt"].required
    assert not count.required


@pytest.mark.parametrize(
    ("model", "field", "kind"),
    [
        ("flux-schnell", "seed", "integer"),
        ("flux-kontext-max", "seed", "integer"),
        ("flux-kontext-max", "input_image", "file"),
        ("gpt-image-1.5", "input_images", "array"),
        ("odds", "size", "integer or string"),
        ("odds", "version", "any"),
        ("odds", "options", "object"),
    ],
)
def test_nullable_field_has_its_non_null_type(model: str, field: str, kind: str) -> None:
    assert MODELS[model].fields[field].type == kind


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("flux-schnell", (0, MAX_SEED)),
        ("flux-kontext-max", (0, MAX_SEED)),
        ("odds", (0, 999)),
        ("seedream-4", None),
    ],
)
def test_seed_range_is_read_from_the_schema(model: str, expected: tuple[int, int] | None) -> None:
    assert MODELS[model].seed_range == expected


@pytest.mark.parametrize(
    ("model", "wanted", "value"),
    [
        ("flux-schnell", "jpg", "jpg"),
        ("flux-schnell", "jpeg", "jpg"),
        ("gpt-image-1.5", "jpg", "jpeg"),
        ("flux-kontext-max", "webp", None),
        ("flux-schnell", "gif", None),
        ("flux-schnell", "mp4", None),
        ("seedream-4", "png", None),
    ],
)
def test_format_value_of_each_model(model: str, wanted: str, value: str | None) -> None:
    assert MODELS[model].format_value(wanted) == value


def test_default_format_of_each_model() -> None:
    assert {name: schema.default_format for name, schema in MODELS.items()} == {
        "flux-schnell": "webp",
        "flux-kontext-max": "png",
        "seedream-4": None,
        "gpt-image-1.5": "webp",
        "odds": None,
    }


@pytest.mark.parametrize(
    ("model", "inputs", "count"),
    [
        ("flux-schnell", {}, 1),
        ("flux-schnell", {"num_outputs": 3}, 3),
        ("flux-schnell", {"num_outputs": 3.0}, 3),
        ("flux-schnell", {"num_outputs": None}, 1),
        ("gpt-image-1.5", {"number_of_images": 10}, 10),
        ("flux-kontext-max", {"num_outputs": 3}, 1),
        ("seedream-4", {"max_images": 5}, 1),
        ("seedream-4", {"max_images": 5, "sequential_image_generation": "auto"}, 5),
    ],
)
def test_requested_image_count_of_each_model(model: str, inputs: JSON, count: int) -> None:
    assert MODELS[model].count(inputs) == count


def document_of(properties: Any, **others: Any) -> JSON:
    return {"components": {"schemas": {"Input": {"properties": properties}, **others}}}


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({}, "malformed"),
        ({"components": {"schemas": {"Input": None}}}, "malformed"),
        (document_of({}), "lists no inputs"),
        (document_of([]), "malformed"),
        (document_of({"a": "string"}), "malformed"),
        (document_of({"a": {"type": "nonsense"}}), "no JSON schema"),
        (document_of({"a": {"x-order": 0}, "b": {"x-order": "1"}}), "malformed"),
        (document_of({"a": {"$ref": "https://example.com/a.json"}}), "outside itself"),
        (document_of({"a": {"$ref": SCHEMAS + "Missing"}}), "malformed"),
        (document_of({"a": {"$dynamicRef": "#a"}}), "not followed"),
        (
            document_of({"a": {"$ref": SCHEMAS + "a"}}, a={"$ref": SCHEMAS + "a"}),
            "refers to itself",
        ),
        (
            document_of(
                {"a": {"$ref": SCHEMAS + "a0"}},
                **{f"a{i}": {"anyOf": [{"$ref": f"{SCHEMAS}a{i + 1}"}] * 9} for i in range(9)},
                a9={},
            ),
            "too large",
        ),
    ],
)
def test_unusable_schema_raises_an_error(document: JSON, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        InputSchema.from_openapi(document)


def test_constraints_that_cannot_be_flattened_all_apply() -> None:
    document = document_of(
        {"a": {"minimum": 2, "allOf": [{"$ref": SCHEMAS + "b"}, {"$ref": SCHEMAS + "c"}]}},
        b={"type": "integer", "minimum": 0, "allOf": [{"maximum": 8}, {"maximum": 9}]},
        c={"minimum": 5},
    )
    schema = InputSchema.from_openapi(document)
    assert [value for value in range(12) if not schema.problems({"a": value})] == [5, 6, 7, 8]


def test_thousand_tasks_are_validated_in_under_200_ms() -> None:
    schema = MODELS["flux-schnell"]
    inputs = {"aspect_ratio": "16:9", "num_outputs": 2, "output_format": "png", "go_fast": True}
    best = 1.0
    for _ in range(3):
        started = time.process_time()
        for seed in range(1000):
            assert not schema.problems({"prompt": f"car {seed}", "seed": seed, **inputs})
        best = min(best, time.process_time() - started)
    assert best < 0.2


def test_importing_the_module_does_not_import_the_validator() -> None:
    code = "import sys, replicate_mcp.tasks.input_schema; sys.exit('jsonschema' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
likely_values = st.sampled_from(
    [
        *("16:9", "16x9", "png", "1", "auto", "2K", "https://x/1.png", "v2", "small", "s7", ""),
        *(1, 2, 4.0, 0, -1, 0.5, 1024, 10**30, True),
        *(["https://x/1.png"], ["a", "b"], [], {}),
    ]
)


@st.composite
def inputs_for(draw: st.DrawFn, names: list[str]) -> JSON:
    some = st.sampled_from(names) | st.text(max_size=5)
    given_inputs = draw(st.dictionaries(some, likely_values | json_values, max_size=5))
    return {"prompt": "a red car"} | given_inputs if draw(st.booleans()) else given_inputs


def reference_validator(model: str) -> Draft202012Validator:
    """Return a validator of the whole schema, except for patterns, which only Replicate checks."""

    def without_patterns(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: without_patterns(v) for k, v in node.items() if k != "pattern"}
        return [without_patterns(each) for each in node] if isinstance(node, list) else node

    return Draft202012Validator({"$ref": SCHEMAS + "Input"} | without_patterns(DOCUMENTS[model]))


@pytest.mark.parametrize("model", DOCUMENTS)
@given(data=st.data())
def test_validation_never_crashes_and_accepts_only_schema_valid_inputs(
    model: str, data: st.DataObject
) -> None:
    schema = MODELS[model]
    inputs = data.draw(inputs_for(list(schema.fields)))
    problems = schema.problems(inputs)
    assert len({one.field for one in problems}) == len(problems)
    for one in problems:
        assert one.sentence.isprintable()
        assert len(one.sentence) < 600
    if not problems:
        whole = reference_validator(model)
        assert whole.is_valid(without_nulls(inputs))


@pytest.mark.parametrize("model", DOCUMENTS)
@given(data=st.data())
def test_schema_violation_is_a_problem_of_its_field(model: str, data: st.DataObject) -> None:
    schema = MODELS[model]
    known = dict.fromkeys(schema.fields, likely_values)
    inputs = data.draw(st.fixed_dictionaries({}, optional=known))
    whole = reference_validator(model)
    refused = {str(e.absolute_path[0]) for e in whole.iter_errors(inputs) if e.absolute_path}
    assert refused <= {one.field for one in schema.problems(inputs)}


@pytest.mark.parametrize(
    ("inputs", "count"),
    [
        ({}, 1),
        ({"num_outputs": 4}, 4),
        ({"num_outputs": 2, "number_of_images": 3}, 3),
        ({"max_images": 0}, 1),
        ({"num_images": "many"}, 1),
        ({"num_images": True}, 1),
        ({"num_images": 10**30}, 10_000),
    ],
)
def test_image_count_without_a_schema_uses_any_known_count_input(
    inputs: dict[str, Any], count: int
) -> None:
    assert count_unchecked(inputs) == count


ITERATOR = {"type": "array", "items": URI, "x-cog-array-type": "iterator"}


@pytest.mark.parametrize(
    ("schemas", "expected"),
    [
        ({"Output": {"type": "array", "items": URI}}, False),
        ({"Output": URI}, False),
        ({"Output": ITERATOR}, True),
        ({"Output": {"$ref": SCHEMAS + "Images"}, "Images": ITERATOR}, True),
        ({"Output": {"allOf": [{"$ref": SCHEMAS + "Images"}]}, "Images": ITERATOR}, True),
        ({}, True),
        ({"Output": None}, True),
        ({"Output": {"$ref": "https://example.com/schema"}}, True),
    ],
)
def test_output_streams_files_unless_its_schema_excludes_it(schemas: JSON, expected: bool) -> None:
    assert streams_output({"components": {"schemas": schemas}}) is expected


def test_output_may_stream_files_without_a_schema() -> None:
    assert streams_output(None)


EXPONENTIAL = "^(a|aa)+$"
"""Python's engine tries more ways to match 60 a's and a "!" than it ever gets through."""


@pytest.mark.parametrize(
    "properties",
    [
        {"prompt": {"type": "string", "pattern": EXPONENTIAL}},
        {"prompt": {"anyOf": [{"type": "string", "pattern": EXPONENTIAL}, {"type": "null"}]}},
        {"prompt": {"allOf": [{"$ref": SCHEMAS + "Text"}]}},
        {"prompt": {"type": "object", "patternProperties": {EXPONENTIAL: {}}}},
        {"prompt": {"propertyNames": {"pattern": EXPONENTIAL}}},
        {"prompt": {"not": {"pattern": EXPONENTIAL}}},
        {"prompt": {"pattern": "("}},
    ],
)
def test_schema_patterns_are_never_executed(properties: JSON) -> None:
    text = {"type": "string", "pattern": EXPONENTIAL}
    schema = InputSchema.from_openapi(document_of(properties, Text=text))
    for value in ("a" * 60 + "!", {"a" * 60 + "!": 1}):
        schema.problems({"prompt": value})


def test_inputs_possibly_allowed_by_pattern_properties_are_left_to_replicate() -> None:
    inputs = {
        "properties": {"prompt": {"type": "string"}},
        "patternProperties": {EXPONENTIAL: {"type": "integer"}},
        "additionalProperties": False,
    }
    schema = InputSchema.from_openapi({"components": {"schemas": {"Input": inputs}}})
    assert schema.problems({"prompt": "x", "a" * 60 + "!": 1}) == []


def test_validating_a_batch_takes_a_bounded_number_of_steps() -> None:
    branches = [{"type": "object", "required": [f"field_{i}"]} for i in range(500)]
    wide = InputSchema.from_openapi(document_of({"items": {"items": {"anyOf": branches}}}))
    effort = Effort(100_000)
    values = [{"none": True}] * 9_000
    for _ in range(5):  # Nine million branches each: unchecked values are left to Replicate.
        wide.problems({"items": values}, effort)
    with pytest.raises(EffortSpent):
        effort.spend(1)


def test_ordinary_batch_is_far_below_the_validation_limit() -> None:
    effort = Effort()
    for _ in range(1_000):
        found = MODELS["flux-schnell"].problems({"prompt": "x", "num_outputs": 9}, effort)
        assert [problem.field for problem in found] == ["num_outputs"]


@pytest.mark.parametrize(
    ("inputs", "count"),
    [
        ({"num_samples": 100}, 100),
        ({"batch_size": 4, "num_outputs": 2}, 8),
        ({"num_images_per_prompt": 3}, 3),
        ({"images": ["a", "b"]}, 1),
        ({"num_inference_steps": 50, "num_frames": 24}, 1),
        ({"number_of_pictures": 10_000, "n": 10_000}, 10_000),
        ({"samples": -5}, 1),
    ],
)
def test_image_count_is_read_from_any_count_input_name(inputs: JSON, count: int) -> None:
    assert count_unchecked(inputs) == count
    fields = {name: {"type": "integer"} for name in inputs}
    if all(isinstance(value, int) for value in inputs.values()):
        schema = InputSchema.from_openapi(document_of(fields))
        assert schema.count(inputs) == count


def seeds(**limits: Any) -> tuple[int, int] | None:
    fields = {"seed": {"type": "integer", **limits}}
    return InputSchema.from_openapi(document_of(fields)).seed_range


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"minimum": 7, "maximum": 7}, (7, 7)),
        ({"minimum": 0, "maximum": 0}, (0, 0)),
        ({"minimum": 8, "maximum": 7}, None),
        ({"minimum": -5, "maximum": -1}, None),
        ({"minimum": 1.5, "maximum": 3.5}, (2, 3)),
        ({"maximum": MAX_SEED + 1}, (0, MAX_SEED)),
        ({"maximum": MAX_SEED - 1}, (0, MAX_SEED - 1)),
        ({"minimum": MAX_SEED + 1}, None),
    ],
)
def test_seed_range_may_have_one_value_but_never_be_empty(
    limits: dict[str, float], expected: tuple[int, int] | None
) -> None:
    assert seeds(**limits) == expected


def test_only_integer_seeds_are_chosen() -> None:
    assert MAX_SEED == 2**31 - 1
    assert seeds(type="string") is None


def test_million_invalid_items_cost_as_much_as_two_hundred(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = 0
    weight = input_schema._weight

    def counted(error: Any) -> int:
        nonlocal evaluated
        evaluated += 1
        return weight(error)

    monkeypatch.setattr(input_schema, "_weight", counted)
    schema = InputSchema.from_openapi(
        document_of({"tags": {"type": "array", "items": {"type": "string"}}})
    )
    (problem,) = schema.problems({"tags": list(range(5_000))})
    assert problem.sentence.startswith("tags[0] 0 is a number, not text")
    assert evaluated <= 2 * 200


def test_most_specific_of_several_problems_of_one_input_is_reported() -> None:
    text = {"minLength": 9, "type": "integer", "enum": [1, 2]}
    schema = InputSchema.from_openapi(document_of({"a": text}))
    (problem,) = schema.problems({"a": "x"})
    assert problem.sentence == "a 'x' is not one of 1, 2"


def test_at_most_twenty_unknown_inputs_are_reported() -> None:
    inputs = {"prompt": "x"} | {f"unknown{number}": 1 for number in range(30)}
    problems = MODELS["flux-schnell"].problems(inputs)
    assert [problem.field for problem in problems] == [f"unknown{number}" for number in range(20)]


def schema_of(properties: JSON, **others: Any) -> InputSchema:
    whole = {"properties": properties, **others}
    return InputSchema.from_openapi({"components": {"schemas": {"Input": whole}}})


def sentences(schema: InputSchema, inputs: JSON, effort: Effort | None = None) -> list[str]:
    return [one.sentence for one in schema.problems(inputs, effort)]


@pytest.mark.parametrize(
    ("properties", "others", "inputs", "expected"),
    [
        # A required input named in a hint is not reported as missing too, but another one is.
        (
            {"prompt": PROMPT},
            {"required": ["prompt"]},
            {"promt": "x", "zzz": 1},
            [
                "'promt' is not an input of this model: did you mean 'prompt'? Its inputs: prompt",
                "'zzz' is not an input of this model. Its inputs: prompt",
            ],
        ),
        ({"prompt": PROMPT}, {}, {"prompt": " "}, []),
        (
            {"prompt": PROMPT},
            {"required": ["prompt"]},
            {"prompt": " "},
            ["prompt is empty: say what to draw"],
        ),
        # Unknown inputs.
        (
            {"a": {}},
            {"additionalProperties": False},
            {"b": 1},
            ["'b' is not an input of this model. Its inputs: a"],
        ),
        (
            {"a": {}},
            {"additionalProperties": {"type": "integer"}},
            {"b": "x", "c": 1},
            ["b 'x' is not a whole number"],
        ),
        (
            {"a": {}},
            {"additionalProperties": True},
            {"b\x1b": float("inf"), "c": 1},
            ["b\\u001b is not a finite number"],
        ),
        # The most specific of several problems.
        (
            {"a": {"type": "integer", "enum": [1, 2]}},
            {},
            {"a": "x"},
            ["a 'x' is not one of 1, 2"],
        ),
        (
            {"a": {"type": "integer", "const": 1}},
            {},
            {"a": "x"},
            ["a 'x' is not 1, the only value this model takes"],
        ),
        (
            {"a": {"minLength": 9, "type": "integer"}},
            {},
            {"a": "x"},
            ["a 'x' is not a whole number"],
        ),
        (
            {"a": {"minLength": 9, "maxLength": 0}},
            {},
            {"a": "x"},
            ["a has 1 character, this model takes at least 9"],
        ),
        # Only the format of URLs is checked, and annotations may have any value.
        ({"a": {"format": "email"}, "b": {"format": "date"}}, {}, {"a": "x", "b": "x"}, []),
        (
            {"a": {"type": "integer", "title": 5, "examples": "x", "deprecated": "no"}},
            {"title": 5, "description": ["x"]},
            {"a": 4.5},
            ["a 4.5 is not a whole number"],
        ),
        (
            {"a": {"required": ["b"]}},
            {},
            {"a": {}},
            ["a {} is not what this model takes (required)"],
        ),
        # Multiples.
        ({"a": {"multipleOf": 8}}, {}, {"a": 16}, []),
        ({"a": {"multipleOf": 2}, "b": {"multipleOf": 2}}, {}, {"a": True, "b": "x"}, []),
        ({"a": {"multipleOf": 0.1}, "b": {"multipleOf": 3}}, {}, {"a": 3, "b": 0.1 * 3 * 10}, []),
        ({"a": {"multipleOf": 0.1}, "b": {"multipleOf": 0.1}}, {}, {"a": 987654321.3, "b": 0}, []),
        (
            {"a": {"multipleOf": 2}, "b": {"multipleOf": 0.1}},
            {},
            {"a": 2**53 + 1, "b": 0.05},
            ["a 9007199254740993 is not a multiple of 2", "b 0.05 is not a multiple of 0.1"],
        ),
    ],
)
def test_invalid_inputs_of_a_small_schema_are_reported(
    properties: JSON, others: JSON, inputs: JSON, expected: list[str]
) -> None:
    assert sentences(schema_of(properties, **others), inputs) == expected


def test_values_beyond_the_effort_limit_are_left_to_replicate() -> None:
    model = MODELS["flux-schnell"]
    wrong = {"prompt": "x", "num_outputs": 9.0}
    assert sentences(model, wrong, Effort(0)) == []
    assert str(model.converted(wrong, Effort(0))["num_outputs"]) == "9.0"
    assert str(model.converted(wrong)["num_outputs"]) == "9"
    assert sentences(model, {"num_outputs": 9}, Effort(0)) == ["prompt is required by this model"]


def test_only_pairwise_comparison_of_items_costs_its_square() -> None:
    unique = schema_of({"a": {"uniqueItems": True}})
    few = schema_of({"a": {"maxItems": 2}})
    inputs = {"a": [1] * 100}
    assert sentences(unique, inputs, Effort(9_000)) == []
    assert len(sentences(unique, inputs, Effort(11_000))) == 1
    assert len(sentences(few, inputs, Effort(1_000))) == 1


@pytest.mark.parametrize(
    ("output_format", "wanted", "value", "default"),
    [
        ({"enum": ["best", "png"], "default": "best"}, "mp4", None, None),
        ({"enum": ["best", "JPEG"], "default": "JPEG"}, "jpg", "JPEG", "jpg"),
        ({"enum": [1, "png"], "default": 1}, "png", "png", None),
        ({"type": "string", "default": "webp"}, "webp", None, "webp"),
    ],
)
def test_output_format_values_are_read(
    output_format: JSON, wanted: str, value: str | None, default: str | None
) -> None:
    schema = schema_of({"output_format": output_format})
    assert schema.format_value(wanted) == value
    assert schema.default_format == default


COUNTED = {"num_outputs": {"type": "integer", "default": 3}, "samples": {"default": 7}}
SEQUENCE = {
    "max_images": {"type": "integer", "default": 5},
    "sequential_image_generation": {"type": "string", "default": "auto"},
}


@pytest.mark.parametrize(
    ("properties", "others", "inputs", "count"),
    [
        (COUNTED, {}, {}, 3),
        (COUNTED, {}, {"num_outputs": 1}, 1),
        (COUNTED, {}, {"num_outputs": 2.5}, 1),
        (COUNTED, {}, {"num_outputs": float("inf")}, 1),
        (COUNTED, {}, {"num_outputs": 2, "samples": 4}, 8),
        (COUNTED, {}, {"num_outputs": 2, "samples": 4, "n": 5}, 8),
        (COUNTED, {"additionalProperties": True}, {"num_outputs": 2, "n": 5}, 10),
        (COUNTED, {}, {"num_outputs": 9_999, "samples": 9_999}, 10_000),
        (COUNTED, {}, {"num_outputs": 10_001}, 10_000),
        (SEQUENCE, {}, {}, 5),
        (SEQUENCE, {}, {"max_images": 2}, 2),
        (SEQUENCE, {}, {"sequential_image_generation": "disabled"}, 1),
        ({"seed": {}}, {}, {"seed": 5}, 1),
    ],
)
def test_requested_images_are_counted_with_schema_defaults(
    properties: JSON, others: JSON, inputs: JSON, count: int
) -> None:
    assert schema_of(properties, **others).count(inputs) == count


def test_chosen_seed_has_at_most_31_bits() -> None:
    assert seeds() == (0, 2_147_483_647)
    assert seeds(minimum=1) == (1, 2_147_483_647)
