"""Saves a batch's images on this machine: from Replicate's own hosts only, into one folder only.

Of a file's name, the extension is left to its content (`tasks/media.py`).
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
"""Of one file, where the connection or Replicate fails, or the content is an error page."""

_UNENCODED = {"Accept-Encoding": "identity"}

_EMPTY = "its host sent an empty file"

_NO_MEDIA = "its content is no image, nor video or audio: its host may have sent an error page"

_FILE_EXISTS = "a file of that name is there already (--overwrite replaces it)"


@dataclass(frozen=True, slots=True)
class NotSaved:
    """A file that is not on this machine, and why, as a sentence without its full stop."""

    filename: str
    reason: str


class CannotSave(Exception):
    """Why a file cannot be saved, now or later."""


class Saver:
    """Saves files into one folder."""

    def __init__(
        self,
        folder: Path,
        base_url: str,
        overwrite: bool = False,
        max_mb: int | None = None,
        *,
        number: bool = False,
    ) -> None:
        """Configure where files go.

        Args:
            folder: made where it is not there.
            base_url: of Replicate's API.
            overwrite: replace files that are there already.
            max_mb: most megabytes of one file; None for the default.
            number: take the next free name, `_2`, `_3`, where a file has the name already; without
                it, and without `overwrite`, such a file is not saved, and a failure unless the
                content of both is the same.
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
        """Save all files of a batch, say on stderr what became of them, and give the exit code."""
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
        """Save files, some at once; gives those that could not be.

        Raises:
            InvalidInput: the folder cannot be made.
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
            # Which of two files gets a name may not depend on which came first.
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
        # Checked before the batch began; the journal is a file, though, that others could write.
        problem = filenames.problem(filename)
        target = self._folder / filename
        if problem is not None or target.parent != self._folder or target.name != filename:
            raise CannotSave(f"its name {problem or 'is no plain filename'}")
        return target

    async def _place(self, part: Path, number: int, name: str) -> str | None:
        """Move `part` to `name`, numbered where another file has that name; return the name.

        None where a file with the same name and content is there, and no next name is taken.
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
            FileExistsError: a file is there, which may not be replaced.
        """
        target = _as_on_disk(target)
        if self._overwrite:
            part.replace(target)
            return
        try:
            # Unlike a rename, this fails where another process has just made the file.
            target.hardlink_to(part)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(target):
                raise FileExistsError(target) from None
            part.rename(target)

    async def _fetch(self, client: httpx.AsyncClient, file: GeneratedFile, part: Path) -> str:
        """Write the file's content into `part`, and return the name that suits it."""
        reason = ""
        for attempt in range(ATTEMPTS):
            await anyio.sleep(attempt * 0.5)
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
        """Write a body into `part`, and return its beginning."""
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.strip().lower() != "identity":
            raise CannotSave(f"its host sent it encoded ({encoding}), which was not asked for")
        size, beginning = 0, b""
        async with await anyio.open_file(part, "wb") as file:
            # Raw, so that nothing is decoded, whatever a header says.
            async for chunk in response.aiter_raw():
                size += len(chunk)
                if size > self._max_mb * 1_000_000:
                    raise CannotSave(f"it is over {self._max_mb} MB (--max-mb allows more)")
                if len(beginning) < media.HEAD_BYTES:
                    beginning += chunk[: media.HEAD_BYTES - len(beginning)]
                await file.write(chunk)
        return beginning


def _as_on_disk(target: Path) -> Path:
    """Return `target` as the file is called that is there already, in whatever normal form.

    macOS takes both forms of `café.jpg` for one name; elsewhere they are two files that look the
    same. Upper and lower case are left to the file system.
    """
    if target.name.isascii() or os.path.lexists(target):
        return target
    name = unicodedata.normalize("NFC", target.name)
    with suppress(OSError):  # Not every folder that can be written to can be listed.
        for each in target.parent.iterdir():
            if unicodedata.normalize("NFC", each.name) == name:
                return each
    return target


def _is_same(part: Path, target: Path) -> bool:
    """Return whether `target` is a file, and no link, with the content of `part`."""
    target = _as_on_disk(target)
    is_file = target.is_file() and not target.is_symlink()
    return is_file and filecmp.cmp(part, target, shallow=False)


def make_folder(folder: Path, names: Iterable[str] = ()) -> None:
    """Make the folder where it is not there, and check that files can be made in it.

    Args:
        names: of files to be saved there; those that cannot be filenames are passed over.

    Raises:
        InvalidInput: the folder cannot be made or written to, or a name is too long for it.
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
    # Some file systems count bytes, and others UTF-16's units.
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
    """Make a file and remove it again; its name is `path`'s with room for a number and extension.

    What may be written is known by writing: macOS and Windows guard folders of their own.
    `tempfile` is not used: on Windows it tries 10,000 names where it may not write.

    Raises:
        OSError: such a file cannot be made.
    """
    tried = path.with_name(f"{path.name}{secrets.token_hex(4)}")
    with tried.open("xb"):
        pass
    remove_file(tried)


def _stem(name: str) -> str:
    """A name without its media extension, which may turn out to be another."""
    return filenames.folded(media.without_media_extension(name))
