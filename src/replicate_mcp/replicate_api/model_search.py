"""Model search, in the recommended models and at Replicate, and lookup of a model's inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from replicate_mcp.errors import InvalidInput, ModelNotFound
from replicate_mcp.replicate_api.error_policy import to_public_error
from replicate_mcp.replicate_api.exceptions import ReplicateApiError
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.replicate_api.model_resolver import ModelResolver
from replicate_mcp.tasks.input_schema import InputSchema
from replicate_mcp.tasks.model_name import ModelName
from replicate_mcp.tasks.recommended_models import (
    BY_NAME,
    CATALOGUE,
    RecommendedModel,
    search,
    suggest_model,
)
from replicate_mcp.text import one_line

MAX_RESULTS = 20
"""Maximum number of models to request from Replicate's search."""

DESCRIPTION_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A search result.

    Attributes:
        name: the model, as `owner/name`.
        description: the model's strengths in one line; its owner's description unless it is
            `known`.
        known: its entry among the recommended models; None if it has none.
        runs: its number of runs; None if Replicate does not give it.
    """

    name: str
    description: str
    known: RecommendedModel | None = None
    runs: int | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The models found, and a note if the result is incomplete."""

    models: list[ModelSummary]
    note: str = ""


def recommended_models(query: str | None) -> list[ModelSummary]:
    """Return the recommended models that match `query`; all of them for None."""
    fitting = CATALOGUE if query is None else search(query)
    return [ModelSummary(known.name, known.good_at, known) for known in fitting]


async def search_replicate(query: str, gateway: Gateway) -> list[ModelSummary]:
    """Search Replicate for image models, and return them in its order.

    Raises:
        ReplicateMcpError: Replicate did not respond.
    """
    try:
        found = await gateway.search_models(query, limit=MAX_RESULTS)
    except ReplicateApiError as fault:
        raise to_public_error(fault) from None
    return image_models(found)


def image_models(found: Sequence[Mapping[str, Any]]) -> list[ModelSummary]:
    """Return the models of a search result that make images, according to their tags."""
    read = [_read(each) for each in found if _makes_images(each)]
    return [model for model in read if model is not None]


async def inputs(
    name: str, gateway: Gateway, models: ModelResolver, account: str
) -> InputSchema | None:
    """Return the schema of a model's inputs; None if Replicate could not provide it.

    Args:
        name: the name of a model, as a caller gives it.
        gateway: the gateway of the caller's token.
        models: the resolver to look the model up with.
        account: the account of `gateway`.

    Raises:
        InvalidInput: `name` is not a valid model name.
        ModelNotFound: Replicate has no such model.
        ReplicateMcpError: Replicate returned an error.
    """
    try:
        parsed = ModelName.parse(name)
    except ValueError as error:
        raise InvalidInput(f"model {error}") from None
    try:
        model = await models.find(parsed, gateway, account)
    except ReplicateApiError as fault:
        raise to_public_error(fault) from None
    if model is None:
        raise ModelNotFound(unknown(parsed))
    return model.schema


def unknown(name: ModelName) -> str:
    """Return the error message for a model that Replicate does not have."""
    near = suggest_model(name.path)
    if near is not None and near != name.path:
        return f"Replicate knows no model '{name}': did you mean {near}?"
    return f"Replicate knows no model '{name}': check its name, owner/name as on replicate.com."


def _makes_images(found: Mapping[str, Any]) -> bool:
    """Return whether the tags allow for images; Replicate also has sound, video and text models."""
    metadata = found.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, Mapping) else None
    if not isinstance(tags, list) or not tags:
        return True
    return any("image" in str(tag) and "video" not in str(tag) for tag in tags)


def _read(found: Mapping[str, Any]) -> ModelSummary | None:
    model = found.get("model")
    if not isinstance(model, Mapping):
        return None
    try:
        name = str(ModelName.parse(f"{model.get('owner')}/{model.get('name')}"))
    except ValueError:
        return None
    if name in BY_NAME:
        known = BY_NAME[name]
        return ModelSummary(name, known.good_at, known)
    runs = model.get("run_count")
    words = model.get("description")
    described = one_line(words, DESCRIPTION_CHARACTERS) if isinstance(words, str) else ""
    return ModelSummary(name, described, runs=runs if isinstance(runs, int) else None)
