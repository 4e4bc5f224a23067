"""Processes and their standard streams."""

import contextlib
import errno
import os
from collections.abc import Callable

from replicate_mcp.platform.system import IS_WINDOWS

DESCRIPTORS = (65_536, 10_240)
"""Numbers of descriptors to request, in order: macOS may refuse more than its OPEN_MAX."""


def after_fork_in_child(forget: Callable[[], None]) -> None:
    """Call `forget` in each forked child; Windows does not fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)


def is_closed_pipe(error: BaseException) -> bool:
    """Return whether a write failed because the reader closed the pipe (EINVAL on Windows)."""
    if isinstance(error, BrokenPipeError):
        return True
    return IS_WINDOWS and isinstance(error, OSError) and error.errno == errno.EINVAL


def fill_closed_descriptors() -> None:
    """Open the null device for each of the descriptors 0, 1 and 2 that is closed.

    Otherwise the next file or socket would get that number, and printed text would go into it.
    Reading from 0 ends immediately; writing to 1 fails, since it is opened for reading only.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)


def raise_descriptor_limit() -> int | None:
    """Raise this process's limit of open files and sockets as far as the system allows.

    A creation held by Replicate needs a socket, and macOS initially allows a process 256.

    Returns:
        The resulting limit; None for no limit, as on Windows.
    """
    try:
        import resource
    except ImportError:
        return None
    for wanted in DESCRIPTORS:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft == resource.RLIM_INFINITY or soft >= most:
            break
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def script_schemes(default: str) -> tuple[str, str]:
    """Return `sysconfig`'s schemes in which pip may have installed this package's program."""
    return default, f"{os.name}_user"
