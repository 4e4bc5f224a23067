"""`replicate-mcp models`: image models worth knowing, or the inputs that one model takes."""

import argparse
from typing import TYPE_CHECKING, Any

from replicate_mcp.cli.main import OK, SOME_FAILED

if TYPE_CHECKING:
    from replicate_mcp.tasks.model_inputs import InputSchema
    from replicate_mcp.tasks.schema_reading import InputField


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, if one."""
    parser.add_argument(
        "model", nargs="?", metavar="NAME", help="owner/name or an alias: show its inputs"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the catalogue, or one model's inputs from its own schema."""
    if arguments.model is None:
        return _catalogue()
    from replicate_mcp.cli.model_lookup import look_up
    from replicate_mcp.cli.session import in_app
    from replicate_mcp.settings import load_settings

    settings = load_settings(env_file=arguments.env_file)
    schema = in_app(settings, lambda app: look_up(app, app.caller(), arguments.model))
    if schema is None:
        import sys

        print("Replicate did not tell this model's inputs; try again later.", file=sys.stderr)
        return SOME_FAILED
    return _inputs(schema)


def _catalogue() -> int:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from replicate_mcp.replicate_api.catalogue import CATALOGUE, PRICE_CLASSES

    console = Console(highlight=False)
    if not console.is_terminal:
        for known in CATALOGUE:
            print(f"{known.alias or ''}\t{known.name}\t{known.good_at}\t{known.price}")
        return OK
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("alias", "model", "good at", "price"):
        table.add_column(column, no_wrap=column in ("alias", "price"), overflow="fold")
    for known in CATALOGUE:
        table.add_row(known.alias or "", known.name, known.good_at, known.price)
    console.print(table)
    console.print(
        f"{PRICE_CLASSES}. Any other model of replicate.com works too.\n"
        "`replicate-mcp models NAME` shows what a model takes.",
        style="dim",
    )
    return OK


def _inputs(schema: "InputSchema") -> int:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    rows = [
        (field.name, field.type, _default(field), _allowed(field), field.description)
        for field in schema.fields.values()
    ]
    if not console.is_terminal:
        for row in rows:
            print("\t".join(_one_line(cell) for cell in row))
        return OK
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("input", "type", "default", "values", "what it does"):
        table.add_column(column, overflow="fold", ratio=1 if column == "what it does" else None)
    for row in rows:
        table.add_row(*(Text(_one_line(cell)) for cell in row))
    console.print(table)
    return OK


def _default(field: "InputField") -> str:
    if field.required:
        return "required"
    return "" if field.default is None else _shown(field.default)


def _allowed(field: "InputField") -> str:
    if field.choices:
        return ", ".join(_shown(choice) for choice in field.choices)
    if field.minimum is None and field.maximum is None:
        return ""
    low = "" if field.minimum is None else f"{field.minimum:g}"
    high = "" if field.maximum is None else f"{field.maximum:g}"
    return f"{low}..{high}"


def _shown(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value)


def _one_line(text: str) -> str:
    from replicate_mcp.cli.results import printable

    return " ".join(printable(text).split())
