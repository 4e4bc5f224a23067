"""Replicate's error responses: problem documents with its texts."""

from typing import Any

from replicate_mcp.simulator.settings import SimulatorSettings, ThrottleWording


class Problem(Exception):
    """Error response to the request."""

    def __init__(
        self, status: int, detail: str, *, title: str | None = None, **members: object
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers: list[tuple[bytes, bytes]] = []
        self.document: dict[str, Any] = {"title": title} if title else {}
        self.document |= {"detail": detail, "status": status, **members}


def unauthenticated() -> Problem:
    """Return the 401 for a missing, malformed or revoked token."""
    return Problem(401, "You did not pass a valid authentication token", title="Unauthenticated")


def insufficient_credit() -> Problem:
    """Return the 402 for an account without credit."""
    return Problem(
        402,
        "You have insufficient credit to run this model. Go to "
        "https://replicate.com/account/billing#billing to purchase credit. Once you purchase "
        "credit, please wait a few minutes before trying again.",
        title="Insufficient credit",
    )


def not_found() -> Problem:
    """Return the 404 for a missing resource, or one of another account."""
    return Problem(404, "The requested resource could not be found.")


def invalid_version() -> Problem:
    """Return the 422 for an unknown version."""
    return Problem(
        422,
        "The specified version does not exist (or perhaps you don't have permission to use it?)",
        title="Invalid version or not permitted",
    )


def invalid(fields: list[tuple[str, str, str]]) -> Problem:
    """Return the 422 for invalid fields of a body, each as (type, field, description)."""
    lines = [f"- {field}: {text}\n" if field else f"- {text}\n" for _, field, text in fields]
    return Problem(
        422,
        "".join(lines),
        title="Input validation failed",
        invalid_fields=[
            {"type": kind, "field": field, "description": text} for kind, field, text in fields
        ],
    )


def of_status(status: int) -> Problem:
    """Return the error of an injected fault with this status."""
    if status == 401:
        return unauthenticated()
    if status == 404:
        return not_found()
    detail = {
        400: "Bad request",
        403: "You do not have permission to perform this action.",
        500: "Internal server error",
        502: "Bad gateway",
        503: "Service unavailable",
        504: "Gateway timeout",
    }[status]
    return Problem(status, detail)


def throttled(settings: SimulatorSettings, seconds: int, rpm: float, burst: int) -> Problem:
    """Return the 429; the settings decide how much it says about the limit and the wait."""
    detail = "Request was throttled."
    if settings.throttle_wording is not ThrottleWording.BARE:
        detail += f" Your rate limit resets in ~{seconds}s."
    if settings.throttle_wording in (
        ThrottleWording.ANNOUNCED,
        ThrottleWording.ANNOUNCED_WITHOUT_CREDIT,
    ):
        credit = (
            " while you have less than $5.0 in credit"
            if settings.throttle_wording is ThrottleWording.ANNOUNCED
            else ""
        )
        detail = (
            f"Your rate limit for creating predictions is reduced to {rpm:g} requests per minute "
            f"with a burst of {burst} requests{credit}. Your rate limit resets in ~{seconds}s."
        )
    problem = Problem(429, detail)
    if settings.throttle_field:
        problem.document["retry_after"] = seconds
    if settings.throttle_header:
        problem.headers.append((b"retry-after", str(seconds).encode()))
    return problem
