"""Downloads: files are fetched only from Replicate's delivery hosts, and only valid ones."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import httpx
import pytest

from replicate_mcp.replicate_api import delivery
from replicate_mcp.replicate_api.delivery import (
    Delivery,
    DownloadFailed,
    image_origins,
    simulator_origins,
)

MEGABYTE = 2**20

# The API's base URL, a URL, and whether it is an output URL.
ADDRESSES: list[tuple[str, str, bool]] = [
    ("https://api.replicate.com", "https://replicate.delivery/a/out.png", True),
    ("https://api.replicate.com", "https://pbxt.replicate.delivery/a/out.png", True),
    ("https://api.replicate.com", "https://replicate.delivery:443/a", True),
    ("https://api.replicate.com", "http://replicate.delivery/a", False),
    ("https://api.replicate.com", "https://replicate.delivery:8443/a", False),
    ("https://api.replicate.com", "https://replicate.delivery@evil.example/a", False),
    ("https://api.replicate.com", "https://user:pass@replicate.delivery/a", False),
    ("https://api.replicate.com", "https://evilreplicate.delivery/a", False),
    ("https://api.replicate.com", "https://replicate.delivery.evil.example/a", False),
    ("https://api.replicate.com", "https://169.254.169.254/latest/meta-data", False),
    ("https://api.replicate.com", "http://127.0.0.1:9001/delivery/a", False),
    ("https://api.replicate.com", "file:///etc/passwd", False),
    ("https://api.replicate.com", "data:image/png;base64,AAAA", False),
    ("https://api.replicate.com", "https://[replicate.delivery/a", False),
    ("https://replicate.example.com", "https://replicate.example.com/a", False),
    ("http://127.0.0.1:9001", "http://127.0.0.1:9001/delivery/a", True),
    ("http://127.0.0.1:9001", "http://127.0.0.1:9002/delivery/a", False),
    ("http://127.0.0.1:9001", "https://127.0.0.1:9001/delivery/a", False),
    ("http://127.0.0.1:9001", "http://localhost:9001/delivery/a", False),
    ("http://localhost:9001", "http://localhost:9001/delivery/a", True),
    ("http://127.0.0.1:9001", "http://user@127.0.0.1:9001/delivery/a", False),
    ("http://127.0.0.1:9001", "http://:pass@127.0.0.1:9001/delivery/a", False),
    ("http://127.0.0.1:9001", "https://replicate.delivery/a", True),
    ("http://127.0.0.1:9001", "http://replicate.delivery:9001/a", False),
]

DELIVERY = ("https://replicate.delivery", "https://*.replicate.delivery")


@pytest.mark.parametrize(
    ("base_url", "own"),
    [
        ("https://api.replicate.com", ()),
        ("http://replicate.example:9001", ()),
        ("/", ()),
        ("http://127.0.0.1:9001", ("http://127.0.0.1:9001",)),
        ("http://localhost:9001", ("http://localhost:9001", "http://127.0.0.1:9001")),
        ("https://localhost", ("https://localhost", "https://127.0.0.1")),
        ("http://[::1]:9001", ("http://127.0.0.1:9001",)),
    ],
)
def test_browser_may_load_images_from_output_hosts(base_url: str, own: tuple[str, ...]) -> None:
    assert simulator_origins(base_url) == own
    assert image_origins(base_url) == (*DELIVERY, *own)


@pytest.mark.parametrize(("base_url", "url", "is_output"), ADDRESSES)
def test_output_urls_are_distinguished_from_other_urls(
    base_url: str, url: str, is_output: bool
) -> None:
    assert Delivery(base_url).is_output_url(url) is is_output


class Files(BaseHTTPRequestHandler):
    """A host of files, some of them invalid."""

    asked: list[str]
    silent: Event

    def do_GET(self) -> None:
        self.asked.append(self.path)
        assert self.headers["Accept-Encoding"] == "identity"
        assert "Authorization" not in self.headers
        if self.path == "/silent":
            self.silent.wait(10)
        elif self.path == "/closed":
            self.close_connection = True
        elif self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "/fine")
            self.end_headers()
        elif self.path[1:].isdigit():
            self.send_error(int(self.path[1:]))
        else:
            self.send_response(200)
            if self.path == "/compressed":
                self.send_header("Content-Encoding", "gzip")
            if self.path == "/as-it-is":
                self.send_header("Content-Encoding", "Identity")
            self.end_headers()
            self.wfile.write(b"x" * (2 * MEGABYTE + 1 if self.path == "/large" else 1_000))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def files() -> Iterator[tuple[str, list[str]]]:
    """Run a file host; yield its address and the requested paths."""
    asked: list[str] = []
    silent = Event()
    handler = type("Handler", (Files,), {"asked": asked, "silent": silent})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        silent.set()
        server.shutdown()
        thread.join()


async def test_file_is_fetched_whole_and_without_a_token(files: tuple[str, list[str]]) -> None:
    base_url, _ = files
    async with Delivery(base_url).fetching() as fetch:
        for path in ("/fine", "/as-it-is"):
            assert await fetch(f"{base_url}{path}", 1_000) == b"x" * 1_000


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/elsewhere", "its host answered 302"),
        ("/404", "its URL has expired: Replicate deletes files after an hour"),
        ("/410", "its URL has expired: Replicate deletes files after an hour"),
        ("/403", "its host answered 403"),
        ("/fine", "it is over 0 MB"),
        ("/large", "it is over 2 MB"),
        ("/closed", "the connection failed (Server disconnected without sending a response.)"),
        ("/compressed", "its host sent it compressed, which was not asked for"),
    ],
)
async def test_invalid_delivery_responses_raise_download_errors(
    files: tuple[str, list[str]], path: str, reason: str
) -> None:
    base_url, asked = files
    async with Delivery(base_url).fetching() as fetch:
        with pytest.raises(DownloadFailed) as refused:
            await fetch(f"{base_url}{path}", 999 if path == "/fine" else 2 * MEGABYTE)
    assert str(refused.value) == reason
    assert asked == [path], "no redirect is followed"


async def test_unresponsive_host_times_out(
    files: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    base_url, _ = files
    async with await Delivery(base_url).client() as client:
        assert client.timeout == httpx.Timeout(30)
        assert not client.trust_env
    monkeypatch.setattr(delivery, "PHASE_SECONDS", httpx.Timeout(10, read=0.05))
    async with Delivery(base_url).fetching() as fetch:
        with pytest.raises(DownloadFailed, match=r"^the connection failed \(ReadTimeout\)$"):
            await fetch(f"{base_url}/silent", 1_000)


async def test_foreign_hosts_are_never_requested(
    files: tuple[str, list[str]],
) -> None:
    base_url, asked = files
    async with Delivery("https://api.replicate.com").fetching() as fetch:
        with pytest.raises(DownloadFailed, match=r"not on replicate\.delivery"):
            await fetch(f"{base_url}/fine", 1_000)
    assert asked == []


async def test_unreachable_host_is_named_as_the_reason() -> None:
    base_url = "http://127.0.0.1:9"
    async with Delivery(base_url).fetching() as fetch:
        with pytest.raises(
            DownloadFailed, match=r"the simulator at http://127\.0\.0\.1:9 does not"
        ):
            await fetch(f"{base_url}/fine", 1_000)


async def test_files_are_fetched_through_the_proxy_of_their_scheme(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "socks5://nobody.example.com:1080")
    monkeypatch.setenv("HTTP_PROXY", "http://us#er:1")
    async with Delivery("https://api.replicate.com").fetching() as fetch:
        with pytest.raises(
            DownloadFailed, match=r"the proxy http://127\.0\.0\.1:1 that HTTPS_PROXY"
        ):
            await fetch("https://replicate.delivery/x.webp", 1_000)


async def test_unusable_proxy_is_named_as_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:p#ss-secret@proxy.example.com:1")
    with pytest.raises(DownloadFailed, match="the proxy that HTTPS_PROXY names") as raised:
        async with Delivery("https://api.replicate.com").fetching():
            pass
    assert "secret" not in str(raised.value)
