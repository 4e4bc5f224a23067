"""Mutants of a Lua file: changed comparisons and numbers, negated conditions, removed effects.

Comments and strings are not mutated.
"""

import re
from collections.abc import Iterator

from tools.mutants.mutant import Mutant, Source, padded

SWAPS = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "==": ("~=",),
    "~=": ("==",),
    "and": ("or",),
    "or": ("and",),
    "not": ("",),
    "true": ("false",),
    "false": ("true",),
    "+": ("-",),
    "-": ("+",),
    "*": ("/",),
    "/": ("*",),
    "math.min": ("math.max",),
    "math.max": ("math.min",),
    "math.floor": ("math.ceil",),
    "break": ("",),
}

TOKEN = re.compile(
    r"(?P<word>\b(?:math\.(?:min|max|floor)|and|or|not|true|false|break)\b)"
    r"|(?P<number>(?<![\w.])\d+(?:\.\d+)?\b)"
    r"|(?P<sign><=|>=|==|~=|<|>|(?<=\s)[-+*/](?=\s))"
)

CONDITION = re.compile(r"\b(?:if|elseif|while)\s+(?P<test>.+?)\s+(?:then|do)\b", re.DOTALL)

STATEMENT = re.compile(
    r"(?:^|\b(?:then|do|else)\b)[ \t]*"
    r"(?!(?:local|return|if|for|while|function|elseif|end|else|repeat|until)\b)"
    r"(?P<effect>[\w.]+\(|\w+(?:\.\w+|\[[^=\n]*\])+(?:, *[\w.]+)* = )",
    re.MULTILINE,
)
"""Start of a call, or of an assignment to a table's field."""

END_OF_STATEMENT = re.compile(r"[(\[{]|[)\]}]|\n|\0|\b(?:end|else|elseif|return)\b")

OPENER = re.compile(r"(?:local )?function ([\w.]+)\([^)]*\)")

HIDDEN = re.compile(r"--[^\n]*|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"")
"""Comments and strings."""

NUMBER_SCALE = 2


def lua_mutants(source: Source) -> list[Mutant]:
    """List all mutants of a Lua file; one that does not compile does not count."""
    text = source.text.decode("ascii")
    visible = HIDDEN.sub(_blank, text)
    return [
        Mutant(
            source,
            function,
            start,
            end,
            padded(replacement, source.text[start:end]),
            first,
            last,
        )
        for function, first, last, begin, finish in _functions(text)
        for start, end, replacement in _changes(text, visible, begin, finish)
    ]


def with_markers(source: Source, key: str) -> str:
    """Return the file with its parts instrumented to record their execution in a Redis set.

    Args:
        source: Lua file.
        key: key of the set; its members are `file:first line:last line`.
    """
    text = source.text.decode("ascii")
    parts: list[str] = []
    for function, first, last, begin, finish in _functions(text):
        part = text[begin:finish]
        opener = OPENER.match(part) if function else None
        place = opener.end() if opener else 0
        mark = f"{source.path.name}:{first}:{last}"
        # A full memory refuses SADD, but not after a write that frees memory.
        call = f" redis.pcall('SREM', '{key}', ''); redis.pcall('SADD', '{key}', '{mark}');"
        parts.append(f"{part[:place]}{call}{part[place:]}")
    return "".join(parts)


def _functions(text: str) -> Iterator[tuple[str, int, int, int, int]]:
    """Yield each part of a file: function name, first and last line, start and end offset.

    Functions begin and end in the first column; code between them has an empty name.
    """
    name, first, begin, offset = "", 1, 0, 0
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        opener = OPENER.match(line)
        if opener:
            if offset > begin:
                yield "", first, number - 1, begin, offset
            name, first, begin = opener.group(1), number, offset
        offset += len(line)
        closes = line.startswith("end") or (opener and line.rstrip().endswith(" end"))
        if name and closes:
            yield name, first, number, begin, offset
            name, first, begin = "", number + 1, offset
    if offset > begin:
        yield name, first, len(lines), begin, offset


def _changes(text: str, visible: str, begin: int, finish: int) -> Iterator[tuple[int, int, str]]:
    for match in TOKEN.finditer(visible, begin, finish):
        if match.group("number"):
            yield (match.start(), match.end(), _other_number(match.group()))
        else:
            for other in SWAPS.get(match.group(), ()):
                yield (match.start(), match.end(), other)
    for match in CONDITION.finditer(visible, begin, finish):
        start, end = match.span("test")
        yield (start, end, f"not ({text[start:end]})")
    yield from _effects(visible, begin, finish)


def _effects(visible: str, begin: int, finish: int) -> Iterator[tuple[int, int, str]]:
    """Yield the removal of each statement that is a call or changes a table."""
    for match in STATEMENT.finditer(visible, begin, finish):
        start = match.start("effect")
        yield (start, _end_of_statement(visible, start, finish), "")


def _end_of_statement(visible: str, start: int, finish: int) -> int:
    """Return the end of a statement: outside brackets, at a keyword, a comment or a line end."""
    depth = 0
    for match in END_OF_STATEMENT.finditer(visible, start, finish):
        if match.group() in tuple("([{"):
            depth += 1
        elif match.group() in tuple(")]}"):
            depth -= 1
        elif depth == 0:
            return start + len(visible[start : match.start()].rstrip())
    return finish


def _blank(match: re.Match[str]) -> str:
    """Replace a comment or a string with filler characters of the same length."""
    return ("\0" if match.group().startswith("--") else "\1") * len(match.group())


def _other_number(number: str) -> str:
    return str(float(number) * NUMBER_SCALE) if "." in number else str(int(number) + 1)
