"""Tables on a terminal, in which one column takes the remaining width.

If that width is too small to read, each row is printed as a line of its other cells with the
text of that column below. Names, ids and URLs are never broken.
"""

from collections.abc import Collection, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

MIN_TEXT_WIDTH = 24
"""Minimum width of a text column; with less space the text is printed below its row."""

GAP = 2
"""Number of spaces between two cells."""

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
    """Print `rows` as a table, or as a list on a narrow terminal.

    Args:
        console: console to print to.
        columns: headings.
        rows: cells of each row, in the order of `columns`.
        text: heading of the column that takes the remaining width.
        cut: truncate that column's text to one line instead of wrapping it.
        right: headings of right-aligned columns.
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
    """Return an empty table without edges, with `GAP` spaces between cells."""
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
    """Print `text` indented below the previous line, wrapped between words or truncated."""
    text = text.copy()
    text.no_wrap, text.overflow = cut, "ellipsis" if cut else "fold"
    console.print(Padding(text, (0, 0, 0, indent)))
