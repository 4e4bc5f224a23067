"""How far a batch is, live on stderr: a bar on a terminal, elsewhere a line now and then."""

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
"""Between two lines where there is no terminal to draw on; shorter batches print none."""


class _Bars(Progress):
    """Bars with a notice below them."""

    notice = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the bars, and the notice where there is one."""
        yield from super().get_renderables()
        if self.notice:
            yield Padding(Text(self.notice, style="yellow"), (0, 0, 0, 2))


class ProgressBar:
    """Shows a batch while it runs; with `limit` also how many of its predictions are in flight."""

    def __init__(self, total: int, *, limit: int | None = None) -> None:
        self._console = PrintableConsole(stderr=True)
        self._draws = self._console.is_terminal and not self._console.is_dumb_terminal
        self._limit = limit
        self._printed_at = time.monotonic()
        self._printed = ""
        self._progress = _Bars(
            TextColumn("  {task.description:<9}", markup=False),
            # The terminal's own colours: of others, one with 16 takes what comes near, like grey.
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
        self._images = self._progress.add_task("images", total=total, line=f"0/{total} done")
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
        # A batch that was refused has no bar to leave above the reason.
        self._progress.live.transient = error is not None
        self.stop()

    def update(self, finished: float, line: str, notice: str = "") -> None:
        """Show how many have finished, a line about it, and below the bar what it waits for."""
        line, notice = one_line(line), one_line(notice)
        is_new = bool(notice) and not self._progress.notice
        self._progress.notice = notice
        self._progress.update(self._images, completed=finished, line=line)
        if notice:
            line = f"{line}. {notice}"
        now = time.monotonic()
        is_due = is_new or now - self._printed_at >= QUIET_SECONDS
        if not self._draws and is_due and line != self._printed:
            self._console.print(line, soft_wrap=True)
            self._printed_at, self._printed = now, line

    def show_in_flight(self, count: int) -> None:
        """Show how many predictions are in flight, of those the limit allows."""
        if self._in_flight is not None:
            line = f"{count} of {self._limit} in use"
            self._progress.update(self._in_flight, completed=count, line=line)

    def hide_in_flight(self) -> None:
        """Nothing is in flight any more: leave the images' bar alone."""
        if self._in_flight is not None:
            self._progress.remove_task(self._in_flight)
            self._in_flight = None

    def say(self, sentence: str, command: str = "") -> None:
        """Print a sentence above the bar, and a command to type below it."""
        line = one_line(sentence, MAX_SENTENCE_CHARACTERS)
        if self._console.is_terminal:
            line = wrapped(line, self._console.width)
        self._console.print(line, soft_wrap=True)
        if command:
            self._console.print(f"  {cell(command)}", soft_wrap=True)

    def stop(self) -> None:
        """Leave the bar as it stands, and give the terminal back."""
        self._progress.stop()
