"""Task files as written by people and programs."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from replicate_mcp.cli.task_input import TaskInput, read_cells, read_inputs, read_tasks
from replicate_mcp.errors import InvalidInput
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.openapi_schema import InputField

from .conftest import CommandLine

CAR, HOUSE = {"prompt": "a red car"}, {"prompt": "a house"}


def field(name: str, kind: str) -> InputField:
    return InputField(name, kind, "", None, None, None, None, required=False)


FIELDS = {
    name: field(name, kind)
    for name, kind in {
        "megapixels": "string",
        "num_outputs": "integer",
        "go_fast": "boolean",
        "images": "array",
        "image": "file",
    }.items()
}


def read(folder: Path, name: str, content: str | bytes) -> TaskInput:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_tasks([], [], str(file))


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tasks.json", '[{"prompt": "a red car"}, {"prompt": "a house"}]'),
        ("tasks.json", '```json\n[{"prompt": "a red car"}, {"prompt": "a house"},]\n```\n'),
        ("tasks", '[{"prompt": "a red car"}, {"prompt": "a house"}]'),
        ("tasks.json", '{"tasks": [{"prompt": "a red car"}, {"prompt": "a house"}]}'),
        ("tasks.json", '{"prompts": ["a red car", "a house"]}'),
        ("tasks.jsonl", '{"prompt": "a red car"}\n\n# later\n{"prompt": "a house"}\n'),
        ("tasks.ndjson", '{"prompt": "a red car"}\r\n{"prompt": "a house"}'),
        ("tasks.json", '{"prompt": "a red car"}\n{"prompt": "a house"}\n'),
        ("tasks.txt", '{"prompt": "a red car"}\na house'),
        ("tasks.txt", "# Monday\r\na red car\r\n\r\n  a house  \r\n#a tree\r\n"),
        ("tasks.txt", "prompt\na red car\na house\n"),
        ("tasks.csv", "prompt\na red car\na house\n"),
        ("tasks.csv", 'prompt\r\n"a red car"\r\n\r\n"a house"\r\n'),
        ("tasks.txt", "prompt,seed\na red car,\na house,\n"),
        ("tasks.csv", "prompt\ra red car\ra house\r"),
        ("tasks.csv", "prompt,\na red car,\na house, ,\n"),
        ("tasks.csv", "\n\nprompt\na red car\na house\n"),
        ("tasks.tsv", "prompt\tseed\na red car\t\na house\t\n"),
        ("tasks.csv", "prompt;seed\na red car;\na house\n"),
    ],
)
def test_tasks_are_read_from_every_format(
    tmp_path: Path, name: str, content: str, bom: str
) -> None:
    assert read(tmp_path, name, bom + content).tasks == [CAR, HOUSE]


@pytest.mark.parametrize(
    "prompt", ["[masterpiece], a fox", "{a drawing}", "a car, red, at night", "(1.2) cat"]
)
def test_text_starting_with_a_bracket_may_be_a_prompt(tmp_path: Path, prompt: str) -> None:
    assert read(tmp_path, "tasks.txt", f"{prompt}\n{prompt}\n").tasks == [{"prompt": prompt}] * 2


def test_options_beside_the_tasks_apply_to_all_of_them(tmp_path: Path) -> None:
    for model, semaphore in (("model", "semaphore"), ("model_name", "external_semaphore_id")):
        whole = {
            "tasks": [CAR],
            model: "flux-dev",
            semaphore: "team",
            "skip_invalid": True,
            "wait_seconds": 30,
            "aspect_ratio": "16:9",
            "input": {"seed": 7},
        }
        given = read(tmp_path, "tasks.json", json.dumps(whole))
        assert given.tasks == [CAR]
        assert (given.model, given.semaphore, given.skip_invalid) == ("flux-dev", "team", True)
        assert given.shared_inputs == {"aspect_ratio": "16:9", "seed": 7}


def test_manifest_line_is_read_as_a_task_that_recreates_its_image(tmp_path: Path) -> None:
    line = {
        "prompt": "a red car",
        "model": "black-forest-labs/flux-schnell",
        "version": "abcd",
        "seed": 7,
        "inputs": {"prompt": "a red car", "aspect_ratio": "16:9", "seed": 7},
        "prediction_id": "p1",
        "filename": "car.webp",
        "created_at": "2026-11-30T08:00:00Z",
        "sha256": "0" * 64,
    }
    (task,) = read(tmp_path, "manifest.jsonl", json.dumps(line) + "\n").tasks
    assert task == {
        "prompt": "a red car",
        "model": line["model"],
        "seed": 7,
        "output_filename": "car.webp",
        "input": line["inputs"],
    }


async def test_cells_are_converted_by_the_model_of_their_row(tmp_path: Path) -> None:
    given = read(
        tmp_path,
        "tasks.csv",
        "prompt,model,megapixels,num_outputs,go_fast,images,other,output_filename\n"
        "7,,1,2,TRUE,https://x.y/a.png,,007\n"
        '"a ""big"" car, red",acme/x,1,2,no,"[""a"", ""b""]",text,\n',
    )
    assert given.has_cells
    asked: list[str | None] = []

    async def fields(name: str | None) -> Mapping[str, InputField]:
        asked.append(name)
        return {} if name == "acme/x" else FIELDS

    first, second = await read_cells(given, "acme/y", fields)
    assert first == {
        "prompt": "7",
        "megapixels": "1",
        "num_outputs": 2,
        "go_fast": True,
        "images": ["https://x.y/a.png"],
        "output_filename": "007",
    }
    assert second == {
        "prompt": 'a "big" car, red',
        "model": "acme/x",
        "megapixels": 1,
        "num_outputs": 2,
        "go_fast": "no",
        "images": ["a", "b"],
        "other": "text",
    }
    assert asked == ["acme/y", "acme/x"]


WRONG: list[tuple[str, str | bytes, str]] = [
    ("tasks.csv", "a red car, at night\na house\n", "needs a first line that names the columns"),
    ("tasks.csv", "", "needs a first line that names the columns"),
    ("tasks.csv", "prompt,prompt\na,b\n", "a name is missing or twice there"),
    ("tasks.csv", "prompt,seed\n", "has no line after its header"),
    ("tasks.csv", "prompt\na red car, at night\n", "line 2 has 2 cells, the header 1: put text wi"),
    ("tasks.csv", 'prompt\n"a red car\n', "line 2 cannot be read as comma-separated values"),
    ("tasks.csv", b"prompt\ncaf\xe9\n", "it is not UTF-8 text"),
    ("tasks.txt", "# nothing\n\n", "is empty: a line is a prompt"),
    ("tasks.jsonl", '{"prompt": "a"}\n{"prompt": "b\n', "line 2 is JSON text that is cut off"),
    ("tasks.json", '[{"prompt": "a red car"', "tasks.json is JSON text that is cut off at char"),
    ("tasks.json", "a red car", "is not JSON: it must hold a list like"),
    ("tasks.yaml", "- prompt: x", "a .csv file a header and a task a line"),
    ("tasks.json", "[" * 5_000, "is nested too deeply"),
    ("tasks.json", '{"tasks": [{"prompt": "x"}], "skip_invalid": "maybe"}', "skip_invalid: "),
    (
        "tasks.json",
        '{"tasks": ["x"], "model": "a/b", "model_name": "c/d"}',
        "name different models",
    ),
    (
        "tasks.json",
        '{"tasks": ["x"], "semaphore": "a", "external_semaphore_id": "b"}',
        "different s",
    ),
    ("tasks.json", '{"tasks": ["x"], "credentials": {}}', "credentials are not read from a file"),
    ("tasks.json", '{"prompts": {"a": 1}}', "prompts must be a list of text"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), WRONG)
def test_unreadable_input_reports_its_place_and_the_correct_form(
    tmp_path: Path, name: str, content: str | bytes, sentence: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, name, content)
    assert sentence in str(refused.value)


def test_table_columns_become_model_inputs(
    replicate_mcp: CommandLine, simulator: Simulator, tmp_path: Path
) -> None:
    (tmp_path / "tasks.csv").write_text(
        "prompt,num_outputs,aspect_ratio,megapixels,output_filename,model\n"
        '"a car, red",2,16:9,1,car.png,\n'
        "a house,,,,,flux-kontext-max\n"
    )
    ran = replicate_mcp("generate", "--file", "tasks.csv", "--model", "flux-schnell")
    assert ran.returncode == 0, ran.stderr
    assert [line.split("\t")[0] for line in ran.stdout.splitlines()][:2] == [
        "car_1.png",
        "car_2.png",
    ]
    sent = {each["input"]["prompt"]: each for each in simulator.predictions("acme")}
    car = sent["a car, red"]["input"]
    assert (car["num_outputs"], car["megapixels"], car["aspect_ratio"]) == (2, "1", "16:9")
    assert sent["a house"]["model"] == "black-forest-labs/flux-kontext-max"


def test_tool_arguments_are_accepted_as_a_task_file(
    replicate_mcp: CommandLine, simulator: Simulator, tmp_path: Path
) -> None:
    whole = {"tasks": [CAR, {"prompt": "x", "seed": "y"}], "model": "flux-dev", "seed": 3}
    (tmp_path / "tasks.json").write_text(json.dumps(whole))
    refused = replicate_mcp("generate", "--file", "tasks.json")
    assert refused.returncode == 2
    assert refused.stderr.startswith("task 1: seed 'y' is not a whole number")
    ran = replicate_mcp("generate", "--file", "tasks.json", "--skip-invalid")
    assert ran.returncode == 1
    assert "invalid_input: seed 'y' is not a whole number" in ran.stderr
    (made,) = simulator.predictions("acme")
    assert (made["model"], made["input"]["seed"]) == ("black-forest-labs/flux-dev", 3)


def test_input_paths_resolve_like_shell_paths(
    replicate_mcp: CommandLine, simulator: Simulator, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    for place in ("cat.png", "home/cat.png"):
        (tmp_path / place).write_bytes(b"\x89PNG\r\n\x1a\n")
    words = ("generate", "at night", "--model", "flux-kontext-max", "--input")
    for given in ("cat.png", "home/../cat.png", str(tmp_path / "cat.png"), "~/cat.png"):
        ran = replicate_mcp(*words, f"input_image={given}")
        assert ran.returncode == 0, ran.stderr
    refused = replicate_mcp(*words, "input_image=dog.png")
    assert "input_image 'dog.png' is not there: " in refused.stderr
    assert "HTTP" not in refused.stderr
    sent = {each["input"]["input_image"] for each in simulator.predictions("acme")}
    assert all(url.startswith(f"{simulator.url}/v1/files/") for url in sent)


def test_inputs_without_a_prompt_form_one_task() -> None:
    assert read_tasks([], [], None, has_inputs=True).tasks == [{}]
    assert read_tasks([], ["a.png"], None, has_inputs=True).tasks == [{"output_filename": "a.png"}]
    with pytest.raises(InvalidInput, match="Say what to draw"):
        read_tasks([], [], None)


def test_model_given_as_input_is_rejected_naming_the_option() -> None:
    with pytest.raises(InvalidInput, match="The model goes into --model, not into --input"):
        read_inputs(["model=flux-dev"], FIELDS)
    own = {"model": field("model", "string")}
    assert read_inputs(["model=small"], own) == {"model": "small"}


def test_model_without_a_prompt_runs_on_its_inputs(
    replicate_mcp: CommandLine, simulator: Simulator
) -> None:
    image = "image=https://example.com/small.png"
    made = replicate_mcp("generate", "--model", "real-esrgan", "--input", image)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("generated_image_1.png\thttp")
    assert simulator.account("acme")["created"] == 1
