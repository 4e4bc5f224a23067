"""A simulator with hostile texts in every field, and a check of what reaches a terminal."""

import http.client
import json
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from replicate_mcp.simulator import Simulator

HOSTILE = "".join(
    (
        "\x1b]52;c;aGk=\x07", "\x1b[2J", "\u202e", "\u2066", "\ud800", "\0", "\r\n", "\x7f", "\x85",
        "\u2028", "\x9b2J", "<img src=x onerror=alert(1)>", "javascript:alert(1)", "]]>", "{{7*7}}",
        "%0a", "../", "..\\", "CON", "a\u0300", "[/red]", "[bold]", "\t", "\n", "end",
    )
)  # fmt: skip

LONG = "a" * 65_536


def assert_printable(text: str, lines: int) -> None:
    """Check that `text` contains no terminal controls and exactly our own lines."""
    unprintable = {c for c in text if not c.isprintable() and c not in "\n\t"}
    assert not unprintable, (unprintable, text)
    assert text.count("\n") == lines, text


@contextmanager
def hostile_replicate(
    simulator: Simulator, fields: Collection[str], text: str = HOSTILE
) -> Iterator[str]:
    """Serve the simulator's API with `text` added to these fields; yield its URL."""
    to = urlsplit(simulator.url).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            size = int(self.headers.get("content-length", 0))
            connection = http.client.HTTPConnection(to, timeout=30)
            headers = {
                name: value for name, value in self.headers.items() if name.lower() != "host"
            }
            connection.request(self.command, self.path, self.rfile.read(size), headers)
            response = connection.getresponse()
            body = response.read()
            if "json" in (response.headers["content-type"] or ""):
                body = json.dumps(_changed(json.loads(body), fields, text)).encode()
            connection.close()
            self.send_response(response.status)
            for name, value in response.headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    for method in ("GET", "POST", "QUERY"):
        setattr(Handler, f"do_{method}", Handler.pass_on)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _changed(value: Any, fields: Collection[str], text: str, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _changed(each, fields, text, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_changed(each, fields, text, key) for each in value]
    if not isinstance(value, str) or key not in fields:
        return value
    # An account's name becomes part of a key, which cannot contain a lone surrogate.
    return value + (text.replace("\ud800", "") if key == "username" else text)
