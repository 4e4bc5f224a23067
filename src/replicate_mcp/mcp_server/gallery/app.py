"""The gallery as an MCP `ui://` resource, which two tools refer to."""

from mcp.server.apps import APP_MIME_TYPE
from mcp.server.lowlevel.helper_types import ReadResourceContents

from replicate_mcp.replicate_api.delivery import image_origins, simulator_origins

GALLERY_URI = "ui://replicate-mcp/gallery.html"


def gallery(base_url: str) -> ReadResourceContents:
    """Return the document with its permissions: loading images, and writing to the clipboard.

    Args:
        base_url: the base URL of Replicate's API; if it is a simulator on loopback, its images are
            permitted too.
    """
    from replicate_mcp.mcp_server.gallery.document import document

    ui = {
        "csp": {"resourceDomains": list(image_origins(base_url))},
        "permissions": {"clipboardWrite": {}},
        "prefersBorder": True,
    }
    html = document(simulator_origins(base_url))
    return ReadResourceContents(content=html, mime_type=APP_MIME_TYPE, meta={"ui": ui})
