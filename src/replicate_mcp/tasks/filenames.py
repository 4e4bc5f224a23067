"""Names of output files: which are accepted, the extension they carry, one of a kind in a batch.

A name is a label for a URL, never a path. It still ends up as a file on somebody's machine, so what
a file system of any kind would misread is refused.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from replicate_mcp.tasks.media import MEDIA_TYPES

MAX_BYTES = 200
"""In UTF-8: with a number and an extension, still below the 255 that file systems stop at."""


def problem(name: str) -> str | None:
    """Why `name` cannot be a filename, as the end of a sentence about it; None if it can."""
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
    # Windows finds its devices whatever follows the first dot, and ignores spaces before it.
    device = name.partition(".")[0].rstrip(" ").upper()
    if device in _WINDOWS_DEVICES:
        return f"is reserved by Windows ('{device}')"
    if (size := len(name.encode())) > MAX_BYTES:
        return f"is {size} bytes long, over the limit of {MAX_BYTES}"
    return None


def image_format(extension: str) -> str | None:
    """The image format an extension means (`JPEG` → `jpg`); None if it means none."""
    return _IMAGE_FORMATS.get(extension.lower())


def requested_format(name: str) -> str | None:
    """The image format that a name's extension asks for; None if it asks for none."""
    return image_format(_split(name)[1])


def delivered_name(name: str, extension: str | None) -> str:
    """`name` with an extension that tells the truth about what was delivered.

    An extension that means the delivered format is kept as written, that of another image format
    is replaced, and anything else is part of the name and completed.

    Args:
        name: one that `problem` accepts.
        extension: the delivered file's, without its dot, in any case; where it is None, or nothing
            that could be an extension, the format is unknown and the name is kept.
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
    """`name` with a number before its image extension: `red_car.jpg` → `red_car_1.jpg`."""
    stem, extension = _split(name)
    if image_format(extension) is None:
        return f"{name}_{number}"
    return f"{stem}_{number}.{extension}"


def default_name(task_index: int) -> str:
    """The name of a task that was given none; `task_index` counts from 0, the name from 1."""
    return f"generated_image_{task_index + 1}"


class BatchFilenames:
    """Gives the files of a batch names that are unique, compared case-folded in NFC.

    Every task's names are planned in task order at the start, and what is planned for one task is
    never given to another. So names do not depend on the order in which tasks finish, unless what
    is delivered differs from what was expected and runs into another task's name.
    """

    def __init__(
        self,
        requested: Sequence[str | None],
        expected_formats: Sequence[str | None],
        expected_counts: Sequence[int] | None = None,
    ) -> None:
        """Plan the names of a batch.

        Args:
            requested: each task's name, one that `problem` accepts; None for the default.
            expected_formats: the format each task is expected in; None where it is unknown.
            expected_counts: how many files each task is expected to have; else one each.

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
        """The names of a task's files, to be asked for once a task.

        One file has the task's name; several are numbered, `name_1.jpg`, `name_2.jpg`. A number
        that would make another task's name is passed over.

        Args:
            task_index: the task, from 0.
            extensions: one a file, without dot and in any case; where it is None, the format that
                was expected stands.

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
        """Note names that a task's files already carry: no other task is given them."""
        for name in names:
            self._owners[folded(name)] = task_index

    def _free(self, task_index: int, names: Iterable[str]) -> bool:
        return all(self._owners.get(folded(name), task_index) == task_index for name in names)

    def _free_label(self, task_index: int, root: str, formats: Sequence[str | None]) -> str:
        """The first of `cat.png`, `cat_2.png`, `cat_3.png`, … under which all files are free."""
        wanted = _files(root, formats)
        if self._free(task_index, wanted):
            return root
        # Taken names stay taken, so a search goes on where the last one for this name ended.
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
"""Files planned for one task: above what any image model makes at once."""

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
"""They make a name read as another: `gpj.exe` shown as `exe.jpg`."""


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
    """A name's stem and its extension without the dot; a leading dot begins no extension."""
    stem, _, extension = name.rpartition(".")
    return (stem, extension) if stem else (name, "")


def _file(label: str, extension: str | None, number: int) -> str:
    return delivered_name(with_suffix_number(label, number), extension)


def _files(label: str, formats: Sequence[str | None]) -> list[str]:
    if len(formats) == 1:
        return [delivered_name(label, formats[0])]
    return [_file(label, extension, number) for number, extension in enumerate(formats, start=1)]


def folded(name: str) -> str:
    """What two names have in common that a file system may take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
