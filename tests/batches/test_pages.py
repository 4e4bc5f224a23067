"""HTML pages of a proxy or firewall in place of Replicate's responses."""

import anyio
import pytest

from batches.playback import Playback, running_playback
from batches.test_arbitrary_predictions import ended, settings_of
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.errors import ReplicateUnavailable
from replicate_mcp.replicate_api.exceptions import ApiStatusError
from replicate_mcp.tasks.result import TaskFailure

PAGE = (
    "<!DOCTYPE html><html><head><style>p{color:red}</style><title>Access Denied</title></head>"
    "<body><script>alert('x')</script><p>Blocked by <b>ACME</b> &amp; Co.</p></body></html>"
)


class BehindAFirewall(Playback):
    """Responds to creations, and to requests for `paths`, with an HTML page."""

    def __init__(self, status: str, page: str = PAGE, *, account: bool = False) -> None:
        super().__init__()
        self._status, self._page, self._account = status, page, account

    def _is_blocked(self, method: str, path: str) -> bool:
        return method == "POST" or (self._account and path == "/v1/account")

    def status(self, method: str, path: str, headers: dict[str, str]) -> str:
        blocked = self._is_blocked(method, path)
        return self._status if blocked else super().status(method, path, headers)

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> str | bytes | None:
        if self._is_blocked(method, path):
            return self._page
        return super().answer(method, path, headers, body)


async def failed(playback: Playback) -> TaskFailure:
    async with App.running(settings_of(playback)) as app:
        batch_id = await app.batches.start(app.caller(), BatchRequest([{"prompt": "a fox"}]))
        (row,) = (await ended(app, batch_id)).failed_results
    return row


@pytest.mark.parametrize(
    ("status", "page", "said"),
    [
        ("403 Forbidden", PAGE, '403 "Access Denied"'),
        ("403 Forbidden", "error code: 1020", '403 "error code: 1020"'),
        ("403 Forbidden", "<p>Blocked by <b>ACME</b> &amp; Co.</p>", '403 "Blocked by ACME & Co."'),
        ("403 Forbidden", "<script>var a = '<p>';", "403"),
        ("401 Unauthorized", PAGE, '401 "Access Denied"'),
        ("404 Not Found", PAGE, '404 "Access Denied"'),
    ],
)
def test_html_page_instead_of_a_creation_response_is_not_an_auth_error(
    status: str, page: str, said: str
) -> None:
    with running_playback(BehindAFirewall(status, page)) as playback:
        row = anyio.run(failed, playback)
    assert (row.error_code, row.retryable) == ("replicate_unavailable", True)
    assert row.error == (
        f"Replicate could not be reached: a proxy or firewall answered {said} in its place. "
        "Nothing was billed."
    )
    assert playback.predictions == {}


def test_html_page_instead_of_the_account_rejects_the_batch_without_markup() -> None:
    with (
        running_playback(BehindAFirewall("403 Forbidden", account=True)) as playback,
        pytest.raises(ReplicateUnavailable, match='answered 403 "Access Denied" in its place'),
    ):
        anyio.run(failed, playback)


def test_html_error_page_is_reported_without_markup() -> None:
    assert ApiStatusError.from_response(502, {}, PAGE).detail == "Access Denied"


def test_html_page_rejecting_the_request_size_is_an_error_response() -> None:
    page = "<html><head><title>413 Request Entity Too Large</title></head></html>"
    with running_playback(BehindAFirewall("413 Payload Too Large", page)) as playback:
        row = anyio.run(failed, playback)
    assert (row.error_code, row.retryable) == ("invalid_input", False)
    assert row.error == "Replicate refused the task: 413 Request Entity Too Large"


def test_403_from_replicate_is_reported_with_its_own_detail() -> None:
    body = '{"title": "Forbidden", "detail": "You may not run this model.", "status": 403}'
    with running_playback(BehindAFirewall("403 Forbidden", body)) as playback:
        row = anyio.run(failed, playback)
    assert (row.error_code, row.retryable) == ("unauthorized", False)
    assert row.error == "Replicate refused the task: You may not run this model."
