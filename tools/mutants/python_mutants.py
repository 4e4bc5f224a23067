"""Mutants of a Python module.

Not mutated, since tests need not detect the change: docstrings, annotations, decorators,
assertions, log calls, and texts for people (strings with a space, unless they are SQL).
"""

import ast
import re
from collections.abc import Iterable, Iterator

from tools.mutants.mutant import Mutant, Source, padded
from tools.mutants.sql_mutants import is_sql, sql_changes

COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: (r"is\s+not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: (r"not\s+in", ("in",)),
}

OPERATORS: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "*"),
    ast.BitOr: ("|", "&"),
    ast.BitAnd: ("&", "|"),
}

NAMES = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "startswith": "endswith",
    "endswith": "startswith",
    "removeprefix": "removesuffix",
    "removesuffix": "removeprefix",
    "partition": "rpartition",
    "rpartition": "partition",
    "lower": "upper",
    "ceil": "floor",
    "floor": "ceil",
}
"""Functions that are replaced with their opposite."""

LOGGERS = {"log", "logger", "logging", "warnings"}

ATOMS = (
    ast.Name,
    ast.Attribute,
    ast.Call,
    ast.Subscript,
    ast.Constant,
    ast.List,
    ast.Dict,
    ast.Set,
)

Change = tuple[ast.AST, str]
"""Replaced node and its replacement."""


def python_mutants(source: Source) -> list[Mutant]:
    """List all mutants of a module that compile and differ from the original."""
    return list(_Mutator(source).mutants())


class _Mutator:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._tree = ast.parse(source.text)
        self._normal = ast.dump(self._tree)
        self._line_starts = [0]
        for line in source.text.splitlines(keepends=True):
            self._line_starts.append(self._line_starts[-1] + len(line))

    def mutants(self) -> Iterator[Mutant]:
        seen: set[bytes] = set()
        for statement, function in _statements(self._tree.body, ""):
            lines = statement.lineno, _last_line(statement)
            for start, end, replacement in self._changes_of(statement):
                for padding in (
                    padded(replacement, self._source.text[start:end]),
                    replacement.encode(),
                ):
                    mutant = Mutant(self._source, function, start, end, padding, *lines)
                    if mutant.text not in seen and self._is_another_program(mutant.text):
                        seen.add(mutant.text)
                        yield mutant
                        break

    def _is_another_program(self, text: bytes) -> bool:
        try:
            tree = ast.parse(text)
            compile(tree, "mutant", "exec", dont_inherit=True)
        except SyntaxError:
            return False
        return ast.dump(tree) != self._normal

    def _changes_of(self, statement: ast.stmt) -> Iterator[tuple[int, int, str]]:
        yield from (
            (*self._span(node), replacement) for node, replacement in _statement_changes(statement)
        )
        if isinstance(statement, ast.AugAssign) and type(statement.op) in OPERATORS:
            sign, other = OPERATORS[type(statement.op)]
            yield from self._between(statement.target, statement.value, re.escape(sign), other)
        if isinstance(statement, ast.Match):
            yield from self._without_cases(statement)
        constant = isinstance(statement, ast.Assign | ast.AnnAssign) and statement.col_offset == 0
        if isinstance(statement, ast.Assign | ast.AnnAssign) and constant and statement.value:
            yield from self._without_each(_table(statement.value))
        for node in _expressions(statement):
            yield from self._expression_changes(node, constant)
            if not isinstance(statement, ast.Raise):
                yield from self._string_changes(node)

    def _expression_changes(self, node: ast.AST, constant: bool) -> Iterator[tuple[int, int, str]]:
        match node:
            case ast.Compare():
                left = node.left
                for operator, right in zip(node.ops, node.comparators, strict=True):
                    found, others = COMPARISONS[type(operator)]
                    for other in others:
                        yield from self._between(left, right, found, other)
                    left = right
            case ast.BinOp(left, operator, right) if type(operator) in OPERATORS:
                if not (_is_text(left) or _is_text(right)):
                    sign, other = OPERATORS[type(operator)]
                    yield from self._between(left, right, re.escape(sign), other)
            case ast.BoolOp():
                for dropped in node.values:
                    kept = [each for each in node.values if each is not dropped]
                    word = " and " if isinstance(node.op, ast.And) else " or "
                    yield (*self._span(node), word.join(map(self._as_operand, kept)))
            case ast.UnaryOp(ast.Not() | ast.USub(), operand):
                yield (*self._span(node), self._as_operand(operand))
            case ast.Constant(bool() as value):
                yield (*self._span(node), repr(not value))
            case ast.Constant(int() | float() as number):
                yield from ((*self._span(node), other) for other in _numbers(number, constant))
            case ast.IfExp(test):
                yield from self._forced(test)
            case ast.comprehension():
                for test in node.ifs:
                    yield from self._forced(test)
            case ast.Call():
                yield from self._call_changes(node)
            case ast.Tuple(elements) | ast.List(elements) | ast.Set(elements):
                if all(isinstance(each, ast.Constant) for each in elements):
                    yield from self._without_each([(each, each) for each in elements])

    def _call_changes(self, call: ast.Call) -> Iterator[tuple[int, int, str]]:
        match call.func:
            case ast.Name(name) if name in NAMES:
                yield (*self._span(call.func), NAMES[name])
            case ast.Attribute(_, name) if name in NAMES:
                end = self._span(call.func)[1]
                yield (end - len(name), end, NAMES[name])
        for keyword in call.keywords:
            if keyword.arg is not None:
                yield from self._without(keyword, keyword)

    def _without_each(
        self, elements: list[tuple[ast.expr, ast.expr]]
    ) -> Iterator[tuple[int, int, str]]:
        """Yield the removal of each element of a table, given its first and last expression."""
        if len(elements) > 1:
            for first, last in elements:
                yield from self._without(first, last)

    def _without(self, first: ast.AST, last: ast.AST) -> Iterator[tuple[int, int, str]]:
        end = self._span(last)[1]
        comma = re.compile(rb"\s*,").match(self._source.text, end)
        yield (self._span(first)[0], comma.end() if comma else end, "")

    def _without_cases(self, match: ast.Match) -> Iterator[tuple[int, int, str]]:
        for case in match.cases:
            end = self._span(case.pattern)[1]
            if case.guard is None:
                yield (end, end, " if False")
            else:
                yield (*self._span(case.guard), "True")

    def _forced(self, test: ast.expr) -> Iterator[tuple[int, int, str]]:
        """Yield True and False in place of a condition that has no operator of its own."""
        if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant):
            yield (*self._span(test), "True")
            yield (*self._span(test), "False")

    def _string_changes(self, node: ast.AST) -> Iterator[tuple[int, int, str]]:
        if not _is_text(node):
            return
        start, end = self._span(node)
        text = self._source.text[start:end]
        if is_sql(text):
            for begin, finish, other in sql_changes(text):
                yield (start + begin, start + finish, other)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if not node.value:
                yield (start, end, '"mutant"')
            elif " " not in node.value and b"\n" not in text:
                yield (start, end, repr(f"{node.value}_mutant"))

    def _between(
        self, left: ast.expr, right: ast.expr, found: str, other: str
    ) -> Iterator[tuple[int, int, str]]:
        begin, finish = self._span(left)[1], self._span(right)[0]
        match = re.compile(found.encode()).search(self._source.text, begin, finish)
        if match:
            yield (match.start(), match.end(), other)

    def _as_operand(self, node: ast.expr) -> str:
        start, end = self._span(node)
        text = self._source.text[start:end].decode()
        return text if isinstance(node, ATOMS) else f"({text})"

    def _span(self, node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, ast.expr | ast.stmt | ast.keyword | ast.pattern)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._line_starts[node.lineno - 1] + node.col_offset,
            self._line_starts[node.end_lineno - 1] + node.end_col_offset,
        )


def _statement_changes(statement: ast.stmt) -> Iterator[Change]:
    match statement:
        case ast.Expr(ast.Call() | ast.Await()):
            yield (statement, "pass")
        case ast.Assign(targets) if not isinstance(targets[0], ast.Name | ast.Tuple):
            yield (statement, "pass")
        case ast.AnnAssign(ast.Attribute(), _, ast.expr()):
            yield (statement, "pass")
        case ast.AugAssign() | ast.Delete() | ast.Raise() | ast.Return(None):
            yield (statement, "pass")
        case ast.Return(value) if value and not isinstance(value, ast.Constant):
            yield (value, "None")
        case ast.Continue():
            yield (statement, "break")
            yield (statement, "pass")
        case ast.Break():
            yield (statement, "continue")
        case ast.For():
            yield (statement.iter, "()")
        case ast.Try() | ast.TryStar():
            for handler in statement.handlers:
                if handler.type is not None:
                    yield (handler.type, "()")
        case ast.If(test) | ast.While(test):
            if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant):
                yield (test, "False")
                if isinstance(statement, ast.If):
                    yield (test, "True")


def _statements(body: Iterable[ast.stmt], name: str) -> Iterator[tuple[ast.stmt, str]]:
    """Yield each statement to mutate, with the qualified name of its function or class."""
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                inner = f"{name}.{statement.name}".lstrip(".")
                yield statement, inner
                yield from _statements(statement.body, inner)
            case ast.ClassDef():
                yield from _statements(statement.body, f"{name}.{statement.name}".lstrip("."))
            case ast.If(ast.Name("TYPE_CHECKING")) | ast.Import() | ast.ImportFrom() | ast.Assert():
                pass
            case ast.Expr(ast.Constant()):
                pass
            case ast.Expr(ast.Call(func)) if _is_log(func):
                pass
            case ast.Match():
                yield statement, name
                for case in statement.cases:
                    yield from _statements(case.body, name)
            case _:
                yield statement, name
                for field in ("body", "orelse", "finalbody"):
                    yield from _statements(getattr(statement, field, ()), name)
                for handler in getattr(statement, "handlers", ()):
                    yield from _statements(handler.body, name)


def _expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """Yield the expressions of a statement, without those of the statements within it."""
    stack = list(reversed(_own_parts(statement)))
    while stack:
        node = stack.pop()
        yield node
        # Before Python 3.12 positions within an f-string are not available.
        if not isinstance(node, ast.JoinedStr) and not _is_about_types(node):
            stack.extend(reversed(_children(node)))


def _table(value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """Return the elements of a constant table, each as its first and last expression."""
    match value:
        case ast.Tuple(elements) | ast.List(elements) | ast.Set(elements):
            return [(each, each) for each in elements]
        case ast.Dict(keys, values):
            return [(key, value) for key, value in zip(keys, values, strict=True) if key]
        case ast.Call(_, [argument]):
            return _table(argument)
    return []


def _own_parts(statement: ast.stmt) -> list[ast.AST]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        return [each for each in (*statement.args.defaults, *statement.args.kw_defaults) if each]
    return [
        child
        for child in _children(statement)
        if not isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case)
    ]


def _children(node: ast.AST) -> list[ast.AST]:
    annotation = getattr(node, "annotation", None)
    skipped = {id(annotation)}
    if isinstance(node, ast.Call) and _casts(node):
        skipped.add(id(node.args[0]))
    return [child for child in ast.iter_child_nodes(node) if id(child) not in skipped]


def _casts(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "cast" and bool(call.args)


def _is_about_types(node: ast.AST) -> bool:
    match node:
        case ast.Subscript(ast.Name("Literal")):
            return True
        case ast.Call(ast.Name("TypeVar" | "ParamSpec" | "NewType")):
            return True
    return False


def _is_log(func: ast.expr) -> bool:
    return (
        isinstance(func, ast.Attribute)
        and isinstance(func.value, ast.Name)
        and func.value.id in LOGGERS
    )


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _numbers(number: float, constant: bool) -> list[str]:
    if constant and number:
        return [f"{number!r} * 2", f"{number!r} / 2"]
    return [repr(number + 1)] if isinstance(number, int) else [repr(number * 2 or 1.0)]


def _last_line(statement: ast.stmt) -> int:
    """Return the last line of a statement, or of the header of a compound statement."""
    body = getattr(statement, "body", None) or getattr(statement, "cases", None)
    first = body[0] if body else None
    if isinstance(first, ast.stmt):
        return max(statement.lineno, first.lineno - 1)
    if isinstance(first, ast.match_case):
        return max(statement.lineno, first.pattern.lineno - 1)
    return statement.end_lineno or statement.lineno
