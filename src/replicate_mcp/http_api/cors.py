"""CORS settings, which let pages of the server's own host names call it."""

import re
from collections.abc import Sequence
from typing import Any

from replicate_mcp.addresses import is_loopback

_REQUEST_HEADERS = (
    "authorization",
    "content-type",
    "idempotency-key",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "prefer",
    "x-admin-api-key",
    "x-replicate-api-key",
)
_SHOWN = ("location", "mcp-session-id", "retry-after", "www-authenticate")


def cross_origin(allowed_hosts: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of Starlette's CORSMiddleware for these host names, at any port.

    Plain http is allowed for loopback only: elsewhere a page can be altered in transit.
    """
    secure = "|".join(map(re.escape, allowed_hosts))
    plain = "|".join(re.escape(name) for name in allowed_hosts if is_loopback(name))
    scheme_and_name = f"https://({secure})" + (f"|http://({plain})" if plain else "")
    return {
        "allow_origin_regex": rf"({scheme_and_name})(:\d{{1,5}})?",
        "allow_methods": ["GET", "POST", "DELETE"],
        "allow_headers": list(_REQUEST_HEADERS),
        "expose_headers": list(_SHOWN),
    }
