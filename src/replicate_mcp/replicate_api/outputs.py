"""What counts as an output: the files that a model made, out of whatever JSON it gave."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from replicate_mcp.tasks.media import DATA_EXTENSIONS, MEDIA_EXTENSIONS

MAX_FILES = 100
"""Files of one prediction: above what any image model makes at once."""

MAX_URL_CHARACTERS = 4_096
"""Delivery URLs have some 100 characters; longer ones are no use to any program."""

MAX_WORD_CHARACTERS = 2_000
"""Text of an output that is kept: more than a sentence quotes."""

DELIVERY_HOST = "replicate.delivery"
"""The host, with its subdomains, on which Replicate keeps outputs."""

_MAX_VALUES = 10_000
"""Values of an output that are looked at."""

_UNSAFE = frozenset('"<>\\^`{|}')
"""Characters that no URL may contain unescaped (RFC 3986)."""


_PAGE_NAMES = re.compile(
    r"(licen[cs]e|terms(_of_(use|service))?|source|homepage|website|docs|documentation|paper"
    r"|citation|notice)s?(_(url|link))?",
    re.IGNORECASE,
)
"""Names under which an output has pages beside its files."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files of an output, and the words in it.

    Attributes:
        urls: in order, each once.
        inline: whether any file came as a `data:` URI, so that its URL is known only later.
        words: the text that names no file, in at most `MAX_WORD_CHARACTERS`.
    """

    urls: tuple[str, ...] = ()
    inline: bool = False
    words: str = ""


def outputs_of(output: object) -> Outputs:
    """Return the files of an output: one string, a list, or an object that holds either."""
    urls: dict[str, None] = {}
    texts: list[str] = []
    room = MAX_WORD_CHARACTERS
    inline = False
    left: list[tuple[object, bool]] = [(output, False)]
    for _ in range(_MAX_VALUES):
        if not left or len(urls) == MAX_FILES:
            break
        value, is_page = left.pop()
        if isinstance(value, str):
            if value[:5].lower() == "data:":
                inline = True
            elif is_file_url(value):
                if not is_page or _is_file(value):
                    urls[value] = None
            elif room > 0:
                texts.append(value[:room])
                room -= len(value)
        elif isinstance(value, Mapping):
            left += [
                (each, is_page or _PAGE_NAMES.fullmatch(str(name)) is not None)
                for name, each in list(value.items())[_MAX_VALUES::-1]
            ]
        elif isinstance(value, list):
            left += [(each, is_page) for each in value[_MAX_VALUES::-1]]
    return Outputs(_without_pages(tuple(urls)), inline, _joined(texts))


def _without_pages(urls: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out URLs of licences, sources and other pages that a model gives beside its files.

    A file is on the delivery host, or has the extension of a medium. Where no URL is such a file,
    all of them stand: some models keep their files elsewhere, under names without an extension.
    """
    return tuple(filter(_is_file, urls)) or urls


def _is_file(url: str) -> bool:
    return is_delivery_host(urlsplit(url).hostname or "") or _has_media_extension(url)


def is_delivery_host(host: str) -> bool:
    """Return whether a host is the one on which Replicate keeps outputs, or below it."""
    return host == DELIVERY_HOST or host.endswith(f".{DELIVERY_HOST}")


def _has_media_extension(url: str) -> bool:
    return (extension_of(url) or "").lower() in MEDIA_EXTENSIONS


def _joined(texts: list[str]) -> str:
    """Join texts; a language model's tokens, which bring their own spaces, without more of them."""
    are_tokens = any(text[:1].isspace() or text[-1:].isspace() for text in texts)
    return ("" if are_tokens else " ").join(texts)[:MAX_WORD_CHARACTERS]


def is_file_url(text: str) -> bool:
    """Return whether `text` is an http(s) URL that every program reads alike."""
    if len(text) > MAX_URL_CHARACTERS or text[:4].lower() != "http":
        return False
    if not text.isascii() or not text.isprintable() or " " in text or not _UNSAFE.isdisjoint(text):
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def extension_of(url: str) -> str | None:
    """Return the extension of the file that a URL names, without its dot.

    None if it has none, or one that is neither of media nor of data: what opens such a file is for
    nobody's URL to choose.
    """
    try:
        suffix = PurePosixPath(unquote(urlsplit(url).path)).suffix.removeprefix(".")
    except ValueError:
        return None
    return suffix if suffix.lower() in MEDIA_EXTENSIONS | DATA_EXTENSIONS else None
