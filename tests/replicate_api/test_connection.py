"""TLS and proxies, with real ones on loopback."""

import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest

from network import API, Company, company, proxy
from replicate_api.conftest import use
from replicate_mcp import tls
from replicate_mcp.errors import ReplicateUnreachable
from replicate_mcp.platform import certificates
from replicate_mcp.replicate_api.connection import connection_options
from replicate_mcp.replicate_api.delivery import Delivery, DownloadFailed
from replicate_mcp.replicate_api.error_policy import Action, rule_for, to_public_error
from replicate_mcp.replicate_api.exceptions import (
    ConnectionMisconfigured,
    RequestNotSent,
    ResponseLost,
)
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.replicate_api.proxies import ProxySetting, find_proxy
from replicate_mcp.replicate_api.retry import retry_read
from replicate_mcp.replicate_api.transport import Transport, call
from replicate_mcp.simulator import Simulator

URL = f"https://{API}"


pytestmark = pytest.mark.usefixtures("environment")


def port_of(simulator: Simulator) -> int:
    port = urlsplit(simulator.url).port
    assert port is not None
    return port


@pytest.fixture
def network(simulator: Simulator, tmp_path: Path) -> Iterator[Company]:
    with company(tmp_path, port_of(simulator)) as running:
        yield running


async def account(url: str = URL) -> str:
    gateway = Gateway("r8_acme_1", url)
    try:
        return await retry_read(gateway.account)
    finally:
        await gateway.aclose()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_custom_ca_is_trusted_when_a_variable_names_it(
    network: Company, environment: pytest.MonkeyPatch, variable: str
) -> None:
    use(environment, network.proxy.environment())
    environment.setenv(variable, str(network.authority.file))
    assert await account() == "acme"
    assert network.proxy.asked == [f"{API}:443"]


async def test_certificate_folder_is_used_with_openssl_hash_names(
    network: Company, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    (folder / "ca.pem").write_bytes(network.authority.file.read_bytes())
    use(environment, network.proxy.environment() | {"SSL_CERT_DIR": str(folder)})
    with pytest.raises(ConnectionMisconfigured, match="`openssl rehash`"):
        await account()
    subprocess.run(["openssl", "rehash", str(folder)], check=True, capture_output=True)
    assert await account() == "acme"


async def test_untrusted_certificate_authority_is_not_retried(
    network: Company, environment: pytest.MonkeyPatch
) -> None:
    use(environment, network.proxy.environment())
    with pytest.raises(ConnectionMisconfigured) as raised:
        await account()
    assert str(raised.value) == (
        f"the certificate of {API} is not trusted (unable to get local issuer certificate, by the "
        "system's store); if a proxy or firewall of your organisation opens TLS connections, set "
        "SSL_CERT_FILE to the file of its certificate authority"
    )
    assert len(network.proxy.asked) == 1
    rule = rule_for(raised.value)
    assert (rule.action, rule.retryable, rule.may_exist) == (Action.FAIL_BATCH, False, False)
    error = to_public_error(raised.value)
    assert isinstance(error, ReplicateUnreachable)
    assert not error.retryable


@pytest.mark.parametrize(
    ("days", "name", "advice"),
    [(-1, API, "check this machine's clock"), (1, "portal.example", "another server answers")],
)
async def test_expired_or_mismatched_certificate_is_reported_with_its_cause(
    simulator: Simulator,
    tmp_path: Path,
    environment: pytest.MonkeyPatch,
    days: int,
    name: str,
    advice: str,
) -> None:
    with company(tmp_path, port_of(simulator), days=days, name=name) as network:
        use(environment, network.environment)
        with pytest.raises(ConnectionMisconfigured, match=advice):
            await account()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SSL_CERT_FILE", "/nowhere/ca.pem", "is /nowhere/ca.pem, which is not there: name"),
        ("SSL_CERT_FILE", "~/ca.pem", "`~` is not expanded here"),
        ("SSL_CERT_FILE", "{folder}", "which is a folder"),
        ("SSL_CERT_FILE", "{folder}/empty", "which is empty"),
        ("SSL_CERT_FILE", "{folder}/text", "holds no certificate in PEM format"),
        ("SSL_CERT_FILE", "a\0b", "which is not there"),
        ("SSL_CERT_FILE", " ", "SSL_CERT_FILE is blank, which names nothing: name a PEM file"),
        ("SSL_CERT_DIR", "{folder}/text", "which is a file"),
        ("SSL_CERT_DIR", "{folder}", "`openssl rehash`"),
        ("REQUESTS_CA_BUNDLE", "/nowhere", "which is not there"),
        ("CURL_CA_BUNDLE", "{folder}", "which is a folder"),
        ("SSLKEYLOGFILE", "{folder}", r"which cannot be written \(Is a directory\): unset it"),
        ("SSLKEYLOGFILE", "/nowhere/keys", r"cannot be written \(No such file or directory\)"),
    ],
)
async def test_variable_that_breaks_tls_is_named_with_its_value(
    environment: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, said: str
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no certificate")
    value = value.format(folder=tmp_path)
    if "\0" in value:
        environment.setattr("os.environ", {variable: value})
    else:
        environment.setenv(variable, value)
    with pytest.raises(ConnectionMisconfigured, match=said) as raised:
        await account()
    assert str(raised.value).startswith(f"{variable} is ")
    with pytest.raises(DownloadFailed, match=said):
        await Delivery(URL).client()


async def test_tls_variable_works_once_its_file_exists(
    network: Company, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "later.pem"
    use(environment, network.proxy.environment() | {"SSL_CERT_FILE": str(file)})
    with pytest.raises(ConnectionMisconfigured):
        await account()
    file.write_bytes(network.authority.file.read_bytes())
    assert await account() == "acme"


def test_macos_and_windows_verify_with_their_system_stores(environment: pytest.MonkeyPatch) -> None:
    import truststore

    tls._client_context.cache_clear()
    environment.setattr(certificates, "IS_MACOS", True)
    assert type(tls.client_context()) is truststore.SSLContext
    environment.undo()
    tls._client_context.cache_clear()


def test_tls_context_is_created_once_and_checks_hostnames() -> None:
    context = tls.client_context()
    assert context is tls.client_context()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


# Proxies.


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_unreachable_proxy_is_named_without_its_password(
    environment: pytest.MonkeyPatch, name: str
) -> None:
    environment.setenv(name, "http://ann:s3cr@t@127.0.0.1:1")
    with pytest.raises(RequestNotSent) as raised:
        await account()
    assert not isinstance(raised.value, ConnectionMisconfigured)
    assert str(raised.value).startswith(
        f"the proxy http://127.0.0.1:1 that {name} names does not answer ("
    )


async def test_proxy_rejecting_its_password_is_named_and_not_retried(
    environment: pytest.MonkeyPatch, simulator: Simulator
) -> None:
    with proxy(port_of(simulator), "ann:right") as running:
        use(environment, running.environment("ann:wr0ng"))
        with pytest.raises(ConnectionMisconfigured, match="407") as raised:
            await account()
        assert "wr0ng" not in str(raised.value)
        assert f"the proxy http://127.0.0.1:{running.port} that HTTPS_PROXY names" in str(
            raised.value
        )
        assert len(running.asked) == 1


CLOSED = "http://127.0.0.1:1"
"""A proxy that is not there: nothing listens on that port."""


@pytest.fixture(params=["environment", "system"])
def proxied(request: pytest.FixtureRequest, environment: pytest.MonkeyPatch) -> None:
    """Return a proxy set in the variables, or in the settings of macOS and Windows."""
    if request.param == "environment":
        use(environment, {"HTTP_PROXY": CLOSED, "HTTPS_PROXY": CLOSED, "ALL_PROXY": CLOSED})
    else:
        proxies = {"http": CLOSED, "https": CLOSED, "socks": CLOSED}
        environment.setattr(urllib.request, "getproxies", lambda: proxies)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
async def test_loopback_never_uses_a_proxy(
    environment: pytest.MonkeyPatch, host: str, proxied: None
) -> None:
    assert await find_proxy("http", host) is None
    assert await find_proxy("http", "replicate.example") is not None


async def test_simulator_is_reached_without_the_configured_proxy(
    environment: pytest.MonkeyPatch, simulator: Simulator, proxied: None
) -> None:
    assert await account(simulator.url) == "acme"
    async with Delivery(simulator.url).fetching() as fetch:
        with pytest.raises(
            DownloadFailed, match="expired"
        ):  # The simulator's response: no such file.
            await fetch(f"{simulator.url}/delivery/none/out-0.png", 1_000)


async def test_proxy_bypass_names_are_resolved_off_the_event_loop(
    environment: pytest.MonkeyPatch,
) -> None:
    may_resolve = threading.Event()

    def resolve(host: str) -> bool:
        assert may_resolve.wait(10), "the event loop waits for the name"
        return True

    environment.setenv("HTTPS_PROXY", CLOSED)
    environment.setattr(urllib.request, "proxy_bypass", resolve)
    async with anyio.create_task_group() as group:
        group.start_soon(connection_options, URL)
        await anyio.sleep(0.05)
        may_resolve.set()


async def test_no_name_is_resolved_without_a_proxy(environment: pytest.MonkeyPatch) -> None:
    def resolve(host: str) -> bool:
        raise AssertionError(host)

    environment.setattr(urllib.request, "proxy_bypass", resolve)
    assert await find_proxy("https", API) is None


@pytest.mark.parametrize("hosts", [API, ".replicate.test", "*"])
async def test_no_proxy_is_honoured(environment: pytest.MonkeyPatch, hosts: str) -> None:
    use(environment, {"HTTPS_PROXY": CLOSED, "NO_PROXY": hosts})
    assert await find_proxy("https", API) is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://ann:s3cret@proxy.example:8080", "the proxy http://proxy.example:8080 that"),
        ("http://ann:s3/cr@t@proxy.example", "the proxy http://proxy.example that"),
        ("http://[::1]:3128", "the proxy http://[::1]:3128 that"),
        ("http://ann:s3cret", "the proxy that"),
        ("http://proxy.example:80:s3cret", "the proxy that"),
    ],
)
def test_proxy_is_shown_without_credentials(url: str, shown: str) -> None:
    setting = ProxySetting(url, "HTTPS_PROXY")
    assert str(setting) == f"{shown} HTTPS_PROXY names"
    assert "s3" not in repr(setting)


async def test_socks_proxy_error_names_the_required_package(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(ConnectionMisconfigured, match=r"pip install .*'httpx\[socks\]'"):
        await connection_options(URL)


# Other outgoing requests.


async def test_images_are_fetched_with_the_same_proxy_and_certificates(
    network: Company, environment: pytest.MonkeyPatch
) -> None:
    use(environment, network.environment)
    async with Delivery(URL).fetching() as fetch:
        with pytest.raises(
            DownloadFailed, match="expired"
        ):  # The simulator's response: no such file.
            await fetch("https://replicate.delivery/delivery/none/out-0.png", 1_000)
    assert network.proxy.asked == ["replicate.delivery:443"]
    environment.delenv("SSL_CERT_FILE")
    async with Delivery(URL).fetching() as fetch:
        with pytest.raises(DownloadFailed, match="set SSL_CERT_FILE"):
            await fetch("https://replicate.delivery/delivery/none/out-0.png", 1_000)


async def test_https_url_of_the_simulator_is_reported_with_the_correct_url(
    simulator: Simulator,
) -> None:
    url = simulator.url.replace("http://", "https://")
    with pytest.raises(ConnectionMisconfigured, match="does not speak TLS") as raised:
        await account(url)
    assert str(raised.value).endswith(f"set REPLICATE_BASE_URL to {simulator.url}")


@pytest.mark.parametrize("port", [65_536, 99_999])
async def test_every_transport_error_becomes_a_replicate_api_error(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    with pytest.raises(ResponseLost, match=r"the request to 127\.0\.0\.1 failed"), call():
        await Transport(url).handle_async_request(httpx.Request("GET", f"{url}/v1/account"))


@pytest.mark.parametrize("variable", ["", "SSL_CERT_FILE"])
def test_certificate_verification_is_equal_on_every_python(
    network: Company, environment: pytest.MonkeyPatch, variable: str
) -> None:
    create = ssl.create_default_context

    def create_strict(*args: Any, **options: Any) -> ssl.SSLContext:
        context = create(*args, **options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # The default since Python 3.13.
        return context

    environment.setattr(ssl, "create_default_context", create_strict)
    if variable:
        environment.setenv(variable, str(network.authority.file))
    tls._client_context.cache_clear()
    assert not tls.client_context().verify_flags & ssl.VERIFY_X509_STRICT
    tls._client_context.cache_clear()
