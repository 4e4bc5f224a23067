"""Tables of the figures and of the bounds."""

import os
from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table

from benchmarks.measuring.bounds import NAIVE_UTILISATION, Bound, Verdict
from benchmarks.measuring.comparison import Comparison, median
from benchmarks.measuring.measurement import Measurement
from benchmarks.measuring.scenario import RATE, VARYING

_COLUMNS = (
    "limit",
    "tasks",
    "seconds\neach",
    "",
    "of the\nideal",
    "utili-\nsation",
    "CPU ms\neach",
    "MB\ngrown",
    "held\nup",
)
_CAPTION = """\
of the ideal: time, beside greedy list scheduling of the same predictions
              (for a late task: beside one prediction)
utilisation:  of the limit, from its being reached to the last creation
CPU, MB:      of the contestant's process; resident memory, at its highest
held up:      share of the time spent waiting for a core that others had
naive:        what a prototype reached; the figures to beat"""
_STYLES = {Verdict.HELD: "green", Verdict.NOISE: "yellow", Verdict.NOT_HELD: "bold red"}


def conditions(backend: str, runs: int) -> str:
    """Return a line on the common conditions; of the backend only its kind, which is not secret."""
    return (
        f"{RATE:,} creations a minute · backend {backend.partition(':')[0]} · "
        f"{f'medians of {runs} runs' if runs > 1 else 'one run of each'} · "
        f"{os.cpu_count()} cores"
    )


def titled_table(title: str, caption: str) -> Table:
    """Return a table without columns, in the style of all benchmarks."""
    return Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title_style="bold",
        caption_justify="left",
    )


def figures(comparisons: Iterable[Comparison], *, about: str) -> Table:
    """Return a table with a row for each scenario and contestant."""
    shown = titled_table(
        f"The engine beside the raw replicate client under a semaphore\n{about}", _CAPTION
    )
    for column in _COLUMNS:
        words = column in ("", "tasks")
        shown.add_column(column, justify="left" if words else "right", no_wrap=True)
    for comparison in comparisons:
        scenario = comparison.scenario
        what = (f"{scenario.limit}", scenario.shown_tasks, f"{scenario.predict_seconds}")
        shown.add_row(*what, "engine", *_cells(comparison.engine))
        if scenario.predict_seconds == VARYING and scenario.limit in NAIVE_UTILISATION:
            shown.add_row("", "", "", "naive", "", f"{NAIVE_UTILISATION[scenario.limit]:.3f}")
        shown.add_row("", "", "", "raw", *_cells(comparison.raw))
        shown.add_section()
    return shown


def outcome(bounds: Iterable[Bound]) -> Table:
    """Return a table with a row for each bound: result, figure and limit."""
    shown = Table.grid(padding=(0, 2, 0, 0))
    for bound in bounds:
        least = bound.at_least > float("-inf")
        shown.add_row(
            f"[{_STYLES[bound.verdict]}]{bound.verdict}",
            _number("{:.4g}", bound.figure),
            f"at least {bound.at_least:g}" if least else f"at most {bound.at_most:g}",
            bound.what,
        )
    return shown


def _cells(runs: Sequence[Measurement]) -> list[str]:
    given_up = any(run.given_up for run in runs)
    return [
        _number("over {:.2g}" if given_up else "{:.3f}", median(runs, lambda run: run.of_ideal)),
        _number("{:.3f}", median(runs, lambda run: run.utilisation)),
        _number("{:.2f}", median(runs, lambda run: run.cpu_ms)),
        _number("{:.1f}", median(runs, lambda run: run.grown_mb)),
        _number("{:.0%}", median(runs, lambda run: run.held_up)),
    ]


def _number(form: str, value: float | None) -> str:
    return "" if value is None else form.format(value)
