"""JSON representations of Replicate's resources."""

import hashlib
from collections.abc import Iterable
from typing import Any

from replicate_mcp.simulator.engine.accounts import Account
from replicate_mcp.simulator.engine.clock import timestamp
from replicate_mcp.simulator.engine.predictions import Prediction
from replicate_mcp.simulator.engine.world import World
from replicate_mcp.simulator.models import Deployment, Model

JSON = dict[str, Any]
_RELEASED = "2025-11-03T10:15:30.123456Z"
_FILE_LIFE_SECONDS = 24 * 3600
"""Time for which Replicate keeps an uploaded file."""


class Representations:
    """Serializers with URLs below one base URL and times on the world's clock."""

    def __init__(self, world: World, base_url: str) -> None:
        self._world = world
        self._bound_url = base_url

    @property
    def base_url(self) -> str:
        """URL at which clients reach the simulator, without a trailing slash."""
        return self._world.settings.public_url.rstrip("/") or self._bound_url

    def prediction(self, prediction: Prediction, *, in_list: bool = False) -> JSON:
        """Return a prediction; `in_list` leaves out its deadline unless the settings list them."""
        world, asked = self._world, prediction.asked
        settings = world.settings
        offset = settings.clock_offset_seconds
        removed = prediction.data_is_removed(world.clock.now(), settings.retention_seconds)
        url = f"{self.base_url}/v1/predictions/{prediction.id}"
        answer: JSON = {
            "id": prediction.id,
            "model": asked.model.id,
            "version": asked.version,
            "input": {} if removed else asked.input,
            "logs": prediction.logs,
            "output": None if removed else self.output(prediction),
            "data_removed": removed,
            "error": prediction.error,
            "source": "api",
            "status": prediction.status.value,
            "created_at": timestamp(prediction.created + offset),
            "urls": {
                "get": url,
                "cancel": f"{url}/cancel",
                "web": f"https://replicate.com/p/{prediction.id}",
            },
        }
        if asked.deployment is not None:
            answer["deployment"] = asked.deployment.id
        if prediction.deadline is not None and (settings.list_deadlines or not in_list):
            answer["deadline"] = timestamp(prediction.deadline + offset)
        if prediction.started is not None:
            answer["started_at"] = timestamp(prediction.started + offset)
        if prediction.ended is not None:
            answer["completed_at"] = timestamp(prediction.ended + offset)
            if prediction.started is not None and prediction.destiny.has_metrics:
                answer["metrics"] = {
                    "predict_time": prediction.ended - prediction.started,
                    "total_time": prediction.ended - prediction.created,
                }
        return answer

    def output(self, prediction: Prediction) -> object:
        """Return the URLs of the files made so far, in the shape of the model's output."""
        model = prediction.asked.model
        shown = prediction.files_shown(self._world.clock.now())
        if prediction.output_ready and prediction.destiny.words is not None:
            return prediction.destiny.words
        if not shown:
            return [] if prediction.output_ready and model.output == "list" else None
        urls = [self._delivery_url(prediction, index) for index in range(shown)]
        match model.output:
            case "list":
                return urls
            case "dict":
                return dict(zip(model.layers, urls, strict=True))
            case "single":
                return urls[0]

    def _delivery_url(self, prediction: Prediction, index: int) -> str:
        url = f"{self.base_url}/delivery/{prediction.id}/out-{index}"
        if not self._world.settings.delivery_extensions:
            return url
        return f"{url}.{prediction.asked.model.file_format(prediction.asked.input)}"

    def page(
        self,
        predictions: Iterable[Prediction],
        *,
        next_url: str | None = None,
        previous_url: str | None = None,
    ) -> JSON:
        """Return a page of the list of predictions."""
        results = [self.prediction(prediction, in_list=True) for prediction in predictions]
        return {"previous": previous_url, "next": next_url, "results": results}

    def model(self, model: Model) -> JSON:
        """Return a model with its latest version, which contains its schemas."""
        return {
            "url": f"https://replicate.com/{model.id}",
            "owner": model.owner,
            "name": model.name,
            "description": model.description,
            "visibility": "public",
            "github_url": None,
            "paper_url": None,
            "license_url": None,
            "run_count": model.run_count,
            "cover_image_url": f"{self.base_url}/delivery/covers/{model.id}.webp",
            "default_example": None,
            "latest_version": self.version(model),
            "is_official": model.is_official,
        }

    def version(self, model: Model) -> JSON:
        """Return the only version of a model."""
        one_by_one = self._world.settings.files_one_by_one
        return {
            "id": model.version,
            "created_at": _RELEASED,
            "cog_version": "0.16.8",
            "openapi_schema": model.iterator_schema if one_by_one else model.openapi_schema,
        }

    def search(self, query: str, models: Iterable[Model]) -> JSON:
        """Return the result of a search."""
        return {
            "query": query,
            "models": [
                {
                    "model": self.model(model),
                    "metadata": {"generated_description": model.description, "tags": ["image"]},
                }
                for model in models
            ],
            "collections": [],
            "pages": [],
        }

    def deployment(self, deployment: Deployment) -> JSON:
        """Return a deployment with its current release."""
        return {
            "owner": deployment.owner,
            "name": deployment.name,
            "current_release": {
                "number": 1,
                "model": deployment.model.id,
                "version": deployment.model.version,
                "created_at": _RELEASED,
                "created_by": {
                    "type": "organization",
                    "username": deployment.owner,
                    "name": deployment.owner.capitalize(),
                    "avatar_url": f"https://github.com/{deployment.owner}.png",
                    "github_url": f"https://github.com/{deployment.owner}",
                },
                "configuration": {
                    "hardware": deployment.hardware,
                    "min_instances": 1,
                    "max_instances": 5,
                },
            },
        }

    def account(self, account: Account) -> JSON:
        """Return an account."""
        return {
            "type": "organization",
            "username": account.name,
            "name": account.name.capitalize(),
            "avatar_url": f"https://github.com/{account.name}.png",
            "github_url": f"https://github.com/{account.name}",
        }

    def file(
        self, file_id: str, name: str, content: bytes, content_type: str, metadata: JSON
    ) -> JSON:
        """Return an uploaded file."""
        now = self._world.clock.now() + self._world.settings.clock_offset_seconds
        return {
            "id": file_id,
            "name": name,
            "content_type": content_type,
            "size": len(content),
            "etag": hashlib.md5(content, usedforsecurity=False).hexdigest(),
            "checksums": {"sha256": hashlib.sha256(content).hexdigest()},
            "metadata": metadata,
            "created_at": timestamp(now),
            "expires_at": timestamp(now + _FILE_LIFE_SECONDS),
            "urls": {"get": f"{self.base_url}/v1/files/{file_id}"},
        }

    def collection(self, slug: str, models: Iterable[Model] | None) -> JSON:
        """Return a collection; without `models`, in the form of the list of collections."""
        answer: JSON = {
            "name": slug.replace("-", " ").capitalize(),
            "slug": slug,
            "description": "Models that make images from text prompts",
        }
        if models is not None:
            answer |= {"full_description": None, "models": [self.model(m) for m in models]}
        return answer
