"""Download of a batch's images into one folder, from Replicate's delivery hosts only.

A saved file's extension follows its content (`tasks/media.py`).
"""

import filecmp
import os
import secrets
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import httpx

from replicate_mcp.cli.main import OK, SOME_FAILED
from replicate_mcp.cli.options import DEFAULT_MAX_MB
from replicate_mcp.cli.printing import say
from replicate_mcp.errors import InvalidInput
from replicate_mcp.platform.files import remove_file, retry_while_held
from replicate_mcp.replicate_api.connection import connection_fault
from replicate_mcp.replicate_api.delivery import Delivery, DownloadFailed
from replicate_mcp.replicate_api.outputs import DELIVERY_HOST
from replicate_mcp.tasks import filenames, media
from replicate_mcp.tasks.result import BatchResult, GeneratedFile

MAX_CONCURRENT_DOWNLOADS = 8

ATTEMPTS = 3
"""Attempts per file when the connection or the host fails, or the content is no media file."""

RETRY_DELAY_SECONDS = 0.5
"""Pause before the second attempt; before the third, twice as long."""

_UNENCODED = {"Accept-Encoding": "identity"}

_EMPTY = "its host sent an empty file"

_NO_MEDIA = "its content is no image, nor video or audio: its host may have sent an error page"

_FILE_EXISTS = "a file of that name is there already (--overwrite replaces it)"


@dataclass(frozen=True, slots=True)
class NotSaved:
    """A file that was not saved, and the reason as a sentence without its final period."""

    filename: str
    reason: str


class CannotSave(Exception):
    """A file cannot be saved; the message is the reason."""


class Saver:
    """Downloads files into one folder."""

    def __init__(
        self,
        folder: Path,
        base_url: str,
        overwrite: bool = False,
        max_mb: int | None = None,
        *,
        number: bool = False,
    ) -> None:
        """Configure the target folder and the naming of files.

        Args:
            folder: target folder, created if missing.
            base_url: base URL of Replicate's API.
            overwrite: replace existing files.
            max_mb: maximum size of one file, in megabytes; None for `DEFAULT_MAX_MB`.
            number: append `_2`, `_3`, … if the name is taken. Without this and `overwrite`, an
                existing file is kept, and reported as a failure unless its content is the same.
        """
        self._folder = folder
        self._overwrite = overwrite
        self._number = number
        self._max_mb = max_mb or DEFAULT_MAX_MB
        self._owners: dict[str, int] = {}
        self._ended: dict[str, list[tuple[int, anyio.Event]]] = {}
        self._there = 0
        self._delivery = Delivery(base_url)

    async def save_and_report(self, result: BatchResult) -> int:
        """Save all files of a batch, report the outcome on stderr, and return the exit code."""
        files = [file for row in result.successful_results for file in row.generated_files]
        failed = await self.save(files)
        for each in failed:
            say(f"{each.filename} is not saved: {each.reason}.")
        saved = len(files) - len(failed) - self._there
        there = f"; {self._there} there already" if self._there else ""
        where = self._folder.resolve() if self._folder.name in ("", "..") else self._folder
        files_ = "1 file" if len(files) == 1 else f"{len(files)} files"
        say(f"Saved {saved} of {files_} in {where}{there}.")
        return SOME_FAILED if failed else OK

    async def save(self, files: Sequence[GeneratedFile]) -> list[NotSaved]:
        """Save `files` concurrently and return those that could not be saved.

        Raises:
            InvalidInput: the folder cannot be created or written to.
        """
        make_folder(self._folder)
        self._there = 0
        self._owners = {
            filenames.folded(file.filename): number for number, file in enumerate(files)
        }
        ended = [anyio.Event() for _ in files]
        self._ended = defaultdict(list)
        for number, file in enumerate(files):
            self._ended[_stem(file.filename)].append((number, ended[number]))
        failed: dict[int, NotSaved] = {}
        turns = anyio.CapacityLimiter(MAX_CONCURRENT_DOWNLOADS)

        async def one(number: int, file: GeneratedFile) -> None:
            async with turns:
                try:
                    await self._save(client, number, file)
                except CannotSave as unfit:
                    failed[number] = NotSaved(file.filename, str(unfit))
                except OSError as error:
                    failed[number] = NotSaved(file.filename, error.strerror or str(error))
                finally:
                    ended[number].set()

        try:
            client = await self._delivery.client()
        except DownloadFailed as reason:
            return [NotSaved(file.filename, str(reason)) for file in files]
        async with client, anyio.create_task_group() as group:
            for number, file in enumerate(files):
                group.start_soon(one, number, file)
        return [failed[number] for number in sorted(failed)]

    async def _save(self, client: httpx.AsyncClient, number: int, file: GeneratedFile) -> None:
        target = self._target(file.filename)
        if not self._delivery.is_output_url(file.url):
            raise CannotSave(f"its URL is not on {DELIVERY_HOST}: {file.url[:200]}")
        if file.expired:
            raise CannotSave("its URL has expired: Replicate deletes files after one hour")
        part = target.with_name(f".{secrets.token_hex(6)}.part")
        try:
            suiting = await self._fetch(client, file, part)
            # Files that want the same name get it in batch order, whichever download ends first.
            for earlier, has_ended in self._ended[_stem(file.filename)]:
                if earlier < number:
                    await has_ended.wait()
            name = await self._place(part, number, suiting)
            if name is None:
                self._there += 1
            elif name != file.filename:
                why = "the type of its content" if name == suiting else "the next free name"
                say(f"{file.filename} is saved as {name}, {why}.")
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(remove_file, part)

    def _target(self, filename: str) -> Path:
        # Validated when the batch started, but other programs can write to the journal's file.
        problem = filenames.problem(filename)
        target = self._folder / filename
        if problem is not None or target.parent != self._folder or target.name != filename:
            raise CannotSave(f"its name {problem or 'is no plain filename'}")
        return target

    async def _place(self, part: Path, number: int, name: str) -> str | None:
        """Move `part` to `name`, numbered if the name is taken; return the final name.

        Return None if a file with the same name and content exists and `number` is not set.
        """
        free, suffix = name, 2
        while True:
            if self._owners.setdefault(filenames.folded(free), number) == number:
                move = partial(self._move, part, self._folder / free)
                try:
                    await anyio.to_thread.run_sync(retry_while_held, move)
                    return free
                except FileExistsError:
                    if not self._number:
                        same = partial(_is_same, part, self._folder / free)
                        if await anyio.to_thread.run_sync(same):
                            return None
                        raise CannotSave(_FILE_EXISTS) from None
            free = filenames.with_suffix_number(name, suffix)
            suffix += 1

    def _move(self, part: Path, target: Path) -> None:
        """Move `part` to `target`.

        Raises:
            FileExistsError: `target` exists and must not be replaced.
        """
        target = _as_on_disk(target)
        if self._overwrite:
            part.replace(target)
            return
        try:
            # Unlike a rename, this fails if another process has just created the file.
            target.hardlink_to(part)
        except FileExistsError:
            raise
        except OSError:  # the file system has no hard links
            if os.path.lexists(target):
                raise FileExistsError(target) from None
            part.rename(target)

    async def _fetch(self, client: httpx.AsyncClient, file: GeneratedFile, part: Path) -> str:
        """Download the file into `part` and return the name with the extension of its content."""
        reason = ""
        for attempt in range(ATTEMPTS):
            await anyio.sleep(attempt * RETRY_DELAY_SECONDS)
            try:
                async with client.stream("GET", file.url, headers=_UNENCODED) as response:
                    if response.status_code in (404, 410):
                        raise CannotSave(
                            "its URL has expired: Replicate deletes files after one hour"
                        )
                    if response.status_code == 200:
                        beginning = await self._write(response, part)
                        if name := media.name_to_save(file.filename, beginning):
                            return name
                        reason = _NO_MEDIA if beginning else _EMPTY
                        continue
                    reason = f"its host answered {response.status_code}"
                    if response.status_code < 500 and response.status_code != 429:
                        break
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
                reason = str(await connection_fault(error, file.url))
            except httpx.HTTPError as error:
                reason = f"the connection failed ({str(error) or type(error).__name__})"
            except (httpx.InvalidURL, ValueError) as error:  # UnicodeError is a ValueError
                raise CannotSave(f"its URL cannot be used ({error})") from None
        raise CannotSave(reason)

    async def _write(self, response: httpx.Response, part: Path) -> bytes:
        """Write the response body into `part` and return its first bytes."""
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.strip().lower() != "identity":
            raise CannotSave(f"its host sent it encoded ({encoding}), which was not asked for")
        size, beginning = 0, b""
        async with await anyio.open_file(part, "wb") as file:
            # Raw chunks are never decompressed, whatever the headers say.
            async for chunk in response.aiter_raw():
                size += len(chunk)
                if size > self._max_mb * 1_000_000:
                    raise CannotSave(f"it is over {self._max_mb} MB (--max-mb allows more)")
                if len(beginning) < media.HEAD_BYTES:
                    beginning += chunk[: media.HEAD_BYTES - len(beginning)]
                await file.write(chunk)
        return beginning


def _as_on_disk(target: Path) -> Path:
    """Return the path of an existing file whose name differs only in its Unicode normal form.

    Return `target` if no such file exists. macOS treats both forms of `café.jpg` as one name;
    elsewhere they are two files that appear the same. Case is left to the file system.
    """
    if target.name.isascii() or os.path.lexists(target):
        return target
    name = unicodedata.normalize("NFC", target.name)
    with suppress(OSError):  # A writable folder is not always listable.
        for each in target.parent.iterdir():
            if unicodedata.normalize("NFC", each.name) == name:
                return each
    return target


def _is_same(part: Path, target: Path) -> bool:
    """Return whether `target` is a regular file, not a link, with the same content as `part`."""
    target = _as_on_disk(target)
    is_file = target.is_file() and not target.is_symlink()
    return is_file and filecmp.cmp(part, target, shallow=False)


def make_folder(folder: Path, names: Iterable[str] = ()) -> None:
    """Create the folder if it is missing, and check that files can be created in it.

    Args:
        folder: folder to create and check.
        names: filenames to be saved there; invalid ones are skipped.

    Raises:
        InvalidInput: the folder cannot be created or written to, or a name is too long for it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"The folder {folder} cannot be made: {error.strerror}.") from None
    try:
        _try_to_write(folder / ".replicate-mcp")
    except OSError as error:
        raise InvalidInput(f"The folder {folder} cannot be written to: {error.strerror}.") from None
    fitting = [name for name in names if filenames.problem(name) is None]
    # Some file systems limit names in bytes, others in UTF-16 code units.
    for encoding in ("utf-8", "utf-16") if fitting else ():
        name = max(fitting, key=lambda name: len(name.encode(encoding)))
        try:
            _try_to_write(folder / name)
        except OSError as error:
            raise InvalidInput(
                f"The name {name} is too long for --out ({error.strerror}): give the image a "
                f"shorter one, or choose another folder than {folder}."
            ) from None


def _try_to_write(path: Path) -> None:
    """Create a file named `path` plus 8 random characters, and remove it again.

    The extra characters leave space for a number and an extension. Only writing shows what is
    writable: macOS and Windows protect some folders by other means than modes. `tempfile` is not
    used because on Windows it tries 10,000 names in a folder that is not writable.

    Raises:
        OSError: the file cannot be created.
    """
    tried = path.with_name(f"{path.name}{secrets.token_hex(4)}")
    with tried.open("xb"):
        pass
    remove_file(tried)


def _stem(name: str) -> str:
    """Return the case-folded name without its media extension, which may still change."""
    return filenames.folded(media.without_media_extension(name))
