"""Error responses: message, delay, invalid fields and rate limit."""

from typing import Any

import pytest

from replicate_mcp.replicate_api.exceptions import (
    MAX_RETRY_AFTER_SECONDS,
    ApiStatusError,
    Intercepted,
)

RESETS = "Request was throttled. Your rate limit resets in ~30s."


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "7"}, {"retry_after": 8, "detail": RESETS}, 7),
        ({}, {"retry_after": 8, "detail": RESETS}, 8),
        ({}, {"detail": RESETS}, 30),
        ({}, {"detail": "resets in 2.25 s"}, 2.25),
        ({}, {"detail": "resets in ~1234567890s"}, None),
        ({}, {"title": RESETS}, 30),
        ({}, {"detail": "Too many requests."}, None),
        ({}, {}, None),
        # A non-numeric value is ignored.
        ({"retry-after": "Mon, 30 Nov 2026 12:00:00 GMT"}, {"retry_after": 8}, 8),
        ({"retry-after": "nan"}, {"retry_after": [], "detail": RESETS}, 30),
        ({}, {"retry_after": 10**400, "detail": RESETS}, 30),
        ({}, {"retry_after": None, "detail": RESETS}, 30),
        # A delay is at least zero and at most the maximum.
        ({"retry-after": "0"}, {"retry_after": 8}, 0),
        ({"retry-after": "-5"}, {}, 0),
        ({"retry-after": "3600"}, {}, 3600),
        ({"retry-after": "3601"}, {}, MAX_RETRY_AFTER_SECONDS),
        ({"retry-after": "inf"}, {}, MAX_RETRY_AFTER_SECONDS),
    ],
)
def test_retry_after_is_read_from_header_body_or_message(
    headers: dict[str, str], body: dict[str, Any], seconds: float | None
) -> None:
    assert ApiStatusError.from_response(429, headers, body).retry_after == seconds


def test_html_page_sets_retry_after_only_by_header() -> None:
    assert ApiStatusError.from_response(503, {"retry-after": "7"}, RESETS).retry_after == 7
    assert ApiStatusError.from_response(503, {}, RESETS).retry_after is None


def test_retry_after_is_capped_at_an_hour() -> None:
    assert MAX_RETRY_AFTER_SECONDS == 3600


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"detail": "No such model.", "title": "Not found"}, "No such model."),
        ({"detail": "", "title": "Not found"}, "Not found"),
        ({"detail": ["x"], "title": "Not found"}, "Not found"),
        ({"title": 7}, "no reason given"),
        ({"detail": "two\nlines"}, "two lines"),
        ("<html><title>Bad gateway</title>x</html>", "Bad gateway"),
        ("<p>Bad <b>gateway</b></p>", "Bad gateway"),
        ("", "no reason given"),
        ("x" * 300, "x" * 300),
        ("x" * 301, "x" * 299 + "…"),
    ],
)
def test_error_message_comes_from_the_json_document_or_html_page(
    body: dict[str, Any] | str, detail: str
) -> None:
    refusal = ApiStatusError.from_response(502, {}, body)
    assert (refusal.status, refusal.detail) == (502, detail)
    assert str(refusal) == f"502: {detail}"


@pytest.mark.parametrize(
    ("wrong", "fields"),
    [
        (
            [
                {"field": "input.seed", "description": "must be\na number"},
                {"field": "version", "description": None},
                "not an object",
                {"description": "is wrong"},
            ],
            {"seed": "must be a number", "version": "", "": "is wrong"},
        ),
        ({"field": "seed"}, {}),
        (None, {}),
    ],
)
def test_invalid_inputs_are_named_without_their_prefix(
    wrong: object, fields: dict[str, str]
) -> None:
    assert ApiStatusError.from_response(422, {}, {"invalid_fields": wrong}).fields == fields


def test_at_most_ten_invalid_inputs_are_named() -> None:
    wrong = [{"field": f"f{number}", "description": "x"} for number in range(11)]
    fields = ApiStatusError.from_response(422, {}, {"invalid_fields": wrong}).fields
    assert list(fields) == [f"f{number}" for number in range(10)]


@pytest.mark.parametrize(
    ("detail", "rate"),
    [
        (
            "Your rate limit for creating predictions is reduced to 6 requests per minute with a "
            "burst of 1 requests while you have less than $5.0 in credit.",
            (6, 1),
        ),
        ("reduced to 60 requests per minute", (60, None)),
        ("reduced to 0 requests per minute", None),
        ("reduced to 6 requests per minute with a burst of 0 requests", (6, None)),
        (RESETS, None),
    ],
)
def test_reduced_rate_is_parsed_from_the_message(
    detail: str, rate: tuple[float, float | None] | None
) -> None:
    assert ApiStatusError(429, detail).reduced_to == rate


@pytest.mark.parametrize(
    ("page", "quoted"),
    [
        ("<title>Blocked by policy</title>", ' "Blocked by policy"'),
        ("", ""),
        ("x" * 101, f' "{"x" * 99}…"'),
    ],
)
def test_html_page_of_a_proxy_is_quoted(page: str, quoted: str) -> None:
    assert str(Intercepted.from_response(403, page)) == (
        f"a proxy or firewall answered 403{quoted} in its place"
    )
