"""Models, deployments and collections of the simulator, loaded from `models.json`.

In that file an input is an object with `Input`'s fields, or the name of one in `shared_inputs`.
"""

import json
from importlib import resources
from typing import Any

from replicate_mcp.simulator.input_schemas import Input
from replicate_mcp.simulator.models import Deployment, Model


def _load_models() -> tuple[Model, ...]:
    folder = resources.files("replicate_mcp.simulator")
    document: dict[str, Any] = json.loads(folder.joinpath("models.json").read_text("utf-8"))
    shared = document["shared_inputs"]
    return tuple(
        _load_model(model_id, entry, shared) for model_id, entry in document["models"].items()
    )


def _load_model(model_id: str, entry: dict[str, Any], shared: dict[str, Any]) -> Model:
    owner, name = model_id.split("/")
    fields = {**entry, "layers": tuple(entry.get("layers", ()))}
    fields["inputs"] = tuple(
        _load_input(name, shared[given] if isinstance(given, str) else given)
        for name, given in entry["inputs"].items()
    )
    return Model(owner=owner, name=name, **fields)


def _load_input(name: str, given: dict[str, Any]) -> Input:
    return Input(name, **{**given, "enum": tuple(given.get("enum", ()))})


MODELS = _load_models()
MODELS_BY_ID = {model.id: model for model in MODELS}
MODELS_BY_VERSION = {model.version: model for model in MODELS}

DEPLOYMENTS: tuple[Deployment, ...] = (
    Deployment("acme", "fast-flux", MODELS_BY_ID["black-forest-labs/flux-schnell"]),
)
DEPLOYMENTS_BY_ID = {deployment.id: deployment for deployment in DEPLOYMENTS}

TEXT_TO_IMAGE = tuple(model for model in MODELS if not model.effect and not model.layers)
"""Models of the collection `text-to-image`."""
