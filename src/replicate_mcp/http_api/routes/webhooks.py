"""Receiver of Replicate's webhooks for ended predictions; they are signed, and need no key."""

from fastapi import APIRouter, Request, Response

from replicate_mcp.http_api.dependencies import AppDep
from replicate_mcp.replicate_api.webhooks import PATH

router = APIRouter(include_in_schema=False)


@router.post(PATH + "/{account}")
async def receive(account: str, request: Request, app: AppDep) -> Response:
    """Store the webhook for its prediction; answer 204, or 503 to have it sent again later."""
    kept = await app.receive_webhook(account, request.headers, await request.body())
    return Response(status_code=204 if kept else 503)
