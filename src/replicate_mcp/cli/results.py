"""A batch's results on stdout: a table for a person, plain lines for a pipe, or JSON."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from replicate_mcp.cli.console import PrintableConsole
from replicate_mcp.cli.main import OK, SOME_FAILED
from replicate_mcp.cli.printing import cell, print_json, print_row, say
from replicate_mcp.tasks.result import BatchResult, TaskFailure, as_json
from replicate_mcp.text import one_line

TABLE_PADDING = 5
"""What a table takes beside its two columns."""


def show(result: BatchResult, *, as_document: bool) -> None:
    """Print all of a batch's results.

    A URL is never cut or broken by us: where it would not fit into the table, it has a line of its
    own, and a pipe gets one line a file, `filename<TAB>url`. Failures are told on stderr there.
    """
    if as_document:
        # What an agent would call next is nothing for a person: all rows are here.
        whole = result.model_copy(update={"next_step": None})
        print_json(as_json(whole))
        return
    files = list(_files(result))
    console = PrintableConsole()
    if not console.is_terminal:
        for _, name, url, _ in files:
            print_row(name, url)
        for failed in _told(result):
            say(f"{failed.output_filename}: {_reason(failed)}")
        return
    rows = _rows(result, files)
    if not rows:
        return
    longest_name = max(name.cell_len for name, _ in rows)
    longest_url = max((len(url) for _, _, url, _ in files), default=0)
    if longest_name + longest_url + TABLE_PADDING <= console.width:
        console.print(_table(rows))
    else:
        _print_list(console, rows)


def summary(result: BatchResult) -> str:
    """A sentence on how a batch ended, or where it stands."""
    made = f"{result.successful_count} of {result.total_tasks} made{not_made(result)}"
    if result.pending_count:
        made += f", {result.pending_count} to come"
    state = {"running": " runs", "canceled": " was cancelled", "completed": ""}[result.status]
    return f"Batch {result.batch_id}{state}: {made}."


def not_made(result: BatchResult) -> str:
    """The rest of a line: how many tasks were cancelled, and how many failed by themselves."""
    canceled = sum(row.error_code == "canceled" for row in result.failed_results)
    failed = result.failed_count - canceled
    return (f", {canceled} cancelled" if canceled else "") + (
        f", {failed} failed" if failed else ""
    )


def exit_code(result: BatchResult) -> int:
    """0 where every task has its image."""
    return OK if result.successful_count == result.total_tasks else SOME_FAILED


File = tuple[int, str, str, bool]

Row = tuple[Text, Text]
"""A file's name and its URL, or why there is none."""


def _files(result: BatchResult) -> Iterator[File]:
    """Task index, filename, URL, and whether that has expired."""
    for success in result.successful_results:
        for file in success.generated_files:
            yield success.task_index, cell(file.filename), cell(file.url), bool(file.expired)


def _told(result: BatchResult) -> list[TaskFailure]:
    """The failures worth a line: what its user cancelled is no news, task by task."""
    return [
        row
        for row in result.failed_results
        if result.status != "canceled" or row.error_code != "canceled"
    ]


def _reason(failed: TaskFailure) -> str:
    return one_line(f"{failed.error_code}: {failed.error}")


def _rows(result: BatchResult, files: list[File]) -> list[Row]:
    """What a terminal shows, in the order of the tasks."""
    rows: list[tuple[int, Row]] = []
    for index, name, url, expired in files:
        style = "dim strike" if expired else "cyan"
        shown = Text(name + (" (expired)" if expired else ""))
        rows.append((index, (shown, Text(url, style=style, no_wrap=True))))
    for failed in _told(result):
        row = (Text(cell(failed.output_filename)), Text(_reason(failed), style="red"))
        rows.append((failed.task_index, row))
    return [row for _, row in sorted(rows, key=lambda each: each[0])]


def _table(rows: list[Row]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("file")
    table.add_column("URL")
    for name, what in rows:
        table.add_row(name, what)
    return table


def _print_list(console: Console, rows: list[Row]) -> None:
    console.print()
    for name, what in rows:
        console.print(name, soft_wrap=True)
        # The terminal wraps it, so that it can be clicked and copied in one piece.
        console.print(Text("  ") + what, soft_wrap=True)
    console.print()
