"""Connection options (TLS, proxy) for Replicate, and explanations of failed connections."""

import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from replicate_mcp.addresses import is_loopback
from replicate_mcp.replicate_api.exceptions import ConnectionMisconfigured, RequestNotSent
from replicate_mcp.replicate_api.proxies import find_proxy, httpx_proxy
from replicate_mcp.text import one_line
from replicate_mcp.tls import TlsSettingsError, client_context, describe_certificate_fault

if TYPE_CHECKING:
    import httpx


async def connection_options(url: str) -> dict[str, Any]:
    """Return httpx's `verify` and `proxy` arguments for connections to the host of `url`.

    Raises:
        ConnectionMisconfigured: the environment prevents every such connection.
    """
    parts = urlsplit(url)
    setting = await find_proxy(parts.scheme, parts.hostname or "")
    try:
        # A context without certificates trusts no server and is cheap to create.
        is_tls = parts.scheme == "https"
        verify = client_context() if is_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return {"verify": verify, "proxy": httpx_proxy(setting) if setting else None}
    except TlsSettingsError as error:
        raise ConnectionMisconfigured(str(error)) from None


async def connection_fault(error: "httpx.TransportError", url: str) -> RequestNotSent:
    """Return the reason for a failed connection to the host of `url`, and what to do about it."""
    import httpx

    parts = urlsplit(url)
    host = parts.hostname or ""
    setting = await find_proxy(parts.scheme, host)
    reason = one_line(str(error), 200) or "timed out"
    if (cause := _tls_cause(error)) is not None:
        return ConnectionMisconfigured(describe_certificate_fault(cause, host))
    if setting is None and _speaks_no_tls(error):
        return ConnectionMisconfigured(_use_http(parts.netloc, host))
    if isinstance(error, httpx.ProxyError):
        kind = ConnectionMisconfigured if reason.startswith(("403", "407")) else RequestNotSent
        return kind(f"{setting or 'the proxy'} refuses the connection to {host} ({reason})")
    if setting is not None and isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return RequestNotSent(f"{setting} does not answer ({reason})")
    if is_loopback(host):
        return RequestNotSent(no_simulator(url))
    return RequestNotSent(f"no connection to {host} ({reason})")


def no_simulator(url: str) -> str:
    """Return the advice for a loopback API address at which nothing listens."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return (
        f"the simulator at {parts.scheme}://{parts.netloc} does not answer: start it with "
        f"`replicate-mcp simulate --port {port}`, or unset REPLICATE_BASE_URL for Replicate itself"
    )


def _use_http(netloc: str, host: str) -> str:
    """Return the advice for a server that speaks HTTP at an https address."""
    instead = f": set REPLICATE_BASE_URL to http://{netloc}" if is_loopback(host) else ""
    return f"what answers at {netloc} does not speak TLS{instead}"


def _tls_cause(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """Return the failed certificate verification that caused an error; None if there is none."""
    return next((e for e in _causes(error) if isinstance(e, ssl.SSLCertVerificationError)), None)


def _speaks_no_tls(error: BaseException) -> bool:
    """Return whether the server's reply to the TLS handshake was not TLS."""
    return any(isinstance(each, ssl.SSLError) and each.reason in _NO_TLS for each in _causes(error))


_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")
"""OpenSSL's reasons for a reply that is not a TLS record; they differ between its versions."""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
