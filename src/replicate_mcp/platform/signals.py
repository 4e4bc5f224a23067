"""Signals, where the event loop can receive them."""

from replicate_mcp.platform.system import IS_WINDOWS


def loop_receives_signals() -> bool:
    """Return whether `anyio.open_signal_receiver` works: not on Windows' event loop."""
    return not IS_WINDOWS
