"""Pairs of parameters, most of them for `make soak`."""

from collections.abc import Iterable
from typing import Any

import pytest


def pairs(first: Iterable[Any], second: Iterable[Any]) -> list[Any]:
    """Return every pair of values for `parametrize`.

    Each value is in one pair that `make test` tries, or in more; other pairs are marked `soak`.
    """
    rows, columns = list(first), list(second)
    count = max(len(rows), len(columns))
    sample = {(n % len(rows), n % len(columns)) for n in range(count)}
    return [
        pytest.param(row, column, marks=[] if (r, c) in sample else pytest.mark.soak)
        for r, row in enumerate(rows)
        for c, column in enumerate(columns)
    ]
