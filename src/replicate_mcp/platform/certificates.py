"""Access to the system's certificate store."""

from replicate_mcp.platform.system import IS_MACOS, IS_WINDOWS


def store_needs_system_calls() -> bool:
    """Return whether the system verifies certificates by function calls, not from files."""
    return IS_MACOS or IS_WINDOWS
