"""Durations: constant, random within a distribution, or taken from a list in turn."""

import json
import random
import re
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Annotated

from pydantic import BeforeValidator

_RANGE = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")
_LOGNORMAL = re.compile(r"lognormal\((\d+(?:\.\d+)?), *(\d+(?:\.\d+)?)\)")

Sampler = Callable[[random.Random, float], float]
"""Function from a random generator and the model's typical seconds to seconds."""


def sampler(spec: float | str | tuple[float, ...]) -> Sampler:
    """Compile a duration into a function that returns the seconds of the next one.

    A number is a constant; `"1-4"` is uniform; `"lognormal(2, 0.5)"` has that median and sigma;
    a list is repeated in order; `"model"` is the model's typical duration ± 20%.
    """
    if isinstance(spec, (int, float)):
        constant = float(spec)
        return lambda _rng, _typical: constant
    if isinstance(spec, tuple):
        endless: Iterator[float] = cycle(spec)
        return lambda _rng, _typical: next(endless)
    if spec == "model":
        return lambda rng, typical: typical * rng.uniform(0.8, 1.2)
    if found := _RANGE.fullmatch(spec):
        low, high = float(found[1]), float(found[2])
        return lambda rng, _typical: rng.uniform(low, high)
    if found := _LOGNORMAL.fullmatch(spec):
        median, sigma = float(found[1]), float(found[2])
        return lambda rng, _typical: median * rng.lognormvariate(0, sigma)
    raise ValueError(f"not a duration: {spec!r}")


def _parsed(value: object) -> object:
    """Parse a duration from a command line or a JSON document."""
    if isinstance(value, str):
        text = value.strip()
        if text == "model" or _RANGE.fullmatch(text) or _LOGNORMAL.fullmatch(text):
            return text
        try:
            value = json.loads(f"[{text.strip('[]')}]")
        except ValueError:
            value = []
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
    if isinstance(value, (list, tuple)):
        value = tuple(value)
        if not value:
            raise ValueError('expected seconds, "1-4", "0.5,1,2", "lognormal(2, 0.5)" or "model"')
    numbers = value if isinstance(value, tuple) else (value,)
    if any(not isinstance(n, (int, float)) or isinstance(n, bool) or n < 0 for n in numbers):
        raise ValueError("seconds are numbers of 0 or more")
    return value


Duration = Annotated[float | str | tuple[float, ...], BeforeValidator(_parsed)]
"""Seconds in a form that `sampler` accepts."""
