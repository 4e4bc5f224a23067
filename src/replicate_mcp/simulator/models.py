"""Simulated models and deployments."""

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
    """Model with its inputs, its outputs and its typical duration."""

    owner: str
    name: str
    description: str
    output: OutputShape
    inputs: tuple[Input, ...]
    count_input: str | None = None
    """Input that sets the number of images."""
    default_format: str = "webp"
    """Format of the files if the inputs request none."""
    format_input: str = "output_format"
    """Input that sets the format of the files."""
    typical_seconds: float = 3.0
    is_official: bool = True
    run_count: int = 1_000_000
    layers: tuple[str, ...] = ()
    """Keys of a dict output."""
    effect: Effect | None = None
    """Edit of the input `image` by a model without a prompt; None for a model with one."""
    scale: float = 1
    """Default factor of an upscaler."""
    max_pixels: int | None = None
    """Maximum size of the input image, above which the model fails; None for no maximum."""

    @cached_property
    def id(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"

    @cached_property
    def version(self) -> str:
        """Id of the only version: 64 hexadecimal digits."""
        return hashlib.sha256(f"{self.id} 1".encode()).hexdigest()

    @cached_property
    def input_schema(self) -> JSON:
        """Schema of the inputs with inlined enums, for validation."""
        return input_schemas(self.inputs, inline=True)["Input"]

    @cached_property
    def openapi_schema(self) -> JSON:
        """OpenAPI document of the version, with enums as separate schemas."""
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
        """OpenAPI document whose list output is an iterator, filled while the model runs."""
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
        """Return the file extension that these inputs result in."""
        chosen = given.get(self.format_input)
        return chosen if chosen in IMAGE_FORMATS else self.default_format

    def file_count(self, given: Mapping[str, object]) -> int:
        """Return the number of files that these inputs result in."""
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
    """Model kept warm under its owner's name."""

    owner: str
    name: str
    model: Model
    hardware: str = "gpu-l40s"

    @property
    def id(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"
