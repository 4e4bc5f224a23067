"""Completion of a resource's URI or a prompt's argument while a person types it."""

from collections.abc import Callable, Iterable

from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from replicate_mcp.app.app import App
from replicate_mcp.auth import Caller
from replicate_mcp.errors import ReplicateMcpError
from replicate_mcp.mcp_server.prompts import edit_image
from replicate_mcp.mcp_server.resources import BATCH, MODEL
from replicate_mcp.tasks.recommended_models import CATALOGUE

MAX_VALUES = 100
"""Values in one answer; the protocol's own limit."""

_NUMBERS = ("4", "6", "8", "12", "16", "24")
_STYLES = (
    "ink and watercolour",
    "pencil sketch",
    "film still",
    "flat illustration",
    "clay figures",
)


async def complete(
    app: App,
    caller: Callable[[], Caller],
    ref: PromptReference | ResourceTemplateReference,
    argument: CompletionArgument,
    context: CompletionContext | None,
) -> Completion:
    """Return the values that start with the typed text, then those that contain it."""
    before = (context.arguments if context is not None else None) or {}
    if isinstance(ref, PromptReference):
        return _fitting(argument.value, _for_prompt(ref.name, argument.name))
    if (ref.uri, argument.name) == (BATCH, "id"):
        return _fitting(argument.value, await _batches(app, caller))
    if ref.uri == MODEL and argument.name in ("owner", "name"):
        return _fitting(argument.value, _models(argument.name, before.get("owner")))
    return _fitting(argument.value, ())


def _for_prompt(prompt: str, argument: str) -> Iterable[str]:
    if argument == "model":
        edits = prompt == edit_image.__name__
        return [
            known.name
            for known in CATALOGUE
            if (known.edits_by_prompt if edits else known.takes_prompt)
        ]
    return {"count": _NUMBERS, "panels": _NUMBERS, "style": _STYLES}.get(argument, ())


def _models(part: str, owner: str | None) -> Iterable[str]:
    names = [known.name.split("/") for known in CATALOGUE]
    if part == "owner":
        return [each for each, _ in names]
    return [name for each, name in names if owner in (None, "", each)]


async def _batches(app: App, caller: Callable[[], Caller]) -> Iterable[str]:
    try:
        return [batch.batch_id for batch in await app.batches.list(caller(), limit=MAX_VALUES)]
    except ReplicateMcpError:
        return ()  # No suggestions; reading the resource returns the error.


def _fitting(typed: str, values: Iterable[str]) -> Completion:
    typed = typed.strip().casefold()
    distinct = list(dict.fromkeys(values))
    found = [value for value in distinct if value.casefold().startswith(typed)]
    found += [value for value in distinct if typed in value.casefold() and value not in found]
    return Completion(values=found[:MAX_VALUES], total=len(found), has_more=len(found) > MAX_VALUES)
