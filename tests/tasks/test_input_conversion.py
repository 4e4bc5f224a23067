"""Conversion of model inputs to the types of the schema, and errors of unsuitable values."""

import json
import time
from typing import Any

import pytest

from replicate_mcp.tasks.effort import Effort
from replicate_mcp.tasks.input_conversion import whole_number
from replicate_mcp.tasks.input_schema import InputSchema

JSON = dict[str, Any]
URI = {"type": "string", "format": "uri"}
WHOLE = {"type": "integer"}
LORA = {
    "type": "object",
    "properties": {"url": URI, "scale": {"type": "number"}, "rank": {"type": "integer"}},
}

PROPERTIES: JSON = {
    "prompt": {"type": "string"},
    "seed": {"type": "integer"},
    "scale": {"type": "number", "multipleOf": 0.1},
    "width": {"type": "integer", "multipleOf": 8},
    "aspect_ratio": {"type": "string", "enum": ["1:1", "16:9"]},
    "negative_prompt": {"type": "string"},
    "image": URI,
    "images": {"type": "array", "items": URI},
    "image_or_images": {"anyOf": [URI, {"type": "array", "items": URI}]},
    "hf_loras": {"type": "array", "items": {"type": "string"}},
    "loras": {"anyOf": [{"type": "array", "items": LORA}, {"type": "null"}]},
    "lora_scales": {"type": "array", "items": {"type": "number"}},
    "options": LORA,
    "extra_lora": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    "sizes": {"type": "array", "items": WHOLE},
    "size_or_sizes": {"anyOf": [WHOLE, {"type": "array", "items": WHOLE}]},
    "one_of_two": {"oneOf": [{"type": "boolean"}, {"type": "array", "items": WHOLE}]},
    "number": {"type": ["integer", "number"]},
    "free": {"type": "object"},
    "list": {"type": "array"},
    "anything": {},
    "style": {"type": "string", "enum": ["", "ink"]},
}  # fmt: skip


def schema(
    properties: JSON = PROPERTIES, required: tuple[str, ...] = ("prompt",), **more: Any
) -> InputSchema:
    whole = {"type": "object", "properties": properties, "required": list(required)}
    return InputSchema.from_openapi({"components": {"schemas": {"Input": whole}}}, **more)


MODEL = schema(subject="acme/model")
CAT, DOG = "https://x.y/cat.png", "https://x.y/dog.png"


@pytest.mark.parametrize(
    ("field", "given", "sent"),
    [
        ("seed", 42.0, 42),
        ("seed", 42, 42),
        ("scale", 1.0, 1.0),
        ("images", f"['{CAT}']", [CAT]),
        ("images", f'["{CAT}", "{DOG}",]', [CAT, DOG]),
        ("image_or_images", f'["{CAT}"]', [CAT]),
        ("image_or_images", CAT, CAT),
        ("hf_loras", '["a/b", "c/d"]', ["a/b", "c/d"]),
        ("lora_scales", "[0.5, 1]", [0.5, 1]),
        ("loras", f'[{{"url": "{CAT}", "rank": 4.0}}]', [{"url": CAT, "rank": 4}]),
        ("loras", [f'{{"url": "{CAT}"}}'], [{"url": CAT}]),
        ("options", '{"scale": 1, "rank": 2.0}', {"scale": 1, "rank": 2}),
        ("extra_lora", '["a/b"]', '["a/b"]'),
        ("negative_prompt", "[blurry]", "[blurry]"),
        ("negative_prompt", "", ""),
        ("negative_prompt", " ", " "),
        ("anything", "", ""),
        ("anything", 4.0, 4.0),
        ("style", "", ""),
        ("number", 4.0, 4.0),
        ("sizes", [4.0, 4], [4, 4]),
        ("sizes", "[4.0]", [4]),
        ("size_or_sizes", 4.0, 4),
        ("size_or_sizes", [4.0], [4]),
        ("one_of_two", [4.0], [4]),
        ("lora_scales", [1.0, 2], [1.0, 2]),
        (
            "options",
            {"scale": 1.0, "rank": 2.0, "more": 3.0},
            {"scale": 1.0, "rank": 2, "more": 3.0},
        ),
        ("free", {"a": 4.0}, {"a": 4.0}),
        ("free", '{"a": 4.0}', {"a": 4.0}),
        ("list", [4.0, {"a": 4.0}], [4.0, {"a": 4.0}]),
        ("unknown", 4.0, 4.0),
    ],
)
def test_values_are_converted_to_schema_types(field: str, given: Any, sent: Any) -> None:
    inputs = MODEL.converted({"prompt": "x", field: given})
    assert inputs == {"prompt": "x", field: sent}
    assert json.dumps(inputs[field]) == json.dumps(sent)
    if field != "unknown":
        assert MODEL.problems(inputs) == []


@pytest.mark.parametrize(
    "field", ["seed", "scale", "image", "images", "aspect_ratio", "options", "of_another_model"]
)
def test_blank_text_is_omitted_where_the_model_cannot_accept_it(field: str) -> None:
    assert MODEL.converted({"prompt": "x", field: ""}) == {"prompt": "x"}


def test_blank_required_input_is_reported() -> None:
    required = schema(required=("prompt", "image"), subject="acme/model")
    inputs = required.converted({"prompt": " ", "image": ""})
    assert [each.sentence for each in required.problems(inputs)] == [
        "prompt is empty: say what to draw",
        "image '' is not a URL: give an https:// link or a data: URI",
    ]


def test_blank_optional_prompt_is_omitted() -> None:
    assert schema(required=()).converted({"prompt": ""}) == {}
    upscaler = schema({"image": URI}, required=("image",))
    assert upscaler.converted({"prompt": "", "image": CAT}) == {"image": CAT}


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("images", '["https://x.y/c', "images is JSON text that is cut off at character 16"),
        ("loras", '[{"url": }]', "loras is JSON text that is not valid at character 10"),
        ("hf_loras", '{"a": 1}', "hf_loras '{\"a\": 1}' is not a list"),
        ("hf_loras", "a/b", "hf_loras 'a/b' is not a list: did you mean a list that holds it?"),
        ("hf_loras", '"a/b"', "hf_loras '\"a/b\"' is not a list"),
        ("options", '["a"]', "options '[\"a\"]' is not an object"),
        ("options", "rank=2", "options 'rank=2' is not an object"),
        ("seed", 42.5, "seed 42.5 is not a whole number"),
        ("seed", 1e300, "seed is a number of more than 64 bits"),
        ("seed", "42", "seed '42' is text, not a whole number: did you mean 42?"),
        ("scale", 0.25, "scale 0.25 is not a multiple of 0.1"),
        ("width", 1020, "width 1020 is not a multiple of 8"),
    ],
)  # fmt: skip
def test_unconvertible_value_is_reported(field: str, value: Any, sentence: str) -> None:
    inputs = MODEL.converted({"prompt": "x", field: value})
    (problem,) = MODEL.problems(inputs)
    assert problem.sentence.startswith(sentence)


@pytest.mark.parametrize(
    ("factor", "value"), [(0.1, 0.3), (0.1, 1.1), (0.01, 0.07), (0.25, 7), (1e-3, 12.345)]
)
def test_multiple_of_tolerates_float_rounding(factor: float, value: float) -> None:
    assert schema({"x": {"type": "number", "multipleOf": factor}}, ()).problems({"x": value}) == []


@pytest.mark.parametrize("value", [2**63 + 1, 1e308, -0.0, 5e-324])
def test_multiple_of_with_extreme_numbers_raises_no_error(value: float) -> None:
    for factor in (1e-308, 10**400, 3, 0.1):
        found = schema({"x": {"multipleOf": factor}}, ()).problems({"x": value})
        assert all("is not a multiple of" in each.sentence for each in found)


def unknown(name: str, properties: JSON, **more: Any) -> str:
    required = tuple(more.pop("required", ()))
    found = schema(properties, required, subject="acme/model", **more).problems({name: "x"})
    return found[-1].sentence


def test_prompt_for_a_promptless_model_is_rejected_listing_its_inputs() -> None:
    upscaler = {"image": URI, "scale": {"type": "number"}}
    assert unknown("prompt", upscaler) == (
        "'prompt' is not an input of acme/model. Its inputs: image, scale"
    )


@pytest.mark.parametrize("name", ["text", "instruction", "text_prompt", "caption"])
def test_prompt_for_model_with_another_text_input_is_rejected_with_a_suggestion(name: str) -> None:
    assert unknown("prompt", {"image": URI, name: {"type": "string"}}) == (
        f"'prompt' is not an input of acme/model: did you mean '{name}'? Its inputs: image, {name}"
    )


def test_image_for_a_text_only_model_is_rejected_suggesting_editing_models() -> None:
    assert unknown("input_image", {"prompt": {"type": "string"}}) == (
        "'input_image' is not an input of acme/model. Its inputs: prompt. Models that edit images: "
        "black-forest-labs/flux-kontext-max (more with find_models)"
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("filename", "output_filename"),
        ("file_name", "output_filename"),
        ("output_filname", "output_filename"),
        ("model_name", "model"),
        ("promt", "prompt"),
    ],
)
def test_near_miss_of_a_task_field_suggests_it(name: str, meant: str) -> None:
    beside = ("output_filename", "model", "input")
    sentence = unknown(name, {"prompt": {"type": "string"}}, beside=beside)
    assert f": did you mean '{meant}'? Its inputs: prompt" in sentence


def test_misspelt_required_input_is_one_problem() -> None:
    model = schema({"prompt": {"type": "string"}, "image": URI}, ("prompt", "image"))
    assert [each.field for each in model.problems({"promt": "x", "image": CAT})] == ["promt"]
    assert [each.field for each in model.problems({"prompt": "x"})] == ["image"]


def test_hints_for_many_invalid_tasks_are_bounded() -> None:
    model = schema({f"input_{n}": {"type": "integer"} for n in range(300)}, ())
    effort, began = Effort(), time.process_time()
    found = [
        model.problems({f"inptu_{task}_{n}": 1 for n in range(20)}, effort) for task in range(1_000)
    ]
    assert time.process_time() - began < 8
    assert all(len(each) == 20 for each in found)
    assert "did you mean" in found[0][0].sentence
    assert "did you mean" not in found[-1][0].sentence


@pytest.mark.parametrize(
    ("value", "whole"),
    [
        (4.0, "4"),
        (-0.0, "0"),
        (4.5, "4.5"),
        (4, "4"),
        (True, "True"),
        ("4.0", "4.0"),
        (None, "None"),
    ],
)
def test_float_without_a_fraction_becomes_an_integer(value: object, whole: str) -> None:
    assert str(whole_number(value)) == whole


def test_each_value_uses_one_step_of_the_effort_limit() -> None:
    for steps, sent in ((6, "[1, 1, 1, 1, 1]"), (5, "[1.0, 1.0, 1.0, 1.0, 1.0]")):
        assert json.dumps(MODEL.converted({"sizes": [1.0] * 5}, Effort(steps))["sizes"]) == sent


def test_conversion_stops_at_its_effort_limit() -> None:
    effort = Effort(1_000)
    inputs = {"prompt": "x", "lora_scales": [1.0] * 5_000, "seed": 7.0}
    assert MODEL.converted(inputs, effort) == inputs
    assert MODEL.converted({"seed": 7.0}, Effort()) == {"seed": 7}
