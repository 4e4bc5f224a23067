"""Images given as Python objects, and the URIs that represent them in tasks."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from replicate_mcp.batches.attachments import Attachments
from replicate_mcp.tasks.json_limits import Unreadable

PNG = b"\x89PNG\r\n\x1a\n"
GIF = b"GIF89a"


def content_uri(content: bytes) -> str:
    return f"content:{hashlib.sha256(content).hexdigest()}"


def replaced(value: Any) -> tuple[Any, Attachments]:
    """Return the replacement of a value of the input `image`."""
    attachments = Attachments()
    (task,) = attachments.replaced([{"image": value}])
    return task["image"], attachments


@pytest.mark.parametrize(
    "value", [PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG)], ids=lambda v: type(v).__name__
)
def test_attachments_are_keyed_by_content_digest(value: Any) -> None:
    uri, attachments = replaced(value)
    assert uri == content_uri(PNG)
    assert list(attachments.images) == [uri]
    image = attachments.images[uri]
    assert (image.read(), image.kind, image.where) == (PNG, "image/png", "task 0: image")


def test_path_is_replaced_by_its_file_uri_and_attached(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    uri, attachments = replaced(path)
    assert uri == path.resolve().as_uri()
    assert attachments.images[uri].read() == PNG


@pytest.mark.parametrize("value", [None, "cat.png", 7, 1.5, True, Unreadable("is unreadable")])
def test_plain_values_are_unchanged(value: Any) -> None:
    found, attachments = replaced(value)
    assert found is value
    assert attachments.images == {}


def test_nested_objects_are_replaced() -> None:
    found, attachments = replaced((PNG, [{"a": GIF}], MappingProxyType({"b": PNG})))
    assert found == [content_uri(PNG), [{"a": content_uri(GIF)}], {"b": content_uri(PNG)}]
    assert set(attachments.images) == {content_uri(PNG), content_uri(GIF)}


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", [lambda each: [each], lambda each: {"a": each}])
def test_too_deeply_nested_value_becomes_unreadable(wrap: Callable[[Any], Any]) -> None:
    assert replaced(nested(31, wrap))[0] == nested(31, wrap)
    found = replaced(nested(32, wrap))[0]
    for _ in range(31):
        (found,) = found.values() if isinstance(found, dict) else found
    assert found == Unreadable("is nested more than 30 deep")


class Failing(io.BytesIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def read(self, *_: Any) -> bytes:
        raise self._error


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({1}, "is an object of the Python type set, which cannot be sent: give text, a number, "),
        (object(), "is an object of the Python type object, which cannot be sent"),
        (io.StringIO("x"), 'is a file opened as text: open it with "rb"'),
        (Failing(OSError("gone")), "is a file that cannot be read: gone"),
        (Failing(ValueError("closed")), "is a file that cannot be read: closed"),
        (b"text", "is not an image: png, jpeg"),
        (Path("/nowhere/cat.png"), "'/nowhere/cat.png' is not there: "),
    ],
)
def test_unsendable_value_has_a_reason(value: Any, why: str) -> None:
    found, attachments = replaced(value)
    assert isinstance(found, Unreadable)
    assert found.why.startswith(why)
    assert not found.why.endswith(".")
    assert attachments.images == {}


def test_file_shared_by_tasks_is_read_once() -> None:
    attachments = Attachments()
    file = io.BytesIO(PNG)
    tasks = attachments.replaced([{"image": file}, {"image": file}])
    assert tasks == [{"image": content_uri(PNG)}] * 2
    assert attachments.images[content_uri(PNG)].where == "task 0: image"


def test_fields_without_files_are_text() -> None:
    attachments = Attachments()
    given = {"prompt": Path("a"), "output_filename": Path("b.png"), "model": Path("o/m")}
    assert attachments.replaced([given]) == [
        {"prompt": "a", "output_filename": "b.png", "model": "o/m"}
    ]
    assert attachments.replaced([{"prompt": PNG}]) == [{"prompt": PNG}]
    assert attachments.images == {}


@pytest.mark.parametrize("tasks", [None, "a fox", {"prompt": "x"}, 7])
def test_non_list_of_tasks_is_returned_unchanged(tasks: Any) -> None:
    assert Attachments().replaced(tasks) is tasks


def test_tasks_may_be_a_tuple_and_hold_text() -> None:
    assert Attachments().replaced(("a fox", {"prompt": "x"})) == ["a fox", {"prompt": "x"}]
