"""Tables and bounds of the benchmark of servers that share one store."""

from collections.abc import Callable, Iterator, Sequence

from rich.table import Table

from benchmarks.measuring.bounds import Bound
from benchmarks.measuring.fleet_results import Fleet
from benchmarks.measuring.fleet_servers import IDEAL_SECONDS, PREDICT_SECONDS, TASKS
from benchmarks.measuring.sharing import LIMIT
from benchmarks.measuring.table import titled_table

MAX_COMMANDS_A_SERVER = 10.0
"""Maximum number of commands a second of an idle server."""

MAX_GROWTH = 4.5
"""Maximum growth of all idle servers' commands from 100 to 400 servers."""

MAX_CPU = 0.03
"""Maximum share of a core that Redis uses while 1,000 servers are idle."""

MAX_TASK_COMMANDS = 80.0

MAX_JOIN_MS = 100.0
"""Maximum duration of another server's joining, on a busy machine."""

MAX_FREED_SECONDS = {"redis": 17.0, "valkey": 17.0, "sqlite": 3.0}
"""Maximum time until a dead process's permit is another's: its lease of 15 s, and the polling."""

_COUNTED = {
    "sqlite": """\
commands: transactions
CPU:      of all processes; in a batch, to make the images too""",
    "redis": """\
commands: as the server counts them, those that its scripts run included
CPU:      of the server""",
}
_CAPTION = f"""
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
    ("freed\ns", "{:.2f}", lambda each: each.freed_seconds),
)


def fleet_table(kind: str, measured: Sequence[Fleet]) -> Table:
    """Return a table with a row for each number of servers, and one of the growth."""
    name = "state file" if kind == "sqlite" else kind.capitalize()
    counted = _COUNTED.get(kind, _COUNTED["redis"])
    shown = titled_table(f"Servers that share one {name}", counted + _CAPTION)
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


def bounds(kind: str, measured: Sequence[Fleet]) -> Iterator[Bound]:
    """Yield all bounds that these measurements of a kind of store cover."""
    by_servers = {each.servers: each for each in measured}
    for each in measured:
        count = f"{each.servers:,} servers, {kind}"
        a_server = each.idle_commands / each.servers
        yield Bound(
            f"commands/s of an idle server: {count}", a_server, at_most=MAX_COMMANDS_A_SERVER
        )
        yield Bound(f"commands a task: {count}", each.task_commands, at_most=MAX_TASK_COMMANDS)
        yield Bound(
            f"seconds until a dead process's permit is free: {count}",
            each.freed_seconds,
            at_most=MAX_FREED_SECONDS[kind],
        )
        yield Bound(
            f"ms until another server has joined: {count}",
            each.join_ms,
            at_most=MAX_JOIN_MS,
            held_up=each.held_up,
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
