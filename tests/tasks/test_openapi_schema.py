"""OpenAPI schemas of models: resolved references, merged parts, and the facts of each input."""

from typing import Any

import pytest

from replicate_mcp.tasks.input_schema import count_unchecked
from replicate_mcp.tasks.openapi_schema import (
    InputField,
    Resolver,
    choices_of,
    constraints,
    field_of,
    is_count,
    kinds_of,
    streams_output,
    without_null,
)

JSON = dict[str, Any]
REF = {"$ref": "#/components/schemas/whole"}
WHOLE = {"type": "integer"}
DOCUMENT: JSON = {
    "components": {
        "schemas": {
            "whole": {"type": "integer"},
            "a/b~c": {"type": "boolean"},
            "titled": {"title": "Titled", "allOf": [REF], "minimum": 1},
        }
    }
}


def resolve(node: Any) -> JSON:
    return Resolver(DOCUMENT).resolve(node)


@pytest.mark.parametrize(
    ("node", "resolved"),
    [
        (True, {}),
        (False, {"not": {}}),
        (REF, WHOLE),
        ({"$ref": "#/components/schemas/a~1b~0c"}, {"type": "boolean"}),
        ({"$ref": "#/components/schemas/titled"}, {"title": "Titled", **WHOLE, "minimum": 1}),
        # Subschemas are resolved, and no other value.
        *(
            ({key: REF}, {key: WHOLE})
            for key in ("items", "contains", "not", "propertyNames", "if", "then", "else")
        ),
        ({"additionalProperties": REF}, {"additionalProperties": WHOLE}),
        ({"additionalProperties": False}, {"additionalProperties": {"not": {}}}),
        ({"unevaluatedItems": REF}, {"unevaluatedItems": WHOLE}),
        ({"unevaluatedProperties": REF}, {"unevaluatedProperties": WHOLE}),
        *(({key: [REF, True]}, {key: [WHOLE, {}]}) for key in ("anyOf", "oneOf", "prefixItems")),
        *(({key: {"a": REF}}, {key: {"a": WHOLE}}) for key in ("properties", "dependentSchemas")),
        ({"default": REF, "enum": [REF]}, {"default": REF, "enum": [REF]}),
        # Keywords that cannot be checked, or have no effect, are left out.
        ({"pattern": "x", "type": "string"}, {"type": "string"}),
        ({"$comment": "x", "$defs": {}, "cost$": 1}, {"cost$": 1}),
        (
            {"patternProperties": {"x": {}}, "type": "object", "additionalProperties": False},
            {"additionalProperties": {}, "type": "object"},
        ),
        (
            {"unevaluatedProperties": False, "patternProperties": {"x": {}}, "minProperties": 1},
            {"additionalProperties": {}, "minProperties": 1},
        ),
        # Null.
        ({"type": "integer", "nullable": False}, WHOLE),
        ({"type": "integer", "nullable": 1}, WHOLE),
        (
            {"type": "integer", "nullable": True, "title": "T", "default": 1, "minimum": 0},
            {"title": "T", "default": 1, "anyOf": [{**WHOLE, "minimum": 0}, {"type": "null"}]},
        ),
        # Merged parts.
        ({"allOf": [REF, {"minimum": 1}], "maximum": 3}, {**WHOLE, "minimum": 1, "maximum": 3}),
        ({**REF, "maximum": 3}, {**WHOLE, "maximum": 3}),
        ({"allOf": [REF, REF]}, WHOLE),
        (
            {"minimum": 2, "allOf": [{"minimum": 1}, {"maximum": 3}, {"minimum": 4}]},
            {"minimum": 2, "maximum": 3, "allOf": [{"minimum": 1}, {"minimum": 4}]},
        ),
        (
            {**WHOLE, "minimum": 2, "allOf": [{**WHOLE, "minimum": 1}]},
            {**WHOLE, "minimum": 2, "allOf": [{**WHOLE, "minimum": 1}]},
        ),
        ({"items": {}, "allOf": [{"minItems": 1}]}, {"items": {}, "minItems": 1}),
    ],
)
def test_schema_is_resolved_to_a_self_contained_one(node: Any, resolved: JSON) -> None:
    assert resolve(node) == resolved


ANNOTATIONS = ["title", "description", "default", "example", "examples", "deprecated", "x-order"]


@pytest.mark.parametrize("key", ANNOTATIONS)
def test_nearest_annotation_takes_precedence(key: str) -> None:
    assert resolve({key: 1, "allOf": [{key: 2, "type": "string"}]}) == {key: 1, "type": "string"}
    assert constraints({key: 1, "type": "string"}) == {"type": "string"}


IN_CONTEXT = {
    "properties": {},
    "items": {},
    "prefixItems": [],
    "contains": {},
    "minContains": 1,
    "maxContains": 1,
    "if": {},
    "then": {},
    "else": {},
    "additionalProperties": {},
    "unevaluatedItems": {},
    "unevaluatedProperties": {},
}


@pytest.mark.parametrize("key", IN_CONTEXT)
def test_interdependent_keywords_are_not_merged(key: str) -> None:
    other = "items" if key == "properties" else "properties"
    own: JSON = {key: IN_CONTEXT[key]}
    part: JSON = {other: {}}
    assert resolve({"allOf": [own, part]}) == {**own, "allOf": [part]}
    assert resolve({"allOf": [part, own]}) == {**part, "allOf": [own]}


def nested(key: str, depth: int) -> JSON:
    node: JSON = {}
    for _ in range(depth):
        inner: Any = {"properties": {"a": node}, "anyOf": [node], "allOf": [node]}.get(key, node)
        node = {key: inner}
    return node


@pytest.mark.parametrize("key", ["items", "properties", "anyOf", "allOf"])
def test_schema_depth_is_at_most_thirty(key: str) -> None:
    resolve(nested(key, 30))
    with pytest.raises(ValueError, match="too large, or refers to itself"):
        resolve(nested(key, 31))


def test_references_are_followed_to_a_depth_of_thirty() -> None:
    def chain(length: int) -> JSON:
        names = {f"s{n}": {"$ref": f"#/s{n + 1}"} for n in range(length - 1)}
        return Resolver({**names, f"s{length - 1}": {"type": "null"}}).resolve({"$ref": "#/s0"})

    assert chain(30) == {"type": "null"}
    with pytest.raises(ValueError, match="too large, or refers to itself"):
        chain(31)


def test_schema_has_at_most_ten_thousand_parts() -> None:
    assert len(resolve({"anyOf": [{}] * 9_999})["anyOf"]) == 9_999
    with pytest.raises(ValueError, match="too large, or refers to itself"):
        resolve({"anyOf": [{}] * 10_000})


@pytest.mark.parametrize(
    ("node", "error"),
    [
        ({"$dynamicRef": "#a"}, "the schema uses $dynamicRef, which is not followed"),
        ({"$recursiveRef": "#"}, "the schema uses $recursiveRef, which is not followed"),
        ({"$ref": "#other"}, "the schema refers to #other, outside itself"),
        ({"$ref": "x#/"}, "the schema refers to x#/, outside itself"),
        ({"$ref": "x" * 99}, f"the schema refers to {'x' * 80}, outside itself"),
    ],
)
def test_unfollowed_reference_is_reported(node: JSON, error: str) -> None:
    with pytest.raises(ValueError, match="the schema") as refused:
        resolve(node)
    assert str(refused.value) == error


NULL = {"type": "null"}


@pytest.mark.parametrize(
    ("schema", "without"),
    [
        ({"type": "string"}, {"type": "string"}),
        ({"type": ["integer", "null"], "minimum": 1}, {"type": "integer", "minimum": 1}),
        ({"type": ["integer", "string", "null"]}, {"type": ["integer", "string"]}),
        ({"anyOf": [WHOLE, NULL], "title": "T"}, {**WHOLE, "title": "T"}),
        ({"oneOf": [NULL, WHOLE], "title": "T"}, {**WHOLE, "title": "T"}),
        ({"anyOf": [WHOLE, {}, NULL]}, {"anyOf": [WHOLE, {}, NULL]}),
        (
            {"anyOf": [{"minimum": 2}, NULL], "minimum": 1, "allOf": [{"maximum": 9}]},
            {"minimum": 1, "allOf": [{"maximum": 9}, {"minimum": 2}]},
        ),
        ({}, {}),
    ],
)
def test_null_is_removed_from_an_input_schema(schema: JSON, without: JSON) -> None:
    assert without_null(schema) == without


FILE = {"type": "string", "format": "uri"}
FILES = {"type": "array", "items": FILE}


@pytest.mark.parametrize(
    ("schema", "kinds"),
    [
        ({}, ""),
        ({"type": "string"}, "string"),
        (FILE, "file"),
        ({"type": "array", "format": "uri"}, "array"),
        ({"type": "string", "format": "date"}, "string"),
        ({"type": ["integer", "null"]}, "integer null"),
        ({"anyOf": [FILE, {"oneOf": [WHOLE, FILES]}]}, "file integer array"),
        ({"type": "object", "anyOf": [FILE]}, "object"),
        ({"anyOf": [], "oneOf": [FILE]}, "file"),
    ],
)
def test_types_of_a_schema_are_read(schema: JSON, kinds: str) -> None:
    assert list(kinds_of(schema)) == kinds.split()


@pytest.mark.parametrize(
    ("schema", "choices"),
    [
        ({}, None),
        ({"const": None}, (None,)),
        ({"const": 1, "enum": [1, 2]}, (1,)),
        ({"enum": ["a", None, 2]}, ("a", 2)),
        ({"anyOf": [{"enum": ["a"]}, {"const": 2}, {"enum": [None]}]}, ("a", 2)),
        ({"anyOf": [{"enum": ["a"]}, WHOLE]}, None),
        ({"anyOf": []}, None),
    ],
)
def test_enumerated_values_of_a_schema_are_read(schema: JSON, choices: Any) -> None:
    assert choices_of(schema) == choices


def known(schema: JSON, required: bool = False) -> InputField:
    return field_of("x", schema, required)


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({}, InputField("x", "any", "", None, None, None, None, False)),
        (
            {"type": "integer", "minimum": 1, "maximum": 4, "default": 2, "description": "Count"},
            InputField("x", "integer", "Count", 2, None, 1, 4, False, ""),
        ),
        (
            {"type": "integer", "exclusiveMinimum": 0.5, "exclusiveMaximum": 9.5},
            InputField("x", "integer", "", None, None, 1, 9, False),
        ),
        (
            {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
            InputField("x", "integer", "", None, None, 1, 9, False),
        ),
        (
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 10, "description": 7},
            InputField("x", "number", "7", None, None, None, None, False),
        ),
        (
            {"type": "string", "enum": ["a", None], "description": "An enumeration."},
            InputField("x", "string", "", None, ("a",), None, None, False),
        ),
        (FILES, InputField("x", "array", "", None, None, None, None, False, "file")),
        (
            {"anyOf": [FILE, FILES, FILE]},
            InputField("x", "file or array", "", None, None, None, None, False, "file"),
        ),
        (
            {"oneOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": [FILE, WHOLE]}}]},
            InputField(
                "x", "string or array", "", None, None, None, None, False, "file or integer"
            ),
        ),
        (
            {"type": "array", "items": True},
            InputField("x", "array", "", None, None, None, None, False),
        ),
        (
            {"type": "object", "items": FILE},
            InputField("x", "object", "", None, None, None, None, False),
        ),
    ],
)
def test_all_facts_of_an_input_are_read(schema: JSON, field: InputField) -> None:
    assert known(schema) == field
    assert known(schema, required=True).required
    assert known(schema).items == field.items


def test_input_is_secret_if_its_schema_says_so() -> None:
    assert field_of("x", {"type": "string", "format": "password"}, required=False).secret
    assert not field_of("hf_token", {"type": "string"}, required=False).secret


def test_input_has_no_items_by_default() -> None:
    assert InputField("x", "string", "", None, None, None, None, False).items == ""


@pytest.mark.parametrize(
    ("schema", "takes", "takes_text", "takes_list", "whole"),
    [
        (FILE, True, True, False, "file"),
        (FILES, True, False, True, "array of file"),
        ({"anyOf": [FILE, FILES]}, True, True, True, "file or array of file"),
        ({"anyOf": [FILE, {"type": "string"}]}, False, False, False, "file or string"),
        ({"anyOf": [{"type": "string"}, FILES]}, True, False, True, "string or array of file"),
        ({"type": "string"}, False, False, False, "string"),
        (WHOLE, False, False, False, "integer"),
        ({"type": "array", "items": WHOLE}, False, False, False, "array of integer"),
    ],
)
def test_file_inputs_are_recognised(
    schema: JSON, takes: bool, takes_text: bool, takes_list: bool, whole: str
) -> None:
    field = known(schema)
    assert field.takes_files is takes
    assert field.takes_files_in("cat.png") is takes_text
    assert field.takes_files_in(["cat.png"]) is takes_list
    assert field.full_type == whole


@pytest.mark.parametrize(
    ("schema", "allowed"),
    [
        ({}, ""),
        ({"minimum": 1}, "1.."),
        ({"maximum": 4}, "..4"),
        ({"minimum": 0, "maximum": 0}, "0..0"),
        ({"minimum": 0.1, "maximum": 1.0}, "0.1..1"),
        ({"enum": ["1:1", 2, 0.5, True, ["é"]], "minimum": 1}, '1:1, 2, 0.5, true, ["é"]'),
    ],
)
def test_allowed_values_are_formatted_for_people(schema: JSON, allowed: str) -> None:
    assert known(schema).allowed == allowed


@pytest.mark.parametrize(
    ("default", "shown"),
    [
        (None, ""),
        ("", ""),
        ("x", "x"),
        (1, "1"),
        (False, "false"),
        ([], "[]"),
        ({"a": "é"}, '{"a": "é"}'),
    ],
)
def test_default_value_is_formatted_for_people(default: Any, shown: str) -> None:
    assert known({"default": default}).shown_default == shown


@pytest.mark.parametrize(
    ("schemas", "expected"),
    [
        ({"Output": FILE}, False),
        ({"Output": FILES | {"x-cog-array-type": "iterator"}}, True),
        ({"Output": {"$ref": "#/components/schemas/Out"}, "Out": FILE}, False),
        ({"Output": {"$ref": "https://example.com"}}, True),
        ({"Output": {"$ref": 7}}, True),
        ({"Output": {"items": 7}}, True),
        ({}, True),
    ],
)
def test_output_may_grow_unless_its_schema_excludes_it(schemas: JSON, expected: bool) -> None:
    assert streams_output({"components": {"schemas": schemas}}) is expected
    assert streams_output(None) is True


def test_image_count_inputs_are_recognised_by_name() -> None:
    counts = (
        "num_outputs max_images number_of_images num_images n num batch batch_size batch_count "
        "count quantity amount images outputs samples pictures variations n_iter nimages "
        "num_samples total_images images_count image_num num_images_per_prompt outputs_per_prompt "
        "NUM_OUTPUTS"
    )
    assert [name for name in counts.split() if not is_count(name)] == []
    others = "seed image width num_inference_steps num_frames images_url n_steps max_area prompt"
    assert [name for name in others.split() if is_count(name)] == []


def test_synonymous_image_counts_are_not_multiplied() -> None:
    known_names = {"num_outputs": 2, "max_images": 3, "number_of_images": 4, "num_images": 5}
    assert count_unchecked(known_names) == 5
    assert count_unchecked(known_names | {"samples": 2}) == 10
