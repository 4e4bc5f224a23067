"""A stand-in for Replicate's API that responds with arbitrary bytes chosen by a test.

The simulator responds as Replicate does. Tests with this stand-in choose each body, valid or not,
because models decide what their predictions contain.
"""

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any, TypeVar

SCHEMA = {
    "components": {
        "schemas": {
            "Input": {
                "type": "object",
                "properties": {"prompt": {"type": "string"}, "seed": {"type": "integer"}},
            },
            "Output": {"type": "string"},
        }
    }
}

P = TypeVar("P", bound="Playback")

Body = Callable[[dict[str, Any]], str]
"""The body of an answer, as text, for a prediction as Replicate would give it."""


class Playback:
    """Scripted responses and recorded requests.

    Attributes:
        created: the body of each creation's response; None to hold it without end.
        seen: the body of a GET of a prediction.
        listed: its row in the account's list.
        others: rows of the list that belong to no prediction of the test.
        predictions: the predictions as Replicate would return them, by id, in order.
        delay_seconds: the delay of each response.
        most_at_once: the peak number of open requests.
        connections: the number of accepted connections.
    """

    def __init__(self) -> None:
        self.created: Body | None = json.dumps
        self.seen: Body = json.dumps
        self.listed: Body = json.dumps
        self.others: list[str] = []
        self.predictions: dict[str, dict[str, Any]] = {}
        self.delay_seconds = 0.0
        self.open = self.max_concurrent_requests = self.connections = 0
        self.url = ""

    def status(self, method: str, path: str, headers: dict[str, str]) -> str:
        """Return the status of the response to a request."""
        return "201 Created" if method == "POST" else "200 OK"

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> str | bytes | None:
        """Return the body of the response to a request; None to hold it."""
        if path == "/v1/account":
            return '{"username": "acme"}'
        if path.startswith("/v1/predictions?"):
            own = map(self.listed, list(self.predictions.values())[::-1])
            return f'{{"next": null, "results": [{",".join([*self.others, *own])}]}}'
        if found := re.fullmatch(r"/v1/predictions/([^/]+)(/cancel)?", path):
            known = self.predictions.get(found[1])
            return None if known is None else self.seen(known)
        if method == "POST":
            prediction = self._new(json.loads(body)["input"], headers)
            return None if self.created is None else self.created(prediction)
        version = {"id": "f" * 64, "openapi_schema": SCHEMA}
        return json.dumps({"is_official": True, "visibility": "public", "latest_version": version})

    def _new(self, sent: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        now = datetime.now(UTC)
        lives = timedelta(seconds=int(headers["cancel-after"].removesuffix("s")))
        prediction_id = f"p{len(self.predictions):08}"
        self.predictions[prediction_id] = {
            "id": prediction_id,
            "model": "black-forest-labs/flux-schnell",
            "version": "hidden",
            "status": "succeeded",
            "input": sent,
            "output": f"https://replicate.delivery/{prediction_id}.png",
            "error": None,
            "created_at": now.isoformat(),
            "completed_at": now.isoformat(),
            "deadline": (now + lives).isoformat(),
            "metrics": {"predict_time": 1.0},
        }
        return self.predictions[prediction_id]


@contextmanager
def running_playback(playback: P) -> Iterator[P]:
    """Run it on loopback, in its own thread, while the block runs."""
    started = threading.Event()
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        server = await asyncio.start_server(lambda r, w: _connection(playback, r, w), "127.0.0.1")
        playback.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        stop.append(partial(loop.call_soon_threadsafe, ended.set))
        started.set()
        await ended.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    started.wait()
    try:
        yield playback
    finally:
        stop[0]()
        thread.join()


async def _connection(
    playback: Playback, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    playback.connections += 1
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            first, *lines = head.decode("latin-1").strip().split("\r\n")
            method, path, _ = first.split(" ")
            headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            playback.open += 1
            playback.max_concurrent_requests = max(playback.max_concurrent_requests, playback.open)
            await asyncio.sleep(playback.delay_seconds)
            text = playback.answer(method, path, headers, body)
            playback.open -= 1
            if text is None:
                await reader.read()  # Wait until the client disconnects.
                return
            content = text.encode() if isinstance(text, str) else text
            status = playback.status(method, path, headers)
            writer.write(
                f"HTTP/1.1 {status}\r\nDate: {format_datetime(datetime.now(UTC), usegmt=True)}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
                + content
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()
