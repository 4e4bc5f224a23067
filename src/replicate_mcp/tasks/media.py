"""Media types by the first bytes of a file, and the extensions under which it may be saved.

The maker of a file chooses its URL, name and `Content-Type`, and the extension decides what a
system does when it opens the file. Therefore only the bytes determine the type.
"""

import re
from dataclasses import dataclass

HEAD_BYTES = 4096
"""Bytes of a file's beginning that suffice for `media_type`."""

Signature = tuple[tuple[int, bytes], ...]
"""Bytes that must all be present, each at its offset."""


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type.

    Attributes:
        name: like `image/png`.
        extensions: the extensions of this type; a file without one of them gets the first.
        signatures: beginnings of its files; any one of them suffices.
    """

    name: str
    extensions: tuple[str, ...]
    signatures: tuple[Signature, ...] = ()


def _at(offset: int, *beginnings: bytes) -> tuple[Signature, ...]:
    return tuple(((offset, each),) for each in beginnings)


_HEIC_BRANDS = (
    *(b"ftyphei" + bytes([last]) for last in b"cmsx"),
    *(b"ftyphev" + bytes([last]) for last in b"cmsx"),
    *(b"ftypmif1", b"ftypmsf1"),
)

SVG = MediaType("image/svg+xml", ("svg",))

# The order matters: a file that begins with the box `ftyp` is mp4 if no earlier type matches.
MEDIA_TYPES = (
    MediaType("image/png", ("png",), _at(0, b"\x89PNG\r\n\x1a\n")),
    MediaType("image/jpeg", ("jpg", "jpeg", "jpe", "jfif"), _at(0, b"\xff\xd8\xff")),
    MediaType("image/gif", ("gif",), _at(0, b"GIF87a", b"GIF89a")),
    MediaType("image/webp", ("webp",), (((0, b"RIFF"), (8, b"WEBP")),)),
    MediaType("image/bmp", ("bmp",), (((0, b"BM"), (6, b"\x00\x00\x00\x00")),)),
    MediaType("image/tiff", ("tiff", "tif"), _at(0, b"II\x2a\x00", b"MM\x00\x2a")),
    MediaType("image/avif", ("avif",), _at(4, b"ftypavif", b"ftypavis")),
    MediaType("image/heic", ("heic", "heif"), _at(4, *_HEIC_BRANDS)),
    MediaType("image/jxl", ("jxl",), _at(0, b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")),
    MediaType("image/x-icon", ("ico",), _at(0, b"\x00\x00\x01\x00")),
    SVG,
    MediaType("video/mp4", ("mp4", "m4v", "m4a", "mov"), _at(4, b"ftyp")),
    MediaType("video/webm", ("webm", "mkv"), _at(0, b"\x1aE\xdf\xa3")),
    MediaType(
        "audio/mpeg",
        ("mp3",),
        _at(0, b"ID3", *(b"\xff" + bytes([each]) for each in b"\xfb\xfa\xf3\xf2\xe3\xe2")),
    ),
    MediaType("audio/wav", ("wav",), (((0, b"RIFF"), (8, b"WAVE")),)),
    MediaType("audio/ogg", ("ogg", "oga", "ogv", "opus"), _at(0, b"OggS")),
    MediaType("audio/flac", ("flac",), _at(0, b"fLaC")),
)

MEDIA_EXTENSIONS = frozenset(extension for each in MEDIA_TYPES for extension in each.extensions)

DATA_EXTENSIONS = frozenset(
    [
        "safetensors",
        "zip",
        "tar",
        "gz",
        "npz",
        "npy",
        "json",
        "jsonl",
        "txt",
        "csv",
        "pdf",
        "glb",
        "gltf",
        "ply",
        "obj",
        "stl",
        "splat",
    ]
)
"""Formats of models' other outputs; no system executes a file with one of these extensions."""

OTHER_EXTENSION = "bin"
"""Replacement for every other extension, since a system may execute such a file."""

_EXTENSION = re.compile(r"[A-Za-z0-9]{1,12}")


def media_type(beginning: bytes) -> MediaType | None:
    """Return the media type of a file that begins with `beginning`; None if it is unknown."""
    for each in MEDIA_TYPES:
        for signature in each.signatures:
            if all(beginning.startswith(part, offset) for offset, part in signature):
                return each
    return SVG if _is_svg(beginning) else None


def extension_of_type(name: str) -> str:
    """Return the usual extension of a media type: `jpg` for `image/jpeg`.

    Raises:
        StopIteration: no type of `MEDIA_TYPES` has that name.
    """
    return next(each.extensions[0] for each in MEDIA_TYPES if each.name == name)


def name_to_save(name: str, beginning: bytes) -> str | None:
    """Return `name` with an extension that matches its content.

    Media get an extension of their type. Other content keeps an extension of `DATA_EXTENSIONS`, and
    any other extension becomes `OTHER_EXTENSION`. An empty file, or an HTML page under the name of
    other data, is what hosts send in place of a file.

    Args:
        name: a name that `filenames.problem` accepts.
        beginning: the file's first `HEAD_BYTES`.

    Returns:
        None if the content does not match the name: it is empty, an HTML page, or not media
            although the name has a media extension or none.
    """
    stem, extension = _split(name)
    kind = media_type(beginning)
    if kind is not None:
        if extension in kind.extensions:
            return name
        return f"{stem if extension in MEDIA_EXTENSIONS else name}.{kind.extensions[0]}"
    if not beginning or not extension or extension in MEDIA_EXTENSIONS:
        return None
    if extension in DATA_EXTENSIONS - {"txt"} and _is_html(beginning):
        return None
    return name if extension in DATA_EXTENSIONS else f"{stem}.{OTHER_EXTENSION}"


def without_media_extension(name: str) -> str:
    """Return `name` without an extension that `name_to_save` may replace with another type's."""
    stem, extension = _split(name)
    return stem if extension in MEDIA_EXTENSIONS else name


def _split(name: str) -> tuple[str, str]:
    """Return the stem and the lower-case extension; the stem includes an invalid extension."""
    stem, _, extension = name.rpartition(".")
    if not stem or not _EXTENSION.fullmatch(extension):
        return name, ""
    return stem, extension.lower()


def _is_html(beginning: bytes) -> bool:
    return re.match(rb"(?i)(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html)\b", beginning) is not None


def _is_svg(beginning: bytes) -> bool:
    """Return whether the first element is `<svg>`, after a declaration and comments."""
    rest = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()
    while True:
        if rest.startswith(b"<!--"):
            end = b"-->"
        elif rest.startswith(b"<?"):
            end = b"?>"
        elif rest[:13].lower() == b"<!doctype svg":
            end = b">"
        else:
            return re.match(rb"<svg[\s>]", rest) is not None
        rest = rest.partition(end)[2].lstrip()
