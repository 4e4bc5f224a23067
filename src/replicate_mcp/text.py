"""Untrusted text, made safe to show on a terminal, in a log, or in a line for a model.

Models, accounts, proxies and callers choose names, errors and URLs. Printed unchanged, these can
move a terminal's cursor, forge log lines, or look like other text.
"""

import re

MAX_LINE_CHARACTERS = 500
"""Maximum characters of an error or reason that is shown or stored."""


def one_line(text: str, max_characters: int = MAX_LINE_CHARACTERS) -> str:
    """Return `text` as one printable line of at most `max_characters`, cut with an ellipsis.

    Control characters, line ends, bidirectional marks and unpaired surrogates become spaces, and
    runs of spaces become one.
    """
    # Cut first: an error may have megabytes, mostly of spaces.
    line = " ".join(printable(text[: 4 * max_characters]).split())
    if len(line) <= max_characters:
        return line
    return f"{line[: max_characters - 1].rstrip()}…"


def without_markup(text: str) -> str:
    """Return the title of an HTML page, else its text without tags, scripts and styles."""
    from html import unescape

    title = re.search(r"(?is)<title[^>]*>([^<]*[^<\s][^<]*)<", text)
    visible = title[1] if title else re.sub(r"(?is)<(script|style)\b.*?(?:</\1\s*>|\Z)", " ", text)
    return unescape(re.sub(r"<[^<>]*>?", " ", visible))


def printable(text: str) -> str:
    """Return `text` with spaces for non-printable characters, and `?` for unpaired surrogates."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _replacement(c) for c in text)


def escaped(text: str) -> str:
    r"""Return `text` for quoting, with non-printable characters written as `\u001b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def with_full_stop(sentence: str) -> str:
    """Return `sentence` with a full stop, unless it ends with `.`, `?`, `!` or `…`."""
    return sentence if sentence.endswith((".", "?", "!", "…")) else f"{sentence}."


def _replacement(character: str) -> str:
    return "?" if "\ud800" <= character <= "\udfff" else " "
