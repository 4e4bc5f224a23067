"""The dashboard's page and files, with their security headers."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import resources

from fastapi import APIRouter, HTTPException, Request, Response

from replicate_mcp.http_api.dependencies import AppDep
from replicate_mcp.http_api.routes import service
from replicate_mcp.replicate_api.delivery import image_origins, simulator_origins

router = APIRouter(include_in_schema=False)

_CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}


@router.api_route("/", methods=["GET", "HEAD"])
async def home(request: Request, app: AppDep) -> Response:
    """Return the dashboard to browsers, and the JSON of `/health` to other clients."""
    if prefers_html(request.headers.get("accept", "")):
        return _answer(request, "index.html", app.settings.replicate_base_url)
    answer = await service.health(request, app)
    answer.headers["Vary"] = "Accept"
    return answer


@router.api_route("/dashboard/{name}", methods=["GET", "HEAD"])
async def file(name: str, request: Request, app: AppDep) -> Response:
    """Return a script, the styles or the icon; they hold no data and need no authentication."""
    if name not in _files() or name == "index.html":
        raise HTTPException(404, "Not Found")
    return _answer(request, name, app.settings.replicate_base_url)


def prefers_html(accept: str) -> bool:
    """Return whether an `Accept` header prefers HTML over JSON, or ranks them equally.

    Browsers do, programs do not.
    """
    qualities = {"text/html": 0.0, "application/json": 0.0}
    for each in accept.lower().split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        if name in qualities:
            qualities[name] = max(qualities[name], _quality(parameters))
    return 0 < qualities["text/html"] >= qualities["application/json"]


def security_headers(replicate_base_url: str) -> Mapping[str, str]:
    """Return headers that restrict the page's sources to itself and the delivered images.

    Scripts may fetch the delivered images too, to save one under its own name.

    Args:
        replicate_base_url: the base URL of Replicate's API; if it is a simulator on loopback, its
            images are allowed.
    """
    files = " ".join(image_origins(replicate_base_url))
    rules = (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        f"connect-src 'self' {files}",
        f"img-src 'self' {files}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
    return {
        "Content-Security-Policy": "; ".join(rules),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


_ORIGINS = '<meta name="image-origins" content="" />'

_SHARED = ("image-url.js", "retry-rules.js")
"""Scripts of the gallery that the dashboard uses too."""


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    content_type: str
    etag: str


def _answer(request: Request, name: str, replicate_base_url: str) -> Response:
    """Return a file, or 304 if the browser's copy is current; browsers revalidate every time."""
    found = _page(replicate_base_url) if name == "index.html" else _files()[name]
    headers = {
        **security_headers(replicate_base_url),
        "Cache-Control": "no-cache",
        "ETag": found.etag,
        "Vary": "Accept",
    }
    known = (tag.strip() for tag in request.headers.get("if-none-match", "").split(","))
    if any(tag.removeprefix("W/") == found.etag for tag in known):
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=found.content_type)


@cache
def _files() -> dict[str, _File]:
    """Return all files by name; they are few and small, and change with the package only."""
    gallery = resources.files("replicate_mcp.mcp_server.gallery").joinpath("view")
    shared = [gallery.joinpath(name) for name in _SHARED]
    files = [*resources.files(__package__).joinpath("static").iterdir(), *shared]
    return {
        each.name: _file(each.name, each.read_bytes())
        for each in files
        if each.name.rpartition(".")[2] in _CONTENT_TYPES
    }


@cache
def _page(replicate_base_url: str) -> _File:
    """Return the page with the origins of images besides Replicate's delivery hosts."""
    origins = escape(" ".join(simulator_origins(replicate_base_url)))
    page = _files()["index.html"].content.decode()
    page = page.replace(_ORIGINS, f'<meta name="image-origins" content="{origins}" />')
    return _file("index.html", page.encode())


def _file(name: str, content: bytes) -> _File:
    return _File(
        content=content,
        content_type=_CONTENT_TYPES[name.rpartition(".")[2]],
        etag=f'"{hashlib.sha256(content).hexdigest()[:24]}"',
    )


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
