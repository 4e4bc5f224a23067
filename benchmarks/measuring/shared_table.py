"""Tables and bounds of the benchmark of shared limits."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from benchmarks.measuring.bounds import Bound
from benchmarks.measuring.handing_over import HandingOver
from benchmarks.measuring.sharing import LIMIT, PREDICT_SECONDS, Shared
from benchmarks.measuring.table import titled_table
from benchmarks.measuring.uncontended import Uncontended

MAX_LATENCY_MS = {"sqlite": 15.0, "redis": 5.0, "valkey": 5.0}
"""Maximum median latency of handing a freed permit to another process."""

MAX_TASK_MS = 1.0
"""Maximum duration of both steps of a task on SQLite."""

MAX_ROUND_TRIPS = 2.0
"""Maximum number of round trips to a server for both steps of a task."""

MIN_UTILISATION = {8: 0.98}
"""Minimum utilisation, by number of processes."""

_SHARING = """\
utilisation: of the limit, while all processes waited
luckiest,    a process's grants, beside an equal share
 unluckiest: (at {processes} processes, one grant is {one:.0%} of it)
CPU ms:      a task, of all processes together
held up:     share of the time without a core"""
_STEPS = """\
raw:          a PING; an empty write transaction
a task:       record_attempts and finish, uncontended
freed permit: from release's return to the grant in
               another process; and from its call"""


@dataclass(frozen=True, slots=True)
class Measured:
    """All measurements of one backend."""

    backend: str
    alone: Uncontended
    handed: HandingOver
    shared: Sequence[Shared]


def sharing_table(measured: Sequence[Measured], *, seconds: float) -> Table:
    """Return a table with a row for each number of processes."""
    last = measured[0].shared[-1]
    shown = _table(
        f"Processes sharing a limit of {LIMIT}\n"
        f"predictions of {PREDICT_SECONDS} s · {seconds:g} s each · {os.cpu_count()} cores",
        _SHARING.format(one=last.processes / last.tasks, processes=last.processes),
        (
            "processes",
            "tasks",
            "utili-\nsation",
            "luck-\niest",
            "unluck-\niest",
            "CPU\nms",
            "held\nup",
        ),
    )
    for each in measured:
        for row in each.shared:
            shown.add_row(
                each.backend if row is each.shared[0] else "",
                f"{row.processes}",
                f"{row.tasks}",
                _number("{:.3f}", row.utilisation),
                _number("{:.2f}", row.luckiest),
                _number("{:.2f}", row.unluckiest),
                f"{row.cpu_ms:.2f}",
                f"{row.held_up:.0%}",
            )
        shown.add_section()
    return shown


def steps_table(measured: Sequence[Measured]) -> Table:
    """Return a table with a row for each backend: its steps and the raw round trip."""
    shown = _table(
        "Steps beside the raw round trip, in ms: medians",
        _STEPS,
        ("raw", "a task", "times\nraw", "round\ntrips", "freed\npermit", "p99", "from\ncall"),
    )
    for each in measured:
        alone, handed = each.alone, each.handed
        shown.add_row(
            each.backend,
            f"{alone.raw_ms:.3f}",
            f"{alone.task_ms:.3f}",
            f"{alone.task_ms / alone.raw_ms:.1f}",
            _number("{:.2f}", alone.round_trips),
            f"{handed.median_ms:.2f}",
            f"{handed.p99_ms:.2f}",
            f"{handed.from_call_ms:.2f}",
        )
    return shown


def bounds(measured: Sequence[Measured]) -> Iterator[Bound]:
    """Yield all bounds that these measurements cover."""
    for each in measured:
        alone, handed, name = each.alone, each.handed, each.backend
        yield Bound(
            f"ms until a freed permit is another process's: {name}",
            handed.median_ms,
            at_most=MAX_LATENCY_MS[name],
            held_up=handed.held_up,
        )
        if alone.round_trips is None:
            yield Bound(
                f"ms for both steps of a task: {name}",
                alone.task_ms,
                at_most=MAX_TASK_MS,
                held_up=alone.held_up,
            )
        else:
            yield Bound(f"round trips a task: {name}", alone.round_trips, at_most=MAX_ROUND_TRIPS)
        for row in each.shared:
            if row.processes in MIN_UTILISATION:
                yield Bound(
                    f"utilisation: {name}, {row.processes} processes",
                    row.utilisation,
                    at_least=MIN_UTILISATION[row.processes],
                    held_up=row.held_up,
                )
    exceeded = max(row.exceeded for each in measured for row in each.shared)
    yield Bound("predictions in flight over the limit", exceeded, at_most=0)


def _table(title: str, caption: str, columns: Sequence[str]) -> Table:
    shown = titled_table(title, caption)
    shown.add_column("")
    for column in columns:
        shown.add_column(column, justify="right", no_wrap=True)
    return shown


def _number(form: str, value: float | None) -> str:
    return "" if value is None else form.format(value)
