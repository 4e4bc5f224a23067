"""Mutants: files with one small fault."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "replicate_mcp"

MAX_SHOWN_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Source:
    """File to be mutated.

    Attributes:
        module: path below `src/replicate_mcp`, without `.py`.
    """

    module: str
    path: Path
    text: bytes

    @classmethod
    def read(cls, module: str) -> "Source":
        """Read a module by its name, such as `batches/reconciliation` or `…/lua/rate.lua`."""
        path = PACKAGE / (module if module.endswith(".lua") else f"{module}.py")
        return cls(module, path, path.read_bytes())

    @property
    def is_lua(self) -> bool:
        """Whether the file runs on a Redis server."""
        return self.path.suffix == ".lua"

    @property
    def digest(self) -> str:
        """Digest of the text."""
        return hashlib.blake2b(self.text, digest_size=6).hexdigest()


@dataclass(frozen=True, slots=True)
class Mutant:
    """Single change of a source.

    Attributes:
        function: qualified name of the function or class around the change; "" at module level.
        start: offset of the first changed byte.
        end: offset after the last changed byte.
        replacement: new bytes, with the same number of line breaks.
        first_line: first line of the statement; a test that runs none of its lines cannot detect
            the change.
        last_line: last line of the statement, or of its header.
    """

    source: Source
    function: str
    start: int
    end: int
    replacement: bytes
    first_line: int
    last_line: int

    @property
    def text(self) -> bytes:
        """Whole file with the fault."""
        return self.source.text[: self.start] + self.replacement + self.source.text[self.end :]

    @property
    def change(self) -> str:
        """Changed lines before and after, on one line."""
        text = self.source.text
        begin = text.rfind(b"\n", 0, self.start) + 1
        finish = text.find(b"\n", self.end)
        finish = len(text) if finish < 0 else finish
        before = _one_line(text[begin:finish])
        after = _one_line(text[begin : self.start] + self.replacement + text[self.end : finish])
        pairs = enumerate(zip(before, after, strict=False))
        equal = next((place for place, pair in pairs if len(set(pair)) > 1), 0)
        return f"{_excerpt(before, equal)}  ->  {_excerpt(after, equal)}"


def padded(replacement: str, original: bytes) -> bytes:
    """Append line breaks to a replacement, so that the line numbers after it do not change."""
    missing = original.count(b"\n") - replacement.count("\n")
    return replacement.encode() + b"\n" * missing


def _one_line(text: bytes) -> str:
    return " ".join(text.decode(errors="replace").split())


def _excerpt(text: str, place: int) -> str:
    """Return the part of a long text around `place`."""
    begin = max(0, place - MAX_SHOWN_CHARACTERS // 2) if len(text) > MAX_SHOWN_CHARACTERS else 0
    part = text[begin : begin + MAX_SHOWN_CHARACTERS]
    return f"{'...' * (begin > 0)}{part}{'...' * (begin + len(part) < len(text))}"
