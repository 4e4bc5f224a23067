"""Assembly of the gallery's files into the single HTML document that hosts expect."""

import re
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import resources

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([a-z-]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)

_STYLE = '<link rel="stylesheet" href="gallery.css" />'
_SCRIPT = '<script type="module" src="gallery.js"></script>'
_ORIGINS = '<meta name="image-origins" content="" />'


def document(image_origins: Sequence[str]) -> str:
    """Return the whole document, which loads nothing but images.

    Args:
        image_origins: origins of images besides Replicate's delivery hosts.
    """
    origins = f'<meta name="image-origins" content="{escape(" ".join(image_origins))}" />'
    return _whole().replace(_ORIGINS, origins)


@cache
def _whole() -> str:
    page = _read("index.html")
    page = page.replace(_STYLE, f"<style>\n{_read('gallery.css')}</style>")
    return page.replace(_SCRIPT, f'<script type="module">\n{_script()}</script>')


def _script() -> str:
    """Return all modules as one, each after its imports; their top-level names must differ."""
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        source = _read(name)
        for needed in _IMPORT.findall(source):
            if needed not in parts:
                add(needed)
        parts[name] = _EXPORT.sub("", _IMPORT.sub("", source))

    add("gallery.js")
    return "\n".join(parts.values())


def _read(name: str) -> str:
    return resources.files(__package__).joinpath("view", name).read_text(encoding="utf-8")
