"""Model lookup: requests, cached results, and search results."""

import json
import threading
from typing import Any, cast

import anyio
import httpx
import pytest

from batches.direct import Answer, Forward, Replicate, lost, refused, slow, unsent
from batches.playback import SCHEMA
from batches.virtual_time import in_virtual_time
from replicate_api.test_account_names import RecordingCache
from replicate_mcp.errors import InvalidInput, ModelNotFound, ReplicateUnavailable, Unauthorized
from replicate_mcp.replicate_api import model_resolver as module
from replicate_mcp.replicate_api.exceptions import ApiStatusError
from replicate_mcp.replicate_api.gateway import Gateway, Target
from replicate_mcp.replicate_api.model_resolver import (
    MAX_SCHEMA_BYTES,
    Model,
    ModelResolver,
    _CompiledModels,
)
from replicate_mcp.replicate_api.model_search import (
    MAX_RESULTS,
    ModelSummary,
    SearchResult,
    image_models,
    inputs,
    recommended_models,
    search_replicate,
    unknown,
)
from replicate_mcp.tasks.input_schema import InputSchema
from replicate_mcp.tasks.model_name import ModelName
from replicate_mcp.tasks.recommended_models import CATALOGUE

NAME = ModelName.parse("o/m")
VERSION = "f" * 64
LATEST = {"id": VERSION, "openapi_schema": SCHEMA}


def answers(paths: list[str], *documents: object) -> Answer:
    """Respond with these documents, one each, and record the paths."""
    left = list(documents)

    async def answer(request: httpx.Request, forward: Forward) -> httpx.Response:
        paths.append(request.url.path)
        return httpx.Response(200, json=left.pop(0))

    return answer


# A name, the responses, the paths, where the model's predictions are created, and whether the
# model is public.
LOOKUPS: list[tuple[str, list[Any], list[str], str, bool]] = [
    ("o/m", [{"latest_version": LATEST}], ["/v1/models/o/m"], VERSION, False),
    (
        "o/m",
        [{"latest_version": LATEST, "visibility": "public"}],
        *(["/v1/models/o/m"], VERSION, True),
    ),
    (
        "o/m",
        [{"latest_version": LATEST, "is_official": True, "visibility": "private"}],
        *(["/v1/models/o/m"], "", False),
    ),
    (
        "o/m",
        [{"latest_version": LATEST, "is_official": "yes"}],
        *(["/v1/models/o/m"], VERSION, False),
    ),
    ("o/m", [{"latest_version": None}], ["/v1/models/o/m"], "", False),
    ("o/m", [{"latest_version": {"id": 7}}], ["/v1/models/o/m"], "", False),
    (
        f"o/m:{VERSION}",
        [{"openapi_schema": SCHEMA, "visibility": "public"}],
        *([f"/v1/models/o/m/versions/{VERSION}"], VERSION, False),
    ),
    (
        "deployments/o/d",
        [{"current_release": {"model": "x/y", "version": VERSION}}, {"openapi_schema": SCHEMA}],
        *(["/v1/deployments/o/d", f"/v1/models/x/y/versions/{VERSION}"], "", False),
    ),
]


@pytest.mark.parametrize(("name", "documents", "asked", "version", "is_public"), LOOKUPS)
@in_virtual_time
async def test_model_is_fetched_and_cached_for_a_day(
    name: str, documents: list[Any], asked: list[str], version: str, is_public: bool
) -> None:
    paths: list[str] = []
    replicate, cache = Replicate(), RecordingCache()
    replicate.always("other", answers(paths, *documents))
    model = ModelName.parse(name)
    found = await ModelResolver(cache).find(model, replicate.gateway(), "acme")
    assert found is not None
    assert (paths, found.target) == (asked, Target(model, version))
    has_schema = "openapi_schema" in json.dumps(documents)
    assert (found.schema is not None) is has_schema
    assert found.streams_output is not has_schema
    ((key, seconds),) = cache.seconds.items()
    assert seconds == 24 * 3600
    public = f"model:{replicate.gateway().base_url}:{model}"
    private = f"private-model:{replicate.gateway().base_url}:acme:{model}"
    assert key == (public if is_public else private)
    again = await ModelResolver(cache).find(model, replicate.gateway(), "acme")
    assert again is not None
    assert again.target == found.target
    assert paths == asked


@pytest.mark.parametrize("status", [401, 402])
@in_virtual_time
async def test_rejected_token_error_is_raised_from_model_lookup(status: int) -> None:
    replicate = Replicate()
    replicate.always("other", refused(status))
    with pytest.raises(ApiStatusError):
        await ModelResolver(RecordingCache()).find(NAME, replicate.gateway(), "acme")


@pytest.mark.parametrize(
    "answer", [refused(400), refused(403), refused(500), lost(carried_out=True), unsent]
)
@in_virtual_time
async def test_unfetchable_model_is_used_as_named_and_fetched_again(
    answer: Answer,
) -> None:
    replicate, cache = Replicate(), RecordingCache()
    replicate.always("other", answer)
    models = ModelResolver(cache)
    name = ModelName.parse(f"o/m:{VERSION}")
    found = await models.find(name, replicate.gateway(), "acme")
    assert found is not None
    assert found.target == Target(name, VERSION, is_resolved=False)
    assert (found.schema, found.streams_output, cache.values) == (None, True, {})
    assert models._asking == {}
    paths: list[str] = []
    replicate.always("other", answers(paths, {"openapi_schema": SCHEMA}))
    again = await models.find(name, replicate.gateway(), "acme")
    assert again is not None
    assert again.target.is_resolved


@in_virtual_time
async def test_unknown_model_resolves_to_nothing_and_is_not_cached() -> None:
    replicate, cache = Replicate(), RecordingCache()
    replicate.always("other", refused(404))
    assert await ModelResolver(cache).find(NAME, replicate.gateway(), "acme") is None
    assert cache.values == {}
    assert len(replicate.calls) == 1


@pytest.mark.parametrize("schema", [{"components": 7}, {"components": {"schemas": {"Input": {}}}}])
@in_virtual_time
async def test_unreadable_schema_leaves_validation_to_replicate(schema: object) -> None:
    replicate = Replicate()
    replicate.always("other", answers([], {"latest_version": {**LATEST, "openapi_schema": schema}}))
    found = await ModelResolver(RecordingCache()).find(NAME, replicate.gateway(), "acme")
    assert found is not None
    assert (found.schema, found.streams_output) == (None, True)
    assert found.target.version == VERSION


@in_virtual_time
async def test_task_field_given_as_model_input_is_rejected() -> None:
    replicate = Replicate()
    replicate.always("other", answers([], {"latest_version": LATEST}))
    found = await ModelResolver(RecordingCache()).find(NAME, replicate.gateway(), "acme")
    assert found is not None
    assert found.schema is not None
    (problem,) = found.schema.problems({"prompt": "x", "output_filename": "y"})
    assert problem.sentence.startswith("'output_filename' is not an input of o/m: it goes beside")
    assert MAX_SCHEMA_BYTES == 1024 * 1024


@in_virtual_time
async def test_prompt_in_the_inputs_is_not_reported_as_misplaced() -> None:
    properties = {"image": {"type": "string", "format": "uri"}}
    schema = {"components": {"schemas": {"Input": {"properties": properties}}}}
    replicate = Replicate()
    replicate.always("other", answers([], {"latest_version": {**LATEST, "openapi_schema": schema}}))
    found = await ModelResolver(RecordingCache()).find(NAME, replicate.gateway(), "acme")
    assert found is not None
    assert found.schema is not None
    (problem,) = found.schema.problems({"prompt": "x"})
    assert problem.sentence.startswith("'prompt' is not an input of o/m")
    assert "beside" not in problem.sentence


@in_virtual_time
async def test_sixteen_models_are_requested_concurrently() -> None:
    async def answer(request: httpx.Request, forward: Forward) -> httpx.Response:
        return httpx.Response(200, json={"latest_version": None})

    replicate = Replicate()
    replicate.always("other", slow(10, answer))
    models, gateway = ModelResolver(RecordingCache()), replicate.gateway()
    async with anyio.create_task_group() as group:
        for number in range(40):
            group.start_soon(models.find, ModelName.parse(f"o/m{number}"), gateway, "acme")
    assert replicate.times("other") == [0] * 16 + [10] * 16 + [20] * 8


# Compiled schemas.


def text_of(characters: int, mark: int = 0) -> str:
    """Return the cached text of a model, with `characters` characters."""
    text = json.dumps({"version": f"v{mark}", "schema": None, "padding": ""})
    return json.dumps(
        {"version": f"v{mark}", "schema": None, "padding": "x" * (characters - len(text))}
    )


@in_virtual_time
async def test_most_recently_used_eight_mebibytes_of_schemas_stay_compiled() -> None:
    compiled = _CompiledModels()
    texts = [text_of(2**20, mark) for mark in range(10)]
    assert {len(text) for text in texts} == {2**20}
    models = [await compiled.get(NAME, text) for text in texts[:8]]
    assert [model.target.version for model in models] == [f"v{mark}" for mark in range(8)]
    for mark in (*range(8), 0):
        assert await compiled.get(NAME, texts[mark]) is models[mark]
    for text in texts[8:]:
        await compiled.get(NAME, text)
    for mark in (0, *range(3, 8)):
        assert await compiled.get(NAME, texts[mark]) is models[mark]
    assert await compiled.get(NAME, texts[1]) is not models[1]


@in_virtual_time
async def test_one_schema_of_any_size_stays_compiled() -> None:
    compiled = _CompiledModels()
    large = text_of(9 * 2**20)
    model = await compiled.get(NAME, large)
    assert await compiled.get(NAME, large) is model
    await compiled.get(NAME, text_of(100))
    assert await compiled.get(NAME, large) is not model


async def test_schema_over_eight_kibibytes_is_compiled_off_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_loop: list[bool] = []
    read = module._read

    def recorded(name: ModelName, remembered: str) -> Model:
        in_loop.append(threading.current_thread() is threading.main_thread())
        return read(name, remembered)

    monkeypatch.setattr(module, "_read", recorded)
    for characters in (100, 8_192, 8_193):
        await _CompiledModels().get(NAME, text_of(characters))
    assert in_loop == [True, True, False]


# Search.


class Catalogue:
    """Responds to searches."""

    def __init__(self, *found: Any) -> None:
        self._found = found
        self.asked: list[tuple[str, int]] = []

    async def search_models(self, query: str, *, limit: int) -> Any:
        self.asked.append((query, limit))
        return self._found


def entry(owner: object, name: object, **fields: Any) -> dict[str, Any]:
    return {"model": {"owner": owner, "name": name, **fields}}


async def test_search_requests_twenty_models_and_returns_their_summaries() -> None:
    catalogue = Catalogue(
        entry("a", "b", description="Draws.", run_count=7),
        entry("a", "c", description=7, run_count="many"),
        entry("a b", "c"),
        entry(None, None),
        {"model": "a/b"},
        {**entry("a", "film"), "metadata": {"tags": ["video"]}},
        {**entry("a", "drawing"), "metadata": {"tags": []}},
        {**entry("a", "text"), "metadata": 7},
        {**entry("a", "malformed"), "metadata": {"tags": 7}},
    )
    found = await search_replicate("a fox", cast(Gateway, catalogue))
    assert catalogue.asked == [("a fox", MAX_RESULTS)] == [("a fox", 20)]
    assert found == [
        ModelSummary("a/b", "Draws.", None, 7),
        ModelSummary("a/c", "", None, None),
        ModelSummary("None/None", "", None, None),
        ModelSummary("a/drawing", "", None, None),
        ModelSummary("a/text", "", None, None),
        ModelSummary("a/malformed", "", None, None),
    ]
    assert SearchResult([]).note == ""


@pytest.mark.parametrize(
    ("answer", "kind"), [(refused(500), ReplicateUnavailable), (refused(401), Unauthorized)]
)
@in_virtual_time
async def test_failed_search_raises_its_error(answer: Answer, kind: type[Exception]) -> None:
    replicate = Replicate()
    replicate.always("other", answer)
    with pytest.raises(kind):
        await search_replicate("a fox", replicate.gateway())


def test_recommended_models_are_all_or_those_matching_the_query() -> None:
    assert [found.known for found in recommended_models(None)] == list(CATALOGUE)
    (upscaler, *_) = recommended_models("upscale")
    assert upscaler.known is not None
    assert (upscaler.name, upscaler.description) == (upscaler.known.name, upscaler.known.good_at)
    assert (upscaler.runs, recommended_models("zeppelin")) == (None, [])


def test_recommended_model_in_search_results_uses_its_own_entry() -> None:
    known = CATALOGUE[0]
    owner, _, name = known.name.partition("/")
    assert image_models([entry(owner, name, description="theirs", run_count=7)]) == [
        ModelSummary(known.name, known.good_at, known, None)
    ]


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("somebody/something-else", ": check its name, owner/name as on replicate.com."),
        ("bfl/flux-schnell", ": did you mean black-forest-labs/flux-schnell?"),
        ("black-forest-labs/flux-schnell", ": check its name, owner/name as on replicate.com."),
    ],
)
def test_unknown_model_message_suggests_the_nearest_name(name: str, end: str) -> None:
    assert unknown(ModelName.parse(name)) == f"Replicate knows no model '{name}'{end}"


@in_virtual_time
async def test_model_inputs_are_returned() -> None:
    replicate = Replicate()
    replicate.always("other", answers([], {"latest_version": LATEST}))
    schema = await inputs("o/m", replicate.gateway(), ModelResolver(RecordingCache()), "acme")
    assert isinstance(schema, InputSchema)
    assert list(schema.fields) == ["prompt", "seed"]


@pytest.mark.parametrize(
    ("name", "answer", "kind", "sentence"),
    [
        ("o", None, InvalidInput, r"^model 'o' is not a model's name .*[.?]$"),
        ("o/m", refused(404), ModelNotFound, "^Replicate knows no model 'o/m': check its name"),
        ("o/m", refused(401), Unauthorized, "^Replicate refused the token"),
    ],
)
@in_virtual_time
async def test_inputs_of_an_unknown_model_are_rejected(
    name: str, answer: Answer | None, kind: type[Exception], sentence: str
) -> None:
    replicate = Replicate()
    replicate.always("other", answer)
    with pytest.raises(kind, match=sentence):
        await inputs(name, replicate.gateway(), ModelResolver(RecordingCache()), "acme")
    assert len(replicate.calls) == (answer is not None)


@in_virtual_time
async def test_inputs_of_an_unfetchable_model_are_unknown() -> None:
    replicate = Replicate()
    replicate.always("other", refused(500))
    assert await inputs("o/m", replicate.gateway(), ModelResolver(RecordingCache()), "acme") is None
