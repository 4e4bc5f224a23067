"""Images that a Python program passes as objects: paths, bytes, and files open for reading."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from replicate_mcp.batches.local_images import Image, ImageContent, LocalImages
from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks.json_limits import MAX_DEPTH, Unreadable

_TEXT_FIELDS = ("prompt", "output_filename", "model")
"""Fields of a task that hold no file."""


class Attachments:
    """Replaces a program's image objects in tasks with URIs, and collects the images.

    Attributes:
        images: the images, by the URIs that stand for them.
    """

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self._paths = LocalImages(Path.cwd(), anywhere=True)
        self._read: dict[int, tuple[object, str | Unreadable]] = {}

    def replaced(self, tasks: Any) -> Any:
        """Return `tasks` with URIs in place of image objects; the rest is not checked.

        Reads files: call it in a thread.
        """
        if not isinstance(tasks, list | tuple):
            return tasks
        return [self._task(f"task {index}", task) for index, task in enumerate(tasks)]

    def _task(self, where: str, task: Any) -> Any:
        if not isinstance(task, Mapping):
            return task
        return {
            name: _text(value) if name in _TEXT_FIELDS else self._value(f"{where}: {name}", value)
            for name, value in task.items()
        }

    def _value(self, where: str, value: Any, depth: int = 0) -> Any:
        if isinstance(value, Mapping | list | tuple):
            if depth > MAX_DEPTH:
                return Unreadable(f"is nested more than {MAX_DEPTH} deep")
            if isinstance(value, Mapping):
                return {name: self._value(where, one, depth + 1) for name, one in value.items()}
            return [self._value(where, each, depth + 1) for each in value]
        is_object = isinstance(value, Path | bytes | bytearray | memoryview)
        if is_object or hasattr(value, "read"):
            return self._object(where, value)
        if value is None or isinstance(value, str | int | float | Unreadable):
            return value
        return Unreadable(
            f"is an object of the Python type {type(value).__qualname__}, which cannot be sent: "
            "give text, a number, a list or a dict, and for an image a path, bytes, or a file open "
            "for reading"
        )

    def _object(self, where: str, value: Any) -> str | Unreadable:
        """Return the URI that stands for `value`; a file that several tasks share is read once."""
        if id(value) not in self._read:
            self._read[id(value)] = value, self._uri(where, value)
        return self._read[id(value)][1]

    def _uri(self, where: str, value: Any) -> str | Unreadable:
        try:
            if isinstance(value, Path):
                image = self._paths.find(where, str(value))
            else:
                image = ImageContent.of(where, _content(where, value))
        except InvalidInput as error:
            return Unreadable(str(error).removeprefix(where).strip().removesuffix("."))
        self.images[image.uri] = image
        return image.uri


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _content(where: str, value: Any) -> bytes:
    try:
        content = value.read() if hasattr(value, "read") else value
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{where} is a file that cannot be read: {error}.") from None
    if isinstance(content, str):
        raise InvalidInput(f'{where} is a file opened as text: open it with "rb".')
    return bytes(content)
