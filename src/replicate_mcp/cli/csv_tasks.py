"""Tasks in a table: a header that names the inputs, then one task per row."""

import csv
import io
import re

from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks.validation_messages import quoted

TEXT_COLUMNS = ("prompt", "output_filename", "model")
"""Columns whose values are always text, whatever the model's schema says."""

SEPARATORS = (",", ";", "\t")

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def has_header(text: str) -> bool:
    """Return whether the first line holds column names, `prompt` among them."""
    header = _header(text)
    return "prompt" in header[:50] and len(header) > 1 and all(map(_NAME.fullmatch, header))


def read_table(text: str, where: str) -> list[dict[str, str]]:
    """Return one task per row, leaving out empty cells.

    Raises:
        InvalidInput: the header is missing or invalid, or a row has more cells than the header.
    """
    header = _header(text)
    wrong = next((name for name in header if not _NAME.fullmatch(name)), None)
    if not header or wrong is not None or len(set(header)) < len(header):
        why = (
            f"{quoted(wrong)} is no name of an input"
            if wrong
            else "a name is missing or twice there"
        )
        raise InvalidInput(
            f"{where} needs a first line that names the columns, like "
            f"prompt,aspect_ratio,output_filename: {why}."
        )
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    tasks = []
    try:
        next(cells for cells in rows if cells)
        for cells in rows:
            while len(cells) > len(header) and not cells[-1].strip():
                cells.pop()  # a column without a name, as spreadsheets export them
            if len(cells) > len(header):
                raise InvalidInput(
                    f"{where}: line {rows.line_num} has {len(cells)} cells, the header "
                    f"{len(header)}: put text with a {_separator(text)!r} in it in double quotes."
                )
            task = {
                name: cell.strip()
                for name, cell in zip(header, cells, strict=False)
                if cell.strip()
            }
            if task:
                tasks.append(task)
    except csv.Error as error:
        raise InvalidInput(
            f"{where}: line {rows.line_num} cannot be read as comma-separated values ({error})."
        ) from None
    if not tasks:
        raise InvalidInput(f"{where} has no line after its header: a line is a task.")
    return tasks


def _header(text: str) -> list[str]:
    try:
        cells = next(csv.reader([_first_line(text)], delimiter=_separator(text)), [])
    except csv.Error:
        return []
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def _separator(text: str) -> str:
    return max(SEPARATORS, key=_first_line(text).count)


def _first_line(text: str) -> str:
    """Return the first line that is not empty; lines end with CR, LF or both."""
    return re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
