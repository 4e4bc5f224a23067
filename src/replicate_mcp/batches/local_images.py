"""Images of this machine as inputs: a path within the one folder that its user allowed.

A model that writes tasks can be talked into naming any file. So a path is followed to where it
leads in the end, only that folder is read, and only images leave it.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks.input_sentences import quoted

MOST_BYTES = 100_000_000
"""Replicate takes files of less than 100 MB."""

SETTING = "REPLICATE_MCP_FILES"

# The first bytes of a file, and the type of image they begin. What a type is called in the box
# `ftyp` stands at the fifth byte.
_SIGNATURES: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"BM....\x00\x00\x00\x00", re.DOTALL), "image/bmp"),
    (re.compile(rb"II\x2a\x00|MM\x00\x2a"), "image/tiff"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "image/avif"),
    (re.compile(rb"....ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL), "image/heic"),
)
_TAKEN = "png, jpeg, webp, gif, bmp, tiff, avif and heic"


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image that was looked at, and what is needed to send the same one.

    Attributes:
        where: the task and the input that named it first.
        path: where it lies in the end, every link followed.
        digest: SHA-256 of its content.
        kind: its type, like `image/png`.
    """

    where: str
    path: Path
    digest: str
    kind: str

    @property
    def uri(self) -> str:
        """What stands for it among a task's inputs until it has its URL at Replicate."""
        return self.path.as_uri()

    def read(self) -> bytes:
        """Its content.

        Raises:
            InvalidInput: it is no longer what was looked at.
        """
        with _opened(self.path, self.where) as file:
            content = file.read(MOST_BYTES)
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise InvalidInput(f"{self.where} was changed while it was read: try again.")
        return content


class LocalImages:
    """Finds the images that a batch's inputs name.

    Args:
        folder: what may be read; None for nothing.
        instead: what a caller that names a path is told where nothing may be read.
    """

    def __init__(self, folder: Path | None, instead: str = "") -> None:
        self._folder = folder
        self._instead = instead
        self._seen: dict[Path, LocalImage] = {}

    @property
    def found(self) -> dict[str, LocalImage]:
        """Those found so far, by the URI that stands for each."""
        return {image.uri: image for image in self._seen.values()}

    def find(self, where: str, text: str) -> LocalImage:
        """The image at a path: relative to the folder, or absolute inside it.

        Args:
            where: the task and the input, for sentences.
            text: one that `is_path`.

        Raises:
            InvalidInput: it is not there, leads elsewhere, is no image, or may not be read.
        """
        shown = f"{where} {quoted(text)}"
        if self._folder is None:
            raise InvalidInput(
                f"{shown} is not a URL: give an https:// link or a data: URI. {self._instead}"
            )
        path = self._inside(self._folder, text, shown)
        if path not in self._seen:
            self._seen[path] = _looked_at(path, where, shown)
        return self._seen[path]

    @staticmethod
    def _inside(folder: Path, text: str, shown: str) -> Path:
        if not folder.is_dir():
            raise InvalidInput(
                f"{shown} cannot be read: {folder}, the folder that {SETTING} names, is not there."
            )
        if text.lower().startswith("file:"):
            text = url2pathname(urlsplit(text).path)
        try:
            root, path = folder.resolve(), (folder / text).resolve()
        except (OSError, RuntimeError, ValueError):  # links in a circle, a null byte
            raise InvalidInput(f"{shown} is not a path that can be followed.") from None
        if not path.is_relative_to(root):
            raise InvalidInput(
                f"{shown} leads out of {folder}, the folder that {SETTING} names: only images in "
                "it are read."
            )
        return path


def is_path(text: str) -> bool:
    """Whether an input that should be a URL may be a path: anything without a scheme is."""
    # Two letters at least before the colon: `C:\\cat.png` is a path on somebody's machine.
    has_scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text)
    return not has_scheme or text.lower().startswith("file:")


def _looked_at(path: Path, where: str, shown: str) -> LocalImage:
    with _opened(path, shown) as file:
        size = os.fstat(file.fileno()).st_size
        if size >= MOST_BYTES:
            raise InvalidInput(
                f"{shown} has {size / 1e6:.0f} MB: Replicate takes files of less than 100 MB."
            )
        beginning = file.read(32)
        kind = next((kind for begins, kind in _SIGNATURES if begins.match(beginning)), None)
        if kind is None:
            raise InvalidInput(f"{shown} is not an image: {_TAKEN} are taken.")
        file.seek(0)
        return LocalImage(where, path, hashlib.file_digest(file, "sha256").hexdigest(), kind)


@contextmanager
def _opened(path: Path, shown: str) -> Iterator[BufferedReader]:
    """An ordinary file, opened without waiting for anybody and through no link."""
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)
    try:
        if path.is_dir():  # Windows opens no folder.
            raise IsADirectoryError
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidInput(f"{shown} is not an ordinary file.")
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidInput(f"{shown} is not there: {path} does not exist.") from None
    except IsADirectoryError:
        raise InvalidInput(f"{shown} is a folder, not an image: name the image itself.") from None
    except OSError as error:
        raise InvalidInput(f"{shown} cannot be read: {error.strerror or error}.") from None
