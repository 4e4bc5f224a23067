"""The gallery as MCP serves it: a `ui://` resource that two tools point to."""

from urllib.parse import urlsplit

from mcp.server.apps import APP_MIME_TYPE
from mcp.server.lowlevel.helper_types import ReadResourceContents

from replicate_mcp.access import is_loopback

GALLERY_URI = "ui://replicate-mcp/gallery.html"

DELIVERY_ORIGINS = ("https://replicate.delivery", "https://*.replicate.delivery")


def gallery(base_url: str) -> ReadResourceContents:
    """The document, and what it may do: show images, and write into the clipboard.

    Args:
        base_url: of Replicate's API; images of a simulator, on loopback, may come from there.
    """
    from replicate_mcp.mcp_server.gallery.document import document

    own_origins = _simulator(base_url)
    ui = {
        "csp": {"resourceDomains": [*DELIVERY_ORIGINS, *own_origins]},
        "permissions": {"clipboardWrite": {}},
        "prefersBorder": True,
    }
    return ReadResourceContents(
        content=document(own_origins), mime_type=APP_MIME_TYPE, meta={"ui": ui}
    )


def _simulator(base_url: str) -> tuple[str, ...]:
    """The origins of a simulator's files: it names itself by address, whoever calls it how."""
    parts = urlsplit(base_url)
    if parts.hostname is None or not is_loopback(parts.hostname):
        return ()
    port = f":{parts.port}" if parts.port else ""
    names = dict.fromkeys((parts.hostname, "127.0.0.1"))
    # A Content-Security-Policy has no form for an IPv6 address.
    return tuple(f"{parts.scheme}://{name}{port}" for name in names if ":" not in name)
