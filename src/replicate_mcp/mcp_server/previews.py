"""Thumbnails in a tool's answer, which let a model see the images."""

import base64
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from mcp_types import Annotations, CallToolResult, ImageContent, TextContent

from replicate_mcp.mcp_server.thumbnail import MIME_TYPE, ThumbnailError, thumbnail
from replicate_mcp.replicate_api.delivery import Delivery, DownloadFailed, Fetch

if TYPE_CHECKING:
    from replicate_mcp.tasks.result import BatchResult, GeneratedFile

MAX_THUMBNAILS = 24
"""Maximum thumbnails in an answer.

With at most 12,000 bytes each, they are 384,000 characters of base64. A host refuses an answer of
1,048,576, and a model pays some 90 tokens for each.
"""

URL_KEY = "replicate-mcp/url"
"""Key of a thumbnail's `_meta` with its image's URL.

The gallery shows the thumbnail if it may not load the image.
"""

SECONDS = 6.0
"""Seconds for all thumbnails of an answer: of a host's 60 s, up to 50 may have passed."""

MAX_CONCURRENT_DOWNLOADS = 4
"""Files downloaded concurrently by all calls of the process, each held in memory.

Only one at a time is decoded: a decoded image takes much more memory than its file.
"""

MAX_SOURCE_BYTES = 24 * 2**20

WITHOUT_PILLOW = (
    "There are no thumbnails: this server was installed without the package for them "
    "(pip install pillow)."
)


class Previews:
    """Thumbnails of downloaded images, for answers of tools."""

    def __init__(self, base_url: str) -> None:
        """Create a source of thumbnails.

        Args:
            base_url: the base URL of Replicate's API.
        """
        self._delivery = Delivery(base_url)
        self._fetching = anyio.CapacityLimiter(MAX_CONCURRENT_DOWNLOADS)
        self._decoding = anyio.CapacityLimiter(1)

    async def add_to(self, answer: CallToolResult, result: "BatchResult") -> CallToolResult:
        """Return `answer` with a thumbnail for each file of its page, and a line that lists them.

        A file without a thumbnail is listed with the reason; it does not fail the call.
        """
        files = [
            file
            for row in result.successful_results
            for file in row.generated_files
            if not file.expired
        ]
        if not files:
            return answer
        if find_spec("PIL") is None:
            return _with(answer, [WITHOUT_PILLOW], [])
        seen = await self._seen(files[:MAX_THUMBNAILS])
        shown = [(file, each) for file, each in seen if isinstance(each, bytes)]
        lines = [
            f"No thumbnail of {file.filename}: {why}." for file, why in seen if type(why) is str
        ]
        if shown:
            names = ", ".join(file.filename for file, _ in shown)
            lines.insert(0, f"Thumbnails, in this order: {names}.")
        if len(files) > MAX_THUMBNAILS:
            lines.append(
                f"{len(files) - MAX_THUMBNAILS} more files have no thumbnail here: ask for fewer."
            )
        return _with(answer, lines, shown)

    async def _seen(
        self, files: "Sequence[GeneratedFile]"
    ) -> "list[tuple[GeneratedFile, bytes | str]]":
        """Return each file with its thumbnail, or with the reason why it has none."""
        found: dict[int, bytes | str] = {}

        async def one(number: int, file: "GeneratedFile") -> None:
            try:
                found[number] = await self._thumbnail(fetch, file.url)
            except (DownloadFailed, ThumbnailError) as reason:
                found[number] = str(reason)

        missing = f"it did not arrive within {SECONDS:.0f} s"
        with anyio.move_on_after(SECONDS):
            try:
                async with self._delivery.fetching() as fetch, anyio.create_task_group() as group:
                    for number, file in enumerate(files):
                        group.start_soon(one, number, file)
            except DownloadFailed as none_of_them:
                missing = str(none_of_them)
        return [(file, found.get(number, missing)) for number, file in enumerate(files)]

    async def _thumbnail(self, fetch: Fetch, url: str) -> bytes:
        async with self._fetching:
            data = await fetch(url, MAX_SOURCE_BYTES)
            return await anyio.to_thread.run_sync(
                thumbnail, data, abandon_on_cancel=True, limiter=self._decoding
            )


def _with(
    answer: CallToolResult,
    lines: Sequence[str],
    thumbnails: "Sequence[tuple[GeneratedFile, bytes]]",
) -> CallToolResult:
    (text,) = answer.content
    assert isinstance(text, TextContent)
    lines_text = "\n".join([text.text, *lines])
    for_the_model = Annotations(audience=["assistant"])
    images = [
        ImageContent(
            type="image",
            data=base64.b64encode(each).decode(),
            mime_type=MIME_TYPE,
            annotations=for_the_model,
            _meta={URL_KEY: file.url},
        )
        for file, each in thumbnails
    ]
    content = [TextContent(type="text", text=lines_text), *images]
    return answer.model_copy(update={"content": content})
