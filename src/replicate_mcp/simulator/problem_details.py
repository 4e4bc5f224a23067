"""Replicate's error answers: problem documents with the texts that its users see."""

from typing import Any

from replicate_mcp.simulator.settings import SimulatorSettings, ThrottleWording


class Problem(Exception):
    """Answers the request with an error."""

    def __init__(
        self, status: int, detail: str, *, title: str | None = None, **members: object
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers: list[tuple[bytes, bytes]] = []
        self.document: dict[str, Any] = {"title": title} if title else {}
        self.document |= {"detail": detail, "status": status, **members}


def unauthenticated() -> Problem:
    """No token, or one that is not, or no longer, good."""
    return Problem(401, "You did not pass a valid authentication token", title="Unauthenticated")


def insufficient_credit() -> Problem:
    """The account has to be topped up."""
    return Problem(
        402,
        "You have insufficient credit to run this model. Go to "
        "https://replicate.com/account/billing#billing to purchase credit. Once you purchase "
        "credit, please wait a few minutes before trying again.",
        title="Insufficient credit",
    )


def not_found() -> Problem:
    """There is nothing at this address, or not for this account."""
    return Problem(404, "The requested resource could not be found.")


def invalid_version() -> Problem:
    """What names no version."""
    return Problem(
        422,
        "The specified version does not exist (or perhaps you don't have permission to use it?)",
        title="Invalid version or not permitted",
    )


def invalid(fields: list[tuple[str, str, str]]) -> Problem:
    """Name the fields of a body that do not fit: (type, field, description) each."""
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
    """An injected error: a call that is refused, or something that broke at Replicate's end."""
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
    """Too many requests; how much of what would help is told, the settings say."""
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
