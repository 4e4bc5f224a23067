"""Control routes of the simulator: statistics and settings."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from replicate_mcp.simulator.engine.accounts import Account
from replicate_mcp.simulator.engine.predictions import Prediction
from replicate_mcp.simulator.http_exchange import Answer, Exchange
from replicate_mcp.simulator.problem_details import Problem
from replicate_mcp.simulator.route_context import Simulation

_MAX_WAIT_SECONDS = 60.0


class AccountChanges(BaseModel):
    """Changes to one account; omitted fields stay unchanged."""

    model_config = ConfigDict(extra="forbid")

    out_of_credit: bool | None = Field(None, description="creations are answered 402")
    low_credit: bool | None = Field(None, description="6 creations a minute, burst 1, announced")
    requests_per_minute: float | None = Field(None, gt=0, description="its own creation rate")
    burst: int | None = Field(None, ge=1, description="its own burst")
    revoke: tuple[str, ...] = Field((), description="tokens that are answered 401 from now on")
    restore: tuple[str, ...] = Field((), description="tokens that are good again")


async def get_stats(sim: Simulation, exchange: Exchange) -> Answer:
    """GET /simulator/stats; with `limit`, also the share of it in use."""
    limit = exchange.query().get("limit")
    now = sim.world.clock.now()
    accounts = {
        name: account.stats(now, int(limit) if limit else None)
        for name, account in sim.world.accounts.items()
    }
    return Answer.json({"now": now, "accounts": accounts, "requests": dict(sim.world.requests)})


async def get_settings(sim: Simulation, _exchange: Exchange) -> Answer:
    """GET /simulator/settings."""
    return Answer.json(sim.world.settings.model_dump(mode="json"))


async def configure(sim: Simulation, exchange: Exchange) -> Answer:
    """POST /simulator/configure: change any settings."""
    try:
        sim.world.configure(await _object(exchange))
    except ValidationError as error:
        raise Problem(422, str(error), title="Not a setting") from error
    return await get_settings(sim, exchange)


async def reset(sim: Simulation, exchange: Exchange) -> Answer:
    """POST /simulator/reset: clear all state and restore the initial settings."""
    sim.world.reset()
    return await get_stats(sim, exchange)


async def get_predictions(sim: Simulation, exchange: Exchange) -> Answer:
    """GET /simulator/predictions: all, or those of one `account`, oldest first."""
    predictions = sim.world.of_account(exchange.query().get("account"))
    return Answer.json([_everything(sim, prediction) for prediction in predictions])


async def get_timeline(sim: Simulation, exchange: Exchange) -> Answer:
    """GET /simulator/timeline: each change of the number in flight, by account."""
    return Answer.json(
        {name: list(account.changes) for name, account in sim.world.accounts.items()}
    )


async def wait(sim: Simulation, exchange: Exchange) -> Answer:
    """GET /simulator/wait: return the statistics when all the given counts are reached.

    `in_flight=0` means exactly none; every other count is a minimum. `account` selects one account
    instead of the sum of all. Responds with 408 after `timeout` seconds.
    """
    query = exchange.query()
    account = query.pop("account", None)
    timeout = min(float(query.pop("timeout", 10)), _MAX_WAIT_SECONDS)
    goals = {name: int(value) for name, value in query.items()}
    deadline = sim.world.clock.now() + timeout
    while not _reached(sim, account, goals):
        seconds = deadline - sim.world.clock.now()
        if seconds <= 0:
            raise Problem(408, f"After {timeout:g} s not reached: {goals}")
        await sim.world.change(seconds)
    return await get_stats(sim, exchange)


async def change_account(sim: Simulation, exchange: Exchange) -> Answer:
    """POST /simulator/accounts/{name}."""
    try:
        changes = AccountChanges.model_validate(await _object(exchange))
    except ValidationError as error:
        raise Problem(422, str(error), title="Not something an account has") from error
    world = sim.world
    account = world.account(exchange.args[0])
    given = changes.model_dump(exclude_unset=True, exclude={"revoke", "restore"})
    for name, value in given.items():
        setattr(account, name, value)
    if given.keys() & {"low_credit", "requests_per_minute", "burst"}:
        account.set_rates(world.settings, world.clock.now())
    world.revoke((world.revoked_tokens | set(changes.revoke)) - set(changes.restore))
    return Answer.json(account.stats(world.clock.now(), None))


def _reached(sim: Simulation, name: str | None, goals: dict[str, int]) -> bool:
    accounts = [
        account for account in sim.world.accounts.values() if name is None or account.name == name
    ]
    for goal, value in goals.items():
        count = sum(_count(account, goal) for account in accounts)
        if count < value or (goal == "in_flight" and value == 0 and count > 0):
            return False
    return True


def _count(account: Account, name: str) -> int:
    if name in ("in_flight", "max_in_flight"):
        return int(getattr(account, name))
    if name == "ended":
        return sum(account.counts[n] for n in ("succeeded", "failed", "canceled", "aborted"))
    if name not in account.counts:
        raise Problem(422, f"Not counted: {name}")
    return account.counts[name]


def _everything(sim: Simulation, prediction: Prediction) -> dict[str, Any]:
    asked = prediction.asked
    return {
        "id": prediction.id,
        "account": asked.account.name,
        "model": asked.model.id,
        "version": asked.version,
        "deployment": asked.deployment.id if asked.deployment else None,
        "input": asked.input,
        "status": prediction.status.value,
        "error": prediction.error,
        "output": sim.representations.output(prediction),
        "created": prediction.created,
        "started": prediction.started,
        "ended": prediction.ended,
        "deadline": prediction.deadline,
        "cancel_after": asked.cancel_after,
        "webhook": asked.webhook,
        "fault": asked.fault.value if asked.fault else None,
    }


async def _object(exchange: Exchange) -> dict[str, Any]:
    try:
        body = json.loads(await exchange.body() or b"{}")
    except ValueError as error:
        raise Problem(400, "The request's body is not valid JSON") from error
    if not isinstance(body, dict):
        raise Problem(422, "The request's body is not a JSON object")
    return body
