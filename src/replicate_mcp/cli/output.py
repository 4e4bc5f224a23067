"""Results of a batch on stdout: a table on a terminal, plain lines in a pipe, or JSON."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console
from rich.text import Text

from replicate_mcp.cli.console import PrintableConsole
from replicate_mcp.cli.main import OK, SOME_FAILED
from replicate_mcp.cli.printing import NO_PROMPT, cell, print_json, print_row, say
from replicate_mcp.cli.tables import GAP, MIN_TEXT_WIDTH, plain_table, print_apart, print_below
from replicate_mcp.tasks.result import BatchResult, TaskFailure, TaskSuccess, as_json
from replicate_mcp.text import one_line

MAX_PROMPT_CHARACTERS = 60
"""Maximum length of a prompt quoted in a sentence."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One file of a task, or a task without files.

    Attributes:
        what: the file's URL if `is_url`, else the reason why there is no file.
    """

    task_index: int
    prompt: Text
    filename: Text
    what: Text
    is_url: bool


def show(result: BatchResult, *, as_document: bool) -> None:
    """Print all results of a batch.

    URLs are never truncated or broken: a URL that does not fit into the table gets a line of its
    own. In a pipe, each file is one line, `filename<TAB>url`, and failures go to stderr.
    """
    if as_document:
        print_json(as_json(result))
        return
    console = PrintableConsole()
    if not console.is_terminal:
        for made in result.successful_results:
            for file in made.generated_files:
                print_row(file.filename, file.url)
        for failed in _to_print(result):
            say(f"{failed.output_filename}{_which(failed)}: {_reason(failed)}")
        return
    rows = sorted(_rows(result), key=lambda row: row.task_index)
    if rows:
        _print(console, rows)


_STATES = {"running": " is running", "canceled": " was cancelled", "completed": ""}


def summary(result: BatchResult) -> str:
    """Return a sentence on the state or the outcome of a batch."""
    made = f"{result.successful_count} of {result.total_tasks} made{not_made(result)}"
    if result.pending_count and not result.is_stopping:
        made += f", {result.pending_count} to come"
    state = " is being stopped" if result.is_stopping else _STATES[result.status]
    return f"Batch {result.batch_id}{state}: {made}."


def not_made(result: BatchResult) -> str:
    """Return the number of cancelled and failed tasks as the end of a line."""
    canceled = sum(row.error_code == "canceled" for row in result.failed_results)
    failed = result.failed_count - canceled
    return (f", {canceled} cancelled" if canceled else "") + (
        f", {failed} failed" if failed else ""
    )


def exit_code(result: BatchResult) -> int:
    """Return 0 if every task has its image, else `SOME_FAILED`."""
    return OK if result.successful_count == result.total_tasks else SOME_FAILED


def _to_print(result: BatchResult) -> list[TaskFailure]:
    """Return the failures to print: of a cancelled batch, only those with another cause."""
    return [
        row
        for row in result.failed_results
        if result.status != "canceled" or row.error_code != "canceled"
    ]


def _which(failed: TaskFailure) -> str:
    prompt = one_line(failed.prompt or "", MAX_PROMPT_CHARACTERS)
    return f' ("{prompt}")' if prompt else ""


def _reason(failed: TaskFailure) -> str:
    return one_line(f"{failed.error_code}: {failed.error}")


def _prompt(row: TaskSuccess | TaskFailure) -> Text:
    return Text(one_line(row.prompt or NO_PROMPT))


def _rows(result: BatchResult) -> Iterator[_Row]:
    for made in result.successful_results:
        for file in made.generated_files:
            name = cell(file.filename) + (" (expired)" if file.expired else "")
            url = Text(cell(file.url), style="dim strike" if file.expired else "cyan")
            yield _Row(made.task_index, _prompt(made), Text(name), url, is_url=True)
    for failed in _to_print(result):
        label, reason = Text(cell(failed.output_filename)), Text(_reason(failed), style="red")
        yield _Row(failed.task_index, _prompt(failed), label, reason, is_url=False)


def _print(console: Console, rows: list[_Row]) -> None:
    """Print a table if all URLs fit next to a readable part of the prompt, else a list."""
    longest_prompt = max(row.prompt.cell_len for row in rows)
    longest_url = max((row.what.cell_len for row in rows if row.is_url), default=0)
    names = max(len("file"), *(row.filename.cell_len for row in rows))
    room = console.width - len("task") - names - 3 * GAP
    url_width = max(longest_url, MIN_TEXT_WIDTH)
    prompt_width = min(longest_prompt, room // 2, room - url_width)
    if prompt_width < min(longest_prompt, MIN_TEXT_WIDTH):
        return _print_list(console, rows)
    table = plain_table()
    table.add_column("task", justify="right", width=len("task"))
    table.add_column("prompt", width=max(prompt_width, len("prompt")), no_wrap=True)
    table.add_column("file", width=names, no_wrap=True)
    table.add_column("URL or error")
    for row in rows:
        table.add_row(str(row.task_index), row.prompt, row.filename, row.what)
    print_apart(console, table)
    return None


def _print_list(console: Console, rows: list[_Row]) -> None:
    console.print()
    width = len(str(rows[-1].task_index))
    for _, of_task in groupby(rows, key=lambda row: row.task_index):
        first, *_ = files = list(of_task)
        number = f"{first.task_index:>{width}}"
        console.print(Text(f"{number}  ") + first.prompt, no_wrap=True, overflow="ellipsis")
        for row in files:
            print_below(console, row.filename, indent=width + GAP)
            if row.is_url:
                # The terminal wraps the URL, so it can be clicked and copied in one piece.
                console.print(Text(" " * (width + GAP)) + row.what, soft_wrap=True)
            else:
                print_below(console, row.what, indent=width + GAP)
    console.print()
