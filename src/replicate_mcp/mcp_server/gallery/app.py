"""The gallery as MCP serves it: a `ui://` resource that two tools point to."""

from typing import Any
from urllib.parse import urlsplit

from mcp.server.apps import APP_MIME_TYPE, Apps
from mcp.server.mcpserver.resources import Resource

from replicate_mcp.access import is_loopback

GALLERY_URI = "ui://replicate-mcp/gallery.html"

DELIVERY_ORIGINS = ("https://replicate.delivery", "https://*.replicate.delivery")


class _Gallery(Resource):
    """Put together when a host asks for it: most starts of a server never need it."""

    image_origins: tuple[str, ...]

    async def read(self) -> str:
        """The HTML document."""
        from replicate_mcp.mcp_server.gallery.document import document

        return document(self.image_origins)


def gallery(base_url: str) -> Apps:
    """The extension that serves it.

    Args:
        base_url: of Replicate's API; images of a simulator, on loopback, may come from there.
    """
    apps = Apps()
    own = _simulator(base_url)
    apps.add_resource(
        _Gallery(
            uri=GALLERY_URI,
            name="gallery",
            title="Gallery",
            description="The images of a batch, as they are made.",
            mime_type=APP_MIME_TYPE,
            meta={"ui": _meta(own)},
            image_origins=own,
        )
    )
    return apps


def _meta(own_origins: tuple[str, ...]) -> dict[str, Any]:
    return {
        "csp": {"resourceDomains": [*DELIVERY_ORIGINS, *own_origins]},
        "permissions": {"clipboardWrite": {}},
        "prefersBorder": True,
    }


def _simulator(base_url: str) -> tuple[str, ...]:
    parts = urlsplit(base_url)
    if parts.hostname is None or not is_loopback(parts.hostname):
        return ()
    return (f"{parts.scheme}://{parts.netloc}",)
