"""Routes of predictions: create, get, list and cancel."""

import asyncio
import base64
import json
import re
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from replicate_mcp.simulator.editing import problem
from replicate_mcp.simulator.engine.accounts import Account
from replicate_mcp.simulator.engine.clock import from_timestamp
from replicate_mcp.simulator.engine.predictions import Creation, Prediction
from replicate_mcp.simulator.http_exchange import Answer, Exchange
from replicate_mcp.simulator.model_fixtures import (
    DEPLOYMENTS_BY_ID,
    MODELS_BY_ID,
    MODELS_BY_VERSION,
)
from replicate_mcp.simulator.problem_details import (
    Problem,
    insufficient_credit,
    invalid,
    invalid_version,
    not_found,
)
from replicate_mcp.simulator.route_context import Simulation
from replicate_mcp.simulator.validation import check_body, check_input

_HOLD_SECONDS = 60
"""Maximum time for which Replicate holds a creation, and the default for a bare `wait`."""
_WAIT = re.compile(rb"wait(?:=([1-9][0-9]?))?")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")
_DAY = 24 * 3600
_EVENTS = ("start", "output", "logs", "completed")


async def create_by_version(sim: Simulation, exchange: Exchange, account: Account) -> Answer:
    """POST /v1/predictions."""
    body = await _body(exchange, account, with_version=True)
    owner_and_name, _, version = body["version"].rpartition(":")
    if "/" in version:
        model = MODELS_BY_ID.get(version)
        if model is None or not model.is_official:
            raise invalid_version()
        version = "hidden"
    else:
        model = MODELS_BY_VERSION.get(version)
        if model is None or owner_and_name not in ("", model.id):
            raise invalid_version()
    return await _create(sim, exchange, body, Creation(account, model, body["input"], version))


async def create_by_model(sim: Simulation, exchange: Exchange, account: Account) -> Answer:
    """POST /v1/models/{owner}/{name}/predictions."""
    body = await _body(exchange, account, with_version=False)
    model = MODELS_BY_ID.get("/".join(exchange.args))
    if model is None or not model.is_official:
        raise not_found()
    return await _create(sim, exchange, body, Creation(account, model, body["input"]))


async def create_by_deployment(sim: Simulation, exchange: Exchange, account: Account) -> Answer:
    """POST /v1/deployments/{owner}/{name}/predictions."""
    body = await _body(exchange, account, with_version=False)
    deployment = DEPLOYMENTS_BY_ID.get("/".join(exchange.args))
    if deployment is None:
        raise not_found()
    model = deployment.model
    asked = Creation(account, model, body["input"], model.version, deployment)
    return await _create(sim, exchange, body, asked)


async def get(sim: Simulation, exchange: Exchange, account: Account) -> Answer:
    """GET /v1/predictions/{id}."""
    return Answer.json(sim.representations.prediction(_own(sim, exchange, account)))


async def cancel(sim: Simulation, exchange: Exchange, account: Account) -> Answer:
    """POST /v1/predictions/{id}/cancel."""
    prediction = _own(sim, exchange, account)
    sim.world.cancel(prediction)
    return Answer.json(sim.representations.prediction(prediction))


async def list_newest_first(sim: Simulation, exchange: Exchange, account: Account) -> Answer:
    """GET /v1/predictions."""
    query = exchange.query()
    try:
        start = int(base64.urlsafe_b64decode(query["cursor"])) if "cursor" in query else None
        offset = sim.world.settings.clock_offset_seconds
        after = (
            from_timestamp(query["created_after"]) - offset if "created_after" in query else None
        )
        before = (
            from_timestamp(query["created_before"]) - offset if "created_before" in query else None
        )
    except ValueError as error:
        raise Problem(400, f"Invalid query parameter: {error}") from error
    if query.get("source") == "web":
        return Answer.json(sim.representations.page([]))
    page, older, newer = sim.world.newest_first(account, start=start, after=after, before=before)
    filters: dict[str, str] = {
        name: query[name] for name in ("created_after", "created_before") if name in query
    }

    def url(order: int | None) -> str | None:
        if order is None:
            return None
        cursor = base64.urlsafe_b64encode(str(order).encode()).decode()
        parameters = urlencode(filters | {"cursor": cursor})
        return f"{sim.representations.base_url}/v1/predictions?{parameters}"

    return Answer.json(sim.representations.page(page, next_url=url(older), previous_url=url(newer)))


async def _body(exchange: Exchange, account: Account, *, with_version: bool) -> dict[str, Any]:
    if account.out_of_credit:
        raise insufficient_credit()
    try:
        body = json.loads(await exchange.body())
    except ValueError as error:
        raise Problem(400, "The request's body is not valid JSON") from error
    return check_body(body, with_version=with_version)


async def _create(
    sim: Simulation, exchange: Exchange, body: dict[str, Any], asked: Creation
) -> Answer:
    settings = sim.world.settings
    check_input(asked.input, asked.model, reject_unknown=settings.reject_unknown_inputs)
    hold, applied = _hold(exchange.header(b"prefer"))
    edit = sim.edit(asked)
    asked = replace(
        asked,
        cancel_after=cancel_after(
            exchange.header(b"cancel-after"), settings.minimum_cancel_after_seconds
        ),
        webhook=_webhook(body),
        webhook_events=tuple(body.get("webhook_events_filter", _EVENTS)),
        fault=exchange.fault,
        edit=edit,
        error=None if edit is None else await asyncio.to_thread(problem, edit),
    )
    prediction = sim.world.create(asked)
    headers = [
        (b"location", f"{sim.representations.base_url}/v1/predictions/{prediction.id}".encode())
    ]
    if exchange.fault is not None and not exchange.fault.spoils_answer:
        hold = settings.fault_after_seconds
    if hold:
        await sim.world.left(prediction, hold)
    if applied:
        headers.append((b"preference-applied", applied))
    answer = sim.representations.prediction(prediction)
    if applied and prediction.output_ready and sim.happens(settings.data_url_outputs):
        answer["output"] = await sim.data_urls(prediction)
    status = 202 if sim.happens(settings.answer_202) else 201
    return Answer.json(answer, status, headers)


def _hold(prefer: bytes) -> tuple[float, bytes]:
    """Return the seconds to hold the request, and the value of `Preference-Applied`."""
    if not prefer.startswith(b"wait"):
        return 0, b""
    found = _WAIT.fullmatch(prefer)
    if found is None:
        text = "Prefer must be wait or wait=n with n from 1 to 60"
        raise invalid([("pattern", "prefer", text)])
    seconds = min(_HOLD_SECONDS, int(found[1] or _HOLD_SECONDS))
    return seconds, prefer


def cancel_after(header: bytes, minimum: float) -> float | None:
    """Return the seconds of a `Cancel-After` like `30`, `30s`, `5m` or `1h30m`; None if empty."""
    text = header.decode("latin-1").strip()
    if not text:
        return None
    found = _DURATION.fullmatch(text)
    if found is None:
        raise Problem(422, f"Cancel-After is not a duration: {text}")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    total = hours * 3600 + minutes * 60 + seconds
    if not minimum <= total <= _DAY:
        raise Problem(422, f"Cancel-After must be from {minimum:g} seconds to 24 hours: {text}")
    return total


def _webhook(body: dict[str, Any]) -> str | None:
    url: str | None = body.get("webhook")
    if url and not url.startswith(("https://", "http://127.0.0.1", "http://localhost")):
        raise invalid([("format", "webhook", "webhook must be an HTTPS URL")])
    return url


def _own(sim: Simulation, exchange: Exchange, account: Account) -> Prediction:
    prediction = sim.world.predictions.get(exchange.args[0])
    if prediction is None or prediction.asked.account is not account:
        raise not_found()
    return prediction
