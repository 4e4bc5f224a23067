"""Where Replicate keeps outputs: which addresses are its own, and how a small file is fetched.

No token is ever sent there: outputs are fetched as anyone may fetch them, from Replicate's delivery
hosts only, or from the API's own origin where that is loopback (the simulator).
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from replicate_mcp.auth import is_loopback
from replicate_mcp.replicate_api.exceptions import ConnectionMisconfigured
from replicate_mcp.replicate_api.outputs import DELIVERY_HOST, is_delivery_host, is_file_url
from replicate_mcp.text import one_line

if TYPE_CHECKING:
    import httpx

PHASE_SECONDS = 30.0
"""For connecting, and for each silence in between."""


Fetch = Callable[[str, int], Awaitable[bytes]]
"""Gives the file at an address, if it has so many bytes at most."""


class DownloadFailed(Exception):
    """Why a file cannot be had, as a sentence without its beginning and its full stop."""


class Delivery:
    """Tells addresses of outputs from others, and fetches from them."""

    def __init__(self, base_url: str) -> None:
        """Args: base_url: of Replicate's API."""
        base = urlsplit(base_url)
        self._simulator = base if is_loopback(base.hostname or "") else None
        self._delivered_from = f"https://{DELIVERY_HOST}" if self._simulator is None else base_url

    def is_output_url(self, url: str) -> bool:
        """Whether an address is one of an output."""
        if not is_file_url(url):
            return False
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if parts.username is not None or parts.password is not None:
            return False
        if self._simulator is not None and _origin(parts) == _origin(self._simulator):
            return True
        return is_delivery_host(host) and parts.scheme == "https" and port in (None, 443)

    async def client(self) -> "httpx.AsyncClient":
        """A client that follows no redirects and asks for no compression, for some fetches.

        Images are compressed already; what is compressed once more may unfold to any size.

        Raises:
            NotDelivered: the environment's TLS or proxy settings prevent every connection.
        """
        import httpx

        from replicate_mcp.replicate_api.connection import connection_options

        # By the one proxy that the API is called through; .netrc and the like are not looked at.
        try:
            options = await connection_options(self._delivered_from)
        except ConnectionMisconfigured as fault:
            raise DownloadFailed(str(fault)) from None
        return httpx.AsyncClient(
            timeout=PHASE_SECONDS,
            follow_redirects=False,
            trust_env=False,
            headers={"Accept-Encoding": "identity"},
            **options,
        )

    @asynccontextmanager
    async def fetching(self) -> AsyncIterator[Fetch]:
        """Fetch files whole, inside the block.

        Each fetch raises NotDelivered where the file is elsewhere, gone, too large, or did not
        come.
        """
        async with await self.client() as client:
            yield partial(self._fetch, client)

    async def _fetch(self, client: "httpx.AsyncClient", url: str, at_most: int) -> bytes:
        import httpx

        if not self.is_output_url(url):
            raise DownloadFailed(f"its URL is not on {DELIVERY_HOST}")
        body = bytearray()
        try:
            async with client.stream("GET", url) as response:
                if response.status_code in (404, 410):
                    raise DownloadFailed(
                        "its URL has expired: Replicate deletes files after an hour"
                    )
                if response.status_code != 200:
                    raise DownloadFailed(f"its host answered {response.status_code}")
                if response.headers.get("content-encoding", "identity").lower() != "identity":
                    raise DownloadFailed("its host sent it compressed, which was not asked for")
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > at_most:
                        raise DownloadFailed(f"it is over {at_most // 2**20} MB")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            from replicate_mcp.replicate_api.connection import connection_fault

            raise DownloadFailed(str(await connection_fault(error, url))) from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            what = one_line(str(error), 100) or type(error).__name__
            raise DownloadFailed(f"the connection failed ({what})") from None
        return bytes(body)


def image_origins(base_url: str) -> tuple[str, ...]:
    """The origins from which a browser may load images, for a Content-Security-Policy."""
    return (f"https://{DELIVERY_HOST}", f"https://*.{DELIVERY_HOST}", *simulator_origins(base_url))


def simulator_origins(base_url: str) -> tuple[str, ...]:
    """The origins of a simulator's files: it names itself by address, whoever calls it how."""
    parts = urlsplit(base_url)
    if parts.hostname is None or not is_loopback(parts.hostname):
        return ()
    port = f":{parts.port}" if parts.port else ""
    names = dict.fromkeys((parts.hostname, "127.0.0.1"))
    # A Content-Security-Policy has no form for an IPv6 address.
    return tuple(f"{parts.scheme}://{name}{port}" for name in names if ":" not in name)


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port
