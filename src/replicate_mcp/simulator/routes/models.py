"""Routes other than predictions: models, deployments, collections, account and files."""

import json
import secrets
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from replicate_mcp.simulator.engine.accounts import Account
from replicate_mcp.simulator.http_exchange import Answer, Exchange
from replicate_mcp.simulator.model_fixtures import (
    DEPLOYMENTS,
    DEPLOYMENTS_BY_ID,
    MODELS,
    MODELS_BY_ID,
    TEXT_TO_IMAGE,
)
from replicate_mcp.simulator.models import Model
from replicate_mcp.simulator.problem_details import Problem, not_found
from replicate_mcp.simulator.route_context import Simulation

_FILE_BYTES = 100 * 1024 * 1024
"""Maximum size of a file that Replicate accepts."""
_FORM_BYTES = 1024 * 1024
"""Maximum size of an upload form without its file."""


async def list_models(sim: Simulation, _exchange: Exchange, _account: Account) -> Answer:
    """GET /v1/models."""
    return _page([sim.representations.model(model) for model in MODELS])


async def search_models(sim: Simulation, exchange: Exchange, _account: Account) -> Answer:
    """QUERY /v1/models with the search text as the body."""
    text = (await exchange.body()).decode("utf-8", "replace")
    unquoted = text.strip('"')  # the JavaScript client sends a JSON string
    return _page([sim.representations.model(model) for model in _found(unquoted)])


async def search(sim: Simulation, exchange: Exchange, _account: Account) -> Answer:
    """GET /v1/search."""
    query = exchange.query()
    if not query.get("query"):
        return Answer.json({"detail": 'Query parameter "query" is required'}, 400)
    limit = query.get("limit", "20")
    if not limit.isdigit() or not 1 <= int(limit) <= 50:
        return Answer.json({"detail": 'Query parameter "limit" must be from 1 to 50'}, 400)
    found = _found(query["query"])[: int(limit)]
    return Answer.json(sim.representations.search(query["query"], found))


async def get_model(sim: Simulation, exchange: Exchange, _account: Account) -> Answer:
    """GET /v1/models/{owner}/{name}."""
    return Answer.json(sim.representations.model(_model(exchange)))


async def list_versions(sim: Simulation, exchange: Exchange, _account: Account) -> Answer:
    """GET /v1/models/{owner}/{name}/versions."""
    return _page([sim.representations.version(_model(exchange))])


async def get_version(sim: Simulation, exchange: Exchange, _account: Account) -> Answer:
    """GET /v1/models/{owner}/{name}/versions/{id}."""
    model = _model(exchange)
    if exchange.args[2] != model.version:
        raise not_found()
    return Answer.json(sim.representations.version(model))


async def list_deployments(sim: Simulation, _exchange: Exchange, _account: Account) -> Answer:
    """GET /v1/deployments."""
    return _page([sim.representations.deployment(deployment) for deployment in DEPLOYMENTS])


async def get_deployment(sim: Simulation, exchange: Exchange, _account: Account) -> Answer:
    """GET /v1/deployments/{owner}/{name}."""
    deployment = DEPLOYMENTS_BY_ID.get("/".join(exchange.args))
    if deployment is None:
        raise not_found()
    return Answer.json(sim.representations.deployment(deployment))


async def list_collections(sim: Simulation, _exchange: Exchange, _account: Account) -> Answer:
    """GET /v1/collections."""
    return _page([sim.representations.collection("text-to-image", None)])


async def get_collection(sim: Simulation, exchange: Exchange, _account: Account) -> Answer:
    """GET /v1/collections/{slug}."""
    if exchange.args[0] != "text-to-image":
        raise not_found()
    return Answer.json(sim.representations.collection("text-to-image", TEXT_TO_IMAGE))


async def get_account(sim: Simulation, _exchange: Exchange, account: Account) -> Answer:
    """GET /v1/account."""
    return Answer.json(sim.representations.account(account))


async def get_webhook_secret(sim: Simulation, _exchange: Exchange, account: Account) -> Answer:
    """GET /v1/webhooks/default/secret."""
    return Answer.json({"key": sim.webhooks.secret_of(account.name)})


async def create_file(sim: Simulation, exchange: Exchange, account: Account) -> Answer:
    """POST /v1/files."""
    length = exchange.header(b"content-length")
    if length and int(length) > _FILE_BYTES + _FORM_BYTES:
        raise _too_large()
    async with Request(exchange.scope, exchange.receive).form() as form:
        content = form.get("content")
        if not isinstance(content, UploadFile):
            raise Problem(400, "Missing content")
        data = await content.read()
        if len(data) > _FILE_BYTES:
            raise _too_large()
        metadata = form.get("metadata") or "{}"
        text = await metadata.read() if isinstance(metadata, UploadFile) else metadata
        kind = content.content_type or form.get("type") or "application/octet-stream"
        name = form.get("filename") or content.filename or "file"
    try:
        parsed: Any = json.loads(text)
    except ValueError as error:
        raise Problem(400, "metadata must be valid JSON") from error
    file_id = secrets.token_urlsafe(32)
    document = sim.representations.file(file_id, str(name), data, str(kind), parsed)
    sim.world.add_file(file_id, account, document, data)
    return Answer.json(document, 201)


async def list_files(sim: Simulation, _exchange: Exchange, account: Account) -> Answer:
    """GET /v1/files."""
    own = [document for owner, document in sim.world.files.values() if owner is account]
    return _page(own[::-1])


async def get_file(sim: Simulation, exchange: Exchange, account: Account) -> Answer:
    """GET /v1/files/{id}."""
    owner, document = sim.world.files.get(exchange.args[0], (None, None))
    if owner is not account:
        raise not_found()
    return Answer.json(document)


async def delete_file(sim: Simulation, exchange: Exchange, account: Account) -> Answer:
    """DELETE /v1/files/{id}."""
    await get_file(sim, exchange, account)
    sim.world.remove_file(exchange.args[0])
    return Answer(204, b"", ())


def _page(results: list[dict[str, Any]]) -> Answer:
    return Answer.json({"previous": None, "next": None, "results": results})


def _model(exchange: Exchange) -> Model:
    model = MODELS_BY_ID.get("/".join(exchange.args[:2]))
    if model is None:
        raise not_found()
    return model


def _found(text: str) -> list[Model]:
    words = text.lower().split()
    return [
        model
        for model in MODELS
        if all(word in f"{model.id} {model.description}".lower() for word in words)
    ]


def _too_large() -> Problem:
    return Problem(413, "Files must be less than 100MB in size")
