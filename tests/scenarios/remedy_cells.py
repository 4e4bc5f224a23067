"""Failure matrix: remedies and the faults during them; `docs/failures.md` has it as a table.

A remedy is a step that corrects a fault, or prevents its effects: cancel, look up, adopt, record.
Each cell of the matrix is a test, or is declared impossible.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

REMEDIES: Mapping[str, str] = {
    "cancel": "Cancel a prediction",
    "list": "Read the list of predictions after lost answers",
    "account": "Look up a token's account",
    "adopt": "Adopt what a dead process left",
    "claim": "Claim a prediction for an attempt",
    "finish": "Record a result and free its permit",
    "put-back": "Return a permit after a 429",
    "release": "Release the permit of a caller's own code",
    "wake-up": "Wake a waiting process",
    "upload": "Upload a file",
    "webhook": "Receive a webhook",
}

FAULTS: Mapping[str, str] = {
    "400": "400",
    "401": "401",
    "403": "403",
    "404": "404",
    "429": "429 without `Retry-After`",
    "429-after": "429 with `Retry-After`",
    "500": "500",
    "503": "503",
    "520": "520",
    "529": "529",
    "reset": "connection reset",
    "timeout": "no answer in time",
    "malformed": "malformed answer",
    "redis-stopped": "Redis stopped for a while",
    "redis-restarted": "Redis restarted without its memory",
    "sqlite-locked": "state file locked",
    "sqlite-full": "disk full",
    "killed": "process killed before the step",
    "killed-after": "process killed after the step",
}

ANSWERS = ("400", "401", "403", "404", "429", "429-after", "500", "503", "520", "529")
"""Faults that are an HTTP status."""

BACKEND = ("redis-stopped", "redis-restarted", "sqlite-locked", "sqlite-full")
KILLS = ("killed", "killed-after")
CALLS = (*ANSWERS, "reset", "timeout", "malformed")
"""Faults of a call to Replicate."""

IMAGE = "image"


@dataclass(frozen=True)
class Cell:
    """One remedy interrupted by one fault.

    Attributes:
        ends: the user's outcome, in order: the error codes of rejected requests, then the distinct
            outcomes of the rows, `image` or an error code.
        why: a remark for the readers of the table.
    """

    remedy: str
    fault: str
    ends: str
    why: str = ""

    @property
    def is_slow(self) -> bool:
        """Whether it differs little from a kill before the step."""
        return self.fault == "killed-after" and self.remedy in (
            "cancel", "list", "account", "upload", "webhook"
        )  # fmt: skip

    @property
    def id(self) -> str:
        """The name of its test."""
        return f"{self.remedy}-{self.fault}"


@dataclass(frozen=True)
class Impossible:
    """A remedy that a fault cannot interrupt, and the reason."""

    remedy: str
    fault: str
    reason: str


def _cells(remedy: str, ends: Mapping[str, str | tuple[str, str]]) -> Iterator[Cell]:
    """Return the cells of a remedy; keys name faults, separated by spaces."""
    for faults, expected in ends.items():
        code, why = (expected, "") if isinstance(expected, str) else expected
        for fault in faults.split():
            yield Cell(remedy, fault, code, why)


_OTHER = "429 429-after 500 503 520 529 reset timeout malformed"
_BACKEND = " ".join(BACKEND)
_RUNS_ON = "the token may not cancel; the prediction runs to its own end or its `Cancel-After`"
_AGAIN = "; the same request is accepted afterwards"
_NOTHING = "nothing was created"

CELLS: Sequence[Cell] = (
    *_cells(
        "cancel",
        {
            f"400 {_OTHER}": ("canceled", "the cancel is repeated, at the pace that a 429 asks"),
            "401 403": (IMAGE, _RUNS_ON),
            "404": (IMAGE, "Replicate knows no such prediction; one that runs on is followed"),
            "redis-stopped sqlite-locked sqlite-full": (
                "backend_unavailable, then canceled",
                "the predictions of this process are cancelled all the same",
            ),
            "redis-restarted": "canceled",
            "killed killed-after": ("canceled", "the process that adopts them cancels them"),
        },
    ),
    *_cells(
        "list",
        {
            f"400 404 {_OTHER}": (IMAGE, "the list is read again"),
            "401 403": (
                "create_outcome_unknown",
                "no token may read the list; permits return when the predictions have ended",
            ),
            _BACKEND: IMAGE,
            "killed killed-after": (
                "image, interrupted",
                "what was created is delivered; what was not is reported as `interrupted`",
            ),
        },
    ),
    *_cells(
        "account",
        {
            "400": ("replicate_unavailable, then image", _NOTHING + _AGAIN),
            "401": ("unauthorized, then image", _NOTHING + _AGAIN),
            "403 404": (IMAGE, "the token's fingerprint stands for the account"),
            _OTHER: (IMAGE, "the account is asked for again"),
            "redis-stopped sqlite-locked sqlite-full": (
                "backend_unavailable, then image", _NOTHING + _AGAIN
            ),
            "redis-restarted": IMAGE,
            "killed killed-after": (IMAGE, _NOTHING + "; the request is sent to another process"),
        },
    ),
    *_cells(
        "adopt",
        {
            f"400 404 {_OTHER} redis-stopped sqlite-locked sqlite-full killed killed-after": IMAGE,
            "401 403": (IMAGE, "as soon as a request brings the token again"),
            "redis-restarted": (
                "invalid_input, then image",
                "the batch is unknown, since its process and the Redis with it are gone; what "
                "runs of it is counted against the limit",
            ),
        },
    ),
    *_cells("claim", {f"reset timeout malformed {_BACKEND} killed killed-after": IMAGE}),
    *_cells("finish", {f"reset timeout malformed {_BACKEND} killed killed-after": IMAGE}),
    *_cells(
        "put-back",
        {
            f"reset timeout malformed {_BACKEND}": IMAGE,
            "killed killed-after": (
                "interrupted",
                "the throttled task is reported as `interrupted`; nothing was created",
            ),
        },
    ),
    *_cells(
        "release", {f"reset timeout malformed {_BACKEND} killed killed-after": "permit returned"}
    ),
    *_cells(
        "wake-up",
        {f"reset timeout malformed {_BACKEND} killed": (IMAGE, "waiting processes poll as well")},
    ),
    *_cells(
        "upload",
        {
            "400 403 404": ("invalid_input, then image", _NOTHING + _AGAIN),
            "401": ("unauthorized, then image", _NOTHING + _AGAIN),
            _OTHER: ("replicate_unavailable, then image", _NOTHING + _AGAIN),
            "killed killed-after": (IMAGE, _NOTHING + "; the request is sent to another process"),
        },
    ),
    *_cells(
        "webhook",
        {
            f"400 401 403 404 {_OTHER} {_BACKEND}": (
                IMAGE,
                "predictions are polled as well; struck are every look-up of the webhooks' secret, "
                "or the first write to the backend",
            ),
            "killed killed-after": (IMAGE, "the process that adopts the predictions polls them"),
        },
    ),
)  # fmt: skip

_NO_STATUS = "A backend gives no HTTP answers."

IMPOSSIBLE: Sequence[Impossible] = (
    *(
        Impossible(remedy, fault, _NO_STATUS)
        for remedy in ("claim", "finish", "put-back", "release", "wake-up")
        for fault in ANSWERS
    ),
    *(
        Impossible("upload", fault, "An upload makes no step at the backend.")
        for fault in BACKEND
    ),
    Impossible("wake-up", "killed-after", "Nothing of the step is left to do once it is sent."),
)  # fmt: skip


def cells(*faults: str) -> list[Cell]:
    """Return the cells of these faults."""
    return [cell for cell in CELLS if cell.fault in faults]


def sample() -> set[str]:
    """Return the ids of the cells that `make test` runs; `make soak` runs all others.

    The first of each row of the table, and one of each fault.
    """
    quick = [cell for cell in CELLS if not cell.is_slow]
    of_rows = {(cell.remedy, cell.ends, cell.why): cell.id for cell in reversed(quick)}
    chosen = set(of_rows.values())
    of_faults = {cell.fault: cell.id for cell in quick if cell.id not in chosen}
    covered = {cell.fault for cell in quick if cell.id in chosen}
    return chosen | {id_ for fault, id_ in of_faults.items() if fault not in covered}


def table() -> str:
    """Return the matrix in Markdown: a row for each remedy and outcome."""
    lines = ["| remedy | fault | outcome | |", "|---|---|---|---|"]
    shown = ""
    for (remedy, ends, why), group in groupby(
        CELLS, key=lambda each: (each.remedy, each.ends, each.why)
    ):
        title = "" if remedy == shown else f"**{REMEDIES[remedy]}**"
        shown = remedy
        faults = ", ".join(FAULTS[each.fault] for each in group)
        lines.append(f"| {title} | {faults} | {_outcome(ends)} | {why} |")
    lines += [
        "",
        "Combinations that cannot occur:",
        "",
        "| remedy | fault | reason |",
        "|---|---|---|",
    ]
    order = sorted(IMPOSSIBLE, key=lambda each: list(REMEDIES).index(each.remedy))
    for (remedy, reason), missing in groupby(order, key=lambda each: (each.remedy, each.reason)):
        faults = ", ".join(FAULTS[each.fault] for each in missing)
        lines.append(f"| {REMEDIES[remedy]} | {faults} | {reason} |")
    return "\n".join(lines) + "\n"


def _outcome(ends: str) -> str:
    plain = (IMAGE, "permit returned")
    steps = [
        ", ".join(word if word in plain else f"`{word}`" for word in step.split(", "))
        for step in ends.split(", then ")
    ]
    return ", then ".join(steps)
