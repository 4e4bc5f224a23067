"""Stores that a fleet of servers shares: what is spent on them, and where it is read."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import anyio

from backends.servers import RunningServer, open_for_admission, running_server
from benchmarks.measuring.cost import seconds_without_core
from benchmarks.measuring.sharing import ACCOUNT
from replicate_mcp.backends.redis.connection import LEASE_SECONDS
from replicate_mcp.backends.sqlite.database import Database


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent on a store until a moment.

    Attributes:
        commands: commands of the Redis, those of its scripts included; transactions of SQLite.
        cpu_seconds: CPU time of the Redis; of the processes themselves with SQLite.
        waited_seconds: time for which it waited for a core.
        at: the moment, on the monotonic clock.
    """

    commands: int
    cpu_seconds: float
    waited_seconds: float
    at: float


@dataclass(frozen=True, slots=True)
class Store:
    """A store that servers share.

    Attributes:
        kind: `redis`, `valkey` or `sqlite`.
        url: value of `REPLICATE_MCP_BACKEND`.
        settling_seconds: time after which the processes that were there before are known as dead.
        server: what the server has spent; None where the processes spend everything themselves.
    """

    kind: str
    url: str
    settling_seconds: float
    server: Callable[[], Spent] | None


@contextmanager
def running_store(kind: str) -> Iterator[Store]:
    """Run a new Redis or Valkey, or create a state file."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield Store(kind, f"sqlite://{Path(folder, 'state.db')}", 3.0, None)
        return
    with running_server(kind) as redis:
        anyio.run(open_for_admission, redis, "replicate-mcp", ACCOUNT)
        yield Store(kind, redis.url(), LEASE_SECONDS + 5, lambda: _spent_by(redis))


def _spent_by(redis: RunningServer) -> Spent:
    with redis.client as client:
        cpu, stats = client.info("cpu"), client.info("commandstats")
        waited_seconds = seconds_without_core(client.info("server")["process_id"])
    commands = sum(each["calls"] for each in stats.values())
    cpu_seconds = cpu["used_cpu_user"] + cpu["used_cpu_sys"]
    return Spent(commands, cpu_seconds, waited_seconds, time.monotonic())


class OwnSpending:
    """What this process spends, its transactions among it."""

    def __init__(self) -> None:
        self._transactions = 0
        run = Database.run

        def counted(database: Database, *arguments: Any, **options: Any) -> Any:
            self._transactions += 1
            return run(database, *arguments, **options)

        # Counts what the servers of this process run, which no interface of theirs tells.
        Database.run = counted  # type: ignore[assignment, method-assign]

    def read(self) -> Spent:
        """Return what was spent until now."""
        return Spent(
            self._transactions, time.process_time(), seconds_without_core(), time.monotonic()
        )


def together(each: Sequence[Spent]) -> Spent:
    """Return what processes have spent together; of the times without a core, the mean."""
    return Spent(
        sum(spent.commands for spent in each),
        sum(spent.cpu_seconds for spent in each),
        mean(spent.waited_seconds for spent in each),
        mean(spent.at for spent in each),
    )
