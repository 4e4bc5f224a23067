"""The background work of a server from its start, whatever fails around it."""

import anyio
import pytest

from conftest import AppFactory
from replicate_mcp.app import composition
from replicate_mcp.app.composition import Components
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.errors import ReplicateUnreachable


async def test_malformed_proxy_does_not_stop_a_server(
    app_with: AppFactory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:s3cr#t@proxy.example:80")
    monkeypatch.setenv("no_proxy", "")
    async with app_with(REPLICATE_BASE_URL="https://replicate.invalid") as app:
        await app.recover()
        for _ in range(2):
            with pytest.raises(ReplicateUnreachable, match="proxy that HTTPS_PROXY names"):
                await app.batches.start(app.caller(), BatchRequest([{"prompt": "x"}]))
    assert "s3cr" not in caplog.text


async def test_recovery_of_the_own_account_is_retried_after_any_error(
    app_with: AppFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composition, "RETRY_DELAY_SECONDS", 0)
    account, known, asked = Components.account, anyio.Event(), 0

    async def fails_once(parts: Components, token: str) -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise RuntimeError("nobody thought of it")
        name = await account(parts, token)
        known.set()
        return name

    monkeypatch.setattr(Components, "account", fails_once)
    async with app_with() as app:
        await app.recover()
        with anyio.fail_after(10):
            await known.wait()
