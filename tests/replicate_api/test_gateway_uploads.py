"""Files that were uploaded before: which URLs are theirs, and whether Replicate has them."""

import httpx
import pytest

from batches.direct import URL, Answer, Forward, Replicate, refused
from batches.virtual_time import in_virtual_time
from replicate_mcp.replicate_api.exceptions import ApiStatusError

FILE = f"{URL}/v1/files/a-File_7"


@pytest.mark.parametrize(
    ("url", "is_file"),
    [
        (FILE, True),
        (f"{FILE}/", False),
        (f"{FILE}?a=b", False),
        (f"{URL}/v1/files/", False),
        (f"{URL}/v1/files/é", False),
        (f"{URL}/v1/predictions/a", False),
        ("/v1/files/a", False),
        ("https://elsewhere.example/v1/files/a", False),
        (f"https://elsewhere.example/v1/files/a{URL}", False),
        ("", False),
    ],
)
@in_virtual_time
async def test_url_of_an_uploaded_file_is_recognised(url: str, is_file: bool) -> None:
    assert Replicate().gateway().is_uploaded(url) is is_file


async def has_upload(answer: Answer) -> bool:
    replicate = Replicate()
    replicate.answer("other", *[answer] * 9)
    return await replicate.gateway().has_upload(FILE)


@in_virtual_time
async def test_uploaded_file_is_looked_up_by_its_id() -> None:
    seen: list[str] = []

    async def recorded(request: httpx.Request, forward: Forward) -> httpx.Response:
        seen.append(f"{request.method} {request.url.path}")
        return httpx.Response(200, json={"id": "a-File_7"})

    assert await has_upload(recorded)
    assert seen == ["GET /v1/files/a-File_7"]


@in_virtual_time
async def test_file_that_replicate_has_deleted_is_not_there() -> None:
    assert not await has_upload(refused(404))


@pytest.mark.parametrize("status", [401, 405])
@in_virtual_time
async def test_refused_lookup_of_a_file_is_raised(status: int) -> None:
    with pytest.raises(ApiStatusError) as raised:
        await has_upload(refused(status))
    assert raised.value.status == status
