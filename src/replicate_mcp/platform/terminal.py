"""Terminals, including Git Bash's window, which Windows presents to programs as pipes."""

import os
import re
import sys
from typing import TextIO

from replicate_mcp.platform.system import IS_WINDOWS

_MSYS_PIPE = re.compile(r"\\(msys|cygwin)-[0-9a-f]+-pty\d+-(from|to)-master")


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal, or Git Bash's window."""
    return stream.isatty() or is_msys_terminal(stream)


def terminal_columns(stream: TextIO) -> int | None:
    """Return the width of the terminal behind a stream; None if it is not a terminal."""
    if not is_terminal(stream):
        return None
    import shutil

    return shutil.get_terminal_size().columns


def is_msys_terminal(stream: TextIO) -> bool:
    """Return whether a stream is the window of Git Bash or MSYS2 (mintty).

    It shows text and escape sequences in UTF-8 and passes on typed lines. It is not a console:
    programs cannot query its width or turn off echo.
    """
    if not (IS_WINDOWS and os.environ.get("MSYSTEM")) or stream.isatty():
        return False
    try:
        name = _pipe_name(stream.fileno())
    except (OSError, ValueError):
        return False
    return _MSYS_PIPE.fullmatch(name) is not None


def _pipe_name(descriptor: int) -> str:
    """Return the name of the pipe behind a descriptor; empty if it is not a pipe.

    Raises:
        OSError: the descriptor is closed.
    """
    if sys.platform != "win32":
        return ""
    import ctypes
    import msvcrt
    from ctypes import wintypes

    file_name_info, size = 2, 1024  # FILE_INFO_BY_HANDLE_CLASS.FileNameInfo
    buffer = ctypes.create_string_buffer(size)  # the length in bytes, then the name in UTF-16
    handle = wintypes.HANDLE(msvcrt.get_osfhandle(descriptor))
    kernel = ctypes.WinDLL("kernel32")
    if not kernel.GetFileInformationByHandleEx(handle, file_name_info, buffer, size):
        return ""
    length = int.from_bytes(buffer.raw[:4], "little")
    return buffer.raw[4 : 4 + length].decode("utf-16-le")
