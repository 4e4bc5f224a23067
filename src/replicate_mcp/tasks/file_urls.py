"""Distinction of file URLs, as model inputs accept them, from paths and other text."""

import re
from urllib.parse import urlsplit

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""A scheme has two letters or more before the colon: `C:\\cat.png` is a path on Windows."""

_LOCAL_SCHEMES = ("file:", "content:")
"""Schemes of URLs that stand for a local image until it is uploaded."""

_DATA = re.compile(r"data:[^,\s]*,(?P<content>.+)", re.IGNORECASE | re.DOTALL)
_BASE64 = re.compile(r"[A-Za-z0-9+/_%\s-]+[=\s]*")
_UNLOADABLE = re.compile(r"[\x00-\x1f\x7f\\]|\A[^/]*//[^/?#]*\s")
"""Control characters, a backslash, or a space in the host; HTTP clients quote one in the path."""


MAX_INLINE_CHARACTERS = 16_000
"""Maximum length of a data URI that stays in a task's inputs; a longer one is uploaded."""


def is_large_data(value: object) -> bool:
    """Return whether `value` is a data URI that is uploaded before its task is created."""
    return (
        isinstance(value, str)
        and len(value) > MAX_INLINE_CHARACTERS
        and value[:5].lower() == "data:"
    )


def is_local(text: str) -> bool:
    """Return whether `text`, in place of a URL, may name a local image: a path, or its URL."""
    return (
        bool(text)
        and not text.isspace()
        and (_SCHEME.match(text) is None or text[:16].lower().startswith(_LOCAL_SCHEMES))
    )


def is_input_url(text: str) -> bool:
    """Return whether `text` can be a file input: an http(s), `data:` or local image's URL."""
    scheme = text[:8].partition(":")[0].lower()
    if scheme == "data":
        return _is_data(text)
    if scheme in ("http", "https"):
        return _is_http(text)
    return text[:16].lower().startswith(_LOCAL_SCHEMES)


def _is_http(text: str) -> bool:
    if _UNLOADABLE.search(text):
        return False
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # The port is invalid, or a bracket is not closed.
        return False


def _is_data(text: str) -> bool:
    found = _DATA.match(text)
    if found is None:
        return False
    is_base64 = text[: found.start("content")].lower().endswith(";base64,")
    return not is_base64 or _BASE64.fullmatch(text, found.start("content")) is not None
