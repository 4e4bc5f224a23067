"""What is known of a model: where its predictions are created, and its own schema of inputs."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import anyio

from replicate_mcp.replicate_api.asking_again import answered
from replicate_mcp.replicate_api.faults import Fault, Refusal
from replicate_mcp.replicate_api.gateway import Gateway, Target
from replicate_mcp.replicate_api.memory import Memory
from replicate_mcp.tasks.model_inputs import InputSchema
from replicate_mcp.tasks.models import ModelName
from replicate_mcp.tasks.schema_reading import gives_one_by_one

SCHEMA_SECONDS = 24 * 3600
"""For how long a model's schema is remembered."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that tasks can be made with.

    Attributes:
        schema: of its inputs; None where it could not be had.
        gives_one_by_one: whether its output may be a list that grows while it runs.
    """

    target: Target
    schema: InputSchema | None
    gives_one_by_one: bool = True


class Models:
    """Looks models up, each once a day for all who share the memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._asking: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    async def find(self, name: ModelName, gateway: Gateway) -> Model | None:
        """The model, or None where Replicate knows none of that name.

        Where Replicate cannot be asked, the model is taken as named and its inputs are not
        checked: Replicate judges them.
        """
        key = f"model:{gateway.base_url}:{name}"
        turn = self._asking[key]
        try:
            async with turn:
                return await self._find(key, name, gateway)
        finally:
            if not turn.locked():  # Nobody else waits: names may be made up.
                self._asking.pop(key, None)

    async def _find(self, key: str, name: ModelName, gateway: Gateway) -> Model | None:
        remembered = await self._memory.recall(key)
        if remembered is None:
            try:
                found = await answered(partial(_ask, name, gateway))
            except Refusal as refusal:
                if refusal.status == 404:
                    return None
                if refusal.status in (401, 402):
                    raise
                return _as_named(name)
            except Fault:
                return _as_named(name)
            remembered = json.dumps(found)
            await self._memory.remember(key, remembered, seconds=SCHEMA_SECONDS)
        return _read(name, remembered)


def _as_named(name: ModelName) -> Model:
    return Model(Target(name, name.version, looked_up=False), None)


async def _ask(name: ModelName, gateway: Gateway) -> dict[str, Any]:
    """What is remembered of a model: the version to name at creation, and its schema."""
    if name.kind == "deployment":
        release = (await gateway.deployment(name.owner, name.name)).get("current_release") or {}
        owner, _, model = str(release.get("model", "")).partition("/")
        version = await gateway.version(owner, model, str(release.get("version")))
        return {"version": "", "schema": version.get("openapi_schema")}
    if name.kind == "version":
        version = await gateway.version(name.owner, name.name, name.version)
        return {"version": name.version, "schema": version.get("openapi_schema")}
    model_answer = await gateway.model(name.owner, name.name)
    latest = model_answer.get("latest_version") or {}
    official = model_answer.get("is_official") is True or not latest.get("id")
    return {
        # Only official models answer at their own address; others are named by their version.
        "version": "" if official else latest["id"],
        "schema": latest.get("openapi_schema"),
    }


@lru_cache(maxsize=256)
def _read(name: ModelName, remembered: str) -> Model:
    found: Mapping[str, Any] = json.loads(remembered)
    try:
        schema = InputSchema.from_openapi(found["schema"]) if found["schema"] else None
    except ValueError:
        schema = None
    return Model(Target(name, found["version"]), schema, gives_one_by_one(found["schema"]))
