"""HTTP errors of requests over a limit, raised where the limit is applied."""

from starlette.exceptions import HTTPException

from replicate_mcp.http_api.limits.config import MIB, RETRY_AFTER_SECONDS


class TooManyRequests(HTTPException):
    """429: the caller has too much in progress; 503: all callers together have."""

    def __init__(self, *, is_global: bool, what: str, most: int) -> None:
        whose = "" if is_global else " of yours"
        super().__init__(
            503 if is_global else 429,
            f"Too many {what}{whose} (at most {most:,}): try again when some have ended",
            {"Retry-After": str(RETRY_AFTER_SECONDS)},
        )


class TooLarge(HTTPException):
    """413: the request body is too large.

    It is raised where the body is read; frameworks pass it on, or answer with it.
    """

    def __init__(self, most: int) -> None:
        super().__init__(413, f"The request's body is over {most // MIB} MiB")


class TooManyValues(HTTPException):
    """413: the request body has too many JSON values, which take many times its size in memory."""

    def __init__(self, most: int) -> None:
        super().__init__(413, f"The request's body has over {most:,} commas and brackets")


class TooSlow(HTTPException):
    """408: the request body arrives too slowly."""

    def __init__(self) -> None:
        super().__init__(408, "The request's body arrived too slowly")


class HeadersTooLarge(HTTPException):
    """431: the headers of one request are too large together."""

    def __init__(self) -> None:
        super().__init__(431, "The request's headers are too large")


class AmbiguousLength(HTTPException):
    """400: the request has two lengths of its body.

    The bytes after it could be read as another request (request smuggling).
    """

    def __init__(self) -> None:
        super().__init__(
            400,
            "A request has either Content-Length or Transfer-Encoding",
            {"Connection": "close"},
        )
