"""Exceptions of calls to Replicate, as the transport distinguishes them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from replicate_mcp.text import one_line, without_markup

_RESETS = re.compile(r"resets in ~?(\d{1,9}(?:\.\d{1,9})?)\s*s")
_REDUCED = re.compile(r"([1-9]\d{0,8}) requests per minute(?: with a burst of ([1-9]\d{0,8}))?")

MAX_RETRY_AFTER_SECONDS = 3600.0
"""Maximum pause that a response can request: all processes of the account observe it."""

_MAX_FIELDS = 10


class ReplicateApiError(Exception):
    """A call to Replicate without a usable response."""


class RequestNotSent(ReplicateApiError):
    """No connection could be made, so the request never reached Replicate."""


class ConnectionMisconfigured(RequestNotSent):
    """This machine's TLS or proxy settings prevent every connection until they are changed."""


class SentTooLate(RequestNotSent):
    """The request was ready only after the time by which it had to be sent."""


class ResponseLost(ReplicateApiError):
    """The request was sent but no complete response arrived: its effect is unknown."""


class UnreadableCreation(ResponseLost):
    """A creation returned 201 or 202 with an unreadable body: a prediction was created."""


class PredictionNotCreated(RequestNotSent):
    """The response was lost, and the list of predictions shows that nothing was created."""


class Intercepted(ReplicateApiError):
    """A proxy or firewall returned a 4xx page of its own: the request never reached Replicate.

    Replicate's own error responses are JSON objects, whatever their status.
    """

    @classmethod
    def from_response(cls, status: int, page: str) -> "Intercepted":
        """Build the exception from a status and the beginning of a page."""
        said = one_line(without_markup(page), 100)
        quoted = f' "{said}"' if said else ""
        return cls(f"a proxy or firewall answered {status}{quoted} in its place")


class OutcomeUnknown(ReplicateApiError):
    """The response was lost, and the list of predictions does not show the outcome."""


class PredictionStuck(ReplicateApiError):
    """A prediction did not end by its deadline, nor after it was cancelled."""


@dataclass(eq=False)
class ApiStatusError(ReplicateApiError):
    """A response with a status of 400 or more.

    Attributes:
        status: the HTTP status code.
        detail: the sentence in the problem document, or the first words of another body.
        retry_after: seconds, from the header, the body's field or the sentence, in that order; None
            where none of them has it.
        fields: the invalid inputs of a 422, by name, with the description of each.
    """

    status: int
    detail: str
    retry_after: float | None = None
    fields: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the status and the sentence."""
        return f"{self.status}: {self.detail}"

    @property
    def reduced_to(self) -> tuple[float, float | None] | None:
        """The reduced rate that a 429 names: creations a minute, and the burst."""
        found = _REDUCED.search(self.detail)
        return (float(found[1]), float(found[2]) if found[2] else None) if found else None

    @classmethod
    def from_response(
        cls, status: int, headers: Mapping[str, str], body: Mapping[str, Any] | str
    ) -> "ApiStatusError":
        """Build the exception from a response.

        `body` is the parsed object, or the text of a body that is not a JSON object.
        """
        if isinstance(body, str):
            detail = one_line(without_markup(body), 300) or "no reason given"
            return cls(status, detail, _seconds(headers, {}, ""))
        detail = _text(body.get("detail")) or _text(body.get("title")) or "no reason given"
        wrong = body.get("invalid_fields")
        fields = {
            _text(each.get("field")).removeprefix("input."): _text(each.get("description"))
            for each in (wrong[:_MAX_FIELDS] if isinstance(wrong, list) else [])
            if isinstance(each, Mapping)
        }
        return cls(status, detail, _seconds(headers, body, detail), fields)


def _text(value: object) -> str:
    return one_line(value) if isinstance(value, str) else ""


def _seconds(headers: Mapping[str, str], body: Mapping[str, Any], detail: str) -> float | None:
    found = _RESETS.search(detail)
    for value in (headers.get("retry-after"), body.get("retry_after"), found and found[1]):
        try:
            seconds = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            continue
        if not math.isnan(seconds):
            return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS)
    return None
