"""The gallery that hosts show in a conversation: an MCP App of HTML, CSS and JavaScript."""

from replicate_mcp.mcp_server.gallery.app import GALLERY_URI, gallery

__all__ = ["GALLERY_URI", "gallery"]
