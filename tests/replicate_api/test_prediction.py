"""A prediction parsed from a response: its fields, and when it is complete."""

import math
import time
from typing import Any, cast

import pytest

from replicate_mcp.replicate_api.prediction import (
    ENDED_STATUSES,
    MAX_LOG_CHARACTERS,
    Prediction,
    seconds_of,
)

URL = "https://replicate.delivery/a.png"
OTHER = "https://replicate.delivery/b.png"
INLINE = "data:image/png;base64,AA"


def read(**answer: Any) -> Prediction:
    return Prediction.from_response({"id": "p1", "status": "succeeded", **answer})


def test_all_kept_fields_of_a_response_are_parsed() -> None:
    found = read(
        output=URL,
        error="two\nlines",
        created_at="2026-11-30T12:00:00.123Z",
        completed_at="2026-11-30T12:00:02Z",
        deadline="2026-11-30T12:10:00.123456789Z",
        metrics={"predict_time": 1.5},
        input={"seed": 7},
        logs="some",
    )
    assert found == Prediction(
        id="p1",
        status="succeeded",
        urls=(URL,),
        inline=False,
        error="two lines",
        created_at=1796040000.123,
        completed_at=1796040002.0,
        deadline=cast(float, pytest.approx(1796040600.123456)),
        predict_seconds=1.5,
        seed=7,
        listed=False,
        words="",
        logs="",
    )
    without_files = read(output="I cannot")
    assert without_files.words == "I cannot"
    assert "words" not in repr(without_files)


def test_response_may_contain_only_id_and_status() -> None:
    assert read() == Prediction("p1", "succeeded", (), False, "", None, None, None, None)
    assert Prediction.from_id("p1") == Prediction("p1", "", (), False, "", None, None, None, None)


@pytest.mark.parametrize("wrong_type", [7, None, [], {}])
def test_field_of_a_wrong_type_counts_as_absent(wrong_type: object) -> None:
    names = ("error", "created_at", "completed_at", "deadline", "metrics", "input", "logs")
    assert read(**dict.fromkeys(names, wrong_type)) == read()


@pytest.mark.parametrize("good", ["p", "a-B_9", "x" * 64])
def test_url_safe_id_is_accepted(good: str) -> None:
    assert read(id=good).id == good


@pytest.mark.parametrize("bad", [None, 7, "", "x" * 65, "a/b", "a.b", "a b", "é", "a\n", "a%2Fb"])
def test_id_unsafe_in_a_url_is_rejected(bad: object) -> None:
    with pytest.raises(ValueError, match="no usable id"):
        read(id=bad)


@pytest.mark.parametrize("bad", [None, 7, ["succeeded"]])
def test_response_without_a_status_is_rejected(bad: object) -> None:
    with pytest.raises(ValueError, match="no status"):
        read(status=bad)


# A status, an output, and whether it is complete; then with one file, and with two.
DONE = [
    *[(status, None, True, True, True) for status in sorted(ENDED_STATUSES)],
    *[(status, [URL], True, True, True) for status in sorted(ENDED_STATUSES)],
    *[(status, INLINE, False, False, False) for status in sorted(ENDED_STATUSES)],
    ("starting", None, False, False, False),
    ("starting", URL, False, False, False),
    ("starting", [URL, OTHER], False, False, False),
    ("processing", None, False, False, False),
    ("processing", URL, True, True, True),
    ("processing", [URL], False, True, False),
    ("processing", [URL, OTHER], False, True, True),
    ("processing", {"image": URL}, True, True, True),
    ("processing", INLINE, False, False, False),
    ("processing", [URL, INLINE], False, False, False),
    ("", URL, False, False, False),
]


@pytest.mark.parametrize(("status", "output", "done", "with_one", "with_two"), DONE)
def test_prediction_is_complete_when_ended_or_all_files_exist(
    status: str, output: object, done: bool, with_one: bool, with_two: bool
) -> None:
    found = read(status=status, output=output)
    assert found.done is done
    assert found.is_complete_with(None) is done
    assert found.is_complete_with(1) is with_one
    assert found.is_complete_with(2) is with_two


def test_four_statuses_are_terminal() -> None:
    assert {"succeeded", "failed", "canceled", "aborted"} == ENDED_STATUSES


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:10Z", 10),
        ("1970-01-01T00:00:10", 10),
        ("1970-01-01T01:00:10+01:00", 10),
        ("1970-01-01T00:00:10.125Z", 10.125),
        ("1970-01-01T00:00:10.125000000Z", 10.125),
        ("0001-01-01T00:00:00+23:59", -62135683140),
        ("9999-12-31T23:59:59-23:59", 253402387139),
        ("2026-11-31T00:00:00Z", None),
        ("yesterday", None),
        ("", None),
        (None, None),
        (10, None),
    ],
)
def test_timestamp_is_parsed_to_seconds(text: object, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="Windows has one time zone a process.")
def test_timestamp_without_a_time_zone_is_utc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        monkeypatch.setenv("TZ", "XYZ+5")
        time.tzset()
        assert time.timezone == 5 * 3600
        assert seconds_of("1970-01-01T00:00:10") == 10
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("reported", "kept"),
    [
        (1.5, 1.5),
        (2, 2.0),
        (0, 0.0),
        (-0.1, None),
        (math.inf, None),
        (math.nan, None),
        (True, None),
        ("1.5", None),
        (None, None),
    ],
)
def test_plausible_predict_time_is_kept(reported: object, kept: float | None) -> None:
    assert read(metrics={"predict_time": reported}).predict_seconds == kept


@pytest.mark.parametrize(
    ("reported", "kept"),
    [
        (7, 7),
        (0, 0),
        (-7, -7),
        (42.0, 42),
        (42.5, None),
        (2**64 - 1, 2**64 - 1),
        (2**64, None),
        (1e300, None),
        (math.inf, None),
        (math.nan, None),
        (True, None),
        ("7", None),
    ],
)
def test_64_bit_integer_seed_is_kept(reported: object, kept: int | None) -> None:
    assert read(input={"seed": reported}).seed == kept
    assert type(read(input={"seed": reported}).seed) is type(kept)


LOG = "".join(map(str, range(3_000)))


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ({"status": "succeeded"}, LOG[-MAX_LOG_CHARACTERS:]),
        ({"status": "failed"}, LOG[-MAX_LOG_CHARACTERS:]),
        ({"status": "succeeded", "output": URL}, ""),
        ({"status": "processing"}, ""),
    ],
)
def test_end_of_the_log_is_kept_without_a_file(answer: dict[str, Any], kept: str) -> None:
    found = read(logs=LOG, **answer)
    assert found.logs == kept
    assert MAX_LOG_CHARACTERS == 4_000
    assert LOG[-9:] not in repr(found)


@pytest.mark.parametrize(
    ("output", "listed"), [([URL], True), ([], True), (URL, False), ({"images": [URL]}, False)]
)
def test_only_a_list_output_may_grow(output: object, listed: bool) -> None:
    assert read(output=output).listed is listed
