"""Progress of a batch on stderr: a live bar on a terminal, otherwise occasional lines."""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from replicate_mcp.cli.console import PrintableConsole
from replicate_mcp.cli.printing import MAX_SENTENCE_CHARACTERS, cell, wrapped
from replicate_mcp.text import one_line

QUIET_SECONDS = 5.0
"""Interval between lines when stderr is not a terminal; shorter batches print none."""


class _Bars(Progress):
    """Progress bars with a notice below them."""

    notice = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the bars, and the notice if there is one."""
        yield from super().get_renderables()
        if self.notice:
            yield Padding(Text(self.notice, style="yellow"), (0, 0, 0, 2))


class ProgressBar:
    """Progress of a running batch, and with `limit` also its number of predictions in flight.

    Args:
        total: number of its tasks; None until `update` sets it.
        limit: the limit of its predictions in flight; None to leave these out.
    """

    def __init__(self, total: int | None, *, limit: int | None = None) -> None:
        self._console = PrintableConsole(stderr=True)
        self._draws = self._console.is_terminal and not self._console.is_dumb_terminal
        self._limit = limit
        self._printed_at = time.monotonic()
        self._printed = ""
        self._progress = _Bars(
            TextColumn("  {task.description:<9}", markup=False),
            # Standard colours only: 16-colour terminals replace others with near ones, like grey.
            BarColumn(
                bar_width=36,
                complete_style="cyan",
                finished_style="green",
                pulse_style="bar.back",
            ),
            TextColumn("{task.fields[line]}", markup=False),
            console=self._console,
            disable=not self._draws,
            refresh_per_second=12,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        line = "" if total is None else f"0/{total} done"
        self._images = self._progress.add_task("images", total=total, line=line)
        self._in_flight: TaskID | None = None
        if limit is not None:
            self._in_flight = self._progress.add_task(
                "in flight", total=limit, line=f"0 of {limit}"
            )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # If the batch was refused, remove the bar above the error message.
        self._progress.live.transient = error is not None
        self.stop()

    def update(
        self, finished: float, line: str, notice: str = "", *, total: int | None = None
    ) -> None:
        """Show the number of finished tasks, a status line, and a notice below the bar.

        Args:
            finished: number of finished tasks.
            line: the status line.
            notice: the notice; "" for none.
            total: number of tasks; None if it is unchanged.
        """
        line, notice = one_line(line), one_line(notice)
        is_new = bool(notice) and not self._progress.notice
        self._progress.notice = notice
        self._progress.update(self._images, completed=finished, total=total, line=line)
        if notice:
            line = f"{line}. {notice}"
        now = time.monotonic()
        is_due = is_new or now - self._printed_at >= QUIET_SECONDS
        if not self._draws and is_due and line != self._printed:
            self._console.print(line, soft_wrap=True)
            self._printed_at, self._printed = now, line

    def show_in_flight(self, count: int) -> None:
        """Show the number of predictions in flight."""
        if self._in_flight is not None:
            line = f"{count} of {self._limit} in use"
            self._progress.update(self._in_flight, completed=count, line=line)

    def hide_in_flight(self) -> None:
        """Remove the bar of predictions in flight."""
        if self._in_flight is not None:
            self._progress.remove_task(self._in_flight)
            self._in_flight = None

    def say(self, sentence: str, command: str = "") -> None:
        """Print a sentence above the bar, followed by a command for the user to type."""
        line = one_line(sentence, MAX_SENTENCE_CHARACTERS)
        if self._console.is_terminal:
            line = wrapped(line, self._console.width)
        self._console.print(line, soft_wrap=True)
        if command:
            self._console.print(f"  {cell(command)}", soft_wrap=True)

    def stop(self) -> None:
        """Stop updating the bar and restore the terminal."""
        self._progress.stop()
