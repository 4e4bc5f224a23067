"""Run mutants of functions, each in a fork of a process that has imported everything.

The code object of the mutated function replaces that of the imported one. Code that runs at import
(constants, tables, classes) needs another way: see `cold.py`.
"""

import gc
import json
import os
import sys
import threading
import time
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.runner import runtestprotocol
from tools.mutants.forked import (
    FAILED,
    NOT_APPLIED,
    PASSED,
    Outcome,
    Verdict,
    busyness,
    fork,
    patience,
    run_forked,
)
from tools.mutants.isolation import (
    clear_folder,
    use_folder,
    use_short_hypothesis,
    warm_hypothesis,
)
from tools.mutants.lua_mutants import with_markers
from tools.mutants.mutant import Mutant, Source

if TYPE_CHECKING:
    from backends.servers import RunningServer

Ran = set[tuple[str, int]]
"""Executed lines as pairs of file and line number."""

MARKS = "mutants:ran"
"""Redis key in which instrumented Lua files record the functions that ran."""


class Tracer:
    """Recorder of executed lines in the mutated files."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._files = frozenset(str(each.path) for each in sources if not each.is_lua)
        self._ran: Ran = set()

    def start(self) -> None:
        """Start recording."""
        if self._files:
            threading.settrace(self._trace)
            sys.settrace(self._trace)

    def stop(self) -> Ran:
        """Stop recording and return the lines that ran."""
        sys.settrace(None)
        threading.settrace(None)
        ran, self._ran = self._ran, set()
        return ran

    def _trace(self, frame: types.FrameType, event: str, argument: object) -> Any:
        return self._line if frame.f_code.co_filename in self._files else None

    def _line(self, frame: types.FrameType, event: str, argument: object) -> Any:
        self._ran.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


class HotRun:
    """Pytest plugin that runs the collected tests against mutants.

    Args:
        mutants: mutants by module.
        sources: mutated files.
        max_test_seconds: maximum duration of a test, on a machine that is not busy; slower ones are
            left out.
        folder: folder for temporary files.
        report: called with the results of each source as soon as they are available.
    """

    def __init__(
        self,
        mutants: Mapping[str, list[Mutant]],
        sources: Sequence[Source],
        max_test_seconds: float,
        folder: Path,
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        self._mutants = mutants
        self._sources = sources
        self._max_test_seconds = max_test_seconds
        self._folder = folder
        self._report = report
        self._servers: dict[str, RunningServer] = {}
        self._items: list[pytest.Item] = []
        self._seconds: list[float] = []
        self._tests_of_line: dict[tuple[str, int], set[int]] = defaultdict(set)
        self._live: dict[str, list[types.FunctionType]] = defaultdict(list)
        self.tracer = Tracer(sources)

    def pytest_configure(self) -> None:
        """Configure Hypothesis for reproducible runs without database and shrinking."""
        use_short_hypothesis()

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any], request: Any) -> Any:
        """Return the shared servers for the fixture `servers`."""
        if fixturedef.argname != "servers":
            return None
        fixturedef.cached_result = (self._servers.get, fixturedef.cache_key(request), None)
        return self._servers.get

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run every mutant."""
        at_import = self.tracer.stop()
        if session.testsfailed or not session.items:
            self._report({"error": "the tests could not be collected"})
            return True
        with ExitStack() as stack:
            self._start_servers(session.items, stack)
            warm_hypothesis()
            self._measure(session.items)
            self._find_functions()
            gc.collect()
            gc.freeze()
            for source in self._sources:
                self._report(self._try(source, at_import))
        return True

    def _start_servers(self, items: Sequence[pytest.Item], stack: ExitStack) -> None:
        from backends.servers import KINDS, running_server

        wanted = [each.nodeid for each in items if "servers" in getattr(each, "fixturenames", ())]
        for kind in KINDS:
            if any(kind in nodeid.partition("[")[2] for nodeid in wanted):
                self._servers[kind] = stack.enter_context(running_server(kind))

    # Without mutants

    def _measure(self, items: Sequence[pytest.Item]) -> None:
        """Measure the duration of each test, then the lines that it runs."""
        seconds = self._in_child(lambda: dict(self._durations(items)))
        longest = self._max_test_seconds * busyness()
        slow = [place for place, took in seconds.items() if took > longest]
        again = self._in_child(lambda: dict(self._durations([items[place] for place in slow])))
        for place, took in zip(slow, again.values(), strict=True):
            seconds[place] = min(seconds[place], took)
        fit = [place for place, took in seconds.items() if 0 <= took <= longest]
        self._items = [items[place] for place in fit]
        self._seconds = [seconds[place] for place in fit]
        left_out = [items[place].nodeid for place in seconds if place not in set(fit)]
        self._report({"tests": len(fit), "left_out": left_out})
        for place, ran in self._in_child(lambda: dict(self._lines())).items():
            for line in ran:
                self._tests_of_line[line].add(place)

    def _durations(self, items: Sequence[pytest.Item]) -> Iterator[tuple[int, float]]:
        for place, (item, following) in enumerate(_pairs(items)):
            begun = time.perf_counter()
            passed = _passes(item, following)
            yield place, time.perf_counter() - begun if passed else -1.0

    def _lines(self) -> Iterator[tuple[int, Ran]]:
        lua = {source.path.name: source for source in self._sources if source.is_lua}
        marked = {name: with_markers(source, MARKS) for name, source in lua.items()}
        read_instead({source.path: marked[name] for name, source in lua.items()})
        for place, (item, following) in enumerate(_pairs(self._items)):
            self.tracer.start()
            _passes(item, following)
            yield place, self.tracer.stop() | set(self._lua_lines(lua))

    def _lua_lines(self, lua: Mapping[str, Source]) -> Iterator[tuple[str, int]]:
        for server in self._servers.values() if lua else ():
            with server.client as client:
                for mark in client.smembers(MARKS):
                    name, first, last = mark.split(":")
                    for line in range(int(first), int(last) + 1):
                        yield str(lua[name].path), line
                client.delete(MARKS)

    def _in_child(self, run: Callable[[], Mapping[int, Any]]) -> dict[int, Any]:
        def write(descriptor: int) -> None:
            use_folder(self._folder / "measured")
            result = {
                place: sorted(value) if isinstance(value, set) else value
                for place, value in run().items()
            }
            with os.fdopen(descriptor, "w") as file:
                json.dump(list(result.items()), file)

        child, read_end = fork(write)
        with os.fdopen(read_end) as file:
            text = file.read()
        os.waitpid(child, 0)
        return {
            place: {tuple(line) for line in value} if isinstance(value, list) else value
            for place, value in json.loads(text)
        }

    # With mutants

    def _find_functions(self) -> None:
        files = {str(source.path) for source in self._sources}
        gc.unfreeze()  # What is frozen after the collection of tests would not be listed.
        for each in gc.get_objects():
            if isinstance(each, types.FunctionType) and each.__code__.co_filename in files:
                self._live[each.__code__.co_filename].append(each)

    def _try(self, source: Source, at_import: Ran) -> dict[str, Any]:
        begun = time.monotonic()
        kills: defaultdict[str, Counter[int]] = defaultdict(Counter)
        verdicts = []
        for mutant in self._mutants[source.module]:
            tests = self._tests_for(mutant, at_import)
            if tests is None:
                verdicts.append(Verdict.NOT_APPLIED)
                continue
            if not tests:
                verdicts.append(Verdict.UNREACHED)
                continue
            tests.sort(key=lambda place: (-kills[mutant.function][place], self._seconds[place]))
            outcome = self._outcome(mutant, tests)
            verdicts.append(outcome.verdict)
            if outcome.verdict == Verdict.KILLED:
                kills[mutant.function][tests[outcome.passed]] += 1
        file = str(source.path)
        reaching = set().union(
            *(places for (path, _), places in self._tests_of_line.items() if path == file)
        )
        best = sorted(
            range(len(self._items)), key=lambda place: (place not in reaching, self._seconds[place])
        )
        return {
            "module": source.module,
            "verdicts": verdicts,
            "tests": [(self._items[place].nodeid, self._seconds[place]) for place in best],
            "imported": _imported_from_elsewhere(),
            "seconds": time.monotonic() - begun,
        }

    def _tests_for(self, mutant: Mutant, at_import: Ran) -> list[int] | None:
        """Return the tests that run the mutated statement; None if it runs at import."""
        file = str(mutant.source.path)
        lines = [(file, line) for line in range(mutant.first_line, mutant.last_line + 1)]
        if any(line in at_import for line in lines):
            return None
        return list(set().union(*(self._tests_of_line.get(line, set()) for line in lines)))

    def _outcome(self, mutant: Mutant, tests: Sequence[int]) -> Outcome:
        self._restart_busy_servers()
        if mutant.source.is_lua and not self._is_lua(mutant.text.decode()):
            return Outcome(Verdict.INVALID)

        def run(descriptor: int) -> None:
            use_folder(self._folder / "mutant")
            if not self._apply(mutant):
                os.write(descriptor, NOT_APPLIED)
                return
            for item, following in _pairs([self._items[place] for place in tests]):
                os.write(descriptor, PASSED if _passes(item, following) else FAILED)

        for server in self._servers.values():
            with server.client as client:
                client.flushall()
        outcome = run_forked(run, [patience(self._seconds[place]) for place in tests])
        if outcome.verdict == Verdict.TIMED_OUT:
            for server in self._servers.values():
                server.restart()  # a script may be in an endless loop
        clear_folder(self._folder / "mutant")
        return outcome

    def _apply(self, mutant: Mutant) -> bool:
        """Replace the code of the imported functions; return whether any changed."""
        if mutant.source.is_lua:
            read_instead({mutant.source.path: mutant.text.decode()})
            return True
        file = str(mutant.source.path)
        codes = _new_codes(mutant)
        applied = False
        for function in self._live[file]:
            now = function.__code__
            new = codes.get((now.co_qualname, now.co_firstlineno), now)
            if new != now:
                if len(new.co_freevars) != len(now.co_freevars):
                    return False
                function.__code__ = new
                applied = True
        return applied

    def _restart_busy_servers(self) -> None:
        """Restart servers that still run a mutant's endless loop after its test has failed."""
        from redis.exceptions import RedisError

        for server in self._servers.values():
            with server.client as client:
                try:
                    client.ping()
                except RedisError:
                    server.restart()

    def _is_lua(self, text: str) -> bool:
        """Return whether a server can compile the text of a Lua file."""
        from redis.exceptions import ResponseError

        with next(iter(self._servers.values())).client as client:
            try:
                client.script_load(f"local file = function()\n{text}end\n")
            except ResponseError:
                return False
        return True


def read_instead(texts: Mapping[Path, str]) -> None:
    """Patch `Path.read_text` to return `texts` for these files."""
    read_text = Path.read_text

    def read(path: Path, *arguments: Any, **options: Any) -> str:
        return texts.get(path) or read_text(path, *arguments, **options)

    Path.read_text = read  # type: ignore[method-assign,assignment]


def _passes(item: pytest.Item, following: pytest.Item | None) -> bool:
    reports = runtestprotocol(item, log=False, nextitem=following)
    return not any(report.failed for report in reports)


def _pairs(items: Sequence[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    return zip_longest(items, items[1:])


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _nested(constant)


def _new_codes(mutant: Mutant) -> dict[tuple[str, int], types.CodeType]:
    """Return the mutated code objects by the name and first line of the original function."""
    file = str(mutant.source.path)
    old, new = (
        list(_nested(compile(text, file, "exec", dont_inherit=True)))
        for text in (mutant.source.text, mutant.text)
    )
    if [each.co_qualname for each in old] != [each.co_qualname for each in new]:
        # A lambda or a comprehension was removed.
        by_name = {each.co_qualname: each for each in new}
        old = [each for each in old if each.co_qualname in by_name]
        new = [by_name[each.co_qualname] for each in old]
    keys = [(each.co_qualname, each.co_firstlineno) for each in old]
    unique = {key for key, count in Counter(keys).items() if count == 1}
    return {key: code for key, code in zip(keys, new, strict=True) if key in unique}


def _imported_from_elsewhere() -> list[str]:
    """Return the imported modules of third-party packages."""
    return [
        name
        for name, module in list(sys.modules.items())
        if "site-packages" in str(getattr(module, "__file__", "") or "")
    ]
