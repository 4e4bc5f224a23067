"""Command line of the simulator."""

import argparse
import json
import sys
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from replicate_mcp.platform.shell import set_variables
from replicate_mcp.simulator.server import run
from replicate_mcp.simulator.settings import SimulatorSettings

DEFAULT_PORT = 8765


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the address options, and one option per setting."""
    parser.usage = "%(prog)s [--port PORT] [--predict-seconds SECONDS] [--SETTING VALUE ...]"
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help=f"0 for a free one ({DEFAULT_PORT})"
    )
    parser.add_argument("--json", action="store_true", help="print the URL as a line of JSON")
    parser.add_argument("--settings", default="{}", help="settings as a JSON object")
    parser.add_argument(
        "--exit-on-stdin-close", action="store_true", help="stop when the standard input ends"
    )
    group = parser.add_argument_group("settings; RATE is a share from 0 to 1")
    for name, field in SimulatorSettings.model_fields.items():
        _add_setting(group, name, field)


def main(args: argparse.Namespace) -> int:
    """Run the simulator until interrupted and return the exit code."""
    given = {name: value for name, value in vars(args).items() if name in _SETTINGS}
    try:
        settings = SimulatorSettings.model_validate({**_as_object(args.settings), **given})
    except ValidationError as error:
        print(_sentence(error), file=sys.stderr)
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2

    def on_ready(url: str) -> None:
        if args.json:
            print(json.dumps({"url": url}), flush=True)
        else:
            print(f"Simulated Replicate at {url}. In another terminal:")
            print(
                f"  {set_variables({'REPLICATE_BASE_URL': url, 'REPLICATE_API_TOKEN': 'r8_demo'})}"
            )
            print("Ctrl-C stops it.", flush=True)

    try:
        run(
            settings,
            host=args.host,
            port=args.port,
            on_ready=on_ready,
            exit_on_stdin_close=args.exit_on_stdin_close,
        )
    except KeyboardInterrupt:
        return 130
    except (OSError, OverflowError) as error:
        print(
            f"Cannot listen on {args.host}:{args.port} ({error}): choose another --port.",
            file=sys.stderr,
        )
        return 2
    return 0


def _as_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError('--settings takes a JSON object, like {"predict_seconds": 2}.')
    return found


def _sentence(error: ValidationError) -> str:
    """Return a sentence on the first validation error that needs no knowledge of pydantic."""
    first = error.errors(include_url=False, include_input=False)[0]
    option = "--" + str(first["loc"][0] if first["loc"] else "settings").replace("_", "-")
    if first["type"] == "extra_forbidden":
        return f"{option} is no setting of the simulator: --help lists them."
    reason = first["msg"].removeprefix("Value error, ").replace("Input should", "it should", 1)
    return f"{option} is wrong: {reason}."


_SETTINGS = frozenset(SimulatorSettings.model_fields)


def _add_setting(group: argparse._ArgumentGroup, name: str, field: FieldInfo) -> None:
    flag = "--" + name.replace("_", "-")
    default = field.default
    shown = ",".join(default) if isinstance(default, tuple) else default
    text = f"{field.description} ({shown})".replace("%", "%%")
    if isinstance(default, bool):
        group.add_argument(
            flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
        )
    else:
        metavar = _metavar(name, field)
        group.add_argument(flag, default=argparse.SUPPRESS, metavar=metavar, help=text)


def _metavar(name: str, field: FieldInfo) -> str:
    last = name.rpartition("_")[2]
    if any(getattr(limit, "le", None) == 1 for limit in field.metadata):
        return "RATE"
    if isinstance(field.default, tuple):
        return "FAULTS"
    return "N" if field.annotation in (int, float) and last != "seconds" else last.upper()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(
        prog="python -m replicate_mcp.simulator",
        description="A local stand-in for Replicate's API: no account, no cost.",
    )
    add_arguments(arguments)
    sys.exit(main(arguments.parse_args()))
