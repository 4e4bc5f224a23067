"""Images of this machine as inputs, by a path or as content in memory.

A model that writes tasks can be talked into naming any file. On stdio, therefore, a path is
resolved through all its links, and only files in the one folder that the user allowed are read. A
person's own command line or program may name any path. Only images leave the machine.
"""

import base64
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Literal
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks.media import HEAD_BYTES, media_type
from replicate_mcp.tasks.validation_messages import quoted

MAX_BYTES = 100_000_000
"""Replicate accepts files of less than 100 MB."""

SETTING = "REPLICATE_MCP_FILES"

ImagePaths = Literal["none", "folder", "any"]
"""Images of this machine that may be named by a path: `none`; those in the folder that the user
allowed (`folder`); or `any`, relative to the current folder, with `~` for the home folder."""

_FLAGS = os.O_RDONLY
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):
    _FLAGS |= getattr(os, _name, 0)

_DATA = re.compile(
    r"data:(?P<kind>[\w.+-]+/[\w.+-]+)?(?P<parameters>;(?!base64,)[^,;]*)*(?P<base64>;base64)?,",
    re.ASCII | re.IGNORECASE,
)
_URL_SAFE = bytes.maketrans(b"-_", b"+/")

_ACCEPTED = ("png", "jpeg", "webp", "gif", "bmp", "tiff", "avif", "heic")
"""Image types that may leave this machine, without their `image/` prefix."""


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An inspected image, with what is needed to send exactly the same one.

    Attributes:
        where: the task and the input that named it first.
        folder: the allowed folder, with every link resolved.
        path: its path in that folder, with every link resolved.
        digest: SHA-256 of its content.
        kind: its media type, like `image/png`.
    """

    where: str
    folder: Path
    path: PurePath
    digest: str
    kind: str

    @property
    def uri(self) -> str:
        """URI that stands for it in a task's inputs until it is uploaded to Replicate."""
        return (self.folder / self.path).as_uri()

    def read(self) -> bytes:
        """Return its content.

        Raises:
            InvalidInput: the file has changed since it was inspected.
        """
        with _opened(self.folder, self.path, self.where) as file:
            content = file.read(MAX_BYTES)
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise InvalidInput(f"{self.where} was changed while it was read: try again.")
        return content


@dataclass(frozen=True, slots=True)
class ImageContent:
    """An image that a program has in memory, or a file of any type from a data URI.

    Attributes:
        where: the task and the input that had it first.
        digest: SHA-256 of its content.
        kind: its media type, like `image/png`.
    """

    where: str
    digest: str
    kind: str
    content: bytes = field(repr=False)

    @classmethod
    def of(cls, where: str, content: bytes) -> "ImageContent":
        """Check the content of an image, and return the image.

        Raises:
            InvalidInput: the content is not an image, or is too large.
        """
        _check_size(where, len(content))
        kind = _image_type(where, content[:HEAD_BYTES])
        return cls(where, hashlib.sha256(content).hexdigest(), kind, content)

    @classmethod
    def of_data(cls, where: str, uri: str) -> "ImageContent":
        """Return the file of any type that a data URI contains.

        Raises:
            InvalidInput: the URI cannot be decoded, or the file is too large.
        """
        found = _DATA.match(uri)
        content = unquote_to_bytes(uri[found.end() :]) if found else b""
        if found and found["base64"]:
            text = b"".join(content.split()).translate(_URL_SAFE).rstrip(b"=")
            try:
                content = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
            except ValueError:
                content = b""
        if found is None or not content:
            raise InvalidInput(
                f"{where} is a data: URI that cannot be decoded: give base64 like "
                "data:image/png;base64,…, or an https:// link."
            )
        _check_size(where, len(content))
        known = media_type(content[:HEAD_BYTES])
        kind = known.name if known else found["kind"] or "application/octet-stream"
        return cls(where, hashlib.sha256(content).hexdigest(), kind, content)

    @property
    def uri(self) -> str:
        """URI that stands for it in a task's inputs until it is uploaded to Replicate."""
        return f"content:{self.digest}"

    def read(self) -> bytes:
        """Return its content."""
        return self.content


Image = LocalImage | ImageContent


class LocalImages:
    """Finds the images that a batch's inputs name.

    Args:
        folder: the folder to which paths are relative, and outside of which nothing is read; None
            if no path may be read.
        instead: advice in the error for a path where no path may be read.
        anywhere: whether paths that lead out of the folder are read, too.
        attached: images that are already found, by their URIs.
    """

    def __init__(
        self,
        folder: Path | None,
        instead: str = "",
        *,
        anywhere: bool = False,
        attached: Mapping[str, Image] | None = None,
    ) -> None:
        self._folder = folder
        self._instead = instead
        self._anywhere = anywhere
        self._attached = dict(attached or {})
        self._data: dict[str, ImageContent] = {}
        self._seen: dict[PurePath, LocalImage] = {}

    @classmethod
    def allowed(
        cls, paths: ImagePaths, folder: Path | None, attached: Mapping[str, Image]
    ) -> "LocalImages":
        """Return a finder of the images that a caller may name by `paths`.

        Args:
            paths: which images the caller may name by a path.
            folder: the folder that the user allowed; None if absent.
            attached: images without a path, by their URIs.
        """
        if paths == "any":
            return cls(Path.cwd(), anywhere=True, attached=attached)
        if paths == "none":
            return cls(None, "Paths are read on stdio alone, never over HTTP.")
        return cls(
            folder,
            f"To name images of this machine, set {SETTING} to the folder that they are in.",
        )

    @property
    def found(self) -> dict[str, Image]:
        """Images found so far, by the URI that stands for each."""
        images: list[Image] = [*self._seen.values(), *self._data.values()]
        return {**self._attached, **{image.uri: image for image in images}}

    def find(self, where: str, text: str) -> Image:
        """Return the image at a path, relative to the folder or absolute inside it.

        Args:
            where: the task and the input, for error messages.
            text: the path or URI, for which `is_local` is true; or a data URI, decoded once however
                many inputs contain it.

        Raises:
            InvalidInput: the file does not exist, is outside the folder, is not an image, or may
                not be read.
        """
        if text in self._attached:
            return self._attached[text]
        if text[:5].lower() == "data:":
            if text not in self._data:
                self._data[text] = ImageContent.of_data(where, text)
            return self._data[text]
        shown = f"{where} {quoted(text)}"
        if self._folder is None:
            raise InvalidInput(
                f"{shown} is not a URL: give an https:// link or a data: URI. {self._instead}"
            )
        follow = self._followed_anywhere if self._anywhere else self._followed
        folder, path = follow(self._folder, text, shown)
        if folder / path not in self._seen:
            self._seen[folder / path] = _inspect(folder, path, where, shown)
        return self._seen[folder / path]

    @staticmethod
    def _followed_anywhere(folder: Path, text: str, shown: str) -> tuple[Path, PurePath]:
        """Return the file's folder, with links resolved, and the file's name in it."""
        try:
            named = named_path(text, folder)
            if named is None:
                raise ValueError
            path = (folder / Path(named).expanduser()).resolve()
        except (OSError, RuntimeError, ValueError):  # links in a circle, a null byte
            raise InvalidInput(f"{shown} is not a path that can be followed.") from None
        return path.parent, PurePath(path.name)

    @staticmethod
    def _followed(folder: Path, text: str, shown: str) -> tuple[Path, PurePath]:
        """Return the resolved folder, and the resolved path in it."""
        if not folder.is_dir():
            raise InvalidInput(
                f"{shown} cannot be read: {folder}, the folder that {SETTING} names, is not there."
            )
        leads_out = InvalidInput(
            f"{shown} leads out of {folder}, the folder that {SETTING} names: only images in it "
            "are read."
        )
        try:
            named = named_path(text, folder)
            if named is None:
                # Not resolved: Windows sends its user's credentials to a host that a path names.
                raise leads_out
            root, path = folder.resolve(), (folder / named).resolve()
        except (OSError, RuntimeError, ValueError):  # links in a circle, a null byte
            raise InvalidInput(f"{shown} is not a path that can be followed.") from None
        if not path.is_relative_to(root):
            raise leads_out
        return root, path.relative_to(root)


def named_path(text: str, folder: PurePath) -> PurePath | None:
    """Return the path that `text`, a path or a `file:` URL, names, without reading the disk.

    Args:
        text: a path or URL, for which `is_local` is true.
        folder: its class decides which system's path rules apply.

    Returns:
        None if `text` names another host, drive or device than the folder's.

    Raises:
        ValueError: `text` is a malformed URL.
    """
    is_windows = isinstance(folder, PureWindowsPath)
    if text.lower().startswith("file:"):
        url = urlsplit(text)
        if url.netloc.lower() not in ("", "localhost"):
            return None
        text = unquote(url.path)
        if is_windows:  # file:///C:/cat.png
            text = re.sub(r"^/+([A-Za-z])[:|]", r"\1:", text)
    if not is_windows:
        return PurePosixPath(text)
    path = PureWindowsPath(text)
    beginning = text[:4].replace("/", "\\")
    if beginning.startswith(("\\\\?\\", "\\\\.\\", "\\??\\")):
        return None
    names_root = bool(path.drive) or beginning.startswith("\\\\")
    return None if names_root and path.drive.lower() != folder.drive.lower() else path


def _inspect(folder: Path, path: PurePath, where: str, shown: str) -> LocalImage:
    with _opened(folder, path, shown) as file:
        _check_size(shown, os.fstat(file.fileno()).st_size)
        kind = _image_type(shown, file.read(HEAD_BYTES))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return LocalImage(where, folder, path, digest, kind)


def _check_size(shown: str, size: int) -> None:
    if size >= MAX_BYTES:
        raise InvalidInput(
            f"{shown} has {size / 1e6:.0f} MB: Replicate takes files of less than 100 MB."
        )


def _image_type(shown: str, head: bytes) -> str:
    found = media_type(head)
    kind = found.name if found else ""
    if kind.removeprefix("image/") not in _ACCEPTED:
        accepted = f"{', '.join(_ACCEPTED[:-1])} and {_ACCEPTED[-1]}"
        raise InvalidInput(f"{shown} is not an image: {accepted} are taken.")
    return kind


@contextmanager
def _opened(folder: Path, path: PurePath, shown: str) -> Iterator[BufferedReader]:
    """Yield an ordinary file in the folder, opened without blocking."""
    try:
        if (folder / path).is_dir():  # Windows cannot open a folder.
            raise IsADirectoryError
        with os.fdopen(_descriptor(folder, path), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidInput(f"{shown} is not an ordinary file.")
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidInput(f"{shown} is not there: {folder / path} does not exist.") from None
    except IsADirectoryError:
        raise InvalidInput(f"{shown} is a folder, not an image: name the image itself.") from None
    except OSError as error:
        raise InvalidInput(f"{shown} cannot be read: {error.strerror or error}.") from None


def _descriptor(folder: Path, path: PurePath) -> int:
    """Open the file along a path on which no folder can have been replaced by a link meanwhile."""
    if os.open not in os.supports_dir_fd:
        return os.open(folder / path, _FLAGS)
    *folders, name = path.parts
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for each in folders:
            outside = inside
            inside = os.open(each, _FLAGS | os.O_DIRECTORY, dir_fd=inside)
            os.close(outside)
        return os.open(name, _FLAGS, dir_fd=inside)
    finally:
        os.close(inside)
