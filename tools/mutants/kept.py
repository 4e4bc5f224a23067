"""File with the scores of all modules and the mutants that no test detects."""

import json
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tools.mutants.mutant import Mutant

KEPT = Path(__file__).with_name("survivors.toml")

EQUIVALENT = "equivalent"
"""Prefix of the reason for a survivor that no test could detect; it does not count."""

HEADER = """\
# Written by `make mutants`: the last run of each module, and the mutants that no test noticed.
# Only the reasons are written by hand, and they survive a new run: "equivalent: ..." where nothing
# could be noticed (it does not count), "not noticed yet" where a test is missing.
"""


@dataclass(frozen=True, slots=True)
class Survivor:
    """Mutant that no test detected.

    Attributes:
        function: qualified name of the function or class around the change.
        change: the changed lines before and after.
        reached: whether any test runs the changed statement.
        reason: why no test detects it, written by hand; empty until then.
    """

    function: str
    change: str
    reached: bool
    reason: str = ""

    @property
    def is_equivalent(self) -> bool:
        """Whether no test could detect the mutant."""
        return self.reason.startswith(EQUIVALENT)


@dataclass(frozen=True, slots=True)
class ModuleResult:
    """Result of a module's last run.

    Attributes:
        digest: digest of the module and its tests.
        mutants: number of mutants that were run.
        survivors: mutants that no test detected.
    """

    digest: str
    mutants: int
    survivors: list[Survivor] = field(default_factory=list)

    @property
    def counted(self) -> int:
        """Number of mutants that a test could detect."""
        return self.mutants - sum(each.is_equivalent for each in self.survivors)

    @property
    def killed(self) -> int:
        """Number of mutants that a test detected."""
        return self.mutants - len(self.survivors)


def score(results: Iterable[ModuleResult]) -> float:
    """Return the percentage of detected mutants."""
    known = list(results)
    counted = sum(each.counted for each in known)
    return 100 * sum(each.killed for each in known) / counted if counted else 100.0


def load() -> dict[str, ModuleResult]:
    """Return the saved results by module."""
    if not KEPT.exists():
        return {}
    return {
        module: ModuleResult(
            entry["digest"],
            entry["mutants"],
            [Survivor(**survivor) for survivor in entry.get("survivor", ())],
        )
        for module, entry in tomllib.loads(KEPT.read_text("utf-8")).items()
    }


def save(results: dict[str, ModuleResult]) -> None:
    """Write the results of all modules."""
    parts = [HEADER]
    for module, result in sorted(results.items()):
        parts.append(
            f"\n[{_quoted(module)}]  # {score([result]):.0f}%\n"
            f"digest = {_quoted(result.digest)}\n"
            f"mutants = {result.mutants}\n"
        )
        parts.extend(
            f"\n[[{_quoted(module)}.survivor]]\n"
            f"function = {_quoted(each.function)}\n"
            f"change = {_quoted(each.change)}\n"
            f"reached = {str(each.reached).lower()}\n"
            f"reason = {_quoted(each.reason)}\n"
            for each in sorted(result.survivors, key=lambda each: (each.function, each.change))
        )
    KEPT.write_text("".join(parts), "utf-8")


def with_reasons(found: Iterable[Survivor], before: ModuleResult | None) -> list[Survivor]:
    """Return the survivors with the reasons that earlier survivors with the same change had."""
    reasons = {
        (each.function, each.change): each.reason for each in (before.survivors if before else ())
    }
    return [
        Survivor(
            each.function, each.change, each.reached, reasons.get((each.function, each.change), "")
        )
        for each in found
    ]


def survivors_among(mutants: Iterable[Mutant], before: ModuleResult) -> list[Mutant]:
    """Return the mutants that survived before, without those that no test could detect."""
    changes = {(each.function, each.change) for each in before.survivors if not each.is_equivalent}
    return [each for each in mutants if (each.function, each.change) in changes]


def survivors_still_in(mutants: Iterable[Mutant], before: ModuleResult) -> list[Survivor]:
    """Return the earlier survivors that are among these mutants."""
    changes = {(each.function, each.change) for each in mutants}
    return [each for each in before.survivors if (each.function, each.change) in changes]


def absent_from(some: Iterable[Mutant], mutants: Iterable[Mutant]) -> list[Mutant]:
    """Return the mutants whose change is not one of `some`; equal changes count each."""
    changes = Counter((each.function, each.change) for each in some)
    absent = []
    for each in mutants:
        if changes[each.function, each.change]:
            changes[each.function, each.change] -= 1
        else:
            absent.append(each)
    return absent


def _quoted(text: str) -> str:
    # TOML's basic strings are JSON strings, except that DEL must be escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
