"""Where Replicate tells that a prediction has ended; what it says is signed, and needs no key."""

from fastapi import APIRouter, Request, Response

from replicate_mcp.http_api.dependencies import AppDep
from replicate_mcp.replicate_api.webhooks import PATH

router = APIRouter(include_in_schema=False)


@router.post(PATH + "/{account}")
async def receive(account: str, request: Request, app: AppDep) -> Response:
    """Keep it for whoever follows its prediction: 204, or 503 for Replicate to send it again."""
    kept = await app.receive_webhook(account, request.headers, await request.body())
    return Response(status_code=204 if kept else 503)
