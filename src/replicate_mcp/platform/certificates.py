"""How the system's certificate store is reached."""

from replicate_mcp.platform.system import IS_MACOS, IS_WINDOWS


def store_needs_system_calls() -> bool:
    """Return whether certificates are verified by the system's functions, and are not files."""
    return IS_MACOS or IS_WINDOWS
