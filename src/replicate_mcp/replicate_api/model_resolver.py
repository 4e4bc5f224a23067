"""Model lookup: the endpoint for a model's predictions, and the schema of its inputs."""

import json
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from replicate_mcp.cpu_bound import json_size, run_cpu_bound
from replicate_mcp.replicate_api.cache import Cache
from replicate_mcp.replicate_api.exceptions import ApiStatusError, ReplicateApiError
from replicate_mcp.replicate_api.gateway import Gateway, Target
from replicate_mcp.replicate_api.retry import retry_read
from replicate_mcp.tasks.input_schema import InputSchema
from replicate_mcp.tasks.model_name import ModelName
from replicate_mcp.tasks.openapi_schema import streams_output
from replicate_mcp.tasks.task import OWN_FIELDS

SCHEMA_SECONDS = 24 * 3600
"""Seconds for which a model's schema is cached."""

MAX_SCHEMA_BYTES = 1024 * 1024
"""Maximum size of a schema to keep, else Replicate validates the inputs. Image models' have 2 to 50
kB."""

MAX_COMPILED_BYTES = 8 * 1024 * 1024
"""Maximum total text size of the compiled schemas of a process; compiled, they take about ten times
as much."""

MAX_CONCURRENT_LOOKUPS = 16
"""Maximum number of concurrent model lookups of a process: each takes a connection."""

_COMPILING_COST = 8
"""Compiling a schema takes as long as parsing a text this many times its size."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model for tasks.

    Attributes:
        target: the endpoint for its predictions.
        schema: the schema of its inputs; None if it is not available.
        streams_output: whether its output may be a list that grows while it runs.
    """

    target: Target
    schema: InputSchema | None
    streams_output: bool = True


class ModelResolver:
    """A resolver of model names.

    It looks each model up once a day for all who share the cache and may see it.
    """

    def __init__(self, memory: Cache) -> None:
        self._memory = memory
        self._asking: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._lookups = anyio.CapacityLimiter(MAX_CONCURRENT_LOOKUPS)
        self._compiled = _CompiledModels()

    async def find(self, name: ModelName, gateway: Gateway, account: str) -> Model | None:
        """Return the model, or None if Replicate has none of that name.

        If Replicate cannot be reached, return the model as named and without a schema: Replicate
        validates the inputs.

        Args:
            name: the name of the model.
            gateway: the gateway of the caller's token.
            account: the account of `gateway`. What Replicate returns about a model that is not
                public is cached for this account alone.
        """
        keys = _Keys(
            public=f"model:{gateway.base_url}:{name}",
            private=f"private-model:{gateway.base_url}:{account}:{name}",
        )
        turn = self._asking[keys.private]
        try:
            async with turn:
                return await self._find(keys, name, gateway)
        finally:
            if not turn.locked():  # No other task waits: drop made-up names.
                self._asking.pop(keys.private, None)

    async def _find(self, keys: "_Keys", name: ModelName, gateway: Gateway) -> Model | None:
        remembered = await self._memory.get_cached(keys.public)
        if remembered is None:
            remembered = await self._memory.get_cached(keys.private)
        if remembered is None:
            try:
                async with self._lookups:
                    found = await retry_read(partial(_ask, name, gateway))
            except ApiStatusError as refusal:
                if refusal.status == 404:
                    return None
                if refusal.status in (401, 402):
                    raise
                return _as_named(name)
            except ReplicateApiError:
                return _as_named(name)
            key = keys.public if found.pop("is_public") else keys.private
            remembered = await run_cpu_bound(
                partial(_encoded, found), size_bytes=json_size(found["schema"])
            )
            await self._memory.set_cached(key, remembered, seconds=SCHEMA_SECONDS)
        return await self._compiled.get(name, remembered)


@dataclass(frozen=True, slots=True)
class _Keys:
    """The cache keys of a model."""

    public: str
    private: str


class _CompiledModels:
    """An LRU cache of compiled models, bounded by the total text size of their schemas."""

    def __init__(self) -> None:
        self._models: OrderedDict[tuple[ModelName, str], Model] = OrderedDict()
        self._bytes = 0

    async def get(self, name: ModelName, remembered: str) -> Model:
        key = (name, remembered)
        if key not in self._models:
            model = await run_cpu_bound(
                partial(_read, name, remembered), size_bytes=len(remembered) * _COMPILING_COST
            )
            if key not in self._models:
                self._models[key] = model
                self._bytes += len(remembered)
            while self._bytes > MAX_COMPILED_BYTES and len(self._models) > 1:
                (_, oldest), _ = self._models.popitem(last=False)
                self._bytes -= len(oldest)
            return model
        self._models.move_to_end(key)
        return self._models[key]


def _as_named(name: ModelName) -> Model:
    return Model(Target(name, name.version, is_resolved=False), None)


async def _ask(name: ModelName, gateway: Gateway) -> dict[str, Any]:
    """Request the cached facts: the version for creations, the schema, and the visibility."""
    if name.kind == "deployment":
        release = _object(await gateway.deployment(name.owner, name.name), "current_release")
        owner, _, model = str(release.get("model", "")).partition("/")
        version = await gateway.version(owner, model, str(release.get("version")))
        return {"version": "", "schema": version.get("openapi_schema"), "is_public": False}
    if name.kind == "version":
        version = await gateway.version(name.owner, name.name, name.version)
        # A version does not show whether its model is public.
        schema = version.get("openapi_schema")
        return {"version": name.version, "schema": schema, "is_public": False}
    answer = await gateway.model(name.owner, name.name)
    latest = _object(answer, "latest_version")
    version_id = latest.get("id")
    official = answer.get("is_official") is True or not isinstance(version_id, str)
    return {
        # Only official models accept creations at their own address; others need their version.
        "version": "" if official else version_id,
        "schema": latest.get("openapi_schema"),
        "is_public": answer.get("visibility") == "public",
    }


def _object(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = answer.get(name)
    return found if isinstance(found, Mapping) else {}


def _encoded(found: Mapping[str, Any]) -> str:
    text = json.dumps(found)
    return text if len(text) <= MAX_SCHEMA_BYTES else json.dumps({**found, "schema": None})


def _read(name: ModelName, remembered: str) -> Model:
    found: Mapping[str, Any] = json.loads(remembered)
    try:
        schema = _schema(name, found["schema"]) if found["schema"] else None
        grows = streams_output(found["schema"])
    except Exception:
        # The model's owner wrote the schema: if it has any defect, Replicate validates the inputs.
        schema, grows = None, True
    return Model(Target(name, found["version"]), schema, grows)


def _schema(name: ModelName, document: Mapping[str, Any]) -> InputSchema:
    beside = [each for each in OWN_FIELDS if each != "prompt"]
    return InputSchema.from_openapi(document, subject=str(name), beside=beside)
