"""Saves a batch's images on this machine: from Replicate's own hosts only, into one folder only."""

import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx

from replicate_mcp.cli.main import OK, SOME_FAILED
from replicate_mcp.errors import InvalidInput
from replicate_mcp.replicate_api.delivery import DELIVERY_HOST, Delivery, NotDelivered
from replicate_mcp.tasks import filenames
from replicate_mcp.tasks.result import BatchResult, GeneratedFile

AT_ONCE = 8

ATTEMPTS = 3
"""Of one file, where the connection or Replicate fails."""


@dataclass(frozen=True, slots=True)
class NotSaved:
    """A file that is not on this machine, and why, as a sentence without its full stop."""

    filename: str
    reason: str


class _Unfit(Exception):
    """Why a file cannot be saved, now or later."""


class Saver:
    """Saves files into one folder."""

    def __init__(self, folder: Path, base_url: str, overwrite: bool = False) -> None:
        """Args: overwrite: replace files that are there already."""
        self._folder = folder
        self._overwrite = overwrite
        self._delivery = Delivery(base_url)

    async def save_and_tell(self, result: BatchResult) -> int:
        """Save all files of a batch, say on stderr what became of them, and give the exit code."""
        files = [file for row in result.successful_results for file in row.generated_files]
        failed = await self.save(files)
        for each in failed:
            print(f"{each.filename} is not saved: {each.reason}.", file=sys.stderr)
        saved = len(files) - len(failed)
        print(f"Saved {saved} of {len(files)} files in {self._folder}.", file=sys.stderr)
        return SOME_FAILED if failed else OK

    async def save(self, files: Sequence[GeneratedFile]) -> list[NotSaved]:
        """Save files, some at once; gives those that could not be.

        Raises:
            InvalidInput: the folder cannot be made.
        """
        make_folder(self._folder)
        failed: dict[int, NotSaved] = {}
        turns = anyio.CapacityLimiter(AT_ONCE)

        async def one(number: int, file: GeneratedFile) -> None:
            async with turns:
                try:
                    await self._save(client, file)
                except _Unfit as unfit:
                    failed[number] = NotSaved(file.filename, str(unfit))
                except OSError as error:
                    failed[number] = NotSaved(file.filename, error.strerror or str(error))

        try:
            client = self._delivery.client()
        except NotDelivered as reason:
            return [NotSaved(file.filename, str(reason)) for file in files]
        async with client, anyio.create_task_group() as group:
            for number, file in enumerate(files):
                group.start_soon(one, number, file)
        return [failed[number] for number in sorted(failed)]

    async def _save(self, client: httpx.AsyncClient, file: GeneratedFile) -> None:
        target = self._target(file.filename)
        if not self._delivery.serves(file.url):
            raise _Unfit(f"its URL is not on {DELIVERY_HOST}: {file.url[:200]}")
        if file.expired:
            raise _Unfit("its URL has expired: Replicate deletes files after one hour")
        self._check_free(target)
        part = target.with_name(f".{secrets.token_hex(6)}.part")
        try:
            await self._fetch(client, file.url, part)
            self._check_free(target)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def _target(self, filename: str) -> Path:
        # Checked before the batch began; the journal is a file, though, that others could write.
        problem = filenames.problem(filename)
        target = self._folder / filename
        if problem is not None or target.parent != self._folder or target.name != filename:
            raise _Unfit(f"its name {problem or 'is no plain filename'}")
        return target

    def _check_free(self, target: Path) -> None:
        if not self._overwrite and os.path.lexists(target):
            raise _Unfit("a file of that name is there already (--overwrite replaces it)")

    async def _fetch(self, client: httpx.AsyncClient, url: str, part: Path) -> None:
        reason = ""
        for attempt in range(ATTEMPTS):
            await anyio.sleep(attempt * 0.5)
            try:
                async with client.stream("GET", url) as response:
                    if response.status_code in (404, 410):
                        raise _Unfit("its URL has expired: Replicate deletes files after one hour")
                    if response.status_code == 200:
                        async with await anyio.open_file(part, "wb") as file:
                            async for chunk in response.aiter_bytes():
                                await file.write(chunk)
                        return
                    reason = f"its host answered {response.status_code}"
                    if response.status_code < 500 and response.status_code != 429:
                        break
            except httpx.TransportError as error:
                reason = f"the connection failed ({str(error) or type(error).__name__})"
        raise _Unfit(reason)


def make_folder(folder: Path) -> None:
    """Make the folder where it is not there.

    Raises:
        InvalidInput: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"The folder {folder} cannot be made: {error.strerror}.") from None
    if not os.access(folder, os.W_OK):
        raise InvalidInput(f"The folder {folder} cannot be written to.")


def refuse_taken_names(folder: Path, tasks: Sequence[Any], *, overwrite: bool) -> None:
    """Say before anything is made, and billed, that its file could not be saved.

    Raises:
        InvalidInput: the folder cannot be made, or has a file of a name that is to be made.
    """
    make_folder(folder)
    if overwrite:
        return
    there = {_stem(each.name): each.name for each in folder.iterdir()}
    for index, task in enumerate(tasks):
        given = task.get("output_filename") if isinstance(task, dict) else None
        name = given if isinstance(given, str) and given else filenames.default_name(index)
        if (taken := there.get(_stem(name))) is not None:
            raise InvalidInput(
                f"{folder} has a file {taken} already, so nothing was made: give another name "
                "(--filename), another folder, or --overwrite to replace files."
            )


def _stem(name: str) -> str:
    """A name without its image extension, which may turn out to be another."""
    stem, _, _ = name.rpartition(".")
    return (stem if stem and filenames.requested_format(name) else name).casefold()
