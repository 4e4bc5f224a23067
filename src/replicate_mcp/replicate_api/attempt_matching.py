"""Matching of predictions to attempts, as pure functions.

A held creation returns no id until it ends. If its response was lost, or its process died, the
account's list of predictions shows what was created.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

MIN_CANCEL_AFTER_SECONDS = 5
"""Minimum `Cancel-After` in seconds that Replicate accepts."""

DEADLINE_TOLERANCE = 1.0
"""Seconds by which a prediction's lifetime may differ from the requested `Cancel-After`."""

APART_SECONDS = 3
"""Distance in seconds between the `Cancel-After` values of equal attempts: more than twice the
tolerance."""

CLOCK_SLACK = 5.0
"""Seconds subtracted from Replicate's clock when an attempt is recorded, because its `Date` is
rounded."""

EVIDENCE_SECONDS = 1.0
"""Seconds after the loss of a response from which on a listed creation proves that the list is up
to date."""

GRACE_SECONDS = 10.0
"""Seconds without such a proof after which an attempt missing from the list counts as not created.
"""

SETTLED_WITHIN_SECONDS = 50 * 60.0
"""Maximum age in seconds of an attempt that can be matched: Replicate deletes inputs after an hour.
"""

_COMPARED_CHARACTERS = 10_000
"""Maximum length of a string to compare: the API may rewrite a longer one, as it may a data URI."""


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """An attempt without a known prediction.

    Attributes:
        permit: the permit, which identifies the attempt.
        model: the model's name as sent.
        inputs: the hash of each input that was sent, "" for one that is not compared.
        cancel_after: seconds, as sent.
        sent_at: the time on Replicate's clock, less `CLOCK_SLACK`; seconds since the epoch.
    """

    permit: int
    model: str
    inputs: Mapping[str, str]
    cancel_after: int
    sent_at: float


@dataclass(frozen=True, slots=True)
class ListedPrediction:
    """A prediction in the account's list.

    Attributes:
        id: Replicate's id of the prediction.
        model: the model, as `owner/name`.
        version: the version of the model; "" if the list has none.
        inputs: the hash of each input, as in `OpenAttempt`.
        created_at: the time on Replicate's clock, in seconds since the epoch.
        lifetime: seconds from its creation to its deadline; None if the list has no deadline.
        ended: whether the prediction has ended.
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
    """The account's predictions, as far as the list was read.

    Attributes:
        predictions: the predictions, newest first.
        complete_since: the time from which on no prediction is missing; seconds since the epoch.
    """

    predictions: Sequence[ListedPrediction]
    complete_since: float


def hash_inputs(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Return a short hash of each input, "" for a value that the API may rewrite."""
    return {key: _hash(value) for key, value in inputs.items()}


def distinct_cancel_after(wanted: int, used: Set[int]) -> int:
    """Return the longest `Cancel-After`, at most `wanted`, distinct from those of equal attempts.

    With values three seconds apart, no prediction's lifetime matches two attempts. If those down to
    half of `wanted` are used up, values one second apart still let the nearest match decide. If
    these are used up too, the result is `wanted` again, and the order of creation distinguishes
    such predictions.

    Args:
        wanted: the preferred value in seconds.
        used: the values of equal open attempts in seconds.
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
    """Match predictions to attempts, one to one.

    A prediction matches an attempt if the model, every input that was sent, and the lifetime agree
    and it was not created earlier. Among several, the nearest lifetime wins, then the earliest
    creation.

    Args:
        attempts: the attempts without a prediction.
        predictions: the predictions of the account's list.
        taken: ids that belong permanently to other attempts.

    Returns:
        The matched predictions by permit; attempts without a match are missing.
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
    """Yield each attempt with the index of each prediction of equal inputs.

    A lookup table by inputs avoids comparing hundreds of attempts with thousands of predictions.
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
    """Return whether it is certain that an unmatched attempt created no prediction.

    Args:
        attempt: the attempt.
        listed: the account's list, read just now.
        taken: ids that belong to attempts.
        since: when its response was lost, on Replicate's clock; before that, a slow upload may
            still have been in progress.
        now: the current time on Replicate's clock.
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
    """Return whether no list can show the outcome of an attempt any more.

    Args:
        attempt: the attempt.
        listed: the account's list, read just now; None if it could not be read.
        since: when its response was lost, on Replicate's clock.
        now: the current time on Replicate's clock.
    """
    if now > attempt.sent_at + CLOCK_SLACK + SETTLED_WITHIN_SECONDS:
        return True
    # Later lists reach back even less far.
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
    """Return whether the prediction may belong to the attempt, by a looser test than `matches`.

    It compares the model, in any version, and the prompt.
    """
    prompt = attempt.inputs.get("prompt", "")
    return (
        prediction.created_at >= attempt.sent_at
        and (
            not prompt
            or "prompt" not in prediction.inputs  # An account may be set to store no inputs.
            or prediction.inputs["prompt"] == prompt
        )
        and _same_path(attempt.model, prediction)
    )


def matches(attempt: OpenAttempt, prediction: ListedPrediction) -> bool:
    """Return whether the prediction could result from the attempt."""
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
        return True  # A deployment's predictions have the name of its model.
    return prediction.model.casefold() == name.partition(":")[0].casefold()


def _has_no_version(prediction: ListedPrediction) -> bool:
    """Return whether the version is hidden, as that of official models is."""
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
