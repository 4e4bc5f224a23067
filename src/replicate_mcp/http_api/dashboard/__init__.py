"""The dashboard at `/`: running batches, use of the limits, and failures with their reasons."""

from replicate_mcp.http_api.dashboard.routes import router

__all__ = ["router"]
