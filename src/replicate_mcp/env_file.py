"""Settings files of `NAME=value` lines, as shells and Docker write them."""

import io
import re
from collections.abc import Mapping
from pathlib import Path

from replicate_mcp.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")

_USUAL_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")

_SHELL_LINE = re.compile(r"\s*(\$env:|set\s|setx\s|setenv\s|\$)", re.IGNORECASE)
"""Start of assignments in the syntax of other shells; `export NAME=value` is supported."""


def read_env_file(path: str | Path | None, *, must_exist: bool) -> Mapping[str, str | None]:
    """Return the values of a settings file by name; None for a name without `=`.

    Args:
        path: the file; None for no file.
        must_exist: whether the file was named explicitly.

    Raises:
        InvalidInput: the file is missing or cannot be read; the message names the line.
    """
    if path is None:
        return {}
    if must_exist and not str(path).strip():
        raise InvalidInput("--env-file is empty: give the path of a file.")
    try:
        path = Path(path).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (
        RuntimeError,
        OSError,
        ValueError,
    ):  # Unknown home folder, or invalid path.
        is_file = is_folder = False
    if not is_file:
        if not must_exist:
            return {}
        if is_folder:
            raise InvalidInput(f"{path} given with --env-file is a folder: give the file in it.")
        raise InvalidInput(f"The file {path} given with --env-file is not there.")
    from dotenv.parser import parse_stream

    found = {}
    for line in parse_stream(io.StringIO(_text(Path(path)))):
        if line.error or (line.key is not None and not _is_name(line.key, line.value)):
            # Ignoring a line that sets a limit may cost money.
            raise InvalidInput(_wrong_line(Path(path), line.original.line, line.original.string))
        if line.key is not None:
            found[line.key] = line.value
    return found


def _is_name(key: str, value: str | None) -> bool:
    """Return whether `key` is a valid name; without a value, only upper-case names are (Docker)."""
    return bool((_NAME if value is not None else _USUAL_NAME).fullmatch(key))


def _wrong_line(path: Path, line: int, text: str) -> str:
    """Return an error message for an invalid line, without its value: it may be a secret."""
    number = line + text[: -len(text.lstrip())].count("\n")  # Counts the empty lines before it.
    shell = ": leave out what a shell needs" if _SHELL_LINE.match(text) else ""
    return f"Line {number} of {path} is not NAME=value{shell or ': correct it'}."


def _text(path: Path) -> str:
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"The file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # As in UTF-16 without a byte order mark, which can be valid UTF-8.
        raise InvalidInput(f"The file {path} is not UTF-8 text: save it as UTF-8.")
    return text
