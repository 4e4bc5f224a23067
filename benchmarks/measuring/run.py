"""Run of one contestant through one scenario, alone in its process."""

import asyncio

from benchmarks.measuring.contestants import Conditions, Contestant, MakeBatch, contestant
from benchmarks.measuring.cost import Cost, counted
from benchmarks.measuring.scenario import Scenario
from replicate_mcp.simulator import Simulator


def run(
    scenario: Scenario, name: Contestant, conditions: Conditions, patience: float | None
) -> Cost:
    """Run the scenario and return its cost.

    Args:
        scenario: scenario to run.
        name: contestant.
        conditions: conditions of the run.
        patience: seconds after which a late batch is given up; None for no timeout.
    """
    return asyncio.run(_run(scenario, name, conditions, patience))


async def _run(
    scenario: Scenario, name: Contestant, conditions: Conditions, patience: float | None
) -> Cost:
    simulator = Simulator(conditions.base_url)
    async with contestant(name, conditions) as make_batch:
        # One image before the measurement loads imports, schemas and the account.
        simulator.configure(predict_seconds=0)
        await make_batch(1)
        simulator.reset()
        if scenario.late:
            return await _late_batch(scenario, make_batch, simulator, patience)
        with counted() as cost:
            await asyncio.gather(*(make_batch(tasks) for tasks in scenario.batches))
        return cost


async def _late_batch(
    scenario: Scenario, make_batch: MakeBatch, simulator: Simulator, patience: float | None
) -> Cost:
    others = [asyncio.create_task(make_batch(tasks)) for tasks in scenario.batches]
    await simulator.reached(in_flight=scenario.limit)
    with counted() as cost:
        try:
            async with asyncio.timeout(patience):
                await make_batch(scenario.late)
        except TimeoutError:
            cost.finished = False
    for each in others:
        each.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return cost
