"""Calls shared by the simulator's tests."""

from typing import Any

import httpx

SCHNELL = "/v1/models/black-forest-labs/flux-schnell/predictions"


async def create(
    client: httpx.AsyncClient,
    prompt: str = "a red car",
    *,
    wait: str | None = "wait",
    cancel_after: str | None = None,
    token: str | None = None,
    path: str = SCHNELL,
    **inputs: object,
) -> httpx.Response:
    """Create a prediction, held until it ends unless `wait` says otherwise."""
    headers = {"prefer": wait, "cancel-after": cancel_after}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    given = {name: value for name, value in headers.items() if value is not None}
    return await client.post(path, json={"input": {"prompt": prompt, **inputs}}, headers=given)


async def get(client: httpx.AsyncClient, prediction: dict[str, Any]) -> dict[str, Any]:
    """Return the current prediction."""
    response = await client.get(f"/v1/predictions/{prediction['id']}")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found
