"""List small faults in the core that no test detects: `make mutants`.

Each mutant has one fault and is run against the direct tests of its module. Scores and surviving
mutants are saved in `survivors.toml`. A module is skipped if neither its text nor its tests have
changed since its last run, unless it is named.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tools.mutants import kept
from tools.mutants.cold import import_early, try_cold
from tools.mutants.forked import Verdict, ask_to_end, exit_when_asked, fork, log_to
from tools.mutants.hot import HotRun
from tools.mutants.kept import ModuleResult, Survivor
from tools.mutants.lua_mutants import lua_mutants
from tools.mutants.mutant import PACKAGE, ROOT, Mutant, Source
from tools.mutants.python_mutants import python_mutants

TABLE = tomllib.loads(Path(__file__).with_name("tests.toml").read_text("utf-8"))

ARGUMENTS = (
    "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not soak", "--hypothesis-seed=0",
    "-W", "ignore::pytest.PytestAssertRewriteWarning",
    "--tb=no", "--assert=plain",  # The output of failed tests is not used.
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Group:
    """Modules that share the same tests."""

    modules: list[str]
    tests: list[str]
    keyword: str = ""
    max_test_seconds: float = TABLE["max_test_seconds"]

    @property
    def arguments(self) -> list[str]:
        """Arguments of pytest other than the test files."""
        return [*ARGUMENTS, *(["-k", self.keyword] if self.keyword else [])]

    @property
    def files(self) -> list[str]:
        """Test files."""
        found = (str(path.relative_to(ROOT)) for name in self.tests for path in ROOT.glob(name))
        return sorted(dict.fromkeys(found))

    def digest(self, source: Source) -> str:
        """Return a digest that changes with the module or its tests."""
        digest = hashlib.blake2b(source.text, digest_size=8)
        for file in self.files:
            digest.update((ROOT / file).read_bytes())
        return digest.hexdigest()


def main() -> int:
    """Run the selected modules; return 1 if a package scores below its bound."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument(
        "only", nargs="*", help="modules or packages, such as batches/reconciliation"
    )
    parser.add_argument("--report", action="store_true", help="run nothing, tell what is kept")
    parser.add_argument(
        "--survivors",
        action="store_true",
        help="after adding tests: run only the named modules' mutants that no test noticed",
    )
    parser.add_argument(
        "--since",
        metavar="COMMIT",
        help="run only the mutants that the commit, which the kept results are of, did not have",
    )
    arguments = parser.parse_args()
    os.chdir(ROOT)
    exit_when_asked()
    if not arguments.report:
        for group in _groups():
            _run(group, arguments)
    return _conclude(arguments.only)


def _groups() -> Iterator[Group]:
    return (Group(**group) for group in TABLE["group"])


def _run(group: Group, arguments: argparse.Namespace) -> None:
    results = kept.load()
    parts: dict[str, _Part] = {}
    for source in map(Source.read, group.modules):
        before = results.get(source.module)
        unchanged = before is not None and before.digest == group.digest(source)
        if not (_is_named(source.module, arguments.only) if arguments.only else not unchanged):
            continue
        mutants = _mutants(source)
        part = _Part(source, mutants, mutants)
        if arguments.survivors:
            part = part.survivors_of(before)
        elif arguments.since and before is not None:
            part = part.new_since(arguments.since, before)
        if part.tried or not arguments.survivors:
            parts[source.module] = part
    if not parts:
        return
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        for result in _hot_results(group, list(parts.values()), Path(name)):
            if "error" in result:
                sys.exit(f"{group.tests}: {result['error']}\n{(Path(name) / 'log').read_text()}")
            if "module" in result:
                _finish(group, parts[result["module"]], result, Path(name))
            else:
                print(f"{result['tests']} tests; left out: {result['left_out'] or 'none'}")


def _mutants(source: Source) -> list[Mutant]:
    return lua_mutants(source) if source.is_lua else python_mutants(source)


@dataclass(frozen=True, slots=True)
class _Part:
    """What is run of a module.

    Attributes:
        mutants: all mutants of the module.
        tried: those that are run.
        known: number of the others that count.
    """

    source: Source
    mutants: list[Mutant]
    tried: list[Mutant]
    known: int = 0

    def survivors_of(self, before: ModuleResult | None) -> "_Part":
        """Return the part with the survivors of the run before; none if there was no such run."""
        if before is None:
            return replace(self, tried=[])
        tried = kept.survivors_among(self.mutants, before)
        return replace(self, tried=tried, known=before.mutants - len(tried))

    def new_since(self, commit: str, before: ModuleResult) -> "_Part":
        """Return the part with the mutants that the module did not have in a commit."""
        file = self.source.path.relative_to(ROOT)
        command = ["git", "show", f"{commit}:{file}"]
        text = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout
        old = _mutants(replace(self.source, text=text))
        tried = kept.absent_from(old, self.mutants)
        lost = len(old) - (len(self.mutants) - len(tried))
        return replace(self, tried=tried, known=before.mutants - lost)


def _hot_results(group: Group, parts: Sequence[_Part], folder: Path) -> Iterator[dict[str, Any]]:
    """Fork a process that runs the group's tests against the mutants of functions.

    The process starts the next module only when the caller requests the next result.
    """
    wait_end, go_end = os.pipe()

    def run(descriptor: int) -> None:
        os.close(go_end)
        exit_when_asked()
        log_to(folder / "log")
        with os.fdopen(descriptor, "w") as file:

            def report(result: dict[str, Any]) -> None:
                print(json.dumps(result), file=file, flush=True)
                os.read(wait_end, 1)

            sources = [part.source for part in parts]
            mutants = {part.source.module: part.tried for part in parts}
            plugin = HotRun(mutants, sources, group.max_test_seconds, folder, report)
            plugin.tracer.start()
            if pytest.main([*group.arguments, *group.files], plugins=[plugin]) not in (0, 5):
                report({"error": "pytest failed"})

    child, read_end = fork(run)
    os.close(wait_end)
    try:
        with os.fdopen(read_end) as file:
            for line in file:
                yield json.loads(line)
                os.write(go_end, b"g")
    finally:
        os.close(go_end)
        ask_to_end(child)


def _finish(group: Group, part: _Part, result: dict[str, Any], folder: Path) -> None:
    """Run the mutants that the hot process could not apply, and save the results.

    Args:
        group: group of the module.
        part: what is run of the module.
        result: result of the hot process.
        folder: folder for temporary files.
    """
    begun = time.monotonic()
    verdicts = [Verdict(verdict) for verdict in result["verdicts"]]
    if Verdict.NOT_APPLIED in verdicts:
        import_early(result["imported"])
    for place, mutant in enumerate(part.tried):
        if verdicts[place] == Verdict.NOT_APPLIED:
            verdicts[place] = try_cold(mutant, result["tests"], group.arguments, folder).verdict
    survivors = [
        Survivor(mutant.function, mutant.change, verdict == Verdict.SURVIVED)
        for mutant, verdict in zip(part.tried, verdicts, strict=True)
        if verdict in (Verdict.SURVIVED, Verdict.UNREACHED)
    ]
    results = kept.load()
    module = part.source.module
    before = results.get(module)
    number = part.known + len(part.tried) - verdicts.count(Verdict.INVALID)
    survivors = kept.with_reasons(survivors, before)
    if before is not None:
        others = kept.absent_from(part.tried, part.mutants)
        survivors += kept.survivors_still_in(others, before)
    results[module] = ModuleResult(group.digest(part.source), number, survivors)
    kept.save(results)
    if not number:
        print(f"{module}: no mutants", flush=True)
        return
    timed_out = verdicts.count(Verdict.TIMED_OUT)
    took = result["seconds"] + time.monotonic() - begun
    print(
        f"{module}: {kept.score([results[module]]):.0f}%, {len(survivors)} of {number} not "
        f"noticed, {timed_out} by time-out, {took / max(1, len(part.tried)):.2f} s each",
        flush=True,
    )


def _conclude(only: Sequence[str]) -> int:
    """Print the scores and return 1 if any is too low or a survivor has no reason."""
    results = kept.load()
    packages: dict[str, list[ModuleResult]] = {}
    failures = [f"{module} is in no group of tests.toml" for module in _unlisted()]
    for group in _groups():
        for module in group.modules:
            if only and not _is_named(module, only):
                continue
            if module not in results:
                print(f"{module}: not run")
                continue
            result = results[module]
            note = "" if result.digest == group.digest(Source.read(module)) else ", changed since"
            print(f"{module}: {kept.score([result]):.0f}% of {result.counted}{note}")
            packages.setdefault(module.rpartition("/")[0] or module, []).append(result)
            if module in TABLE["bounds"]:
                packages[module] = [result]
            failures += [
                f"{module} {each.function}: no reason for {each.change}"
                for each in result.survivors
                if not each.reason
            ]
    for package, parts in packages.items():
        bound = TABLE["bounds"].get(package, TABLE["bounds"]["default"])
        print(f"{package}: {kept.score(parts):.1f}%, at least {bound}% is asked for")
        if kept.score(parts) < bound:
            failures.append(f"{package} is under its bound")
    print("\n".join(failures))
    return 1 if failures else 0


def _unlisted() -> list[str]:
    """Return the modules in the packages of `tests.toml` that are in none of its groups."""
    listed = {module for group in _groups() for module in group.modules}
    folders = {(PACKAGE / module).parent for module in listed} - {PACKAGE}
    files = [file for folder in folders for file in folder.iterdir()]
    found = [
        file.relative_to(PACKAGE).as_posix().removesuffix(".py")
        for file in files
        if file.suffix in (".py", ".lua") and file.stem != "__init__"
    ]
    return sorted(set(found) - listed)


def _is_named(module: str, only: Sequence[str]) -> bool:
    return any(module == each or module.startswith(f"{each.rstrip('/')}/") for each in only)


if __name__ == "__main__":
    sys.exit(main())
