"""Host names and URLs: loopback, names without ports, and server addresses in settings."""

import contextlib
import ipaddress
import re
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine, without brackets."""

NOT_HTTPS = "must be an https address, or http on loopback"

_WRONG_PORT = "must have a port from 1 to 65535, or none"
_HOST_AND_PORT = re.compile(r"[a-z]+://([^/\[\]]*|\[[^/\]]*\]):[^/]*", re.IGNORECASE)
_HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(:[0-9]*)?")


def is_loopback(host: str) -> bool:
    """Return whether `host` is reachable from this machine only."""
    return host in LOOPBACK


def is_loopback_url(url: str) -> bool:
    """Return whether the host of `url` is this machine."""
    return is_loopback(urlsplit(url).hostname or "")


def is_ip_address(host: str) -> bool:
    """Return whether `host` is an IP address, without brackets and port."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def host_name(host: str) -> str:
    """Return a host without its port (`localhost:8000`, `[::1]:8000`); "" if it is invalid."""
    found = _HOST.fullmatch(host.strip().lower())
    return (found["address"] or found["name"]) if found else ""


def address_problem(url: str) -> str | None:
    """Return what is wrong with a server's `url`, as a clause that begins with "must".

    The clause does not repeat the address, which may hold a password.

    Returns:
        The clause, or None if `url` is valid.
    """
    if "@" in url:
        return "must not have a user name or a password in it: it would be shown"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        return _WRONG_PORT if _HOST_AND_PORT.match(url) else NOT_HTTPS
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback_url(url)):
        return NOT_HTTPS
    if not _is_host(host):
        return "must have the name of a host after //, like https://api.example.com"
    if port == 0:
        return _WRONG_PORT
    if "?" in url or "#" in url:
        return "must be an address without ? and #"
    return None


def _is_host(name: str) -> bool:
    """Return whether `name` is an IP address or has the form of a host name."""
    if is_ip_address(name):
        return True
    if name.isascii() and "xn--" not in name:
        return re.fullmatch(r"([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?", name) is not None
    import idna

    with contextlib.suppress(UnicodeError):
        return bool(idna.decode(idna.encode(name)))
    return False
