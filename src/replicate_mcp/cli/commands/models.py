"""`replicate-mcp models`: list recommended models, search models, or show a model's inputs."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from replicate_mcp.cli.main import OK, SOME_FAILED
from replicate_mcp.platform.terminal import is_terminal

if TYPE_CHECKING:
    from replicate_mcp.replicate_api.model_search import SearchResult
    from replicate_mcp.tasks.input_schema import InputSchema
    from replicate_mcp.tasks.openapi_schema import InputField


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model or the search terms."""
    parser.add_argument(
        "model", nargs="?", metavar="NAME", help="owner/name or an alias: show its inputs"
    )
    parser.add_argument(
        "--search", metavar="WORDS", help="models for these words, from Replicate's catalogue too"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the models found, or the inputs from one model's schema."""
    from replicate_mcp.cli.app_session import run_in_app
    from replicate_mcp.cli.printing import say
    from replicate_mcp.errors import InvalidInput
    from replicate_mcp.settings_loader import load_settings

    model, words = arguments.model, arguments.search
    if model is not None and words is not None:
        raise InvalidInput("Give a model's NAME, or --search WORDS, not both.")
    if words is not None and not words.strip():
        raise InvalidInput("--search takes the WORDS to search for, like --search sticker.")
    settings = load_settings(env_file=arguments.env_file)
    if model is None:
        return _found(run_in_app(settings, lambda app: app.find_models(words, app.caller)))
    schema = run_in_app(settings, lambda app: app.model_inputs(app.caller(), model))
    if schema is None:
        say("This model's inputs are not available at the moment; try again later.")
        return SOME_FAILED
    _inputs(schema)
    return OK


def _found(found: "SearchResult") -> int:
    from replicate_mcp.cli.printing import say
    from replicate_mcp.tasks.recommended_models import PRICE_CLASSES

    rows = [
        (
            model.name,
            model.description,
            model.known.price if model.known else "",
            (model.known and model.known.alias) or "",
        )
        for model in found.models
    ]
    shown = _show(
        # Few models have an alias: a column when piped, part of the description on a terminal.
        [(alias, *row) for *row, alias in rows],
        [
            (name, price, f"{words} (alias {alias})" if alias else words)
            for name, words, price, alias in rows
        ],
        ("model", "price", "good at"),
        text="good at",
    )
    if shown and is_terminal(sys.stdout):
        say(f"{PRICE_CLASSES}. Any other model of replicate.com works too.")
        say("`replicate-mcp models NAME` shows the inputs of a model.")
    if found.note or not shown:
        say(found.note or "No model was found for these words.")
    return OK if shown else SOME_FAILED


def _inputs(schema: "InputSchema") -> None:
    rows = [
        (field.name, field.type, _default(field), field.allowed, field.description)
        for field in schema.fields.values()
    ]
    about = "meaning (values)"
    for_terminals = [
        (*row, f"{text} ({values})" if values else text) for *row, values, text in rows
    ]
    _show(rows, for_terminals, ("input", "type", "default", about), text=about)


def _default(field: "InputField") -> str:
    return "required" if field.required else field.shown_default


def _show(
    for_pipes: Sequence[Sequence[str]],
    rows: Sequence[Sequence[str]],
    columns: Sequence[str],
    *,
    text: str,
) -> bool:
    """Print a table on a terminal, tab-separated rows otherwise; return False if there are none."""
    from replicate_mcp.cli.console import PrintableConsole
    from replicate_mcp.cli.printing import MAX_SENTENCE_CHARACTERS, print_row
    from replicate_mcp.cli.tables import print_table
    from replicate_mcp.text import one_line

    def shown(row: Sequence[str]) -> list[str]:
        return [one_line(cell, MAX_SENTENCE_CHARACTERS) for cell in row]

    console = PrintableConsole()
    if not console.is_terminal:
        for row in for_pipes:
            print_row(*shown(row))
    elif rows:
        print_table(console, columns, [shown(row) for row in rows], text=text)
    return bool(rows)
