"""Figures of servers that share one store, in a file, for the plot."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fleet:
    """Figures of servers that share one store.

    Attributes:
        servers: number of servers.
        idle_commands: commands, or transactions, a second while all are idle.
        idle_cpu: share of one core that is used meanwhile.
        held_up: share of that time for which Redis, or a process, waited for a core.
        join_ms: duration of another server's joining.
        task_commands: the same a task of one server's batch, without those of the idle servers.
        task_cpu_ms: CPU time a task, likewise.
        batch_seconds: duration of the batch.
        freed_seconds: time from the death of a process until a waiting one has its permit.
    """

    servers: int
    idle_commands: float
    idle_cpu: float
    held_up: float
    join_ms: float
    task_commands: float
    task_cpu_ms: float
    batch_seconds: float
    freed_seconds: float


def write_fleets(fleets: Mapping[str, Sequence[Fleet]], path: Path) -> None:
    """Write the figures of each kind of store."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {kind: [asdict(each) for each in measured] for kind, measured in fleets.items()}
    path.write_text(json.dumps(found, indent=2), "utf-8")


def read_fleets(path: Path) -> dict[str, list[Fleet]]:
    """Read the figures that `write_fleets` has written."""
    found = json.loads(path.read_text("utf-8"))
    return {kind: [Fleet(**each) for each in measured] for kind, measured in found.items()}
