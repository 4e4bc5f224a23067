"""Measurement of one run: its cost, and the simulator's statistics."""

import secrets
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from benchmarks.measuring.contestants import Conditions, Contestant
from benchmarks.measuring.cost import Cost, seconds_without_core
from benchmarks.measuring.fill import greedy_seconds, utilisation
from benchmarks.measuring.run import run
from benchmarks.measuring.scenario import RATE, Scenario
from replicate_mcp.simulator import Simulator, running_simulator_process


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures of one run; None for a figure that its scenario does not have.

    Attributes:
        of_ideal: duration relative to greedy list scheduling of the same predictions; for a late
            batch, relative to one prediction.
        given_up: whether the run was stopped, so that the actual duration is longer.
        utilisation: share of the limit in flight while tasks waited.
        cpu_ms: CPU time of the contestant's process, per image.
        grown_mb: maximum growth of its resident memory, in megabytes (10⁶ bytes).
        held_up: share of the time for which contestant or simulator waited for a core.
        exceeded: number of predictions in flight above the limit.
        other_calls: number of API calls other than one creation per image.
    """

    of_ideal: float | None
    given_up: bool
    utilisation: float | None
    cpu_ms: float | None
    grown_mb: float | None
    held_up: float
    exceeded: int
    other_calls: int


def measure(
    scenario: Scenario, name: Contestant, *, backend: str, patience: float | None
) -> Measurement:
    """Run a scenario once, with contestant and simulator in separate processes.

    Args:
        scenario: scenario to run.
        name: contestant.
        backend: backend of the engine: `sqlite` for a new file, or any value of the setting.
        patience: seconds after which a late batch is given up; None for no timeout.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        running_simulator_process(
            predict_seconds=scenario.predict_seconds,
            requests_per_minute=RATE,
            burst=RATE,
            other_requests_per_minute=RATE,
            other_burst=RATE,
        ) as simulator,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own_process,
    ):
        location = f"sqlite:///{Path(folder, 'state.db')}" if backend == "sqlite" else backend
        # A new account, so that a shared backend has no state of earlier runs for it.
        account = f"bench{secrets.token_hex(4)}"
        conditions = Conditions(simulator.url, account, scenario.limit, location)
        waited = seconds_without_core(simulator.pid)
        cost = own_process.submit(run, scenario, name, conditions, patience).result()
        cost.waited_seconds += seconds_without_core(simulator.pid) - waited
        return _measurement(scenario, cost, simulator, account)


def _measurement(scenario: Scenario, cost: Cost, simulator: Simulator, account: str) -> Measurement:
    of_ideal = share = cpu_ms = grown_mb = None
    if scenario.late:
        of_ideal = cost.seconds / float(scenario.predict_seconds)
    else:
        cpu_ms = cost.cpu_seconds / scenario.tasks * 1_000
        grown_mb = cost.grown_bytes / 1e6
        if scenario.predict_seconds:
            predictions = simulator.predictions(account)
            processing_seconds = [each["ended"] - each["started"] for each in predictions]
            of_ideal = cost.seconds / greedy_seconds(processing_seconds, scenario.limit)
            timeline = simulator.timeline(account)
            share = utilisation(timeline, limit=scenario.limit, tasks=scenario.tasks)
    counts = simulator.account(account)
    return Measurement(
        of_ideal=of_ideal,
        given_up=not cost.finished,
        utilisation=share,
        cpu_ms=cpu_ms,
        grown_mb=grown_mb,
        held_up=cost.waited_seconds / cost.seconds,
        exceeded=max(0, counts["max_in_flight"] - scenario.limit),
        other_calls=counts["other_calls"],
    )
