"""Download of outputs, and the test for URLs of outputs.

No token is ever sent: outputs are fetched anonymously, from Replicate's delivery hosts only, or
from the API's own origin if that is loopback (the simulator).
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from replicate_mcp.addresses import is_loopback
from replicate_mcp.replicate_api.exceptions import ConnectionMisconfigured
from replicate_mcp.replicate_api.outputs import DELIVERY_HOST, is_delivery_host, is_file_url
from replicate_mcp.text import one_line

if TYPE_CHECKING:
    import httpx

PHASE_SECONDS = 30.0
"""Timeout in seconds for connecting, and for each pause between chunks."""


Fetch = Callable[[str, int], Awaitable[bytes]]
"""Fetches the file at a URL, up to a maximum size in bytes."""


class DownloadFailed(Exception):
    """The reason for a failed download, as a clause without subject and full stop."""


class Delivery:
    """A client for outputs, which recognises their URLs and downloads them."""

    def __init__(self, base_url: str) -> None:
        """Create a client for outputs of the API at `base_url`."""
        base = urlsplit(base_url)
        self._simulator = base if is_loopback(base.hostname or "") else None
        self._delivered_from = f"https://{DELIVERY_HOST}" if self._simulator is None else base_url

    def is_output_url(self, url: str) -> bool:
        """Return whether `url` is the URL of an output."""
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
        """Return a client for some downloads, without redirects and compression.

        Images are compressed already, and compressed content could decompress to any size.

        Raises:
            DownloadFailed: the environment's TLS or proxy settings prevent every connection.
        """
        import httpx

        from replicate_mcp.replicate_api.connection import connection_options

        # Use the same proxy as for the API; ignore .netrc and the like.
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
        """Provide a function that downloads files completely, inside the block.

        It raises `DownloadFailed` if the URL is not an output's, or the file is gone, is too large,
        or did not arrive.
        """
        async with await self.client() as client:
            yield partial(self._fetch, client)

    async def _fetch(self, client: "httpx.AsyncClient", url: str, max_bytes: int) -> bytes:
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
                    if len(body) > max_bytes:
                        raise DownloadFailed(f"it is over {max_bytes // 2**20} MB")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            from replicate_mcp.replicate_api.connection import connection_fault

            raise DownloadFailed(str(await connection_fault(error, url))) from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            what = one_line(str(error), 100) or type(error).__name__
            raise DownloadFailed(f"the connection failed ({what})") from None
        return bytes(body)


def image_origins(base_url: str) -> tuple[str, ...]:
    """Return the origins from which a browser may load images, for a Content-Security-Policy."""
    return (f"https://{DELIVERY_HOST}", f"https://*.{DELIVERY_HOST}", *simulator_origins(base_url))


def simulator_origins(base_url: str) -> tuple[str, ...]:
    """Return the origins of a simulator's files, whose URLs use an IP address."""
    parts = urlsplit(base_url)
    if parts.hostname is None or not is_loopback(parts.hostname):
        return ()
    port = f":{parts.port}" if parts.port else ""
    names = dict.fromkeys((parts.hostname, "127.0.0.1"))
    # A Content-Security-Policy cannot express an IPv6 address.
    return tuple(f"{parts.scheme}://{name}{port}" for name in names if ":" not in name)


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port
