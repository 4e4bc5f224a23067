"""Upload of a batch's images to Replicate, each once, before anything is created."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread

from replicate_mcp.batches.local_images import Image, LocalImages
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.concurrency import for_each
from replicate_mcp.replicate_api.error_policy import to_public_error
from replicate_mcp.replicate_api.exceptions import ReplicateApiError
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.tasks.media import MEDIA_TYPES, OTHER_EXTENSION, extension_of_type

MAX_CONCURRENT_UPLOADS = 3
"""Each upload holds its image in memory, up to 100 MB."""


async def upload_images(
    tasks: Sequence[PlannedTask], images: LocalImages, gateway: Gateway
) -> Sequence[PlannedTask]:
    """Return the tasks with each image's URL at Replicate in place of its local URI.

    Raises:
        ReplicateMcpError: an image could not be uploaded; nothing was created.
    """
    if not images.found:
        return tasks
    urls = await _uploaded(images.found, gateway)

    def settled(value: Any) -> Any:
        if isinstance(value, list):
            return [settled(each) for each in value]
        if isinstance(value, dict):
            return {name: settled(each) for name, each in value.items()}
        return urls.get(value, value) if isinstance(value, str) else value

    return [
        replace(task, inputs={name: settled(value) for name, value in task.inputs.items()})
        for task in tasks
    ]


async def _uploaded(images: Mapping[str, Image], gateway: Gateway) -> dict[str, str]:
    """Return the URL of each image, by its local URI."""
    one_of_each = {image.digest: image for image in images.values()}
    urls: dict[str, str] = {}
    limiter = anyio.CapacityLimiter(MAX_CONCURRENT_UPLOADS)

    async def upload(image: Image) -> None:
        async with limiter:
            content = await anyio.to_thread.run_sync(image.read)
            # Not the image's filename on this machine, which may reveal more than the image does.
            name = f"{image.digest[:16]}.{_extension(image.kind)}"
            try:
                urls[image.digest] = await gateway.upload(content, name, image.kind)
            except ReplicateApiError as fault:
                error = to_public_error(fault)
                raise type(error)(
                    f"{image.where} could not be uploaded, so nothing was created. {error}"
                ) from None

    await for_each(one_of_each.values(), upload)
    return {uri: urls[image.digest] for uri, image in images.items()}


def _extension(kind: str) -> str:
    is_known = any(each.name == kind for each in MEDIA_TYPES)
    return extension_of_type(kind) if is_known else OTHER_EXTENSION
