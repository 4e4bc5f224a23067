"""A grip on a simulator that runs: look at what it has seen, change how it behaves."""

import asyncio
import http.client
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode, urlsplit

from replicate_mcp.simulator.engine.fault_injection import ORDERS, Call, Fault

JSON = dict[str, Any]
_FAULT_SETTINGS = {call: name for name, call in ORDERS.items()}


class Simulator:
    """Talks to a simulator's control routes; the same for a thread and for a process."""

    def __init__(self, url: str, pid: int | None = None) -> None:
        self.url = url.rstrip("/")
        """`http://127.0.0.1:PORT`, for `REPLICATE_BASE_URL`."""
        self.pid = pid
        """Of its process, where it has one of its own."""

    def stats(self, limit: int | None = None) -> JSON:
        """`accounts` by name and `requests` by route; with a limit also `utilisation` of it."""
        return self._object("GET", "/simulator/stats", {"limit": limit})

    def account(self, name: str, limit: int | None = None) -> JSON:
        """The stats of one account; it need not have done anything yet."""
        self._call("POST", f"/simulator/accounts/{name}")
        account: JSON = self.stats(limit)["accounts"][name]
        return account

    def settings(self) -> JSON:
        """All settings as they are now."""
        return self._object("GET", "/simulator/settings")

    def configure(self, **settings: object) -> JSON:
        """Change settings at once and get all of them; raises ValueError for wrong ones."""
        return self._object("POST", "/simulator/configure", body=settings)

    def fault_next(self, fault: Fault | str, count: int = 1, *, on: Call = "creation") -> None:
        """Let the next calls of this kind go wrong, after those already ordered."""
        self.configure(**{_FAULT_SETTINGS[on]: [str(fault)] * count})

    def change_account(
        self,
        name: str,
        *,
        revoke: Iterable[str] = (),
        restore: Iterable[str] = (),
        **changes: object,
    ) -> JSON:
        """Change `out_of_credit`, `low_credit`, `requests_per_minute`, `burst` or its tokens."""
        body = {"revoke": list(revoke), "restore": list(restore), **changes}
        return self._object("POST", f"/simulator/accounts/{name}", body=body)

    def reset(self) -> None:
        """Forget all that has happened, and go back to the settings of the start."""
        self._call("POST", "/simulator/reset")

    def predictions(self, account: str | None = None) -> list[JSON]:
        """Every prediction with all that is known of it, oldest first."""
        found: list[JSON] = self._call("GET", "/simulator/predictions", {"account": account})
        return found

    def timeline(self, account: str) -> list[tuple[float, int]]:
        """Each change of the number in flight: when, and how many since."""
        changes = self._object("GET", "/simulator/timeline").get(account, [])
        return [(at, count) for at, count in changes]

    def wait_for(self, *, account: str | None = None, within: float = 10, **counts: int) -> JSON:
        """Block until all of these counts are reached and give the stats; raises TimeoutError.

        `within` is in seconds, 60 at most.
        Counts are those of the stats and `ended`. `in_flight=0` means none at all.
        """
        query = {"account": account, "timeout": within, **counts}
        return self._object("GET", "/simulator/wait", query, timeout=within + 5)

    async def reached(
        self, *, account: str | None = None, within: float = 10, **counts: int
    ) -> JSON:
        """`wait_for` without blocking the event loop."""
        return await asyncio.to_thread(self.wait_for, account=account, within=within, **counts)

    def _object(
        self,
        method: str,
        path: str,
        query: JSON | None = None,
        body: JSON | None = None,
        timeout: float = 30,
    ) -> JSON:
        answer: JSON = self._call(method, path, query, body, timeout)
        return answer

    def _call(
        self,
        method: str,
        path: str,
        query: JSON | None = None,
        body: JSON | None = None,
        timeout: float = 30,
    ) -> Any:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=timeout)
        try:
            connection.request(method, f"{path}?{urlencode(given)}", json.dumps(body or {}))
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        match response.status:
            case http.client.OK:
                return answer
            case http.client.REQUEST_TIMEOUT:
                raise TimeoutError(answer["detail"])
            case _:
                raise ValueError(answer["detail"])
