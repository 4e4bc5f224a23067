"""Files are fetched from Replicate's delivery hosts only, and only what is as it should be."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from replicate_mcp.replicate_api.delivery import Delivery, NotDelivered

MEGABYTE = 2**20

# Where Replicate's API is called, an address, and whether it is one of an output.
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
]


@pytest.mark.parametrize(("base_url", "url", "is_output"), ADDRESSES)
def test_addresses_of_outputs_are_told_from_others(
    base_url: str, url: str, is_output: bool
) -> None:
    assert Delivery(base_url).serves(url) is is_output


class Files(BaseHTTPRequestHandler):
    """A host of files, some of them odd."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "/fine")
            self.end_headers()
        elif self.path == "/gone":
            self.send_error(404)
        else:
            self.send_response(200)
            if self.path == "/compressed":
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(b"x" * (MEGABYTE if self.path == "/large" else 1_000))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def files() -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths that are asked for."""
    asked: list[str] = []
    handler = type("Handler", (Files,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


async def test_a_file_is_fetched_whole_and_without_a_token(files: tuple[str, list[str]]) -> None:
    base_url, _ = files
    async with Delivery(base_url).fetching() as fetch:
        assert await fetch(f"{base_url}/fine", 1_000) == b"x" * 1_000


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/elsewhere", "its host answered 302"),
        ("/gone", "its URL has expired: Replicate deletes files after an hour"),
        ("/large", "it is over 0 MB"),
        ("/compressed", "its host sent it compressed, which was not asked for"),
    ],
)
async def test_what_is_not_as_it_should_be_is_not_had(
    files: tuple[str, list[str]], path: str, reason: str
) -> None:
    base_url, asked = files
    async with Delivery(base_url).fetching() as fetch:
        with pytest.raises(NotDelivered) as refused:
            await fetch(f"{base_url}{path}", 1_000)
    assert str(refused.value) == reason
    assert asked == [path], "no redirect is followed"


async def test_nothing_is_asked_of_a_host_that_is_not_replicates(
    files: tuple[str, list[str]],
) -> None:
    base_url, asked = files
    async with Delivery("https://api.replicate.com").fetching() as fetch:
        with pytest.raises(NotDelivered, match=r"not on replicate\.delivery"):
            await fetch(f"{base_url}/fine", 1_000)
    assert asked == []


async def test_a_host_that_cannot_be_reached_is_named_as_the_reason() -> None:
    base_url = "http://127.0.0.1:9"
    async with Delivery(base_url).fetching() as fetch:
        with pytest.raises(NotDelivered, match=r"the simulator at http://127\.0\.0\.1:9 does not"):
            await fetch(f"{base_url}/fine", 1_000)


async def test_files_come_through_the_proxy_of_their_scheme_whatever_others_are_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "socks5://nobody.example.com:1080")
    monkeypatch.setenv("HTTP_PROXY", "http://us#er:1")
    async with Delivery("https://api.replicate.com").fetching() as fetch:
        with pytest.raises(NotDelivered, match=r"the proxy http://127\.0\.0\.1:1 that HTTPS_PROXY"):
            await fetch("https://replicate.delivery/x.webp", 1_000)


async def test_a_proxy_that_cannot_be_used_is_named_as_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:p#ss-secret@proxy.example.com:1")
    with pytest.raises(NotDelivered, match="the proxy that HTTPS_PROXY names") as told:
        async with Delivery("https://api.replicate.com").fetching():
            pass
    assert "secret" not in str(told.value)
