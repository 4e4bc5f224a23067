"""Proxies: which one a host has, how it is shown, and the causes of connection errors."""

import importlib.util
import ssl
import threading
import urllib.request
from typing import Any

import anyio
import httpx
import pytest

from replicate_api.conftest import use
from replicate_mcp import tls
from replicate_mcp.replicate_api.connection import connection_fault, connection_options
from replicate_mcp.replicate_api.exceptions import ConnectionMisconfigured, RequestNotSent
from replicate_mcp.replicate_api.proxies import (
    ProxySetting,
    find_proxy,
    httpx_proxy,
    without_user,
)

HOST = "api.example"


pytestmark = pytest.mark.usefixtures("environment")


SYSTEM = "the system's settings"

# The variables, the scheme of a URL, and the proxy with its source.
PROXIES: list[tuple[dict[str, str], str, tuple[str, str] | None]] = [
    ({}, "https", None),
    ({"HTTPS_PROXY": "http://p:1"}, "https", ("http://p:1", "HTTPS_PROXY")),
    ({"https_proxy": "http://p:1"}, "https", ("http://p:1", "https_proxy")),
    ({"HTTPS_PROXY": "p:1"}, "https", ("http://p:1", "HTTPS_PROXY")),
    ({"HTTPS_PROXY": "https://p"}, "https", ("https://p", "HTTPS_PROXY")),
    ({"HTTPS_PROXY": "http://p:1"}, "http", None),
    ({"HTTP_PROXY": "http://p:1"}, "http", ("http://p:1", "HTTP_PROXY")),
    ({"HTTP_PROXY": "http://p:1"}, "https", None),
    ({"ALL_PROXY": "http://p:1"}, "https", ("http://p:1", "ALL_PROXY")),
    (
        {"ALL_PROXY": "http://a:1", "HTTPS_PROXY": "http://p:1"},
        *("https", ("http://p:1", "HTTPS_PROXY")),
    ),
    ({"ALL_PROXY": "http://a:1", "HTTPS_PROXY": ""}, "https", ("http://a:1", "ALL_PROXY")),
    ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": HOST}, "https", None),
    ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "x"}, "https", ("http://p:1", "HTTPS_PROXY")),
]


@pytest.mark.parametrize(("variables", "scheme", "expected"), PROXIES)
async def test_host_uses_the_proxy_of_its_scheme(
    environment: pytest.MonkeyPatch,
    variables: dict[str, str],
    scheme: str,
    expected: tuple[str, str] | None,
) -> None:
    use(environment, variables)
    found = await find_proxy(scheme, HOST)
    assert found == (ProxySetting(*expected) if expected else None)
    options = await connection_options(f"{scheme}://{HOST}")
    assert (options["proxy"] and options["proxy"].url) == (expected and expected[0])


async def test_proxy_of_the_system_settings_is_named_as_such(
    environment: pytest.MonkeyPatch,
) -> None:
    for settings in ({"https": "http://p:1"}, {"all": "http://p:1"}):
        environment.setattr(urllib.request, "getproxies", lambda found=settings: found)
        found = await find_proxy("https", HOST)
        assert found == ProxySetting("http://p:1", SYSTEM)
        assert str(found) == "the proxy http://p:1 that the system's settings names"


async def test_cancelled_caller_does_not_wait_for_name_resolution(
    environment: pytest.MonkeyPatch,
) -> None:
    resolved = threading.Event()
    environment.setenv("HTTPS_PROXY", "http://p:1")
    environment.setattr(urllib.request, "proxy_bypass", lambda host: resolved.wait(10))
    begun = anyio.current_time()
    with anyio.move_on_after(0.05) as waiting:
        await find_proxy("https", HOST)
    resolved.set()
    assert waiting.cancelled_caught
    assert anyio.current_time() - begun < 9


async def test_certificates_are_loaded_only_for_tls() -> None:
    assert (await connection_options(f"https://{HOST}"))["verify"] is tls.client_context()
    plain = (await connection_options(f"http://{HOST}"))["verify"]
    assert isinstance(plain, ssl.SSLContext)
    assert (plain.cert_store_stats()["x509"], plain.check_hostname) == (0, True)


@pytest.mark.parametrize(
    "url", ["http://", "http://p:0", "ftp://p:1", "http://u:s3cret@p:99999", "http://p:1:s3cret"]
)
def test_unusable_proxy_is_reported_with_the_valid_form(url: str) -> None:
    with pytest.raises(ConnectionMisconfigured) as refused:
        httpx_proxy(ProxySetting(url, "HTTPS_PROXY"))
    assert str(refused.value) == (
        "the proxy that HTTPS_PROXY names cannot be used: write it like http://host:port, special "
        "characters of a password escaped like %23"
    )


def test_each_kind_of_proxy_has_its_requirements(environment: pytest.MonkeyPatch) -> None:
    plain = httpx_proxy(ProxySetting("http://u:p@proxy.example:1", "HTTPS_PROXY"))
    assert (plain.url, plain.raw_auth, plain.ssl_context) == (
        httpx.URL("http://proxy.example:1"),
        (b"u", b"p"),
        None,
    )
    secure = httpx_proxy(ProxySetting("https://proxy.example", "HTTPS_PROXY"))
    assert secure.ssl_context is tls.client_context()
    socks = ProxySetting("socks5://u:s3cret@proxy.example:1", "ALL_PROXY")
    environment.setattr(importlib.util, "find_spec", lambda name: None if name == "socksio" else 1)
    with pytest.raises(ConnectionMisconfigured) as needed:
        httpx_proxy(socks)
    assert str(needed.value).startswith(
        "the proxy socks5://proxy.example:1 that ALL_PROXY names needs one more package: "
    )
    assert "httpx[socks]" in str(needed.value)
    environment.setattr(importlib.util, "find_spec", lambda name: object())
    assert httpx_proxy(socks).url == "socks5://proxy.example:1"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://proxy.example", "http://proxy.example"),
        ("http://ann:s3cret@proxy.example:8080", "http://proxy.example:8080"),
        ("http://ann:s3/cr@t@proxy.example", "http://proxy.example"),
        ("http://ann:s3://cret@proxy.example:1", "http://proxy.example:1"),
        ("socks5://ann@[::1]:3128/path?x", "socks5://[::1]:3128"),
        ("http://proxy.example:0", "http://proxy.example:0"),
        ("http://" + "x" * 300, "http://" + "x" * 192 + "…"),
        ("http://proxy.example:80a", None),
        ("http://[::1", None),
        ("http://ann:s3cret@", None),
        ("http://", None),
        ("", None),
    ],
)
def test_proxy_address_is_shown_without_credentials(url: str, shown: str | None) -> None:
    assert without_user(url) == shown


# Causes of connection errors.


def caused_by(error: Exception, cause: Exception, *, context: bool = False) -> Exception:
    """Return `error` with its cause two levels below."""
    between = OSError("between")
    between.__cause__ = cause
    if context:
        error.__context__ = between
    else:
        error.__cause__ = between
    return error


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] invalid")
    error.reason = reason
    return error


NOT_TRUSTED = ssl.SSLCertVerificationError(1, "not trusted")
NOT_TRUSTED.verify_code, NOT_TRUSTED.verify_message = 20, "unable to get local issuer certificate"

PROXY = {"HTTPS_PROXY": "http://u:s3cret@p:1"}
THE_PROXY = "the proxy http://p:1 that HTTPS_PROXY names"
REMOTE, LOCAL = f"https://{HOST}:8443", "https://127.0.0.1:9001"
SIMULATOR = (
    "the simulator at {} does not answer: start it with `replicate-mcp simulate --port {}`, or "
    "unset REPLICATE_BASE_URL for Replicate itself"
)

UNTRUSTED = f"the certificate of {HOST} is not trusted"

# The variables, the URL, the error, its class, and the beginning of its message.
FAULTS: list[tuple[dict[str, str], str, Any, type[RequestNotSent], str]] = [
    (
        {},
        REMOTE,
        httpx.ConnectError("refused"),
        RequestNotSent,
        f"no connection to {HOST} (refused)",
    ),
    ({}, REMOTE, httpx.ConnectTimeout(""), RequestNotSent, f"no connection to {HOST} (timed out)"),
    (
        {},
        REMOTE,
        httpx.ConnectError("x" * 201),
        RequestNotSent,
        f"no connection to {HOST} ({'x' * 199}…)",
    ),
    ({}, LOCAL, httpx.ConnectError("x"), RequestNotSent, SIMULATOR.format(LOCAL, 9001)),
    *[
        ({}, url, httpx.ConnectError("x"), RequestNotSent, SIMULATOR.format(url, port))
        for url, port in (
            *(("https://localhost", 443), ("http://[::1]", 80)),
            ("http://localhost:1", 1),
        )
    ],
    *[
        (PROXY, REMOTE, kind("x"), RequestNotSent, f"{THE_PROXY} does not answer (x)")
        for kind in (httpx.ConnectError, httpx.ConnectTimeout)
    ],
    (PROXY, REMOTE, httpx.ReadError("x"), RequestNotSent, f"no connection to {HOST} (x)"),
    *[
        (
            *(PROXY, REMOTE, httpx.ProxyError(said), kind),
            f"{THE_PROXY} refuses the connection to {HOST} ({said})",
        )
        for said, kind in (
            ("403 Forbidden", ConnectionMisconfigured),
            ("407 Who?", ConnectionMisconfigured),
            ("502 Bad gateway", RequestNotSent),
            ("is 403", RequestNotSent),
        )
    ],
    (
        *({}, REMOTE, httpx.ProxyError("502"), RequestNotSent),
        f"the proxy refuses the connection to {HOST} (502)",
    ),
    *[
        (variables, REMOTE, error, ConnectionMisconfigured, UNTRUSTED)
        for variables in ({}, PROXY)
        for error in (
            caused_by(httpx.ConnectError("x"), NOT_TRUSTED),
            caused_by(httpx.ConnectError("x"), NOT_TRUSTED, context=True),
        )
    ],
    *[
        (
            *({}, REMOTE, caused_by(httpx.ConnectError("x"), tls_error(reason))),
            *(ConnectionMisconfigured, f"what answers at {HOST}:8443 does not speak TLS"),
        )
        for reason in (
            *("WRONG_VERSION_NUMBER", "HTTP_REQUEST"),
            *("PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"),
        )
    ],
    (
        *({}, LOCAL, caused_by(httpx.ConnectError("x"), tls_error("HTTP_REQUEST"))),
        ConnectionMisconfigured,
        "what answers at 127.0.0.1:9001 does not speak TLS: set REPLICATE_BASE_URL to "
        "http://127.0.0.1:9001",
    ),
    (
        *({}, REMOTE, caused_by(httpx.ConnectError("x"), tls_error("NO_CIPHERS_AVAILABLE"))),
        *(RequestNotSent, f"no connection to {HOST} (x)"),
    ),
    (
        *(PROXY, REMOTE, caused_by(httpx.ConnectError("x"), tls_error("HTTP_REQUEST"))),
        *(RequestNotSent, f"{THE_PROXY} does not answer (x)"),
    ),
]


@pytest.mark.parametrize(("variables", "url", "error", "kind", "sentence"), FAULTS)
async def test_connection_error_is_reported_with_a_remedy(
    environment: pytest.MonkeyPatch,
    variables: dict[str, str],
    url: str,
    error: httpx.TransportError,
    kind: type[RequestNotSent],
    sentence: str,
) -> None:
    use(environment, variables)
    fault = await connection_fault(error, url)
    assert type(fault) is kind
    assert str(fault) == sentence or (sentence, str(fault)[: len(sentence)]) == (UNTRUSTED,) * 2
