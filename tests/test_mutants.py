"""The mutation tester: the mutants of a file, and the reasons that it keeps."""

from pathlib import Path

from tools.mutants.kept import (
    ModuleResult,
    Survivor,
    absent_from,
    score,
    survivors_still_in,
    with_reasons,
)
from tools.mutants.lua_mutants import lua_mutants, with_markers
from tools.mutants.mutant import Source
from tools.mutants.python_mutants import python_mutants

PYTHON = b'''
"""A module."""
LIMIT = 10
STATUSES = ("starting", "processing")
QUERY = "SELECT id FROM permit WHERE id = ? AND ends_by < ?"


def room(limit: int, used: int = 0) -> int:
    """Return what is left."""
    log.info("asked %d", limit)
    if limit > used and not full():
        note(limit, at=now())
    return limit - used
'''

LUA = b"""-- A file.
function permits.free(permit, asked_for)
  if not permit or count < 1 then return nil end
  redis.call('HDEL', key.permits, -- two lines
    permit)
  record.ends_by = 0
  return math.max(1, count)
end
"""


def changes(source: Source) -> list[str]:
    mutants = lua_mutants(source) if source.is_lua else python_mutants(source)
    return [mutant.change for mutant in mutants]


def python(text: bytes) -> Source:
    return Source("room", Path("room.py"), text)


def lua(text: bytes) -> Source:
    return Source("free.lua", Path("free.lua"), text)


def test_python_mutants_change_conditions_numbers_effects_and_results() -> None:
    found = changes(python(PYTHON))
    for before, after in [
        ("LIMIT = 10", "LIMIT = 10 * 2"),
        ("LIMIT = 10", "LIMIT = 10 / 2"),
        ('STATUSES = ("starting", "processing")', 'STATUSES = ( "processing")'),
        ("if limit > used and not full():", "if limit >= used and not full():"),
        ("if limit > used and not full():", "if limit > used and full():"),
        ("if limit > used and not full():", "if (not full()):"),
        ("note(limit, at=now())", "pass"),
        ("note(limit, at=now())", "note(limit, )"),
        ("return limit - used", "return limit + used"),
        ("return limit - used", "return None"),
    ]:
        assert f"{before}  ->  {after}" in found
    assert any("ends_by <= ?" in change for change in found)
    assert any("OR ends_by" in change for change in found)


def test_log_messages_and_docstrings_of_python_are_not_mutated() -> None:
    assert not any(
        "asked" in change or "Return what" in change for change in changes(python(PYTHON))
    )


def test_every_python_mutant_is_a_different_program() -> None:
    texts = [mutant.text for mutant in python_mutants(python(PYTHON))]
    assert len(set(texts)) == len(texts)
    for text in texts:
        compile(text, "room.py", "exec")


def test_lua_mutants_change_conditions_numbers_and_effects() -> None:
    found = changes(lua(LUA))
    for before, after in [
        (
            "if not permit or count < 1 then return nil end",
            "if not permit or count <= 1 then return nil end",
        ),
        (
            "if not permit or count < 1 then return nil end",
            "if not permit and count < 1 then return nil end",
        ),
        (
            "if not permit or count < 1 then return nil end",
            "if not permit or count < 2 then return nil end",
        ),
        ("redis.call('HDEL', key.permits, -- two lines permit)", ""),
        ("record.ends_by = 0", ""),
        ("return math.max(1, count)", "return math.min(1, count)"),
    ]:
        assert f"{before}  ->  {after}" in found
    assert not any("A file" in change for change in found)


def test_instrumented_lua_function_records_its_run_and_keeps_its_lines() -> None:
    marked = with_markers(lua(LUA), "ran")
    assert "'SADD', 'ran', 'free.lua:2:8'" in marked.splitlines()[1]
    assert len(marked.splitlines()) == len(LUA.splitlines())


def test_instrumented_lua_file_records_the_run_of_its_other_statements() -> None:
    first, *_ = with_markers(lua(b"local a = 1\nredis.call(a)\n"), "ran").splitlines()
    assert first.endswith(" redis.pcall('SADD', 'ran', 'free.lua:1:2');local a = 1")


def test_reasons_are_kept_and_equivalent_mutants_do_not_count() -> None:
    before = ModuleResult("", 10, [Survivor("f", "a  ->  b", True, "equivalent: never negative")])
    found = [Survivor("f", "a  ->  b", True), Survivor("f", "a  ->  c", True)]
    after = ModuleResult("", 11, with_reasons(found, before))
    assert [each.reason for each in after.survivors] == ["equivalent: never negative", ""]
    assert score([after]) == 90


def test_mutants_that_a_module_had_before_are_not_new() -> None:
    before = lua_mutants(lua(b"local a = f(1, 2)\nlocal b = f(1, 2)\n"))
    now = lua_mutants(lua(b"local a = f(1, 2)\nlocal b = f(1, 3)\n"))
    assert [each.change for each in absent_from(before, now)] == [
        "local b = f(1, 3)  ->  local b = f(2, 3)",
        "local b = f(1, 3)  ->  local b = f(1, 4)",
    ]


def test_survivor_is_kept_while_its_mutant_is_there() -> None:
    change = "local a = 1  ->  local a = 2"
    before = ModuleResult("", 2, [Survivor("", change, True), Survivor("", "gone  ->  x", True)])
    assert [
        each.change for each in survivors_still_in(lua_mutants(lua(b"local a = 1\n")), before)
    ] == [change]
