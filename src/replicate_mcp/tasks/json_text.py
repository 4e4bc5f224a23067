"""Parser of text in place of an object or a list: JSON, or a plain prompt.

Clients send arguments as JSON text, and models write it in code fences, with trailing commas, or in
Python's syntax. Text that begins like JSON is parsed or refused, and never used as a prompt. Also
refused is text that contains a task as JSON, or that a program wrote in place of a value, like
`[object Object]`.
"""

import json
import re
from bisect import bisect_right
from dataclasses import dataclass, field

from replicate_mcp.errors import InvalidInput

MAX_LENIENT_CHARACTERS = 1_000_000
"""Longest text parsed if it is not strict JSON; a thousand tasks have about 200,000 characters."""

MAX_LENIENT_DEPTH = 100
"""Deepest nesting of text that is not strict JSON."""

READING_COST = 8
"""Parsing text that is not strict JSON takes as long as strict JSON of this many times its size."""

MAX_DIGITS = 400
"""Maximum digits of an integer: the parsing time grows with their square."""

_FENCE = re.compile(r"(?P<marks>```|~~~)[ \t]*(?P<language>\w*)[ \t]*\r?\n?")
_BLANKS = " \t\r\n\ufeff\u00a0\u200b\u2028\u2029\u2060"

_OWN_NAMES = "tasks|prompts|prompt|output_filename|model|input"
_PLAIN_QUOTE = r"(?:[\"'“”‘’]|&(?:quot|apos|#34|#39);)"
_QUOTE = rf"\\*+{_PLAIN_QUOTE}"
_BEGINNING = (
    # A string in any quotation marks, possibly escaped, or a name of our own fields;
    rf"{_QUOTE}|(?:{_OWN_NAMES})\s*:"
    # or, as in JavaScript, another name before a string, or a comment.
    rf"|\w++\s*+:\s*+{_QUOTE}|//|/\*"
)
_COMMENT_LINE = r"\n[ \t]*+#"
_BEGINS_LIKE_JSON = re.compile(
    # Brackets alone, like `[]` or `[...]`, or `[{` if the text was cut off, possibly in quotation
    # marks.
    rf"[\[{{][\s\[\]{{}},.…]*\"?\Z|[\[{{][\s\[{{,]*+(?:{_BEGINNING})"
    rf"|[\[{{][\s\[{{,]*{_COMMENT_LINE}"
)
_HOLDS_JSON = re.compile(
    # A key of a task in quotation marks,
    rf"{_PLAIN_QUOTE}(?:prompts?|tasks|output_filename){_QUOTE}\s*:"
    # a prompt as in JavaScript, Python or YAML,
    rf"|[{{,(]\s*prompt\s*+[:=]\s*+{_QUOTE}|^[ \t]*+-[ \t]++prompt\s*:"
    # a line that begins like JSON, after markup, a tag or a name,
    r"|^[ \t`*~_>]*+(?:<\w+>\s*+)?(?:(?:json|tasks|prompts)\b\s*+[:=]?\s*+)?"
    rf"[\[{{](?:[\s\[{{,]{{0,50}}+(?:{_BEGINNING})|[\s\[{{,]{{0,50}}?{_COMMENT_LINE})"
    # or strings in a tuple.
    r"""|\A\s*\(\s*+(?:(?:'[^']*'|"[^"]*")\s*+,\s*+)++(?:(?:'[^']*'|"[^"]*")\s*+)?\)\s*\Z""",
    re.MULTILINE,
)
_NO_VALUE = re.compile(r"\[object [A-Z]\w*\]|\A\s*(?:null|undefined|None|NaN)\s*\Z")


def read_json_text(text: str, where: str) -> object:
    """Return the object or list that `text` contains, or `text` itself if it contains none.

    Text begins like JSON if brackets are followed by a quoted string, by one of a task's own fields
    and a colon, or by nothing at all; a code fence or quotation marks may enclose it. Such text is
    parsed or refused. Trailing commas, line breaks in strings, and Python's spelling (`'…'`,
    `True`, `None`) are accepted. A JSON string is parsed as the text that it contains. Other text
    is returned unchanged, even with brackets (`[masterpiece], a fox`, `{a drawing}`, `[[blurry]]
    cat`), unless it contains tasks as JSON, or stands for no value.

    The time is proportional to the length of `text`: use `run_cpu_bound` if it may be large.

    Args:
        text: the text.
        where: what the text is given for, like `task 3: input`; error messages begin with it.

    Raises:
        InvalidInput: it begins like JSON and cannot be parsed, or cannot be a prompt for another
            reason.
    """
    inner, start, language = _without_fence(text)
    is_json = _is_json(inner, language)
    if not is_json and inner[:1] not in ("[", "{", '"'):
        return _prompt(text, where)
    try:
        value = _decoded(inner)
    except _NotJson as problem:
        if is_json or (inner[:1] != '"' and _HOLDS_JSON.search(text)):
            raise InvalidInput(f"{where} {problem.sentence(start)}.") from None
        return _prompt(text, where)
    if isinstance(value, str) and language != "json":
        return read_json_text(value, where)  # JSON text of text, which may be JSON again.
    if not isinstance(value, (str, list, dict)):
        raise InvalidInput(f"{where} is JSON text of neither an object nor a list.")
    return value


def _prompt(text: str, where: str) -> str:
    """Return `text` if it may be a prompt.

    Raises:
        InvalidInput: it contains tasks as JSON, or a program wrote it in place of a value.
    """
    if found := _NO_VALUE.search(text):
        raise InvalidInput(
            f"{where} holds '{found[0].strip()[:40]}', which a program writes in place of a value: "
            "give the prompt itself."
        )
    if found := _HOLDS_JSON.search(text):
        raise InvalidInput(
            f"{where} holds a task or a list as code, among other text, at character "
            f"{found.start() + 1:,}: give only the JSON, or only a prompt."
        )
    return text


def begins_like_json(text: str) -> bool:
    """Return whether `text` begins like JSON, so that `read_json_text` parses or refuses it."""
    inner, _, language = _without_fence(text)
    return _is_json(inner, language)


def _is_json(text: str, language: str) -> bool:
    return language == "json" or _BEGINS_LIKE_JSON.match(text, text[:1] == '"') is not None


class _NotJson(Exception):
    """The text cannot be parsed.

    Attributes:
        what: the end of a sentence about the text.
        at: position of the error, in characters; None if it has none.
    """

    def __init__(self, what: str, at: int | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.at = at

    def sentence(self, start: int) -> str:
        """Return a description of the error, `start` characters after the input's beginning."""
        place = "" if self.at is None else f" at character {start + self.at + 1:,}"
        return f"is JSON text that {self.what}{place}"


def _without_fence(text: str) -> tuple[str, int, str]:
    """Return a code fence's content, position and language; without a fence, all of `text`."""
    stripped = text.strip(_BLANKS)
    start = len(text) - len(text.lstrip(_BLANKS))
    fence = _FENCE.match(stripped)
    if fence is None:
        return stripped, start, ""
    inner = stripped[fence.end() :].removesuffix(fence["marks"])
    start += fence.end() + len(inner) - len(inner.lstrip(_BLANKS))
    inner = inner.strip(_BLANKS)
    return (
        inner,
        start,
        fence["language"].lower() if inner else "json",
    )  # An empty fence was cut off.


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _NotJson(f"has a number of {len(digits):,} digits")
    return int(digits)


_DECODER = json.JSONDecoder(strict=False, parse_int=_integer)


def _decoded(text: str) -> object:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise _NotJson("has more text after its end", error.pos) from None
        if len(text) > MAX_LENIENT_CHARACTERS:
            raise _fault(text, error, error.pos) from None
    except RecursionError:
        raise _NotJson("is nested too deeply") from None
    lenient = _LenientText()
    lenient.read(text)
    try:
        return _DECODER.decode("".join(lenient.pieces))
    except json.JSONDecodeError as error:
        raise _fault(text, error, lenient.position(error.pos)) from None


def _fault(text: str, error: json.JSONDecodeError, at: int) -> _NotJson:
    if error.msg.startswith("Unterminated string") or at >= len(text):
        return _NotJson("is cut off", len(text))
    if error.msg == "Extra data":
        return _NotJson("has more text after its end", at)
    return _NotJson("is not valid", at)


_TOKEN = re.compile(
    r"(?P<blank>\s+)|(?P<opening>[\[{])|(?P<closing>[\]}])|(?P<mark>[:,])"
    r"""|(?P<string>"(?:[^"\\]+|\\.)*+"|'(?:[^'\\]+|\\.)*+')"""
    r"""|(?P<word>[^\s\[\]{}:,"'][^\s\[\]{}:,"]*)""",
    re.DOTALL,
)
_SPELLINGS = {"True": "true", "False": "false", "None": "null"}
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?", re.ASCII)
_ESCAPED = re.compile(
    r"""\\(?:x(?P<x>[0-9a-fA-F]{2})|U(?P<U>[0-9a-fA-F]{8})|(?P<plain>.))|(?P<quote>")""", re.DOTALL
)


@dataclass(slots=True)
class _LenientText:
    """Rewriter of JSON with trailing commas and Python's spelling as strict JSON.

    Attributes:
        pieces: the tokens of the strict text.
        starts: position of each token in the strict text.
        sources: position of each token in the text that was read.
    """

    pieces: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    _length: int = 0
    _end: int = 0

    def read(self, text: str) -> None:
        """Add the tokens of `text`.

        Raises:
            _NotJson: a token is neither JSON nor Python.
        """
        at = depth = 0
        self._end = len(text)
        while at < len(text):
            token = _TOKEN.match(text, at)
            if token is None:  # A string without an end.
                raise _NotJson("is cut off", len(text))
            kind, piece = token.lastgroup, token[0]
            if kind == "opening":
                depth += 1
                if depth > MAX_LENIENT_DEPTH:
                    raise _NotJson("is nested too deeply")
            elif kind == "closing":
                depth -= 1
                self._drop_trailing_comma()
            elif kind == "string":
                piece = _json_string(piece, at)
            elif kind == "word":
                piece = _SPELLINGS.get(piece, piece)
                if piece not in ("true", "false", "null") and not _NUMBER.fullmatch(piece):
                    is_last = token.end() == len(text)
                    raise (
                        _NotJson("is cut off", len(text))
                        if is_last
                        else _NotJson("is not valid", at)
                    )
            if kind != "blank":
                self._add(piece, at)
            at = token.end()

    def position(self, at: int) -> int:
        """Return the position in the original text of position `at` in the strict text."""
        if at >= self._length:
            return self._end
        return self.sources[max(0, bisect_right(self.starts, at) - 1)]

    def _add(self, piece: str, source: int) -> None:
        self.pieces.append(piece)
        self.starts.append(self._length)
        self.sources.append(source)
        self._length += len(piece)

    def _drop_trailing_comma(self) -> None:
        if self.pieces[-1:] == [","] and self.pieces[-2:-1] not in (["["], ["{"], [","], []):
            self.pieces[-1] = " "


def _json_string(token: str, at: int) -> str:
    """Return a string token of JSON or Python in JSON's spelling."""
    is_single = token[0] == "'"

    def escape(found: re.Match[str]) -> str:
        if found["quote"]:
            return '\\"'
        if code := found["x"] or found["U"]:
            number = int(code, 16)
            if number > 0x10FFFF:
                raise _NotJson("is not valid", at + 1 + found.start())
            return json.dumps(chr(number))[1:-1]
        plain = found["plain"]
        if plain == "'":
            return "'"
        if plain not in '"\\nrtbfu' and not (plain == "/" and not is_single):
            raise _NotJson("is not valid", at + 1 + found.start())
        return found[0]

    return f'"{_ESCAPED.sub(escape, token[1:-1])}"'
