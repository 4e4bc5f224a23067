"""Arguments as clients and models malform them, each with its intended meaning."""

import json
from typing import Any

from hypothesis import strategies as st

PROMPTS = (
    *("a red car", "[masterpiece], a fox", "{a drawing} of a cat", "[[blurry]] street"),
    *("ein Haus, „blau“", "a sign: [OPEN] {24h}", "猫", "2 cats", "none", "prompt", "true"),
)
"""All that anybody wants to have drawn here."""

PLAIN_TEXT = ("9" * 5_000, "\x1b[2J", "}", ",")
"""No JSON, so a model may draw it."""

NOTHING = ("", "  ", None)

prompts = st.sampled_from(PROMPTS)
junk: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([7, 42.0, -1, 10**400, 1e999, float("nan"), True, [], {}, [[]], "half \ud83d"]),
    st.lists(st.integers(), max_size=2),
    st.sampled_from(["{", "[", '{"prompt": "a b', "['x', 'y", "```json\n[{", '{"a": ']),
    st.sampled_from(["null", "[object Object]", 'Here:\n[{"prompt": "a"}]', '[{prompt: "a"}]']),
    st.sampled_from(["[" * 3_000, '{"a":' * 200, *PLAIN_TEXT]),
)
INPUTS: dict[str, tuple[Any, ...]] = {
    "aspect_ratio": ("16:9", "1:1", "", None),
    "num_outputs": (1, 2, 2.0, ""),
    "seed": (7, 42.0, None),
    "output_format": ("png", "jpg", "  "),
    "go_fast": (True, False),
    "input_image": ("",),
    "output_filename": ("car.png", "a_house", ""),
    "model": ("flux-schnell", "FLUX-SCHNELL", "black-forest-labs/flux-schnell", ""),
}
"""Inputs of a task that can be meant in one way only."""

MODELS_OWN = INPUTS.keys() - {"model", "output_filename"}

WRONG_INPUTS: dict[str, tuple[Any, ...]] = {
    "aspect_ratio": ("16x9", "9:16 "),
    "num_outputs": ("2", 0, 99, 1.5),
    "seed": ("7", -3.5),
    "output_format": ("JPEG", "tiff"),
    "go_fast": ("true", 1),
    "input_image": ("https://x.y/z.png", "cat.png", "ftp:"),
    "aspectratio": ("16:9",),
    "filename": ("x.png",),
    "output_filename": ("a/b.png", "..", "x" * 300, 7),
    "model": ("nobody/none", "nope", "a/b/c"),
}

FROM_CLIENTS = ("toolCallId", "sessionId", "_sessionID", "action", "chatInput", "id")


@st.composite
def inputs(draw: st.DrawFn, *, wrong: bool) -> dict[str, Any]:
    """Return some inputs of a task."""
    names = draw(st.lists(st.sampled_from(sorted(INPUTS)), max_size=3, unique=True))
    found = {name: draw(st.sampled_from(INPUTS[name])) for name in names}
    if wrong and draw(st.booleans()):
        name = draw(st.sampled_from(sorted(WRONG_INPUTS)))
        found[name] = draw(st.one_of(st.sampled_from(WRONG_INPUTS[name]), junk))
    return found


@st.composite
def objects(draw: st.DrawFn, *, wrong: bool) -> dict[str, Any]:
    """Return a task as an object."""
    task: dict[str, Any] = draw(inputs(wrong=wrong))
    if draw(st.booleans()):
        # A model may have an input of any name, even `model`.
        nested = {k: v for k, v in draw(inputs(wrong=wrong)).items() if wrong or k in MODELS_OWN}
        task["input"] = draw(st.sampled_from([nested, _text(nested), ""]))
    if not wrong or draw(st.booleans()):
        task["prompt"] = draw(prompts)
    elif draw(st.booleans()):
        task["prompt"] = draw(st.one_of(st.sampled_from(NOTHING), junk))
    return task


@st.composite
def items(draw: st.DrawFn, *, wrong: bool) -> Any:
    """Return an item of `tasks`: an object, a prompt, or either as text."""
    task = draw(objects(wrong=wrong))
    ways = [task, draw(prompts), _text(task), _garbled(task, draw)]
    if wrong:
        ways += [draw(junk), _cut(task, draw)]
    return draw(st.sampled_from(ways))


@st.composite
def task_lists(draw: st.DrawFn, *, wrong: bool) -> Any:
    """Return a value of `tasks`, in which some tasks may be invalid."""
    wrong = wrong and draw(st.booleans())
    tasks = draw(st.lists(items(wrong=wrong), min_size=1, max_size=4))
    ways = [tasks, tasks, _text(tasks), _garbled(tasks, draw), tasks[0], {"tasks": tasks}]
    if wrong:
        ways += [draw(junk), {}, [], _cut(tasks, draw)]
    return draw(st.sampled_from(ways))


@st.composite
def arguments(draw: st.DrawFn, /, *, wrong: bool, **own: tuple[Any, ...]) -> dict[str, Any]:
    """Return a call's arguments: its tasks, some of its own arguments, and additions of clients.

    Args:
        own: valid values of each argument.
    """
    wrong = wrong and draw(st.booleans())
    given: dict[str, Any] = {"tasks": draw(task_lists(wrong=wrong))}
    for name in draw(st.lists(st.sampled_from(sorted(own)), max_size=2, unique=True)):
        given[name] = draw(st.sampled_from([*own[name], *NOTHING]))
    for name in draw(st.lists(st.sampled_from(FROM_CLIENTS), max_size=2)):
        given[name] = draw(st.sampled_from(["x", 1, None, {}]))
    if wrong and draw(st.booleans()):
        name = draw(st.sampled_from([*own, "wait_secs", "semaphor", *WRONG_INPUTS]))
        given[name] = draw(junk)
    return given


@st.composite
def files(draw: st.DrawFn, *, wrong: bool) -> tuple[str, bytes]:
    """Return the name and the content of a task file."""
    wrong = wrong and draw(st.booleans())
    tasks = draw(st.lists(objects(wrong=wrong), min_size=1, max_size=4))
    lines = draw(st.lists(prompts, min_size=1, max_size=4))
    shared = {k: v for k, v in draw(inputs(wrong=wrong)).items() if wrong or k != "output_filename"}
    table = 'prompt,num_outputs,model\n"a red car",2,\n2 cats,,flux-dev\n'
    ways = [
        ("json", _text(tasks)),
        ("json", _text({"tasks": tasks, **shared})),
        ("json", _garbled(tasks, draw)),
        ("jsonl", "\n".join(map(_text, tasks))),
        ("csv", table),
        ("txt", table),
        ("txt", "\n".join(["# a comment", "", *lines])),
    ]
    if wrong:
        ways += [("csv", _cut(tasks, draw)), ("json", _cut(tasks, draw))]
        ways += [("csv", table[: draw(st.integers(0, len(table)))]), ("yaml", "\n".join(lines))]
    ending, text = draw(st.sampled_from(ways))
    if wrong and draw(st.booleans()):
        no_text = st.binary(max_size=40).map(lambda content: b"\xff" + content)
        plain = st.sampled_from([each.encode() for each in PLAIN_TEXT])
        return f"tasks.{ending}", draw(st.one_of(no_text, plain))
    start = draw(st.sampled_from(["", "\ufeff", "\ufeff\n"]))
    return f"tasks.{ending}", f"{start}{text}".encode(errors="surrogatepass")


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _garbled(value: Any, draw: st.DrawFn) -> str:
    """Return JSON text as models write it: fenced, a Python repr, an extra comma, quoted twice."""
    text = _text(value)
    fenced = f"```json\n{text}\n```"
    return draw(st.sampled_from([fenced, repr(value), f"{text[:-1]},{text[-1]}", json.dumps(text)]))


def _cut(value: Any, draw: st.DrawFn) -> str:
    """Return JSON text that is truncated beyond repair."""
    text = _text(value)
    end = draw(st.integers(0, len(text) - 1))
    return draw(st.sampled_from([text[:end], f"```\n{text[:end]}", text.replace('"', "“")]))
