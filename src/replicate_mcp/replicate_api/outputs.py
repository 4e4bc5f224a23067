"""Extraction of output files from a prediction's output, which may be any JSON."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from replicate_mcp.tasks.media import DATA_EXTENSIONS, MEDIA_EXTENSIONS

MAX_FILES = 100
"""Maximum number of files of one prediction: more than any image model makes."""

MAX_URL_CHARACTERS = 4_096
"""Maximum length of a URL: delivery URLs have some 100 characters, and longer ones than this are
unusable in practice."""

MAX_WORD_CHARACTERS = 2_000
"""Maximum length of the text kept from an output: more than an error message quotes."""

DELIVERY_HOST = "replicate.delivery"
"""The host, with its subdomains, that serves outputs."""

_MAX_VALUES = 10_000
"""Maximum number of values of an output to inspect."""

_UNSAFE = frozenset('"<>\\^`{|}')
"""Characters that a URL must not contain unescaped (RFC 3986)."""


_PAGE_NAMES = re.compile(
    r"(licen[cs]e|terms(_of_(use|service))?|source|homepage|website|docs|documentation|paper"
    r"|citation|notice)s?(_(url|link))?",
    re.IGNORECASE,
)
"""Keys of an output that hold URLs of pages instead of files."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files and the text of an output.

    Attributes:
        urls: the URLs of the files, in order, without duplicates.
        inline: whether any file is a `data:` URI, so that its URL is not known yet.
        words: the text that is not a file, at most `MAX_WORD_CHARACTERS`.
    """

    urls: tuple[str, ...] = ()
    inline: bool = False
    words: str = ""


def outputs_of(output: object) -> Outputs:
    """Return the files of an output: a string, a list, or an object that contains either."""
    urls: dict[str, None] = {}
    texts: list[str] = []
    remaining = MAX_WORD_CHARACTERS
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
            elif remaining > 0:
                texts.append(value[:remaining])
                remaining -= len(value)
        elif isinstance(value, Mapping):
            left += [
                (each, is_page or _PAGE_NAMES.fullmatch(str(name)) is not None)
                for name, each in list(value.items())[_MAX_VALUES::-1]
            ]
        elif isinstance(value, list):
            left += [(each, is_page) for each in value[_MAX_VALUES::-1]]
    return Outputs(_without_pages(tuple(urls)), inline, _joined(texts))


def _without_pages(urls: tuple[str, ...]) -> tuple[str, ...]:
    """Remove URLs of licences, sources and other pages that a model returns beside its files.

    A file is on the delivery host or has a media extension. If no URL is such a file, keep all of
    them: some models store their files elsewhere, under names without an extension.
    """
    return tuple(filter(_is_file, urls)) or urls


def _is_file(url: str) -> bool:
    return is_delivery_host(urlsplit(url).hostname or "") or _has_media_extension(url)


def is_delivery_host(host: str) -> bool:
    """Return whether `host` is `DELIVERY_HOST` or a subdomain of it."""
    return host == DELIVERY_HOST or host.endswith(f".{DELIVERY_HOST}")


def _has_media_extension(url: str) -> bool:
    return (extension_of(url) or "").lower() in MEDIA_EXTENSIONS


def _joined(texts: list[str]) -> str:
    """Join texts with spaces; tokens of a language model, which include theirs, without."""
    are_tokens = any(text[:1].isspace() or text[-1:].isspace() for text in texts)
    return ("" if are_tokens else " ").join(texts)[:MAX_WORD_CHARACTERS]


def is_file_url(text: str) -> bool:
    """Return whether `text` is an http(s) URL that all programs parse alike."""
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
    """Return the file extension in a URL's path, without its dot.

    None if the path has none, or one that is neither media nor data: a URL must not choose the
    program that opens the file.
    """
    try:
        suffix = PurePosixPath(unquote(urlsplit(url).path)).suffix.removeprefix(".")
    except ValueError:
        return None
    return suffix if suffix.lower() in MEDIA_EXTENSIONS | DATA_EXTENSIONS else None
