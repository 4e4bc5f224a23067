"""Which prediction came of which attempt, as pure functions.

A held creation tells no id until it ends. Where its answer was lost, or its process died, the
account's list of predictions says what became of it.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

MIN_CANCEL_AFTER_SECONDS = 5
"""Seconds: the least that Replicate takes for `Cancel-After`."""

DEADLINE_TOLERANCE = 1.0
"""Seconds by which a prediction's life may differ from the `Cancel-After` that was asked for."""

APART_SECONDS = 3
"""So far apart are the `Cancel-After` of equal attempts: more than twice the tolerance."""

CLOCK_SLACK = 5.0
"""Seconds taken off Replicate's clock when an attempt is noted, for what its `Date` rounds off."""

EVIDENCE_SECONDS = 1.0
"""How much younger than an attempt a prediction must be to show that the list is up to date."""

GRACE_SECONDS = 10.0
"""After so long without evidence, an attempt that the list does not show was not made."""

SETTLED_WITHIN_SECONDS = 50 * 60.0
"""Replicate deletes inputs after an hour: an older attempt can't be recognised any more."""

_COMPARED_CHARACTERS = 10_000
"""A longer string may be rewritten by the API, as a data URI may, so neither is compared."""


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """An attempt that no prediction is known of.

    Attributes:
        permit: what names it.
        inputs: the hash of each input that was sent, "" for one that is not compared.
        cancel_after: seconds, as sent.
        sent_at: Replicate's clock, less `CLOCK_SLACK`; seconds since the epoch.
    """

    permit: int
    model: str
    inputs: Mapping[str, str]
    cancel_after: int
    sent_at: float


@dataclass(frozen=True, slots=True)
class ListedPrediction:
    """A prediction of the account's list.

    Attributes:
        inputs: the hash of each, as an attempt's.
        lives: seconds from its creation to its deadline; None where the list has no deadline.
    """

    id: str
    model: str
    version: str
    inputs: Mapping[str, str]
    created_at: float
    lifetime: float | None
    ended: bool


@dataclass(frozen=True, slots=True)
class PredictionList:
    """The account's predictions, as far as its list was read.

    Attributes:
        predictions: the newest first.
        reaches_back_to: of those created since then, none is missing.
    """

    predictions: Sequence[ListedPrediction]
    complete_since: float


def hash_inputs(inputs: Mapping[str, Any]) -> dict[str, str]:
    """A short hash of each input, "" for one whose value the API may rewrite."""
    return {key: _hash(value) for key, value in inputs.items()}


def distinct_cancel_after(wanted: int, used: Set[int]) -> int:
    """The longest `Cancel-After`, at most `wanted`, that no equal open attempt comes near.

    Three seconds apart, no prediction's life fits two attempts; where half of `wanted` is used up
    like that, one second apart still lets the nearest fit decide; where that is used up too,
    `wanted` serves again, and such predictions are told apart by their order.
    """
    shortest = max(MIN_CANCEL_AFTER_SECONDS, wanted // 2)
    for apart in (APART_SECONDS, 1):
        for seconds in range(wanted, shortest - 1, -apart):
            if not any(seconds + near in used for near in range(1 - apart, apart)):
                return seconds
    return wanted


def match_predictions(
    attempts: Sequence[OpenAttempt], predictions: Iterable[ListedPrediction], taken: Set[str]
) -> dict[int, ListedPrediction]:
    """Give predictions to attempts, one to one.

    Args:
        taken: ids that belong to other attempts, for ever.

    Returns:
        The prediction of each attempt that has one, by permit. A prediction fits an attempt when
        model, every input that was sent, and life agree and it was created since; of those that
        fit, the nearest life goes first, then the earliest created.
    """
    free = sorted(
        (each for each in predictions if each.id not in taken), key=lambda each: each.created_at
    )
    pairs = sorted(
        (
            (_difference(attempt, free[place]), free[place].created_at, attempt.sent_at,
             attempt.permit, place)
            for attempt, place in _of_equal_inputs(attempts, free)
            if matches(attempt, free[place])
        )
    )  # fmt: skip
    assigned: dict[int, ListedPrediction] = {}
    given: set[int] = set()
    for *_, permit, place in pairs:
        if permit not in assigned and place not in given:
            assigned[permit] = free[place]
            given.add(place)
    return assigned


def _of_equal_inputs(
    attempts: Sequence[OpenAttempt], predictions: Sequence[ListedPrediction]
) -> Iterator[tuple[OpenAttempt, int]]:
    """Each attempt with the place of each prediction that has its inputs.

    Hundreds of attempts meet thousands of predictions: only those that are alike are compared.
    """
    tables: dict[tuple[str, ...], dict[tuple[str | None, ...], list[int]]] = {}
    for attempt in attempts:
        names = tuple(sorted(name for name, digest in attempt.inputs.items() if digest))
        if names not in tables:
            tables[names] = defaultdict(list)
            for place, prediction in enumerate(predictions):
                tables[names][tuple(map(prediction.inputs.get, names))].append(place)
        for place in tables[names].get(tuple(map(attempt.inputs.get, names)), ()):
            yield attempt, place


def is_certainly_not_created(
    attempt: OpenAttempt,
    listed: PredictionList,
    taken: Set[str],
    *,
    since: float,
    now: float,
) -> bool:
    """Whether it is certain that an attempt to which no prediction was assigned made none.

    Args:
        listed: the account's list, read just now.
        taken: ids that belong to attempts.
        since: when its answer was lost: before that, a slow upload may still have been under way.
        now: on Replicate's clock, as `since`.
    """
    return (
        listed.complete_since <= attempt.sent_at
        and _is_up_to_date(listed, since, now)
        and not any(
            each.id not in taken and _could_be(attempt, each) for each in listed.predictions
        )
    )


def is_undecidable(
    attempt: OpenAttempt, listed: PredictionList | None, *, since: float, now: float
) -> bool:
    """Whether no list tells any more what became of an attempt.

    Args:
        listed: the account's list, read just now; None where it could not be read.
    """
    if now > attempt.sent_at + CLOCK_SLACK + SETTLED_WITHIN_SECONDS:
        return True
    # Later lists are cut off later still.
    return (
        listed is not None
        and attempt.sent_at < listed.complete_since
        and _is_up_to_date(listed, since, now)
    )


def _is_up_to_date(listed: PredictionList, since: float, now: float) -> bool:
    return now >= since + GRACE_SECONDS or any(
        each.created_at >= since + EVIDENCE_SECONDS for each in listed.predictions
    )


def _could_be(attempt: OpenAttempt, prediction: ListedPrediction) -> bool:
    """A looser likeness than `fits`: the same model, in whatever version, and prompt."""
    prompt = attempt.inputs.get("prompt", "")
    return (
        prediction.created_at >= attempt.sent_at
        and (
            not prompt
            or "prompt" not in prediction.inputs  # An account may keep no inputs at all.
            or prediction.inputs["prompt"] == prompt
        )
        and _same_path(attempt.model, prediction)
    )


def matches(attempt: OpenAttempt, prediction: ListedPrediction) -> bool:
    """Whether the prediction could have come of the attempt."""
    return (
        prediction.created_at >= attempt.sent_at
        and _difference(attempt, prediction) <= DEADLINE_TOLERANCE
        and _same_model(attempt.model, prediction)
        and all(
            not digest or prediction.inputs.get(key) == digest
            for key, digest in attempt.inputs.items()
        )
    )


def _same_model(name: str, prediction: ListedPrediction) -> bool:
    version = name.partition(":")[2]
    return _same_path(name, prediction) and (
        not version or prediction.version == version or _has_no_version(prediction)
    )


def _same_path(name: str, prediction: ListedPrediction) -> bool:
    if name.startswith("deployments/"):
        return True  # A deployment's predictions carry the name of the model it runs.
    return prediction.model.casefold() == name.partition(":")[0].casefold()


def _has_no_version(prediction: ListedPrediction) -> bool:
    """Official models keep theirs to themselves."""
    return prediction.version == "hidden" or prediction.version.startswith("dp-")


def _difference(attempt: OpenAttempt, prediction: ListedPrediction) -> float:
    return 0.0 if prediction.lifetime is None else abs(prediction.lifetime - attempt.cancel_after)


def _may_be_rewritten(value: object) -> bool:
    match value:
        case str():
            return len(value) > _COMPARED_CHARACTERS or value[:5].lower() == "data:"
        case Mapping():
            return any(map(_may_be_rewritten, value.values()))
        case list() | tuple():
            return any(map(_may_be_rewritten, value))
    return False


def _hash(value: object) -> str:
    if _may_be_rewritten(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
