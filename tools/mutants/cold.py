"""Run mutants of import-time code in a fork that has not imported the project yet."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from tools.mutants.forked import FAILED, PASSED, Outcome, log_to, patience, run_forked
from tools.mutants.isolation import clear_folder, use_folder, use_short_hypothesis
from tools.mutants.mutant import PACKAGE, Mutant

IMPORT_SECONDS = 20.0
"""Additional time for the first test, which imports the project."""

BUDGET_SECONDS = 20.0
"""Maximum total duration of the tests of one mutant."""


def import_early(names: Iterable[str]) -> None:
    """Import third-party packages once, so that forks need not import them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            try:
                importlib.import_module(name)
            except Exception:
                continue


def try_cold(
    mutant: Mutant, tests: Sequence[tuple[str, float]], arguments: Sequence[str], folder: Path
) -> Outcome:
    """Run tests against a mutant of a module's constants, tables or classes.

    Args:
        mutant: mutant to import in place of its module.
        tests: node id and duration of each test: those that run the module first, then by duration.
        arguments: arguments of pytest other than the test files.
        folder: folder for the log and the temporary files.
    """
    chosen: list[tuple[str, float]] = []
    for nodeid, seconds in tests:
        if chosen and sum(each for _, each in chosen) + seconds > BUDGET_SECONDS:
            break
        chosen.append((nodeid, seconds))

    def run(descriptor: int) -> None:
        log_to(folder / "log")
        use_folder(folder / "cold")
        sys.meta_path.insert(0, _Finder(mutant))
        order = {nodeid: place for place, (nodeid, _) in enumerate(chosen)}
        files = list(dict.fromkeys(nodeid.partition("::")[0] for nodeid in order))
        pytest.main([*arguments, "-x", *files], plugins=[_ColdRun(order, descriptor)])

    limits = [patience(seconds) for _, seconds in chosen]
    outcome = run_forked(run, [limits[0] + IMPORT_SECONDS, *limits[1:]])
    clear_folder(folder / "cold")
    return outcome


class _ColdRun:
    def __init__(self, order: dict[str, int], descriptor: int) -> None:
        self._order = order
        self._descriptor = descriptor
        self._failed = False

    def pytest_configure(self) -> None:
        use_short_hypothesis()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> None:
        items[:] = [each for each in items if each.nodeid in self._order]
        if not session.testsfailed:
            # A test that gets its parameters from the mutated table may be missing.
            os.write(self._descriptor, PASSED * (len(self._order) - len(items)))
        items.sort(key=lambda each: self._order[each.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed = self._failed or report.failed
        if report.failed or report.when == "teardown":
            os.write(self._descriptor, FAILED if self._failed else PASSED)


class _Finder(importlib.abc.MetaPathFinder):
    """Finder that loads the mutated module in place of the original."""

    def __init__(self, mutant: Mutant) -> None:
        self._path = str(mutant.source.path)
        module = mutant.source.path.relative_to(PACKAGE.parent).with_suffix("")
        self._name = ".".join(module.parts)
        self._text = mutant.text

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        loader = _Loader(fullname, self._path, self._text)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, text: bytes) -> None:
        super().__init__(fullname, path)
        self._text = text

    def get_code(self, fullname: str) -> types.CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)
