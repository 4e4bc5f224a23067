"""What the routes work on: the world, how it is written down, and what it draws."""

import asyncio
import base64
import random

from replicate_mcp.simulator.clock import Clock
from replicate_mcp.simulator.drawing import Picture, draw, picture_size
from replicate_mcp.simulator.predictions import Prediction
from replicate_mcp.simulator.representations import Representations
from replicate_mcp.simulator.settings import SimulatorSettings
from replicate_mcp.simulator.webhooks import Webhooks
from replicate_mcp.simulator.world import World

_DRAWN_AT_ONCE = 2
CONTENT_TYPES = {
    "webp": "image/webp",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
}


class Simulation:
    """One simulated Replicate, in a running event loop."""

    def __init__(self, settings: SimulatorSettings, clock: Clock, base_url: str) -> None:
        self.world = World(settings, clock)
        self.representations = Representations(self.world, base_url)
        self.webhooks = Webhooks(self.world, self.representations, self.happens)
        self.world.announce = self.webhooks.announce
        self._rng = random.Random(f"answers {settings.seed}")  # noqa: S311 - the same again
        self._drawing = asyncio.Semaphore(_DRAWN_AT_ONCE)

    def happens(self, rate: float) -> bool:
        """Whether something of this rate happens now."""
        return rate > 0 and self._rng.random() < rate

    async def draw(self, picture: Picture) -> bytes:
        """Draw without holding up other requests."""
        async with self._drawing:
            return await asyncio.to_thread(draw, picture)

    def picture(self, prediction: Prediction, index: int) -> Picture:
        """The picture that a file of a prediction shows."""
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
        """The output with its files in place, as held creations have been seen to answer it."""
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
        """End what is under way."""
        self.world.reset()
        await self.webhooks.close()
