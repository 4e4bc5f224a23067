"""Processes and their standard streams."""

import contextlib
import errno
import os
from collections.abc import Callable

from replicate_mcp.platform.system import IS_WINDOWS

DESCRIPTORS = (65_536, 10_240)
"""How many are asked for, one after the other: macOS may refuse more than its OPEN_MAX."""


def after_fork_in_child(forget: Callable[[], None]) -> None:
    """Call `forget` in each forked child; Windows forks no process."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)


def is_closed_pipe(error: BaseException) -> bool:
    """Return whether writing failed since nobody reads any more; Windows says EINVAL then."""
    if isinstance(error, BrokenPipeError):
        return True
    return IS_WINDOWS and isinstance(error, OSError) and error.errno == errno.EINVAL


def fill_closed_descriptors() -> None:
    """Open the null device for each of the descriptors 0, 1 and 2 that is closed.

    Otherwise the next file or socket gets that number, and what is printed goes into it. Reading
    from the null device ends at once; writing to 1 fails, since it is opened for reading only.
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
    """Let this process open as many files and sockets as the system allows it.

    A creation that Replicate holds needs a socket, and macOS gives a process 256 at first.

    Returns:
        How many it may open; None for any number, as on Windows.
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
    """Return `sysconfig`'s schemes in which pip may have put a program of ours."""
    return default, f"{os.name}_user"
