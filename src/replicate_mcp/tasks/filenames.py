"""Names of output files: validity, extensions, and uniqueness within a batch.

A name is a label for a URL, never a path. It still becomes a file on a user's machine, so names
that any file system would misread are refused.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from replicate_mcp.tasks.media import MEDIA_TYPES

MAX_BYTES = 200
"""Length in UTF-8: with a number and an extension, still below the file systems' limit of 255."""


def problem(name: str) -> str | None:
    """Return why `name` cannot be a filename, as the end of a sentence; None if it can."""
    if not name:
        return "is empty"
    if name in (".", ".."):
        return f"is '{name}'"
    for character in name:
        if why := _character_problem(character):
            return why
    if ".." in name:
        return "contains '..'"
    if name != name.strip():
        return "starts or ends with whitespace"
    if name.endswith("."):
        return "ends with a dot"
    # Windows recognises a device name whatever follows the first dot, and ignores spaces before
    # that dot.
    device = name.partition(".")[0].rstrip(" ").upper()
    if device in _WINDOWS_DEVICES:
        return f"is reserved by Windows ('{device}')"
    if (size := len(name.encode())) > MAX_BYTES:
        return f"is {size} bytes long, over the limit of {MAX_BYTES}"
    return None


def image_format(extension: str) -> str | None:
    """Return the image format of an extension (`JPEG` → `jpg`); None if it is not an image's."""
    return _IMAGE_FORMATS.get(extension.lower())


def requested_format(name: str) -> str | None:
    """Return the image format that a name's extension requests; None if it requests none."""
    return image_format(_split(name)[1])


def delivered_name(name: str, extension: str | None) -> str:
    """Return `name` with an extension that matches the delivered file.

    An extension of the delivered format is kept as written, one of another image format is
    replaced, and anything else is part of the name and completed.

    Args:
        name: a name that `problem` accepts.
        extension: extension of the delivered file, without its dot, in any case; None, or text that
            is not an extension, for an unknown format, which keeps the name.
    """
    if extension is None or not _EXTENSION.fullmatch(extension):
        return name
    delivered = extension.lower()
    stem, given = _split(name)
    if given.lower() == delivered:
        return name
    meant = image_format(given)
    if meant is None:
        return f"{name}.{delivered}"
    return name if meant == image_format(delivered) else f"{stem}.{delivered}"


def with_suffix_number(name: str, number: int) -> str:
    """Return `name` with a number before its image extension: `red_car.jpg` → `red_car_1.jpg`."""
    stem, extension = _split(name)
    if image_format(extension) is None:
        return f"{name}_{number}"
    return f"{stem}_{number}.{extension}"


def default_name(task_index: int) -> str:
    """Return the name of a task without one; `task_index` counts from 0, the name from 1."""
    return f"generated_image_{task_index + 1}"


class BatchFilenames:
    """Unique filenames of a batch's files; names are compared case-folded in NFC.

    The names of all tasks are planned in task order at the start, and a name planned for one task
    is never given to another. Names therefore do not depend on the order in which tasks finish,
    unless the delivered files differ from the expected ones and collide with another task's name.
    """

    def __init__(
        self,
        requested: Sequence[str | None],
        expected_formats: Sequence[str | None],
        expected_counts: Sequence[int] | None = None,
    ) -> None:
        """Plan the names of a batch.

        Args:
            requested: each task's name, which `problem` accepts; None for the default.
            expected_formats: each task's expected format; None if it is unknown.
            expected_counts: each task's expected number of files; None for one each.

        Raises:
            ValueError: the sequences differ in length.
        """
        self._roots = [name or default_name(index) for index, name in enumerate(requested)]
        self._expected_formats = list(expected_formats)
        self._owners: dict[str, int] = {}
        self._next_suffix: dict[tuple[str, int], int] = {}
        self._labels: list[str] = []
        counts = [1] * len(self._roots) if expected_counts is None else expected_counts
        for index, (root, extension, count) in enumerate(
            zip(self._roots, self._expected_formats, counts, strict=True)
        ):
            formats = [extension] * max(1, min(count, MAX_PLANNED))
            label = self._free_label(index, root, formats)
            self._labels.append(label)
            self.claim(index, _files(label, formats))

    def deliver(self, task_index: int, extensions: Sequence[str | None]) -> list[str]:
        """Return the names of a task's files; call it once per task.

        A single file has the task's name; several are numbered, `name_1.jpg`, `name_2.jpg`. A
        number that would result in another task's name is skipped.

        Args:
            task_index: the task, from 0.
            extensions: extension of each file, without its dot, in any case; None for the expected
                format.

        Raises:
            IndexError: the batch has no such task.
        """
        expected = self._expected_formats[task_index]
        formats = [expected if extension is None else extension for extension in extensions]
        label = self._labels[task_index]
        if len(formats) > 1:
            names = self._counted(task_index, label, formats)
        else:
            names = _files(label, formats)
            if not self._free(task_index, names):
                label = self._free_label(task_index, self._roots[task_index], formats)
                names = _files(label, formats)
        self.claim(task_index, names)
        return names

    def claim(self, task_index: int, names: Iterable[str]) -> None:
        """Reserve names that a task's files already have, so that no other task gets them."""
        for name in names:
            self._owners[folded(name)] = task_index

    def _free(self, task_index: int, names: Iterable[str]) -> bool:
        return all(self._owners.get(folded(name), task_index) == task_index for name in names)

    def _free_label(self, task_index: int, root: str, formats: Sequence[str | None]) -> str:
        """Return the first of `cat.png`, `cat_2.png`, … with which all filenames are free."""
        wanted = _files(root, formats)
        if self._free(task_index, wanted):
            return root
        # Taken names stay taken, so a search continues where the last one for this name ended.
        asked = (folded(wanted[0]), len(wanted))
        suffix = self._next_suffix.get(asked, 2)
        while not self._free(task_index, _files(with_suffix_number(root, suffix), formats)):
            suffix += 1
        self._next_suffix[asked] = suffix + 1
        return with_suffix_number(root, suffix)

    def _counted(self, task_index: int, label: str, formats: Sequence[str | None]) -> list[str]:
        names: list[str] = []
        number = 1
        for extension in formats:
            while not self._free(task_index, [_file(label, extension, number)]):
                number += 1
            names.append(_file(label, extension, number))
            number += 1
        return names


MAX_PLANNED = 100
"""Maximum number of files planned for a task: above what any image model makes at once."""

_EXTENSION = re.compile(r"[A-Za-z0-9]{1,12}")

_IMAGE_FORMATS = {
    extension: each.extensions[0]
    for each in MEDIA_TYPES
    if each.name.startswith("image/")
    for extension in each.extensions
}

_WINDOWS_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [f"{port}{digit}" for port in ("COM", "LPT") for digit in "123456789¹²³"]
)

_BIDI_CONTROLS = frozenset(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))
"""Characters that make a name appear as another: `gpj.exe` is displayed as `exe.jpg`."""


def _character_problem(character: str) -> str | None:
    if character in "/\\":
        return f"contains a path separator '{character}'"
    if character in '<>:"|?*':
        return f"contains '{character}', which Windows refuses"
    if character.isprintable():
        return None
    code = f"U+{ord(character):04X}"
    if character in _BIDI_CONTROLS:
        return f"contains the text-direction control {code}"
    match unicodedata.category(character):
        case "Cc":
            return f"contains the control character {code}"
        case "Zl" | "Zp":
            return f"contains the line separator {code}"
        case "Cs":
            return f"contains half a character, the surrogate {code}"
    return None


def _split(name: str) -> tuple[str, str]:
    """Return a name's stem and its extension without the dot; a leading dot starts no extension."""
    stem, _, extension = name.rpartition(".")
    return (stem, extension) if stem else (name, "")


def _file(label: str, extension: str | None, number: int) -> str:
    return delivered_name(with_suffix_number(label, number), extension)


def _files(label: str, formats: Sequence[str | None]) -> list[str]:
    if len(formats) == 1:
        return [delivered_name(label, formats[0])]
    return [_file(label, extension, number) for number, extension in enumerate(formats, start=1)]


def folded(name: str) -> str:
    """Return a form that is equal for names that some file system may treat as the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
