"""Filenames: rejected ones, file extensions, and uniqueness within a batch."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_mcp.tasks.filenames import (
    MAX_BYTES,
    BatchFilenames,
    default_name,
    delivered_name,
    image_format,
    problem,
    requested_format,
    with_suffix_number,
)

EXTENSIONS = ["jpg", "jpeg", "JPG", "png", "webp", "WEBP", "gif", "avif"]
LIKELY = ["cat", "Cat", "cat.png", "CAT.PNG", "cat_2.png", "cat.jpg", "cat_1", "cat_1.jpg", "é.png"]
LIKELY += ["e\u0301.png", "straße", "STRASSE", "my.file", "generated_image_1", "cat_2_1.webp"]

formats = st.sampled_from([*EXTENSIONS, None])
names = st.one_of(st.sampled_from(LIKELY), st.text(max_size=12)).filter(lambda n: not problem(n))


def folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is empty"),
        (".", "is '.'"),
        ("..", "is '..'"),
        ("../cat.png", "contains a path separator '/'"),
        ("a\\cat.png", "contains a path separator '\\'"),
        ("cat..png", "contains '..'"),
        ("bell\a.png", "contains the control character U+0007"),
        ("nul\0.png", "contains the control character U+0000"),
        ("del\x7f.png", "contains the control character U+007F"),
        ("next\x85line", "contains the control character U+0085"),
        ("a\u2028b", "contains the line separator U+2028"),
        ("a\u2029b", "contains the line separator U+2029"),
        ("a\u202egnp.exe", "contains the text-direction control U+202E"),
        ("a\u2066b", "contains the text-direction control U+2066"),
        ("a\ud800b", "contains half a character, the surrogate U+D800"),
        ("what?.png", "contains '?', which Windows refuses"),
        ("C:cat.png", "contains ':', which Windows refuses"),
        ("CON", "is reserved by Windows ('CON')"),
        ("con.png", "is reserved by Windows ('CON')"),
        ("Aux .tar.gz", "is reserved by Windows ('AUX')"),
        ("lpt9.jpg", "is reserved by Windows ('LPT9')"),
        ("COM¹", "is reserved by Windows ('COM¹')"),
        ("conin$", "is reserved by Windows ('CONIN$')"),
        ("cat.", "ends with a dot"),
        ("cat ", "starts or ends with whitespace"),
        (" cat", "starts or ends with whitespace"),
        ("\u00a0cat", "starts or ends with whitespace"),
        ("x" * 230, "is 230 bytes long, over the limit of 200"),
        ("é" * 101, "is 202 bytes long, over the limit of 200"),
    ],
    ids=ascii,
)
def test_invalid_filename_is_rejected_with_its_reason(name: str, why: str) -> None:
    assert problem(name) == why


def test_only_exact_windows_device_names_are_rejected() -> None:
    ports = [f"{port}{digit}" for port in ("COM", "LPT") for digit in "123456789¹²³"]
    for device in ("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", *ports):
        for name in (device, device.lower(), f"{device}.png", f"{device} .a.png"):
            assert problem(name) == f"is reserved by Windows ('{device}')"
    for name in ("COM0", "COM_", "LPTm", "COM", "LPT.png", "xCON.png", "CON_.png", "a.CON"):
        assert problem(name) is None


def test_only_bidirectional_control_characters_are_rejected() -> None:
    for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A)):
        assert problem(f"a{chr(code)}b") == f"contains the text-direction control U+{code:04X}"
    for character in "\u2027\u202f\u2030\u2065\u206a\u200f\u3042\u4e00":
        assert problem(f"a{character}b") is None


@pytest.mark.parametrize("character", '<>:"|?*')
def test_windows_reserved_filename_is_rejected(character: str) -> None:
    assert problem(f"a{character}b") == f"contains '{character}', which Windows refuses"


@pytest.mark.parametrize(
    "name",
    [
        *("red_car.jpg", "my.file", ".hidden", "CONSOLE.png", "com10", "nul_1.png"),
        *("猫.png", "👩\u200d🚀.webp", "a b.png", "100% - (final) [2], it's & so~.png"),
        "x" * MAX_BYTES,
    ],
)
def test_plain_filename_is_accepted(name: str) -> None:
    assert problem(name) is None


@pytest.mark.parametrize(
    ("name", "format"),
    [
        *[("a.jpg", "jpg"), ("a.jpeg", "jpg"), ("a.JPG", "jpg"), ("a.Png", "png")],
        *[("a.webp", "webp"), ("a.gif", "gif"), ("a.avif", "avif"), ("a.b.png", "png")],
        *[
            ("a", None),
            ("my.file", None),
            ("png", None),
            (".png", None),
            ("a.", None),
            ("a.mp4", None),
        ],
    ],
)
def test_image_extension_requests_its_format(name: str, format: str | None) -> None:  # noqa: A002
    assert requested_format(name) == format


@pytest.mark.parametrize(
    ("name", "extension", "delivered"),
    [
        ("blue_house", "webp", "blue_house.webp"),
        ("my.file", "webp", "my.file.webp"),
        ("cat.PNG", "png", "cat.PNG"),
        ("cat.jpeg", "jpg", "cat.jpeg"),
        ("cat.jpg", "JPEG", "cat.jpg"),
        ("cat.png", "webp", "cat.webp"),
        ("cat.png", "WEBP", "cat.webp"),
        ("cat", "JPEG", "cat.jpeg"),
        (".png", "webp", ".png.webp"),
        ("cat.png", "mp4", "cat.mp4"),
        ("clip.mp4", "mp4", "clip.mp4"),
        ("clip.mp4", "png", "clip.mp4.png"),
        ("clip.mp4", "webm", "clip.mp4.webm"),
        ("cat.png", None, "cat.png"),
        ("cat", None, "cat"),
        ("cat.png", "", "cat.png"),
        ("cat.png", "x/y", "cat.png"),
    ],
)
def test_delivered_extension_matches_the_actual_format(
    name: str, extension: str | None, delivered: str
) -> None:
    assert delivered_name(name, extension) == delivered


@pytest.mark.parametrize(
    ("name", "expected"),
    [("red_car.jpg", "red_car_1.jpg"), ("red_car", "red_car_1"), ("my.file", "my.file_1")],
)
def test_number_is_inserted_before_the_image_extension(name: str, expected: str) -> None:
    assert with_suffix_number(name, 1) == expected


def test_task_without_a_filename_is_named_by_its_one_based_number() -> None:
    assert default_name(0) == "generated_image_1"
    assert BatchFilenames([None, None], ["png", None]).deliver(1, ["webp"]) == [
        "generated_image_2.webp"
    ]


def deliver_all(batch: BatchFilenames, outcomes: list[list[str | None]]) -> list[list[str]]:
    return [batch.deliver(index, extensions) for index, extensions in enumerate(outcomes)]


@pytest.mark.parametrize("last_first", [False, True], ids=["in order", "last first"])
def test_later_task_with_the_same_filename_gets_the_next_free_number(last_first: bool) -> None:
    batch = BatchFilenames(["cat.png", "CAT.png", "cat_2.png", "cat.png"], ["png"] * 4)
    order = [3, 2, 1, 0] if last_first else [0, 1, 2, 3]
    given = {index: batch.deliver(index, ["png"]) for index in order}
    assert given == {0: ["cat.png"], 1: ["CAT_2.png"], 2: ["cat_2_2.png"], 3: ["cat_3.png"]}


def test_filenames_differing_only_in_normal_form_are_equal() -> None:
    batch = BatchFilenames(["é.png", "e\u0301.png"], ["png"] * 2)
    assert deliver_all(batch, [["png"], ["png"]]) == [["é.png"], ["e\u0301_2.png"]]


def test_multiple_outputs_are_numbered() -> None:
    batch = BatchFilenames(["red_car.jpg"], ["jpg"])
    assert batch.deliver(0, ["jpg", "jpg"]) == ["red_car_1.jpg", "red_car_2.jpg"]


def test_each_of_multiple_outputs_has_its_own_format() -> None:
    assert BatchFilenames(["a.jpg"], ["jpg"]).deliver(0, ["png", "jpg"]) == ["a_1.png", "a_2.jpg"]


def test_task_without_outputs_gets_no_filenames() -> None:
    assert BatchFilenames(["cat"], ["png"]).deliver(0, []) == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_equal_filenames_with_expected_counts_are_each_numbered_from_one(
    order: tuple[int, int],
) -> None:
    batch = BatchFilenames(["cat.jpg", "cat.jpg"], ["jpg", "jpg"], [2, 2])
    given = {index: batch.deliver(index, ["jpg", "jpg"]) for index in order}
    assert given == {0: ["cat_1.jpg", "cat_2.jpg"], 1: ["cat_2_1.jpg", "cat_2_2.jpg"]}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_number_that_collides_with_another_filename_is_skipped(order: tuple[int, int]) -> None:
    batch = BatchFilenames(["cat.jpg", "cat.jpg"], ["jpg", "jpg"])
    given = {index: batch.deliver(index, ["jpg", "jpg"]) for index in order}
    assert given == {0: ["cat_1.jpg", "cat_3.jpg"], 1: ["cat_2_1.jpg", "cat_2_2.jpg"]}


def test_filename_given_by_another_format_is_not_reused() -> None:
    batch = BatchFilenames(["cat.png", "cat.jpg"], ["png", "jpg"])
    assert deliver_all(batch, [["webp"], ["webp"]]) == [["cat.webp"], ["cat_2.webp"]]


def test_number_requested_by_another_task_is_skipped() -> None:
    batch = BatchFilenames(["cat", "cat_2", "cat", "cat_4.png", "cat"], ["png"] * 5)
    assert [batch.deliver(index, ["png"])[0] for index in range(5)] == [
        *("cat.png", "cat_2.png", "cat_3.png", "cat_4.png", "cat_5.png")
    ]


def test_unexpected_format_never_takes_a_planned_filename() -> None:
    batch = BatchFilenames(["cat.png", "cat.jpg"], ["png", "jpg"])
    assert deliver_all(batch, [["jpg"], ["jpg"]]) == [["cat_2.jpg"], ["cat.jpg"]]


def test_expected_format_applies_when_the_delivered_one_is_unknown() -> None:
    batch = BatchFilenames(["cat", "dog", "cow.PNG"], ["webp", None, "png"])
    assert deliver_all(batch, [[None], [None], [None]]) == [["cat.webp"], ["dog"], ["cow.PNG"]]


def test_written_filename_is_used_when_its_format_is_delivered_unexpectedly() -> None:
    assert BatchFilenames(["cat.PNG"], ["jpg"]).deliver(0, ["png"]) == ["cat.PNG"]


def test_filenames_delivered_before_a_resumption_are_not_reused() -> None:
    batch = BatchFilenames(["cat", "cat.webp", "cat"], ["png", "png", "png"])
    batch.claim(0, ["cat_2.png", "Cat_3.PNG"])
    assert [batch.deliver(index, ["png"]) for index in (1, 2)] == [["cat_4.png"], ["cat_5.png"]]


def test_truncated_filename_keeps_its_number_and_extension() -> None:
    name = "x" * MAX_BYTES
    batch = BatchFilenames([name, name], ["webp", "webp"])
    assert deliver_all(batch, [["webp"], ["webp"]]) == [[f"{name}.webp"], [f"{name}_2.webp"]]


def test_lists_of_different_lengths_are_rejected() -> None:
    with pytest.raises(ValueError, match="shorter"):
        BatchFilenames(["cat", "dog"], ["png"])


@pytest.mark.parametrize("outputs", [1, 4])
def test_thousand_equal_filenames_take_no_quadratic_time(outputs: int) -> None:
    started = time.process_time()
    batch = BatchFilenames(["cat.png"] * 1000, ["png"] * 1000)
    seen = {name for i in range(1000) for name in batch.deliver(i, ["jpg"] * outputs)}
    assert len(seen) == 1000 * outputs
    assert time.process_time() - started < 1.0  # quadratic: 500,000 searches, several s


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[tuple[str | None, str | None, int]], list[int]]:
    """Return requests with format and count, and an order in which the tasks finish."""
    one = st.tuples(st.none() | names, formats, st.integers(0, 4))
    tasks = draw(st.lists(one, min_size=1, max_size=12))
    return tasks, draw(st.permutations(range(len(tasks))))


@given(batches(), st.data(), st.booleans())
def test_delivered_filenames_are_unique_within_a_batch(
    case: tuple[list[tuple[str | None, str | None, int]], list[int]],
    data: st.DataObject,
    with_counts: bool,
) -> None:
    tasks, order = case
    requested, expected, counts = zip(*tasks, strict=True)
    batch = BatchFilenames(requested, expected, counts if with_counts else None)
    seen: list[str] = []
    for index in order:
        extensions = data.draw(st.lists(formats, max_size=4))
        delivered = batch.deliver(index, extensions)
        assert len(delivered) == len(extensions)
        for name, extension in zip(delivered, extensions, strict=True):
            if extension is not None:
                assert requested_format(name) == image_format(extension)
        seen += delivered
    assert len({folded(name) for name in seen}) == len(seen)


@given(batches())
def test_filenames_are_order_independent_when_outputs_are_as_expected(
    case: tuple[list[tuple[str | None, str | None, int]], list[int]],
) -> None:
    tasks, order = case
    requested, expected, counts = zip(*tasks, strict=True)
    counts = tuple(max(1, count) for count in counts)

    def run(order: list[int]) -> dict[int, list[str]]:
        batch = BatchFilenames(requested, expected, counts)
        return {i: batch.deliver(i, [expected[i]] * counts[i]) for i in order}

    assert run(order) == run(sorted(order))


@given(names, formats)
def test_unique_filename_is_delivered_unchanged(name: str, extension: str | None) -> None:
    expected = delivered_name(name, extension)
    assert BatchFilenames([name], [extension]).deliver(0, [extension]) == [expected]
    assert BatchFilenames([name], [None]).deliver(0, [extension]) == [expected]
    if extension is None or requested_format(name) == image_format(extension):
        assert expected == name


@given(names, formats, st.integers(1, 9))
def test_delivered_form_of_an_accepted_filename_is_acceptable_except_its_length(
    name: str, extension: str | None, number: int
) -> None:
    why = problem(delivered_name(with_suffix_number(name, number), extension))
    assert why is None or "bytes long" in why


@given(st.text())
def test_rejection_message_is_printable_for_any_filename(name: str) -> None:
    assert (problem(name) or "").isprintable()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("straße.png", "STRASSE.png"),
        ("ﬁsh.png", "FISH.png"),
        ("ǆ.png", "Ǆ.png"),
        ("\u1f80\u0300.png", "\u1f82.png"),
        ("\u015b.png", "\u017f\u0301.png"),
    ],
)
def test_filenames_folded_by_file_systems_are_equal(first: str, second: str) -> None:
    batch = BatchFilenames([first, second], ["png"] * 2)
    stem = second.removesuffix(".png")
    assert deliver_all(batch, [["png"], ["png"]]) == [[first], [f"{stem}_2.png"]]


@pytest.mark.parametrize("count", [-1, 0, 1])
def test_task_is_planned_with_at_least_one_file(count: int) -> None:
    batch = BatchFilenames(["cat.png", "cat.png"], ["png"] * 2, [count, 1])
    assert batch.deliver(1, ["png"]) == ["cat_2.png"]


def test_task_is_planned_with_at_most_a_hundred_files() -> None:
    batch = BatchFilenames(["cat.png", "cat_100.png", "cat_101.png"], ["png"] * 3, [500, 1, 1])
    assert batch.deliver(1, ["png"]) == ["cat_100_2.png"]
    assert batch.deliver(2, ["png"]) == ["cat_101.png"]


@pytest.mark.parametrize(
    ("extension", "delivered"), [("a" * 12, f"cat.{'a' * 12}"), ("a" * 13, "cat"), ("7z", "cat.7z")]
)
def test_extension_has_at_most_twelve_alphanumeric_characters(
    extension: str, delivered: str
) -> None:
    assert delivered_name("cat", extension) == delivered


def test_filenames_claimed_by_another_process_stay_with_their_task() -> None:
    batch = BatchFilenames(["cat.png", "dog.png"], ["png"] * 2)
    batch.claim(0, ["Dog.PNG"])
    assert batch.deliver(0, ["png"]) == ["cat.png"]
    assert batch.deliver(1, ["png"]) == ["dog_2.png"]
