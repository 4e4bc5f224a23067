"""What a model and a deployment are: what goes in, what comes out, and how long that takes."""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from replicate_mcp.simulator.input_schemas import Input, input_schemas

JSON = dict[str, Any]
IMAGE_FORMATS = ("webp", "png", "jpg", "jpeg")
OutputShape = Literal["list", "single", "dict"]
Effect = Literal["remove_background", "upscale", "vectorize"]


@dataclass(frozen=True, eq=False)
class Model:
    """One model: what goes in, what comes out, and how long that takes."""

    owner: str
    name: str
    description: str
    output: OutputShape
    inputs: tuple[Input, ...]
    count_input: str | None = None
    """The input that says how many images a prediction makes."""
    default_format: str = "webp"
    """The format of its files where no other is asked for."""
    format_input: str = "output_format"
    """The input that says in which format its files are."""
    typical_seconds: float = 3.0
    is_official: bool = True
    run_count: int = 1_000_000
    layers: tuple[str, ...] = ()
    """The keys of an output that is a dict."""
    effect: Effect | None = None
    """What it makes of the image in its input `image`, where it takes no prompt."""
    scale: float = 1
    """By which an upscaler enlarges, where its inputs do not say it."""
    max_pixels: int | None = None
    """Of its image: it fails for a larger one."""

    @cached_property
    def id(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"

    @cached_property
    def version(self) -> str:
        """The id of its latest and only version, 64 hexadecimal digits."""
        return hashlib.sha256(f"{self.id} 1".encode()).hexdigest()

    @cached_property
    def input_schema(self) -> JSON:
        """The schema of its inputs with enums in place, to check against."""
        return input_schemas(self.inputs, inline=True)["Input"]

    @cached_property
    def openapi_schema(self) -> JSON:
        """The document that a version carries, with enums as schemas of their own."""
        return {
            "openapi": "3.0.2",
            "info": {"title": "Cog", "version": "0.1.0"},
            "paths": {},
            "components": {
                "schemas": {
                    **input_schemas(self.inputs, inline=False),
                    "Output": self._output_schema,
                }
            },
        }

    @cached_property
    def iterator_schema(self) -> JSON:
        """The same where a list is given one by one, while the model runs."""
        document = copy.deepcopy(self.openapi_schema)
        if self.output == "list":
            document["components"]["schemas"]["Output"]["x-cog-array-type"] = "iterator"
        return document

    @property
    def _output_schema(self) -> JSON:
        uri = {"type": "string", "format": "uri"}
        match self.output:
            case "list":
                return {"type": "array", "items": uri, "title": "Output"}
            case "dict":
                return {
                    "type": "object",
                    "title": "Output",
                    "required": list(self.layers),
                    "properties": {
                        name: {**uri, "title": name.capitalize()} for name in self.layers
                    },
                }
            case "single":
                return {**uri, "title": "Output"}

    def file_format(self, given: Mapping[str, object]) -> str:
        """The extension of the files that these inputs make."""
        chosen = given.get(self.format_input)
        return chosen if chosen in IMAGE_FORMATS else self.default_format

    def file_count(self, given: Mapping[str, object]) -> int:
        """How many files these inputs make."""
        if self.layers:
            return len(self.layers)
        count = given.get(self.count_input) if self.count_input else None
        if self.count_input == "max_images" and (
            given.get("sequential_image_generation") != "auto"
        ):
            return 1
        return count if isinstance(count, int) else 1


@dataclass(frozen=True)
class Deployment:
    """A model kept warm under a name of its owner."""

    owner: str
    name: str
    model: Model
    hardware: str = "gpu-l40s"

    @property
    def id(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"
