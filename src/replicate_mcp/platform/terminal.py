"""Terminals, and Git Bash's window, which Windows shows to programs as pipes."""

import os
import re
import sys
from typing import TextIO

from replicate_mcp.platform.system import IS_WINDOWS

_MSYS_PIPE = re.compile(r"\\(msys|cygwin)-[0-9a-f]+-pty\d+-(from|to)-master")


def is_terminal(stream: TextIO) -> bool:
    """Return whether a person is at the other end of a stream."""
    return stream.isatty() or is_msys_terminal(stream)


def terminal_columns(stream: TextIO) -> int | None:
    """Return the width of the terminal that a stream is; None where it is none."""
    if not is_terminal(stream):
        return None
    import shutil

    return shutil.get_terminal_size().columns


def is_msys_terminal(stream: TextIO) -> bool:
    """Return whether a stream is the window of Git Bash or MSYS2 (mintty).

    It shows text and escape sequences in UTF-8 and passes on typed lines. It is no console: it
    has no width that a program can ask for, and what is typed cannot be hidden.
    """
    if not (IS_WINDOWS and os.environ.get("MSYSTEM")) or stream.isatty():
        return False
    try:
        name = _pipe_name(stream.fileno())
    except (OSError, ValueError):
        return False
    return _MSYS_PIPE.fullmatch(name) is not None


def _pipe_name(descriptor: int) -> str:
    """Return the name of the pipe behind a descriptor; empty for what is none.

    Raises:
        OSError: the descriptor is closed.
    """
    if sys.platform != "win32":
        return ""
    import ctypes
    import msvcrt
    from ctypes import wintypes

    file_name_info, size = 2, 1024  # FILE_INFO_BY_HANDLE_CLASS.FileNameInfo
    buffer = ctypes.create_string_buffer(size)  # The length in bytes, then the name in UTF-16.
    handle = wintypes.HANDLE(msvcrt.get_osfhandle(descriptor))
    kernel = ctypes.WinDLL("kernel32")
    if not kernel.GetFileInformationByHandleEx(handle, file_name_info, buffer, size):
        return ""
    length = int.from_bytes(buffer.raw[:4], "little")
    return buffer.raw[4 : 4 + length].decode("utf-16-le")
