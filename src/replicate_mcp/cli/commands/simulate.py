"""`replicate-mcp simulate`: run only the local stand-in for Replicate's API."""

import argparse
from importlib.util import find_spec

from replicate_mcp.errors import InvalidInput
from replicate_mcp.platform.shell import install_command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the simulator's own options."""
    from replicate_mcp.simulator.__main__ import add_arguments as add_simulator_arguments

    add_simulator_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the simulator until interrupted."""
    from replicate_mcp.simulator.__main__ import main

    require_simulator()
    return main(arguments)


def require_simulator() -> None:
    """Check that the packages the simulator needs are installed.

    Raises:
        InvalidInput: packages are missing; the message has the command that installs them.
    """
    missing = [name for module, name in _NEEDS.items() if find_spec(module) is None]
    if missing:
        raise InvalidInput(
            f"The simulator needs {' and '.join(missing)}: {install_command(*missing)}"
        )


_NEEDS = {"PIL": "pillow", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
