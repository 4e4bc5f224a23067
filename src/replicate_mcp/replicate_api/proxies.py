"""The proxy that the environment or the system configures for a host."""

import os
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from anyio import to_thread

from replicate_mcp.addresses import is_loopback
from replicate_mcp.platform.shell import install_command
from replicate_mcp.replicate_api.exceptions import ConnectionMisconfigured
from replicate_mcp.text import one_line

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True, slots=True)
class ProxySetting:
    """A proxy and the setting that configures it.

    Attributes:
        url: the URL of the proxy, which may contain a password.
        source: the name of an environment variable, or the system's settings.
    """

    url: str = field(repr=False)
    source: str

    def __str__(self) -> str:
        """Return the proxy and its source, without a user name or a password."""
        if (address := without_user(self.url)) is None:
            return f"the proxy that {self.source} names"
        return f"the proxy {address} that {self.source} names"


async def find_proxy(scheme: str, host: str) -> ProxySetting | None:
    """Return the proxy for a host; None for a direct connection, as for every loopback host.

    Args:
        scheme: the scheme of the URL to connect to.
        host: the host to connect to.
    """
    if is_loopback(host):
        return None
    proxies = urllib.request.getproxies()
    url = proxies.get(scheme) or proxies.get("all")
    # macOS and Windows may resolve the host to compare its address with their exceptions.
    if not url or await to_thread.run_sync(_is_direct, host, abandon_on_cancel=True):
        return None
    return ProxySetting(url if "://" in url else f"http://{url}", _source(scheme))


def httpx_proxy(setting: ProxySetting) -> "httpx.Proxy":
    """Return a proxy as an httpx object.

    Raises:
        ConnectionMisconfigured: the address cannot be used; the message contains no password.
        TlsSettingsError: an environment variable prevents TLS to the proxy.
    """
    from importlib.util import find_spec

    import httpx

    from replicate_mcp.tls import client_context

    try:
        proxy = httpx.Proxy(setting.url)
        port = urlsplit(setting.url).port  # Also checks its range.
        if not proxy.url.host or port == 0:
            raise ValueError
    except (ValueError, httpx.InvalidURL):
        # The error's message may contain a part of the proxy's password.
        raise ConnectionMisconfigured(
            f"the proxy that {setting.source} names cannot be used: write it like "
            "http://host:port, special characters of a password escaped like %23"
        ) from None
    if proxy.url.scheme.startswith("socks") and find_spec("socksio") is None:
        raise ConnectionMisconfigured(
            f"{setting} needs one more package: {install_command('httpx[socks]')}"
        )
    if proxy.url.scheme == "https":
        return httpx.Proxy(setting.url, ssl_context=client_context())
    return proxy


def without_user(url: str) -> str | None:
    """Return a proxy's address without user and password; None if they cannot be separated."""
    scheme, _, rest = url.partition("://")
    try:
        # The last @ ends the password, even if it contains unescaped ones.
        parts = urlsplit(f"{scheme}://{rest.rpartition('@')[2]}")
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return one_line(f"{scheme}://{host}" + (f":{port}" if port is not None else ""), 200)


def _is_direct(host: str) -> bool:
    return bool(urllib.request.proxy_bypass(host))


def _source(scheme: str) -> str:
    """Return the environment variable that names the proxy for a scheme, else the system."""
    for wanted in (f"{scheme}_proxy", "all_proxy"):
        for name, value in os.environ.items():
            if value and name.lower() == wanted:
                return name
    return "the system's settings"
