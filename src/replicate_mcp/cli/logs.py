"""Logging on stderr: one printable line per record, without contents of requests.

Clients choose hosts, ids and bodies, and libraries log them unchanged, also in the messages of
exceptions. All records pass through the root handler's formatter.
"""

import logging
import re
import sys
import traceback
from collections.abc import Iterator

from replicate_mcp.text import one_line

MAX_MESSAGE_CHARACTERS = 4_000
"""Maximum length of a record's message."""

MAX_CHAINED = 20
"""Maximum number of exceptions shown in one traceback, including causes and group members."""

_QUOTES_INPUT = ("ValidationError", "ValidationException", "JSONDecodeError")
"""Class names of exceptions whose messages quote the invalid input: those of pydantic,
jsonschema, FastAPI and json, which need not be imported for this."""

_VALIDATION = re.compile(r"(\d+ validation errors? for ).*", re.DOTALL)
"""pydantic's message within another text."""

_TOKEN = re.compile(r"r8_\w+")

_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"


class LineFormatter(logging.Formatter):
    """Formatter that prints a record on one line, followed by the lines of its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        lines = [f"{record.levelname} {record.name}: {_message(record)}"]
        if record.exc_info and record.exc_info[1] is not None:
            lines += _traceback(record.exc_info[1])
        if record.stack_info:
            lines += record.stack_info.splitlines()
        return "\n".join(lines)


def configure() -> None:
    """Log warnings and errors to stderr, unless the root logger already has handlers.

    With a handler installed, `logging.basicConfig` of other libraries has no effect.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def _message(record: logging.LogRecord) -> str:
    arguments = record.args
    if isinstance(arguments, tuple):
        arguments = tuple(
            _reason(each) if isinstance(each, BaseException) else each for each in arguments
        )
    text = str(record.msg)
    if isinstance(record.msg, BaseException):
        text = _reason(record.msg)
    elif arguments:
        try:
            text = text % arguments
        except Exception:  # the arguments' own code may raise anything
            text = f"{text} (its arguments do not fit)"
    return one_line(_without_bodies(text), MAX_MESSAGE_CHARACTERS)


def _traceback(error: BaseException) -> list[str]:
    """Return the lines of a traceback with short, printable messages."""
    seen: set[int] = set()

    def lines(error: BaseException) -> Iterator[str]:
        if id(error) in seen or len(seen) >= MAX_CHAINED:
            yield f"… {type(error).__name__}"
            return
        seen.add(id(error))
        if error.__cause__ is not None:
            yield from (*lines(error.__cause__), _CAUSE)
        elif error.__context__ is not None and not error.__suppress_context__:
            yield from (*lines(error.__context__), _CONTEXT)
        yield "Traceback (most recent call last):"
        yield from "".join(traceback.format_tb(error.__traceback__)).splitlines()
        name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        yield f"{name}: {_reason(error)}".removesuffix(": ")
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions[:MAX_CHAINED]:
                yield from (f"  | {line}" for line in lines(each))

    return list(lines(error))


def _reason(error: BaseException) -> str:
    """Return an exception's message on one line, or a note that it is withheld."""
    if any(base.__name__ in _QUOTES_INPUT for base in type(error).__mro__):
        return f"({_count(error)}; the message is withheld, since it quotes the input)"
    try:
        return one_line(_without_bodies(str(error)))
    except Exception:  # a foreign exception's __str__ may raise anything
        return "(no message)"


def _count(error: BaseException) -> str:
    count = getattr(error, "error_count", lambda: 1)()
    return "1 error" if count == 1 else f"{count} errors"


def _without_bodies(text: str) -> str:
    return _TOKEN.sub("r8_…", _VALIDATION.sub(r"\1(withheld)", text))
