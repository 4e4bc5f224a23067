"""Files of this machine's user: the settings file and the state file."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from replicate_mcp.platform import paths


def absolute_path(text: str) -> Path | None:
    """Return the path with `~` expanded; None if it is relative or the user is unknown."""
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # The user is unknown.
        return None
    return path if path.is_absolute() else None


def default_env_file() -> Path | None:
    """Return the settings file used when none is named; None if the user has no home folder."""
    from platformdirs import user_config_path

    folder = _user_folder(partial(user_config_path, appauthor=False))
    return folder and folder / "config.env"


def state_file(backend: str) -> Path | None:
    """Return the file in which a backend stores its state; None for a backend without one.

    The result does not depend on the current folder: hosts start servers in different folders, and
    each would have a limit of its own otherwise.

    Raises:
        ValueError: the path is not absolute, or the user has no home folder.
    """
    if backend == "sqlite":
        return default_state_file()
    if not backend.startswith("sqlite://"):
        return None
    named = backend.removeprefix("sqlite://")
    bare = named.lstrip("/")
    starts_by_itself = bare.startswith("~") or paths.begins_with_a_drive(bare)
    path = absolute_path(bare if starts_by_itself or bare == named else f"/{bare}")
    if path is None or not bare or bare.startswith(("./", "../")):
        raise ValueError(f"must name a file by its whole path, like sqlite:///{paths.EXAMPLE_FILE}")
    return path


def default_state_file() -> Path:
    """Return the state file of the `sqlite` backend for when no path is named.

    Raises:
        ValueError: the user has no home folder.
    """
    folder = _user_folder(paths.state_folder)
    if folder is None:
        raise ValueError(
            "sqlite keeps its state in the home folder, and this user has none: set HOME, or this "
            "setting to sqlite:///a/path/state.db or memory"
        )
    return folder / "state.db"


def _user_folder(find: Callable[..., Path]) -> Path | None:
    try:
        folder = find("replicate-mcp")
    except RuntimeError:  # Neither HOME nor the user database has a home folder.
        return None
    return folder if folder.is_absolute() else None
