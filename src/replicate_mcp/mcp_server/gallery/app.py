"""The gallery as MCP serves it: a `ui://` resource that two tools point to."""

from mcp.server.apps import APP_MIME_TYPE
from mcp.server.lowlevel.helper_types import ReadResourceContents

from replicate_mcp.replicate_api.delivery import image_origins, simulator_origins

GALLERY_URI = "ui://replicate-mcp/gallery.html"


def gallery(base_url: str) -> ReadResourceContents:
    """The document, and what it may do: show images, and write into the clipboard.

    Args:
        base_url: of Replicate's API; images of a simulator, on loopback, may come from there.
    """
    from replicate_mcp.mcp_server.gallery.document import document

    ui = {
        "csp": {"resourceDomains": list(image_origins(base_url))},
        "permissions": {"clipboardWrite": {}},
        "prefersBorder": True,
    }
    html = document(simulator_origins(base_url))
    return ReadResourceContents(content=html, mime_type=APP_MIME_TYPE, meta={"ui": ui})
