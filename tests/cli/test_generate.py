"""`replicate-mcp generate`, as used by people and by scripts."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from backends.link import link_to
from backends.servers import RunningServer, open_for_admission
from replicate_mcp.simulator import Simulator

from .conftest import TOKEN, CommandLine, open_terminal


def created(simulator: Simulator) -> int:
    return int(simulator.account("acme")["created"])


def test_piped_output_has_one_line_per_file(replicate_mcp: CommandLine) -> None:
    ran = replicate_mcp(
        *("generate", "a red car", "a blue house"),
        *("--filename", "red_car.jpg", "--filename", "blue_house.png"),
    )
    assert ran.returncode == 0, ran.stderr
    rows = [line.split("\t") for line in ran.stdout.splitlines()]
    assert [name for name, _ in rows] == ["red_car.jpg", "blue_house.png"]
    assert all(url.startswith("http://127.0.0.1:") and " " not in url for _, url in rows)
    assert "2 of 2 made" in ran.stderr
    assert TOKEN not in ran.stdout + ran.stderr


def test_failed_task_is_reported_on_stderr_with_exit_code_1(
    replicate_mcp: CommandLine,
) -> None:
    ran = replicate_mcp("generate", "a red car", "a house [nsfw]")
    assert ran.returncode == 1
    assert [line.split("\t")[0] for line in ran.stdout.splitlines()] == ["generated_image_1.webp"]
    assert ran.stderr.startswith('generated_image_2 ("a house [nsfw]"): content_flagged: ')
    assert "1 of 2 made, 1 failed" in ran.stderr


def test_json_output_is_the_whole_result_and_nothing_else(
    replicate_mcp: CommandLine,
) -> None:
    prompts = [f"a red car, number {number}" for number in range(59)]
    ran = replicate_mcp("generate", *prompts, "a house [fail]", "--json")
    assert ran.returncode == 1
    result = json.loads(ran.stdout)
    assert (result["successful_count"], result["failed_count"]) == (59, 1)
    assert [row["prompt"] for row in result["successful_results"]] == prompts
    assert result["failed_results"][0]["error_code"] == "prediction_failed"
    assert "next_step" not in result


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Say what to draw"),
        (("a car", "--filename", "a.jpg", "--filename", "b.jpg"), "1 prompt and 2 filenames"),
        (("a car", "--input", "aspect_ratio=7:1"), "aspect_ratio"),
        (("a car", "--input", "seed"), "key=value"),
        (("a car", "--filename", "../car.jpg"), "It is a label, not a path"),
        (("a car", "--model", "nobody/nothing"), "Replicate knows no model"),
        (("a car", "--semaphore", "unheard-of"), "unheard-of"),
        (("--file", "missing.json"), "missing.json cannot be read"),
        (("a car", "--file", "tasks.json"), "not both"),
        (("a car", "--overwrite"), "--overwrite goes with --out"),
        (("a car", "--max-mb", "3"), "--max-mb goes with --out"),
        (("a car", "--out", ""), "an empty name is no folder"),
        (("a car", "--out", "~nouser-here/x"), "the home folder of '~nouser-here/x' is not known"),
    ],
)
def test_usage_error_is_one_message_and_nothing_is_created(
    replicate_mcp: CommandLine,
    simulator: Simulator,
    tmp_path: Path,
    words: tuple[str, ...],
    said: str,
) -> None:
    ran = replicate_mcp("generate", *words)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""
    assert created(simulator) == 0
    assert not list(tmp_path.glob("~*"))


def test_missing_token_message_explains_how_to_get_one(replicate_mcp: CommandLine) -> None:
    ran = replicate_mcp("generate", "a red car", REPLICATE_API_TOKEN="")
    assert ran.returncode == 2
    assert "https://replicate.com/account/api-tokens" in ran.stderr


@pytest.mark.parametrize("words", [("generate", "a red car"), ("models", "flux-dev")])
def test_stopped_simulator_is_reported_with_its_start_command(
    replicate_mcp: CommandLine, words: tuple[str, ...]
) -> None:
    ran = replicate_mcp(*words, REPLICATE_BASE_URL="http://127.0.0.1:1")
    assert ran.returncode == 2
    assert ran.stderr == (
        "Replicate could not be reached: the simulator at http://127.0.0.1:1 does not answer: "
        "start it with `replicate-mcp simulate --port 1`, or unset REPLICATE_BASE_URL for "
        "Replicate itself. Nothing was created: try again.\n"
    )


def test_failure_reason_is_printed_once_without_contradiction(replicate_mcp: CommandLine) -> None:
    ran = replicate_mcp("generate", "a house [fail]", "a house [nsfw]")
    failed, flagged, counts, retry = ran.stderr.splitlines()
    assert failed.endswith("The model failed: the model ran out of luck.")
    assert flagged.endswith(
        'The model refused the content ("NSFW content detected. (E005)"): change the prompt or the '
        "input image."
    )
    assert counts.endswith("0 of 2 made, 2 failed. To make the retryable tasks again:")
    assert " retry b_" in retry


def test_progress_bar_uses_terminal_colours_and_is_full_only_on_success(
    replicate_mcp: CommandLine,
) -> None:
    all_made, some_made = (
        _bar_on_a_terminal(replicate_mcp, *prompts)
        for prompts in (("a red car", "a house"), ("a red car", "a house [fail]"))
    )
    assert f"\x1b[32m{'━' * 36}" in all_made
    assert "2/2 done" in all_made
    assert f"\x1b[36m{'━' * 18}\x1b" in some_made
    assert "1 made, 1 failed" in some_made


def _bar_on_a_terminal(replicate_mcp: CommandLine, *prompts: str) -> str:
    """Return the last line in which the progress bar was drawn."""
    leader, follower = open_terminal()
    with subprocess.Popen(
        [sys.executable, "-m", "replicate_mcp", "generate", *prompts],
        stdout=subprocess.DEVNULL,
        stderr=follower,
        env=replicate_mcp.environment | {"COLUMNS": "100", "TERM": "xterm"},
    ):
        os.close(follower)
        drawn = b""
        # Linux signals the end of a terminal by an error.
        with contextlib.suppress(OSError), os.fdopen(leader, "rb", buffering=0) as screen:
            while chunk := screen.read(4096):
                drawn += chunk
    return [line for line in drawn.decode().split("\n") if "━" in line][-1]


def test_tasks_are_read_from_a_json_file(
    replicate_mcp: CommandLine, simulator: Simulator, tmp_path: Path
) -> None:
    tasks = [
        {"prompt": "a red car", "output_filename": "car.png", "seed": 7},
        {"prompt": "a house", "model": "qwen-image"},
    ]
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps(tasks))
    ran = replicate_mcp("generate", "--file", file)
    assert ran.returncode == 0, ran.stderr
    first, second = simulator.predictions("acme")
    inputs = {each["model"]: each["input"] for each in (first, second)}
    assert inputs["black-forest-labs/flux-schnell"]["seed"] == 7
    assert "qwen/qwen-image" in inputs


@pytest.mark.parametrize(
    "text",
    [
        '[{"prompt": "a red car"}, {"prompt": "a house"}]',
        '{"tasks": [{"prompt": "a red car"}, {"prompt": "a house"}]}',
        "a red car\n\na house\n",
    ],
)
def test_tasks_are_read_from_stdin(
    replicate_mcp: CommandLine, simulator: Simulator, text: str
) -> None:
    ran = replicate_mcp("generate", "--file", "-", stdin=text)
    assert ran.returncode == 0, ran.stderr
    prompts = {each["input"]["prompt"] for each in simulator.predictions("acme")}
    assert prompts == {"a red car", "a house"}


@pytest.mark.parametrize(
    "text", ["\ufeffun château d'été\n", '\ufeff[{"prompt": "un château d\'été"}]']
)
def test_stdin_is_decoded_as_utf_8_in_any_locale(
    replicate_mcp: CommandLine, simulator: Simulator, text: str
) -> None:
    ran = replicate_mcp("generate", "--file", "-", stdin=text, PYTHONIOENCODING="cp1252")
    assert ran.returncode == 0, ran.stderr
    (made,) = simulator.predictions("acme")
    assert made["input"]["prompt"] == "un château d'été"


def test_non_utf_8_stdin_is_rejected(replicate_mcp: CommandLine, simulator: Simulator) -> None:
    process = replicate_mcp.start("generate", "--file", "-", PYTHONIOENCODING="cp1252")
    assert process.stdin is not None
    os.write(process.stdin.fileno(), "un château\n".encode("cp1252"))
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert err == "The standard input cannot be read: it is not UTF-8 text.\n"
    assert created(simulator) == 0


@pytest.mark.parametrize("file", ["-", "tasks.txt"])
def test_input_starting_like_json_is_never_read_line_by_line(
    replicate_mcp: CommandLine, simulator: Simulator, tmp_path: Path, file: str
) -> None:
    text = '[\n  {"prompt": "a red car"}\n  {"prompt": "a house"}\n]\n'
    (tmp_path / "tasks.txt").write_text(text)
    ran = replicate_mcp("generate", "--file", file, stdin=text)
    assert ran.returncode == 2
    assert "is JSON text that is not valid at character 31" in ran.stderr
    assert created(simulator) == 0


def test_inputs_are_converted_to_the_types_of_the_model(
    replicate_mcp: CommandLine, simulator: Simulator
) -> None:
    pairs = ("megapixels=1", "num_outputs=2", "aspect_ratio=16:9", "go_fast=false")
    words = [word for pair in pairs for word in ("--input", pair)]
    ran = replicate_mcp("generate", "a red car", *words)
    assert ran.returncode == 0, ran.stderr
    sent = simulator.predictions("acme")[0]["input"]
    expected = {"megapixels": "1", "num_outputs": 2, "aspect_ratio": "16:9", "go_fast": False}
    assert sent.items() >= expected.items()
    assert len(ran.stdout.splitlines()) == 2


def test_out_option_saves_the_images_under_their_names(
    replicate_mcp: CommandLine, tmp_path: Path
) -> None:
    words = ("generate", "a red car", "--filename", "red_car.png", "--out", "pictures")
    ran = replicate_mcp(*words)
    assert ran.returncode == 0, ran.stderr
    saved = tmp_path / "pictures" / "red_car.png"
    with Image.open(saved) as image:
        assert image.format == "PNG"
    assert [each.name for each in saved.parent.iterdir()] == ["red_car.png"]


def test_out_option_uses_the_next_free_name_and_expands_home(
    replicate_mcp: CommandLine, tmp_path: Path
) -> None:
    folder = tmp_path / "home" / "pics"
    for _ in range(3):
        ran = replicate_mcp("generate", "a red car", "--out", "~/pics")
        assert ran.returncode == 0, ran.stderr
    names = [f"generated_image_1{suffix}.webp" for suffix in ("", "_2", "_3")]
    assert sorted(each.name for each in folder.iterdir()) == sorted(names)
    assert f"{names[0]} is saved as {names[2]}, the next free name." in ran.stderr
    assert len({(folder / name).read_bytes() for name in names}) == 3
    replicate_mcp("generate", "a red car", "--out", "~/pics", "--overwrite")
    assert len(list(folder.iterdir())) == 3


def test_uncreatable_out_folder_is_rejected_before_any_creation(
    replicate_mcp: CommandLine, simulator: Simulator, tmp_path: Path
) -> None:
    (tmp_path / "pictures").write_text("a file")
    ran = replicate_mcp("generate", "a red car", "--out", "pictures")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "The folder pictures cannot be made" in ran.stderr
    assert created(simulator) == 0


def test_concurrent_tasks_may_exceed_the_initial_open_file_limit(
    replicate_mcp: CommandLine, simulator: Simulator, tmp_path: Path
) -> None:
    simulator.configure(predict_seconds=2)
    (tmp_path / "prompts.txt").write_text("\n".join(f"car {number}" for number in range(100)))
    words = ("-m", "replicate_mcp", "generate", "--file", "prompts.txt")
    ran = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -Sn 64 && exec "$0" "$@"', sys.executable, *words],
        env=replicate_mcp.environment | {"REPLICATE_CONCURRENT_LIMIT": "100"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, len(ran.stdout.splitlines())) == (0, 100), ran.stderr
    assert simulator.account("acme")["max_in_flight"] == 100


def test_filename_too_long_for_the_folder_is_rejected_before_any_creation(
    replicate_mcp: CommandLine, simulator: Simulator, tmp_path: Path
) -> None:
    folder = Path(*["d" * 200] * 19, "d" * 126)
    assert len(str(folder)) == 4_095 - 150  # A path may have 4,095 bytes.
    made = replicate_mcp("generate", "a red car", "--filename", "red_car.png", "--out", folder)
    assert made.returncode == 0, made.stderr
    assert created(simulator) == 1
    long = "é" * 100
    names = ("--filename", "short.png", "--filename", long)
    ran = replicate_mcp("generate", "a red car", "a blue house", *names, "--out", folder)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"The name {long} is too long for --out (File name too long)" in ran.stderr
    assert created(simulator) == 1
    with contextlib.chdir(tmp_path):
        assert [path.name for path in folder.iterdir()] == ["red_car.png"]


def test_ctrl_c_cancels_the_batch_at_replicate_and_shows_finished_images(
    replicate_mcp: CommandLine, simulator: Simulator
) -> None:
    process = replicate_mcp.start(
        "generate", "a red car", *["a house [hang]"] * 5, REPLICATE_CONCURRENT_LIMIT="3"
    )
    simulator.wait_for(account="acme", in_flight=3, created=4)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Stopping: cancelling 3 at Replicate; press Ctrl-C again to leave at once." in err
    assert [line.split("\t")[0] for line in out.splitlines()] == ["generated_image_1.webp"]
    assert "was cancelled: 1 of 6 made, 5 cancelled" in err
    seen = simulator.account("acme")
    assert (seen["in_flight"], seen["created"], seen["canceled"]) == (0, 4, 3)


def test_second_ctrl_c_exits_immediately(replicate_mcp: CommandLine, simulator: Simulator) -> None:
    process = replicate_mcp.start("generate", "a house [hang]")
    simulator.wait_for(account="acme", in_flight=1)
    simulator.configure(cancel_seconds=60)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "Stopping" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=5)
    assert process.returncode == 130
    assert err.splitlines() == [
        "Left at once: what was not cancelled yet may run on at Replicate, and is billed."
    ]


def test_ctrl_c_before_the_batch_starts_creates_nothing(
    replicate_mcp: CommandLine, simulator: Simulator
) -> None:
    simulator.fault_next("silence", on="get")
    process = replicate_mcp.start("generate", "a red car")
    simulator.wait_for(account="acme", faults=1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines() == ["Nothing was made."]
    assert created(simulator) == 0


async def test_ctrl_c_works_while_the_backend_is_unreachable(
    replicate_mcp: CommandLine,
    simulator: Simulator,
    servers: Callable[[str], RunningServer],
) -> None:
    await open_for_admission(servers("redis"), "ctrl-c", "acme")
    async with link_to(servers("redis")) as link:
        backend = servers("redis").url("ctrl-c", port=link.port)
        process = replicate_mcp.start("generate", "a [hang]", REPLICATE_MCP_BACKEND=backend)
        await simulator.reached(account="acme", in_flight=1)
        await link.cut()
        process.send_signal(signal.SIGINT)
        said = await asyncio.to_thread(read_until, process, "Trying again.")
        await link.restore()
        _, rest = await asyncio.to_thread(process.communicate, timeout=20)
    assert process.returncode == 1, rest
    assert "Redis at redis://127.0.0.1" in said
    assert "Traceback" not in said + rest
    assert "0 of 1 made, 1 cancelled" in rest
    assert simulator.account("acme")["in_flight"] == 0


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Return stderr of a process up to the line with these words, or to its end."""
    assert process.stderr is not None
    said = ""
    while words not in said and (line := process.stderr.readline()):
        said += line
    return said
