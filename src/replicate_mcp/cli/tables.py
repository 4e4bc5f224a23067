"""Tables on a terminal: one column takes the width that the others leave.

Where that is too little to read, each row is a line of the other cells with the text of that column
below it. Names, ids and URLs are never broken.
"""

from collections.abc import Collection, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

MIN_TEXT_WIDTH = 24
"""Columns below which text of several words is shown under its row."""

GAP = 2
"""Columns between two cells."""

Cell = str | Text


def print_table(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    text: str,
    cut: bool = False,
    right: Collection[str] = (),
) -> None:
    """Print rows as a table, or on a narrow terminal as a list.

    Args:
        columns: the headings.
        text: the heading of the column that takes the remaining width.
        cut: cut its text to one line; otherwise it is wrapped.
        right: headings of the columns that are aligned to the right.
    """
    cells = [[each if isinstance(each, Text) else Text(each) for each in row] for row in rows]
    place = list(columns).index(text)
    widths = [
        max(cell_len(name), *(row[number].cell_len for row in cells))
        for number, name in enumerate(columns)
    ]
    others = sum(widths) - widths[place] + GAP * (len(columns) - 1)
    room = console.width - others
    if room < min(widths[place], MIN_TEXT_WIDTH):
        for row in cells:
            _print_row(console, row, place, cut=cut)
        return
    table = plain_table()
    for number, name in enumerate(columns):
        table.add_column(
            name,
            no_wrap=cut or number != place,
            overflow="ellipsis" if cut else "fold",
            width=min(widths[number], room) if number == place else widths[number],
            justify="right" if name in right else "left",
        )
    for row in cells:
        table.add_row(*row)
    print_apart(console, table)


def plain_table() -> Table:
    """Return an empty table without edges, with `GAP` columns between two cells."""
    return Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))


def print_apart(console: Console, table: Table) -> None:
    """Print a table between two empty lines."""
    console.print()
    console.print(table)
    console.print()


def _print_row(console: Console, row: Sequence[Text], place: int, *, cut: bool) -> None:
    line = [each for number, each in enumerate(row) if number != place and each.cell_len]
    console.print(Text(" " * GAP).join(line), soft_wrap=True)
    if row[place].cell_len:
        print_below(console, row[place], cut=cut)


def print_below(console: Console, text: Text, *, cut: bool = False, indent: int = GAP) -> None:
    """Print `text` indented under the line before: wrapped between words, or cut to one line."""
    text = text.copy()
    text.no_wrap, text.overflow = cut, "ellipsis" if cut else "fold"
    console.print(Padding(text, (0, 0, 0, indent)))
