"""JSON text: parsed where possible, rejected where it begins like JSON, and otherwise a prompt."""

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks.json_text import begins_like_json, read_json_text

CAR = [{"prompt": "a red car"}]

READ = [
    ('[{"prompt": "a red car"}]', CAR),
    ('  \n[{"prompt":"a red car"}]\n', CAR),
    ('\ufeff[{"prompt": "a red car"}]', CAR),
    ('[{"prompt": "a red car",},]', CAR),
    ("[{'prompt': 'a red car'}]", CAR),
    ('```json\n[{"prompt": "a red car"}]\n```', CAR),
    ('```\r\n[{"prompt": "a red car"}]\r\n```\n', CAR),
    ('```python\n[{"prompt": "a red car"}]\n```', CAR),
    ('```json\n[{"prompt": "a red car"}]', CAR),
    (json.dumps(json.dumps(CAR)), CAR),
    (json.dumps(json.dumps(json.dumps(CAR))), CAR),
    ('~~~json\n[{"prompt": "a red car"}]\n~~~', CAR),
    ('\u00a0\u200b\u2028[{"prompt": "a red car"}]', CAR),
    ('{"prompt": "a\nb"}', {"prompt": "a\nb"}),
    (r"{'prompt': 'it\'s', 'seed': None}", {"prompt": "it's", "seed": None}),
    ("{'go_fast': True, 'tiled': False,}", {"go_fast": True, "tiled": False}),
    ("{'prompt': \"it's\"}", {"prompt": "it's"}),
    (r"{'prompt': '\xe9 \U0001f600'}", {"prompt": "\u00e9 \U0001f600"}),
    ('["a red car", "a blue house"]', ["a red car", "a blue house"]),
    ("['cat.png']", ["cat.png"]),
    ("[0.5, 1]", [0.5, 1]),
    ("[True, False, None]", [True, False, None]),
    ("['a', true, false, null, -1.5e+3, 0,]", ["a", True, False, None, -1500.0, 0]),
    ("['a', ['b',], {'c': 1,},]", ["a", ["b"], {"c": 1}]),
    (r"{'a': '\U0010ffff\x41\x22\n\\'}", {"a": '\U0010ffffA"\n\\'}),
    (r"""{'a': "b\/c\'d", 'e': '"f"'}""", {"a": "b/c'd", "e": '"f"'}),
    ("{'seed': 12345678901234567890}", {"seed": 12345678901234567890}),
    ('{"seed": ' + "9" * 400 + "}", {"seed": int("9" * 400)}),
    ('```json\n"[\\"a\\"]"\n```', '["a"]'),
    ("```python\na red car\n```", "```python\na red car\n```"),
    ("[]", []),
    ("{}", {}),
]  # fmt: skip

REFUSED = [
    ('[{"prompt": "a red car"}, {"prompt": "a blu', "is JSON text that is cut off at character 44"),
    ('[{"prompt": "a red car"}, {"pro', "is cut off at character 32"),
    ('[{"prompt": "a red car"},', "is cut off at character 26"),
    ('[{"go_fast": tr', "is cut off at character 16"),
    ("[{'prompt': 'a red c", "is cut off at character 21"),
    ("[{", "is cut off at character 3"),
    ('```json\n[{"prompt": "a red', "is cut off at character 27"),
    ('{"prompt": "a 12" monitor"}', "is not valid at character 19"),
    ("[{\u201cprompt\u201d: \u201ca red car\u201d}]", "is not valid at character 3"),
    ('{prompt: "a red car"}', "is not valid at character 2"),
    (r"[{\"prompt\": \"a red car\"}]", "is not valid at character 3"),
    ('{"prompt": "a red car"} as you asked', "has more text after its end at character 25"),
    ('{"prompt": "a"}\n{"prompt": "b"}', "has more text after its end at character 17"),
    ('["masterpiece"], a fox', "has more text after its end at character 16"),
    ('{"seed": ' + "9" * 5_000 + "}", "has a number of 5,000 digits"),
    ("[" * 3_000 + "]" * 3_000, "is nested too deeply"),
    ("[" * 100_000, "is nested too deeply"),
    ("[{'a': " * 200 + "1" + "}]" * 200, "is nested too deeply"),
    ("```json\na red car\n```", "is not valid at character 9"),
    ("```json\n42\n```", "of neither an object nor a list"),
    (r"{'prompt': '\N{BULLET}'}", "is not valid at character 13"),
    (r"{'prompt': '\U99999999'}", "is not valid at character 13"),
    ('{"prompt": "a",,}', "is not valid at character 16"),
    ('[,"a"]', "is not valid at character 2"),
    ('[ // first\n {"prompt": "x"}]', "is not valid at character 3"),
    ('[/* c */ {"prompt": "x"}]', "is not valid at character 2"),
    ('[\n # c\n {"prompt": "x"}]', "is not valid at character 4"),
    ('{aspect_ratio: "16:9", prompt: "x"}', "is not valid at character 2"),
    ('[{text: "a red car"}]', "is not valid at character 3"),
    ("[{&quot;prompt&quot;: &quot;x&quot;}]", "is not valid at character 3"),
    ("[{'a': 1", "is cut off at character 9"),
    ("[{'a'", "is cut off at character 6"),
    ("{'a': tru, 'b': 1}", "is not valid at character 7"),
    ("{'a': 01, 'b': 1}", "is not valid at character 7"),
    (r"{'a': 'b\q'}", "is not valid at character 9"),
    (r"{'a': 'b\/c'}", "is not valid at character 9"),
    (r"{'a': 'b\U00110000'}", "is not valid at character 9"),
    (r"{'a': 'b\m'}", "is not valid at character 9"),
    (r"""{'a': "b\q"}""", "is not valid at character 9"),
    ('"[{', "is cut off at character 4"),
    ("['a'] ['b']", "has more text after its end at character 7"),
    ('{"a": [,]}', "is not valid at character 8"),
    ('{"a": {,}}', "is not valid at character 8"),
    ("{'a': ['b',,]}", "is not valid at character 12"),
    ("[,]", "is not valid at character 2"),
    ("{,}", "is not valid at character 2"),
    ("{input: {}}", "is not valid at character 2"),
    ('{"seed": ' + "9" * 401 + "}", "has a number of 401 digits"),
    ('  ```json\n\n [{"a": x }]\n```', "is not valid at character 20"),
    ("  \n[{'a': x }]", "is not valid at character 11"),
    ("```JSON\na red car\n```", "is not valid at character 9"),
    ("[...]", "is not valid at character 2"),
    ("[{...}]", "is not valid at character 3"),
]

HOLDING_CODE = [
    'Here you go:\n```json\n[{"prompt": "x"}]\n```',
    'Here you go:\n["a", "b"]',
    "tasks = [{'prompt': 'x'}]",
    'tasks: ["a", "b"]',
    'json\n["a", "b"]',
    '<tasks>["a", "b"]</tasks>',
    '`["a", "b"]`',
    '**["a", "b"]**',
    '// tasks\n["a", "b"]',
    "({'prompt': 'x'},)",
    "('a', 'b')",
    "- prompt: a\n- prompt: b",
    '"prompt": "a red car"',
    '"prompt": "a", "seed": 4',
    'Here: {"prompt": "x"}',
    '\\"prompt\\": \\"x\\"',
]

FAULTY_LISTS = [
    '[null, {"prompt": "x"}, {"pro',
    '[42, {"prompt": "x"',
    '{seed: 4, prompt: "x"}',
    '[Task(prompt="a red car")]',
]

NO_VALUES = [
    "[object Object]",
    "[object Promise]",
    "a fox, [object Object]",
    "undefined",
    " null\n",
    "None",
    "NaN",
    '"null"',
]

PROMPTS = [
    "[masterpiece], a fox",
    "{a drawing}",
    "[[blurry]] cat",
    "{{best quality}}, a fox",
    "((detailed)) cat",
    "[1girl], a fox",
    "{red|blue|green} car",
    "{style: anime} a fox",
    '"Hello" on a sign',
    "a fox",
    "",
    "42",
    "```\na red car\n```",
    'a fox with [{"brackets"}]',
    "[a fox",
    "((masterpiece)), best quality",
    'a "quoted" word',
    "('a fox':1.2), detailed",
    "(a fox, detailed)",
    "[object on a table]",
    "a prompt: a fox",
    "{seed: 4} fox",
    "a robot writing JSON: tasks, prompts",
    "none",
    "a fox\n[masterpiece]",
    "[# 1 fan], a fox",
    "- a fox\n- a cat",
]


@pytest.mark.parametrize(("text", "value"), READ, ids=[text[:40] for text, _ in READ])
def test_json_text_is_parsed_in_all_client_and_model_forms(text: str, value: Any) -> None:
    assert read_json_text(text, "tasks") == value


@pytest.mark.parametrize(("text", "sentence"), REFUSED, ids=[text[:40] for text, _ in REFUSED])
def test_malformed_json_text_is_rejected_with_its_position(text: str, sentence: str) -> None:
    assert begins_like_json(text)
    with pytest.raises(InvalidInput) as refused:
        read_json_text(text, "tasks")
    assert str(refused.value).startswith("tasks is JSON text ")
    assert str(refused.value).endswith(f" {sentence}.")


@pytest.mark.parametrize("text", PROMPTS)
def test_prompt_with_brackets_stays_a_prompt(text: str) -> None:
    assert not begins_like_json(text)
    assert read_json_text(text, "tasks") is text


@pytest.mark.parametrize("text", HOLDING_CODE)
def test_text_containing_a_task_list_is_not_a_prompt(text: str) -> None:
    with pytest.raises(
        InvalidInput, match=r"^tasks holds a task or a list as code.* only a prompt"
    ):
        read_json_text(text, "tasks")


@pytest.mark.parametrize("text", FAULTY_LISTS)
def test_malformed_task_list_with_leading_text_is_not_a_prompt(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^tasks is JSON text that is .* at character"):
        read_json_text(text, "tasks")


@pytest.mark.parametrize("text", NO_VALUES)
def test_placeholder_text_of_programs_is_not_a_prompt(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^tasks holds '.*', which a program writes in place"):
        read_json_text(text, "tasks")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" null\n", "null"),
        ("[object " + "A" * 50 + "]", "[object " + "A" * 32),
        ("a fox, [object Object]", "[object Object]"),
    ],
)
def test_placeholder_text_is_quoted_in_the_error(text: str, value: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_json_text(text, "task 3: prompt")
    assert str(refused.value) == (
        f"task 3: prompt holds '{value}', which a program writes in place of a value: "
        "give the prompt itself."
    )


@pytest.mark.parametrize(
    ("text", "character"),
    [
        ('Here you go:\n["a", "b"]', "14"),
        ("- prompt: a", "1"),
        ('Here: {"prompt": "x"}', "8"),
        ("x" * 1_233 + '\n["a"]', "1,235"),
    ],
)
def test_position_of_code_in_a_prompt_is_reported(text: str, character: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_json_text(text, "prompt")
    assert str(refused.value) == (
        "prompt holds a task or a list as code, among other text, at character "
        f"{character}: give only the JSON, or only a prompt."
    )


def test_lenient_json_is_parsed_up_to_a_million_characters() -> None:
    longest = "x" * 999_991
    assert read_json_text(f"{{'a': '{longest}'}}", "tasks") == {"a": longest}
    assert read_json_text(f'{{"a": "{longest}xx"}}', "tasks") == {"a": f"{longest}xx"}
    for text, sentence in (
        (f"{{'a': '{longest}x'}}", "is not valid at character 2"),
        (f"[\"a\", '{longest}x'}}", "is not valid at character 7"),
        (f'["{longest}xxxxxxxxx', "is cut off at character 1,000,003"),
        (f'["{longest}xxxxxxxxx",', "is cut off at character 1,000,005"),
    ):
        with pytest.raises(InvalidInput) as refused:
            read_json_text(text, "tasks")
        assert str(refused.value) == f"tasks is JSON text that {sentence}."


def test_lenient_json_is_parsed_up_to_a_depth_of_a_hundred() -> None:
    value = read_json_text("[" * 100 + "'a'" + "]" * 100, "tasks")
    for _ in range(99):
        assert isinstance(value, list)
        (value,) = value
    assert value == ["a"]
    assert read_json_text("[" + "['a'], " * 150 + "]", "tasks") == [["a"]] * 150
    for before in ("", "['b'], " * 50):
        with pytest.raises(InvalidInput) as refused:
            read_json_text(f"[{before}{'[' * 100}'a'{']' * 101}", "tasks")
        assert str(refused.value) == "tasks is JSON text that is nested too deeply."


def test_quoted_json_string_prompt_is_unquoted() -> None:
    assert read_json_text('"a \\"quoted\\" prompt"', "tasks") == 'a "quoted" prompt'
    assert read_json_text('"a sign" and "another"', "tasks") == '"a sign" and "another"'


def test_bare_list_of_numbers_is_parsed_as_json() -> None:
    assert read_json_text("[1, 2]", "x") == [1, 2]
    assert read_json_text("[1, 2] cats", "x") == "[1, 2] cats"
    assert not begins_like_json("[1, 2]")


@pytest.mark.parametrize(
    "text",
    [
        '["' + "a" * 4_000_000,
        "['" + "\\'" * 450_000,
        "[" + "'a'," * 250_000 + "]",
        "[" + " " * 1_000_000 + "x",
        "[" * 1_000_000 + "x",
        '{"a":' * 160_000,
        '[{"a": ' + "9" * 900_000 + "}]",
        '["' + '\\"' * 400_000,
        '["a" ' + "," * 900_000,
        "x" + "\\" * 1_000_000,
        "x\n" + "[\n" * 500_000,
        "x\n" * 500_000,
        "- " * 500_000,
        "\n" * 1_000_000 + "x",
        "x(" + " " * 1_000_000,
        "('a'" + ",'a'" * 250_000,
        "(" * 1_000_000,
        "json" + " " * 1_000_000,
        '"' * 1_000_000,
        '"prompt' * 150_000,
    ],
    ids=lambda text: text[:8],
)
def test_parsing_time_is_linear_in_text_length(text: str) -> None:
    began = time.process_time()
    with contextlib.suppress(InvalidInput):
        read_json_text(text, "tasks")
    assert time.process_time() - began < 3


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
).filter(lambda value: isinstance(value, (list, dict)))
TASKS = st.lists(
    st.fixed_dictionaries(
        {"prompt": st.text(st.characters(exclude_categories=["Cs"]), min_size=1)}
    ),
    min_size=1,
    max_size=3,
)


@given(VALUES)
def test_every_object_and_list_is_parsed_from_its_json(value: Any) -> None:
    assert read_json_text(json.dumps(value), "x") == value
    assert read_json_text(json.dumps(value, ensure_ascii=False, indent=1), "x") == value
    assert read_json_text(f"```json\n{json.dumps(value)}\n```", "x") == value


@given(TASKS)
def test_every_task_list_is_parsed_from_its_python_repr(tasks: Any) -> None:
    assert read_json_text(repr(tasks), "tasks") == tasks


@given(TASKS, st.data(), st.booleans())
def test_task_list_truncated_anywhere_is_rejected(
    tasks: Any, data: st.DataObject, is_python: bool
) -> None:
    text = repr(tasks) if is_python else json.dumps(tasks)
    cut = text[: data.draw(st.integers(1, len(text) - 1))]
    with pytest.raises(InvalidInput, match=r"^tasks is JSON text that is cut off at character"):
        read_json_text(cut, "tasks")


@given(st.text() | st.text("[]{}\"':,`\\ \nabjsontruefalseTFN0123456789", max_size=60))
def test_any_text_is_parsed_rejected_or_returned_unchanged(text: str) -> None:
    try:
        value = read_json_text(text, "x")
    except InvalidInput:
        return
    assert isinstance(value, (dict, list, str))
    if begins_like_json(text):
        # A fence may contain a quoted prompt, and quotation marks may enclose invalid JSON text.
        assert value is not text
    elif isinstance(value, str) and value is not text:
        assert value.strip() in text or "\\" in text  # Its quotation marks were removed.
        assert len(value) < len(text)


WORDS = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=8)


@given(
    st.sampled_from(["[{}], {}", "[[{}]] {}", "{{{}}} {}", "{{{{{}}}}}, {}", "[{}: {}]", "[{}"]),
    WORDS,
    WORDS,
)
def test_text_starting_with_bracketed_words_is_a_prompt(form: str, first: str, second: str) -> None:
    text = form.format("z" + first, "z" + second)
    assert read_json_text(text, "tasks") is text


@pytest.mark.parametrize("text", ["```", "```\n", "```json\n", "```\n```"])
def test_empty_code_fence_is_rejected(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^tasks is JSON text that is cut off"):
        read_json_text(text, "tasks")


def test_quoted_empty_object_or_list_is_parsed() -> None:
    assert read_json_text('"{}"', "tasks") == {}
    assert read_json_text('"[]"', "tasks") == []
