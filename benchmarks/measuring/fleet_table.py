"""Table and bounds of the benchmark of servers that share one Redis."""

from collections.abc import Callable, Iterator, Sequence

from rich.table import Table

from benchmarks.measuring.bounds import Bound
from benchmarks.measuring.fleet_servers import IDEAL_SECONDS, PREDICT_SECONDS, TASKS, Fleet
from benchmarks.measuring.sharing import LIMIT
from benchmarks.measuring.table import titled_table

MAX_COMMANDS_A_SERVER = 10.0
"""Maximum number of commands a second of an idle server."""

MAX_GROWTH = 4.5
"""Maximum growth of all idle servers' commands from 100 to 400 servers."""

MAX_CPU = 0.03
"""Maximum share of a core that Redis uses while 1,000 servers are idle."""

MAX_TASK_COMMANDS = 80.0

MAX_FREED_SECONDS = 17.0
"""Maximum time until a dead process's permit is another's: its lease of 15 s, and the polling."""

_CAPTION = f"""\
commands: as the server counts them, those that its scripts run included
idle:     all servers; growth is from the first row to the last
join:     one more server, beside those that are there
a task:   of one server's batch of {TASKS} tasks of {PREDICT_SECONDS} s at a limit of
          {LIMIT} (ideal: {IDEAL_SECONDS:g} s), without what the idle servers spend
freed:    from the death of a process until a waiting one has its permit"""

_COLUMNS: Sequence[tuple[str, str, Callable[[Fleet], float]]] = (
    ("idle:\ncommands/s", "{:,.0f}", lambda each: each.idle_commands),
    ("\na server", "{:.1f}", lambda each: each.idle_commands / each.servers),
    ("\nCPU %", "{:.2f}", lambda each: each.idle_cpu * 100),
    ("join\nms", "{:.0f}", lambda each: each.join_ms),
    ("a task:\ncommands", "{:.0f}", lambda each: each.task_commands),
    ("\nCPU ms", "{:.2f}", lambda each: each.task_cpu_ms),
    ("batch\ns", "{:.1f}", lambda each: each.batch_seconds),
    ("freed\ns", "{:.1f}", lambda each: each.freed_seconds),
)


def fleet_table(kind: str, measured: Sequence[Fleet]) -> Table:
    """Return a table with a row for each number of servers, and one of the growth."""
    shown = titled_table(f"Servers that share one {kind.capitalize()}", _CAPTION)
    shown.add_column("servers", justify="right", no_wrap=True)
    for title, _, _ in _COLUMNS:
        shown.add_column(title, justify="right", no_wrap=True)
    for each in measured:
        cells = [form.format(figure(each)) for _, form, figure in _COLUMNS]
        shown.add_row(f"{each.servers:,}", *cells)
    first, last = measured[0], measured[-1]
    if last is not first:
        shown.add_section()
        growth = [f"× {figure(last) / figure(first):.3g}" for _, _, figure in _COLUMNS]
        shown.add_row(f"× {last.servers / first.servers:g}", *growth)
    return shown


def bounds(measured: Sequence[Fleet]) -> Iterator[Bound]:
    """Yield all bounds that these measurements cover."""
    by_servers = {each.servers: each for each in measured}
    for each in measured:
        count = f"{each.servers:,} servers"
        a_server = each.idle_commands / each.servers
        yield Bound(
            f"commands/s of an idle server: {count}", a_server, at_most=MAX_COMMANDS_A_SERVER
        )
        yield Bound(f"commands a task: {count}", each.task_commands, at_most=MAX_TASK_COMMANDS)
        yield Bound(
            f"seconds until a dead process's permit is free: {count}",
            each.freed_seconds,
            at_most=MAX_FREED_SECONDS,
        )
    if {100, 400} <= by_servers.keys():
        growth = by_servers[400].idle_commands / by_servers[100].idle_commands
        yield Bound("growth of idle commands, 100 to 400 servers", growth, at_most=MAX_GROWTH)
    if 1_000 in by_servers:
        yield Bound(
            "share of Redis's core: 1,000 idle servers",
            by_servers[1_000].idle_cpu,
            at_most=MAX_CPU,
            held_up=by_servers[1_000].held_up,
        )
