"""Check the PowerShell blocks of the pages, and translate them to bash."""

import re
from collections.abc import Iterator

import tree_sitter_powershell
from tree_sitter import Language, Node, Parser

LANGUAGE = Language(tree_sitter_powershell.language())

NOT_THERE = {
    "python3": "`py`, or `python` of an environment",
    "export": "`$env:NAME = ...`",
    "unset": "`Remove-Item Env:NAME`",
    "make": "the commands that it runs",
    # An alias of Invoke-WebRequest in Windows PowerShell, with different options.
    "curl": "`Invoke-RestMethod`",
    "wget": "`Invoke-RestMethod`",
}
"""Commands that Windows lacks, and their replacements."""

_POSIX = (
    (re.compile(r"\\$", re.M), "a line goes on after a backquote, not a backslash"),
    (re.compile(r"&&|\|\|"), "Windows PowerShell 5 knows no && and ||"),
    (re.compile(r"(?<![\w$:])~[/\\]"), "~ is not expanded for programs: write $HOME"),
    (re.compile(r"/bin/"), "an environment has its programs in Scripts"),
    (re.compile(r"/dev/null"), "there is no /dev/null"),
    (re.compile(r"^\s*[A-Z_]+=\S", re.M), "a variable is set as $env:NAME = ..."),
    (re.compile(r"\$(?!env:|HOME\b|LASTEXITCODE\b)\w+"), "is this variable a PowerShell one?"),
    (re.compile(r"(?<![^\s&])\$(env:)?\w+\\"), "quote a path that begins with a variable"),
    (re.compile(r"[\u2018\u2019\u201c\u201d]"), "a curly quote ends a text"),
)


def faults(text: str) -> list[str]:
    """Return the errors in a PowerShell block, each with its line number."""
    root = Parser(LANGUAGE).parse(text.encode()).root_node
    found = [(line, what) for node in _walk(root) for line, what in _faults_of_node(node)]
    for pattern, what in _POSIX:
        found += [(text.count("\n", 0, hit.start()) + 1, what) for hit in pattern.finditer(text)]
    return [f"line {line}: {what}" for line, what in sorted(found)]


def _faults_of_node(node: Node) -> Iterator[tuple[int, str]]:
    line, text = node.start_point.row + 1, (node.text or b"").decode()
    if node.is_error or node.is_missing:
        yield line, f"PowerShell cannot read this: {text.strip()[:60]!r}"
    if node.type == "command_name" and text in NOT_THERE:
        yield line, f"{text} is not on Windows: show {NOT_THERE[text]}"


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


def in_bash(text: str) -> str:
    """Translate a block's commands to bash, with POSIX paths.

    Raises:
        AssertionError: the block contains unsupported syntax.
    """
    for pattern, instead in _IN_BASH:
        text = pattern.sub(instead, text)
    unknown = re.search(r"\$env:|^& |\\(?!$)|`|-Method|LASTEXITCODE", text, re.M)
    assert unknown is None, f"unsupported syntax {unknown and unknown[0]!r} in:\n{text}"
    return text


_IN_BASH = tuple(
    (re.compile(pattern, re.M), instead)
    for pattern, instead in (
        (r"`$", r"\\"),
        (r"\$env:(\w+) = ([^\"].*)$", r"export \1=$(\2)"),
        (r"\$env:(\w+) = ", r"export \1="),
        (r"\$env:", "$"),
        (r"^py ", "python3 "),
        (r"^& ", ""),
        (r"; \$LASTEXITCODE -eq 1$", " || test $? = 1"),
        (r"replicate-mcp\.exe", "replicate-mcp"),
        (r"\\Scripts;", "/bin:"),
        (r"\\Scripts\\", "/bin/"),
        (r"(?<=[\w:])\\(?=[.\w])", "/"),
        (
            r"Invoke-RestMethod (\S+) -Method Post -ContentType (\S+) (\\\n\s*)-Body",
            r"curl -s \1 -H 'Content-Type: \2' \3-d",
        ),
    )
)
