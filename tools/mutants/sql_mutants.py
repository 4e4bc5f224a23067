"""Mutants of an SQL statement within a string."""

import re
from collections.abc import Iterator

STATEMENT = re.compile(
    rb"""^[rf]*["']{1,3}\s*(\w+ (NOT )?IN \(|SELECT|INSERT|UPDATE|DELETE|WITH)\b"""
)

SWAPS = {
    " < ": " <= ",
    " <= ": " < ",
    " > ": " >= ",
    " >= ": " > ",
    " = ": " != ",
    " != ": " = ",
    " AND ": " OR ",
    " OR ": " AND ",
    " + ": " - ",
    " - ": " + ",
    "max(": "min(",
    "min(": "max(",
    " DESC": " ASC",
    "IS NOT NULL": "IS NULL",
    "IS NULL": "IS NOT NULL",
    "NOT EXISTS": "EXISTS",
    "NOT IN": "IN",
}
"""Replacements; where several match, the longest is used."""

_ALL = re.compile(
    "|".join(re.escape(each) for each in sorted(SWAPS, key=len, reverse=True)).encode()
)


def is_sql(literal: bytes) -> bool:
    """Return whether a string literal from the source is SQL."""
    return bool(STATEMENT.match(literal))


def sql_changes(literal: bytes) -> Iterator[tuple[int, int, str]]:
    """Yield the start, the end and the replacement of each change."""
    for match in _ALL.finditer(literal):
        yield (match.start(), match.end(), SWAPS[match.group().decode()])
