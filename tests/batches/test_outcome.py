"""Outcome of a prediction without an image: error code, message and files."""

import random
from typing import Any

import pytest

from replicate_mcp.batches.outcome import outcome
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.replicate_api.gateway import Target
from replicate_mcp.replicate_api.prediction import Prediction
from replicate_mcp.tasks.filenames import BatchFilenames
from replicate_mcp.tasks.model_name import ModelName
from replicate_mcp.tasks.result import TaskFailure, TaskSuccess

TASK = PlannedTask(
    index=0,
    prompt="a fox",
    output_filename="fox",
    model="owner/name",
    target=Target(ModelName.parse("owner/name")),
    inputs={},
    seed=None,
    expected_format=None,
    expected_count=1,
)


def row(**answer: Any) -> TaskSuccess | TaskFailure:
    prediction = Prediction.from_response({"id": "p1", "status": "succeeded", **answer})
    return outcome(TASK, prediction, BatchFilenames(["fox"], [None]), canceled=False, now=1e9)


def failed(**answer: Any) -> TaskFailure:
    failure = row(**answer)
    assert isinstance(failure, TaskFailure)
    return failure


REFUSED = [
    # Models packaged by Replicate, and Qwen Image.
    "NSFW content detected. Try running it again, or try a different prompt.",
    "All generated images contained NSFW content. Try running it again with a different prompt.",
    "Prediction failed: NSFW detected",
    # Replicate itself.
    "The input or output was flagged as sensitive. Please try again with different inputs. (E005)",
    # Black Forest Labs.
    "Request Moderated",
    "Content Moderated",
    # OpenAI, xAI.
    "Your request was rejected as a result of our safety system.",
    "Error code: 400 - {'error': {'code': 'moderation_blocked'}}",
    "The prompt may violate our guardrails around nudity. Please retry or edit your prompt.",
    "Generated image rejected by content moderation.",
    # Google.
    "The response is blocked, as it may violate our policies.",
    "Unable to show images: they violated safety policies.",
    "All images were filtered out because they violated Google's Responsible AI practices.",
    "Image generation failed: PROHIBITED_CONTENT",
    "no image was returned (finish_reason: IMAGE_SAFETY)",
    # ByteDance, MiniMax, Alibaba.
    "The request failed because the output image may contain sensitive information.",
    "InputTextSensitiveContentDetected: try something else",
    "input contains sensitive content (1026)",
    "DataInspectionFailed: Output data may contain inappropriate content.",
    # Ideogram.
    "Prompt failed safety check",
]

NOT_REFUSED = [
    "The sampler's schedule is sensitive to noise at step 12",
    "Failed to load safety checker",
    "CUDA out of memory in safety_checker.py, line 12",
    "Failed to run safety check: CUDA error",
    "Model names are case-sensitive",
    "rejected: unsupported content type",
    "the moderation service is not available",
    "flagged for removal in the next version",
    "The policy network diverged",
]


@pytest.mark.parametrize("error", REFUSED)
def test_content_rejection_error_is_content_flagged(error: str) -> None:
    failure = failed(status="failed", error=error)
    assert (failure.error_code, failure.retryable) == ("content_flagged", False)
    assert failure.error.endswith("): change the prompt or the input image.")


@pytest.mark.parametrize("error", NOT_REFUSED)
def test_error_merely_mentioning_content_terms_is_prediction_failed(error: str) -> None:
    failure = failed(status="failed", error=error, logs="NSFW content detected")
    assert (failure.error_code, failure.retryable) == ("prediction_failed", True)
    assert failure.error == f"The model failed: {error}."


@pytest.mark.parametrize(
    ("error", "quoted"),
    [
        (REFUSED[0], "NSFW content detected"),
        (REFUSED[1], "All generated images contained NSFW content"),
        (REFUSED[3], "The input or output was flagged as sensitive. (E005)"),
        ("NSFW content detected, please try a different prompt", "NSFW content detected"),
        (REFUSED[8], "The prompt may violate our guardrails around nudity"),
    ],
)
def test_quoted_rejection_omits_contradictory_advice(error: str, quoted: str) -> None:
    assert failed(status="failed", error=error).error == (
        f'The model refused the content ("{quoted}"): change the prompt or the input image.'
    )


@pytest.mark.parametrize("output", [[], None])
@pytest.mark.parametrize(
    "line",
    [
        "NSFW content detected in image 0",
        "Potential NSFW content was detected in one or more images. A black image will be "
        "returned instead. Try again with a different prompt and/or seed.",
    ],
)
def test_content_rejection_in_logs_counts_when_there_is_no_file(output: object, line: str) -> None:
    logs = f"Using seed: 7\n100%|####| 4/4 [00:01<00:00]\n{line}\nTotal safe images: 0 out of 1\n"
    failure = failed(output=output, logs=logs)
    assert (failure.error_code, failure.retryable) == ("content_flagged", False)
    assert "NSFW content" in failure.error
    assert "seed" not in failure.error
    assert isinstance(row(output="https://replicate.delivery/a.png", logs=logs), TaskSuccess)
    assert failed(status="failed", logs=logs).error_code == "content_flagged"


@pytest.mark.parametrize(
    "logs",
    [
        "safety_filter_level: block_only_high",
        "disable_safety_checker=False",
        "nsfw_content_detected: [False]",
        "NSFW content detected: False",
        "No NSFW content detected",
        "Running NSFW check\n0 NSFW images found",
        None,
        7,
    ],
)
def test_harmless_log_without_a_file_is_no_output(logs: object) -> None:
    failure = failed(output=[], logs=logs)
    assert (failure.error_code, failure.retryable) == ("no_output", True)
    assert failure.error == "The model ended without giving any image."


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("I cannot draw that.", "I cannot draw that"),
        (["I", " cannot", " draw", " that"], "I cannot draw that"),
        (["I cannot", "draw that"], "I cannot draw that"),
        ({"text": "I cannot\r\ndraw\x1b[2J that"}, "I cannot draw [2J that"),
        ("https://example.com see this page", "https://example.com see this page"),
        ("https://[broken/out.png", "https://[broken/out.png"),
    ],
)
def test_text_output_of_a_model_is_quoted(output: object, words: str) -> None:
    failure = failed(output=output)
    assert (failure.error_code, failure.retryable) == ("no_output", True)
    assert failure.error == f'The model answered in words instead of an image: "{words}".'


def test_text_output_rejecting_the_content_is_content_flagged() -> None:
    failure = failed(output=["I can't make this image: it would violate", " our content policy."])
    assert (failure.error_code, failure.retryable) == ("content_flagged", False)
    assert '("I can\'t make this image: it would violate our content policy")' in failure.error


def test_text_output_of_megabytes_becomes_one_short_line() -> None:
    tokens = [random.Random(1).choice(["no ", "\n\u202e"]) for _ in range(9_000)]
    for output in ("A" * 5_000_000, tokens, [tokens, {"a": "B" * 5_000_000}]):
        failure = failed(output=output)
        assert failure.error_code == "no_output"
        assert len(failure.error) <= 400
        assert failure.error.isprintable()


def test_inline_file_output_is_reported_as_such() -> None:
    failure = failed(output=["data:image/png;base64,AAAA"])
    assert (failure.error_code, failure.retryable) == ("no_output", False)
    assert "data: URI" in failure.error
    assert "AAAA" not in failure.error


D = "https://replicate.delivery/a/"


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (f"{D}out.PNG", ["fox.png"]),
        ("HTTPS://replicate.delivery/a/out.PNG?x=1#y", ["fox.png"]),
        (f"{D}trained_model.safetensors", ["fox.safetensors"]),
        (f"{D}layers.zip", ["fox.zip"]),
        (f"{D}model.glb", ["fox.glb"]),
        ([f"{D}0.webp", f"{D}1.jpeg"], ["fox_1.webp", "fox_2.jpeg"]),
        ({"image": f"{D}a.png", "images": [f"{D}a.png", f"{D}b.png"]}, ["fox_1.png", "fox_2.png"]),
    ],
)
def test_files_keep_the_delivered_extension(output: object, names: list[str]) -> None:
    success = row(output=output)
    assert isinstance(success, TaskSuccess)
    assert [file.filename for file in success.generated_files] == names
    assert success.count == len(names)
