"""Context of the routes: state, serializers, webhooks and drawing."""

import asyncio
import base64
import binascii
import random
import re
from urllib.parse import unquote_to_bytes

from replicate_mcp.simulator.drawing import Picture, picture_size
from replicate_mcp.simulator.editing import Edit, Recipe, render
from replicate_mcp.simulator.engine.clock import Clock
from replicate_mcp.simulator.engine.predictions import Creation, Prediction
from replicate_mcp.simulator.engine.world import World
from replicate_mcp.simulator.serializers import Representations
from replicate_mcp.simulator.settings import SimulatorSettings
from replicate_mcp.simulator.webhooks import Webhooks

_MAX_CONCURRENT_DRAWINGS = 2
CONTENT_TYPES = {
    "webp": "image/webp",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "svg": "image/svg+xml",
}
_OUTPUT_PATH = re.compile(r"/delivery/([^/]+)/out-(\d{1,3})(?:\.\w+)?")
_FILE_PATH = re.compile(r"/v1/files/([^/?]+)")


class Simulation:
    """Simulated Replicate in a running event loop."""

    def __init__(self, settings: SimulatorSettings, clock: Clock, base_url: str) -> None:
        self.world = World(settings, clock)
        self.representations = Representations(self.world, base_url)
        self.webhooks = Webhooks(self.world, self.representations, self.happens)
        self.world.announce = self.webhooks.announce
        self._rng = random.Random(f"answers {settings.seed}")  # noqa: S311 - reproducible
        self._drawing = asyncio.Semaphore(_MAX_CONCURRENT_DRAWINGS)

    def happens(self, rate: float) -> bool:
        """Return whether an event of this rate happens now."""
        return rate > 0 and self._rng.random() < rate

    async def draw(self, picture: Recipe) -> bytes:
        """Make an image in a thread, without blocking other requests."""
        async with self._drawing:
            return await asyncio.to_thread(render, picture)

    def edit(self, asked: Creation) -> Edit | None:
        """Return the edit that a creation requests; None for a model with a prompt."""
        model, given = asked.model, asked.input
        if model.effect is None:
            return None
        source = self._source(str(given["image"]), asked)
        defaults = {each.name: each.default for each in model.inputs}
        scale = given.get("scale", defaults.get("scale", model.scale))
        background = given.get("background_type")
        return Edit(
            model.effect,
            source,
            model.file_format(given),
            scale=float(scale or model.scale),
            background=background if isinstance(background, str) else "rgba",
            reverse=given.get("reverse") is True,
            max_pixels=model.max_pixels,
        )

    def _source(self, url: str, asked: Creation) -> Recipe:
        """Return the image at a URL: a data URI, an output, or a file of the account.

        Nothing is downloaded: an image hosted elsewhere is drawn with its URL as the prompt.
        """
        if url[:5].lower() == "data:":
            return _decoded(url)
        path = url.removeprefix(self.representations.base_url)
        if path != url and (found := _OUTPUT_PATH.fullmatch(path)):
            prediction = self.world.predictions.get(found[1])
            return b"" if prediction is None else self.picture(prediction, int(found[2]))
        if path != url and (found := _FILE_PATH.fullmatch(path)):
            return self.world.file_content(found[1], asked.account)
        return Picture(url, 0, 1024, 1024, "png", "an image elsewhere")

    def picture(self, prediction: Prediction, index: int) -> Recipe:
        """Return the image in a file of a prediction."""
        if prediction.asked.edit is not None:
            return prediction.asked.edit
        model, given = prediction.asked.model, prediction.asked.input
        caption = model.layers[index] if model.layers else model.name
        width, height = picture_size(given)
        return Picture(
            str(given.get("prompt", "")),
            prediction.seed + index,
            width,
            height,
            model.file_format(given),
            caption,
        )

    async def data_urls(self, prediction: Prediction) -> object:
        """Return the output with data URLs, as Replicate sometimes does for held creations."""
        output = self.representations.output(prediction)
        if not output:
            return output
        model = prediction.asked.model
        kind = CONTENT_TYPES[model.file_format(prediction.asked.input)]
        urls = []
        for index in range(model.file_count(prediction.asked.input)):
            image = await self.draw(self.picture(prediction, index))
            urls.append(f"data:{kind};base64,{base64.b64encode(image).decode()}")
        if isinstance(output, dict):
            return dict(zip(output, urls, strict=True))
        return urls if isinstance(output, list) else urls[0]

    async def close(self) -> None:
        """End all predictions and webhook deliveries."""
        self.world.reset()
        await self.webhooks.close()


def _decoded(uri: str) -> bytes:
    """Return the content of a data URI; empty if it is malformed."""
    head, _, content = uri.partition(",")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(content)
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        return b""
