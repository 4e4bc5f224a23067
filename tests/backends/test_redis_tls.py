"""`rediss://` trusts the same certificates as every other connection."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from backends.servers import RunningServer
from network import NETWORK_VARIABLES, CertificateAuthority, tls_in_front
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.errors import BackendUnavailable


async def test_custom_ca_is_trusted_and_untrusted_one_is_reported(
    servers: Callable[[str], RunningServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NETWORK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    authority = CertificateAuthority(tmp_path)
    port = urlsplit(servers("redis").url("tls")).port
    assert port is not None
    with tls_in_front(port, authority.server_context("localhost")) as tls_port:
        url = f"rediss://localhost:{tls_port}/0?prefix=tls"
        with pytest.raises(
            BackendUnavailable, match=r"certificate .* not trust: set SSL_CERT_FILE"
        ):
            await RedisBackend.open(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
        with pytest.raises(BackendUnavailable, match=r"SSL_CERT_FILE is .*nowhere\.pem, which"):
            await RedisBackend.open(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        backend = await RedisBackend.open(url)
        assert await backend.semaphores() == []
        await backend.close()
        monkeypatch.delenv("SSL_CERT_FILE")
        backend = await RedisBackend.open(f"{url}&ssl_ca_certs={authority.file}")
        await backend.close()
