"""The dashboard at `/`: what runs, how full the limits are, what failed and why, in a browser."""

from replicate_mcp.http_api.dashboard.routes import router

__all__ = ["router"]
