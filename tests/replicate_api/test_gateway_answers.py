"""The gateway's parsing of responses: names, files, lists, and invalid responses."""

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
import pytest

from batches.direct import MODEL, TOKEN, URL, Answer, Forward, Kind, Replicate, lost, refused
from batches.virtual_time import EPOCH, in_virtual_time
from replicate_mcp.replicate_api.attempt_matching import hash_inputs
from replicate_mcp.replicate_api.exceptions import ApiStatusError, ResponseLost, UnreadableCreation
from replicate_mcp.replicate_api.gateway import MAX_LIST_PAGES, Gateway, Target
from replicate_mcp.simulator.engine.clock import timestamp
from replicate_mcp.tasks.model_name import ModelName


def says(document: object) -> Answer:
    """Respond with this document."""

    async def answer(request: httpx.Request, forward: Forward) -> httpx.Response:
        return httpx.Response(200, content=json.dumps(document).encode())

    return answer


def gateway_answering(*documents: object) -> Gateway:
    """Return a gateway whose calls of any kind get these responses."""
    replicate = Replicate()
    kinds: tuple[Kind, ...] = ("create", "get", "list", "other")
    for kind in kinds:
        replicate.answer(kind, *map(says, documents))
    return replicate.gateway()


@pytest.mark.parametrize("name", ["acme", "a", "x" * 200, "é", "a#b"])
@in_virtual_time
async def test_account_returns_the_username(name: str) -> None:
    assert await gateway_answering({"username": name}).account() == name


@pytest.mark.parametrize("name", [None, 7, "", "x" * 201, "#a", "a\ud800"])
@in_virtual_time
async def test_unusable_username_is_rejected(name: object) -> None:
    with pytest.raises(ResponseLost, match="names no account"):
        await gateway_answering({"username": name}).account()


@pytest.mark.parametrize(("answer", "secret"), [({"key": "whsec_x"}, "whsec_x"), ({}, "")])
@in_virtual_time
async def test_webhook_secret_is_parsed(answer: object, secret: str) -> None:
    assert await gateway_answering(answer).webhook_secret() == secret


@pytest.mark.parametrize(
    ("models", "found"),
    [([{"model": 1}, "x", {"model": 2}], [{"model": 1}, {"model": 2}]), ({}, []), (None, [])],
)
@in_virtual_time
async def test_search_returns_only_objects(models: object, found: list[object]) -> None:
    gateway = gateway_answering({"models": models})
    assert await gateway.search_models("a fox&limit=9", limit=5) == found


@in_virtual_time
async def test_search_sends_query_and_limit() -> None:
    seen: list[httpx.URL] = []

    async def recorded(request: httpx.Request, forward: Forward) -> httpx.Response:
        seen.append(request.url)
        return httpx.Response(200, json={"models": []})

    replicate = Replicate()
    replicate.answer("other", recorded)
    await replicate.gateway().search_models("a fox&limit=9", limit=5)
    assert dict(seen[0].params) == {"query": "a fox&limit=9", "limit": "5"}


@pytest.mark.parametrize(
    ("ask", "path"),
    [
        (lambda gateway: gateway.model("o", "m"), "/v1/models/o/m"),
        (lambda gateway: gateway.version("o", "m", "v"), "/v1/models/o/m/versions/v"),
        (lambda gateway: gateway.deployment("o", "d"), "/v1/deployments/o/d"),
    ],
)
@in_virtual_time
async def test_model_document_is_returned_unchanged(
    ask: Callable[[Gateway], Awaitable[Mapping[str, Any]]], path: str
) -> None:
    replicate = Replicate()
    replicate.answer("other", says({"other": [1]}))
    assert await ask(replicate.gateway()) == {"other": [1]}
    assert [call.path for call in replicate.calls] == [path]


@pytest.mark.parametrize("urls", [None, {}, {"get": 7}, []])
@in_virtual_time
async def test_upload_response_without_a_url_is_lost(urls: object) -> None:
    with pytest.raises(ResponseLost, match="names no URL"):
        await gateway_answering({"urls": urls}).upload(b"x", "a.png", "image/png")


@in_virtual_time
async def test_upload_sends_name_and_type_and_returns_the_url() -> None:
    seen: list[bytes] = []

    async def recorded(request: httpx.Request, forward: Forward) -> httpx.Response:
        seen.append(await request.aread())
        return httpx.Response(201, json={"urls": {"get": "https://x/f"}})

    replicate = Replicate()
    replicate.answer("other", recorded)
    url = await replicate.gateway().upload(b"the content", "a.png", "image/webp")
    assert url == "https://x/f"
    for part in (b'filename="a.png"', b"Content-Type: image/webp", b"the content"):
        assert part in seen[0]


@in_virtual_time
async def test_unusable_creation_response_may_still_have_created_a_prediction() -> None:
    target = Target(ModelName.parse(MODEL))
    with pytest.raises(UnreadableCreation, match="no usable id"):
        await gateway_answering({}).create(target, {}, cancel_after=60)
    with pytest.raises(ResponseLost, match="no usable id") as caught:
        await gateway_answering({}).get("p")
    assert not isinstance(caught.value, UnreadableCreation)


@pytest.mark.parametrize("status", [404, 409, 422])
@in_virtual_time
async def test_uncancellable_prediction_is_ignored(status: int) -> None:
    replicate = Replicate()
    replicate.answer("cancel", refused(status))
    await replicate.gateway().cancel("p")


@pytest.mark.parametrize("status", [400, 401, 402, 403, 405, 429, 500])
@in_virtual_time
async def test_unexpected_cancel_error_is_raised(status: int) -> None:
    replicate = Replicate()
    replicate.answer("cancel", refused(status))
    with pytest.raises(ApiStatusError):
        await replicate.gateway().cancel("p")


@pytest.mark.parametrize(
    ("name", "version", "path", "in_body"),
    [
        ("o/m", "", "/v1/models/o/m/predictions", None),
        ("o/m", "f" * 64, "/v1/predictions", "f" * 64),
        ("deployments/o/d", "f" * 64, "/v1/deployments/o/d/predictions", None),
    ],
)
@in_virtual_time
async def test_prediction_is_created_at_the_endpoint_of_its_model(
    name: str, version: str, path: str, in_body: str | None
) -> None:
    seen: list[tuple[str, Any]] = []

    async def recorded(request: httpx.Request, forward: Forward) -> httpx.Response:
        seen.append((request.url.path, json.loads(await request.aread())))
        assert request.headers["prefer"] == "wait=60"
        assert request.headers["cancel-after"] == "77s"
        return httpx.Response(201, json={"id": "p", "status": "succeeded"})

    replicate = Replicate()
    replicate.answer("create", recorded)
    target = Target(ModelName.parse(name), version)
    await replicate.gateway().create(target, {"seed": 7}, cancel_after=77)
    ((sent_to, body),) = seen
    assert sent_to == path
    assert (body["input"], body.get("version")) == ({"seed": 7}, in_body)


@in_virtual_time
async def test_gateway_repr_hides_its_token() -> None:
    gateway = Replicate().gateway()
    assert TOKEN not in repr(gateway)
    assert repr(gateway).startswith("Gateway(")
    assert gateway.base_url == URL


def test_target_defaults_are_those_of_replicate() -> None:
    assert Target(ModelName.parse(MODEL)) == Target(ModelName.parse(MODEL), "", is_resolved=True)


# Clock.


@in_virtual_time
async def test_clock_is_synced_once() -> None:
    replicate = Replicate(clock_offset_seconds=100)
    gateway = replicate.gateway()
    assert gateway.now() == EPOCH
    await gateway.sync_clock()
    assert gateway.now() == pytest.approx(EPOCH + 100, abs=1)
    await gateway.sync_clock()
    assert len(replicate.calls) == 1


@pytest.mark.parametrize("status", [401, 404, 500])
@in_virtual_time
async def test_error_response_syncs_the_clock(status: int) -> None:
    replicate = Replicate(clock_offset_seconds=100)
    replicate.answer("list", refused(status))
    gateway = replicate.gateway()
    await gateway.sync_clock()
    assert gateway.now() == pytest.approx(EPOCH + 100, abs=1)


@in_virtual_time
async def test_clock_sync_is_tried_three_times() -> None:
    replicate = Replicate()
    replicate.always("list", lost(carried_out=False))
    with pytest.raises(ResponseLost):
        await replicate.gateway().sync_clock()
    assert replicate.times("list") == pytest.approx([0, 0.3, 1.3])


# Prediction list.


def row(number: int, at: float | None, **fields: Any) -> dict[str, Any]:
    created = {} if at is None else {"created_at": timestamp(at)}
    return {"id": f"p{number}", "status": "starting", **created, **fields}


async def listed(moment: float, *pages: object) -> tuple[list[str], float, int]:
    """Return the ids of a list with these pages, since when it is complete, and the pages read."""
    replicate = Replicate()
    for place, page in enumerate(pages):
        following = f"{URL}/v1/predictions?cursor={place}" if place + 1 < len(pages) else None
        replicate.answer("list", says({"results": page, "next": following}))
    found = await replicate.gateway().predictions_since(moment)
    ids = [each.id for each in found.predictions]
    return ids, found.complete_since, len(replicate.times("list"))


T = 1_700_000_000.0


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ([[]], ([], T, 1)),
        ([[row(1, T + 1), row(2, T), row(3, T - 0.001)]], (["p1", "p2"], T, 1)),
        ([[row(1, T + 1)], [row(2, T)]], (["p1", "p2"], T, 2)),
        # Once a page ends before the requested time, no older page is read.
        ([[row(1, T + 1), row(2, T - 1)], [row(3, T + 1)]], (["p1"], T, 1)),
        ([[row(1, T - 1), row(2, T)], [row(3, T)]], (["p2", "p3"], T, 2)),
        # Unreadable rows, or rows without a time, do not end the list.
        ([[{"id": 7}, "x", row(1, T)], [row(2, T)]], (["p1", "p2"], T, 2)),
        ([[row(1, T), row(2, None)], [row(3, T)]], (["p1", "p3"], T, 2)),
        ([[row(1, None)], [row(3, T)]], (["p3"], T, 2)),
        ([{"a": 1}, [row(3, T)]], (["p3"], T, 2)),
    ],
)
@in_virtual_time
async def test_list_is_read_back_to_a_given_time(
    pages: list[Any], expected: tuple[list[str], float, int]
) -> None:
    assert await listed(T, *pages) == expected


@in_virtual_time
async def test_list_with_too_many_pages_is_complete_since_the_oldest_read_entry() -> None:
    pages = [[row(number, T + 100 - number)] for number in range(MAX_LIST_PAGES + 1)]
    ids, reaches_back_to, read = await listed(T, *pages)
    assert MAX_LIST_PAGES == 20
    assert (len(ids), reaches_back_to, read) == (20, T + 81, 20)
    pages = [[row(number, None)] for number in range(MAX_LIST_PAGES + 1)]
    assert await listed(T, *pages) == ([], math.inf, 20)


@in_virtual_time
async def test_list_request_is_limited_to_predictions_since_a_time() -> None:
    seen: list[httpx.URL] = []

    async def recorded(request: httpx.Request, forward: Forward) -> httpx.Response:
        seen.append(request.url)
        return httpx.Response(200, json={"results": [], "next": 7})

    replicate = Replicate()
    replicate.answer("list", recorded)
    await replicate.gateway().predictions_since(T)
    assert [dict(url.params) for url in seen] == [{"created_after": "2023-11-14T22:13:20Z"}]


@in_virtual_time
async def test_all_fields_of_a_listed_prediction_are_parsed() -> None:
    whole = row(1, T + 1, model="o/m", version="v1", input={"seed": 7})
    whole |= {"deadline": timestamp(T + 61), "status": "succeeded"}
    gateway = gateway_answering({"results": [whole, row(2, T, model=None, version=None, input=[])]})
    first, second = (await gateway.predictions_since(T)).predictions
    assert (first.id, first.model, first.version, first.ended) == ("p1", "o/m", "v1", True)
    assert first.created_at == T + 1
    assert first.lifetime == pytest.approx(60)
    assert first.inputs == hash_inputs({"seed": 7})
    assert (second.id, second.model, second.version, second.ended) == ("p2", "", "", False)
    assert (second.created_at, second.lifetime, second.inputs) == (T, None, {})
