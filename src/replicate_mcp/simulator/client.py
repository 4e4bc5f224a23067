"""Client of a running simulator: reads its statistics and changes its behaviour."""

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
    """Client of a simulator's control routes, whether it runs in a thread or a process."""

    def __init__(self, url: str, pid: int | None = None) -> None:
        self.url = url.rstrip("/")
        """`http://127.0.0.1:PORT`, for `REPLICATE_BASE_URL`."""
        self.pid = pid
        """Process id of the simulator; None if it runs in a thread."""

    def stats(self, limit: int | None = None) -> JSON:
        """Return statistics by account and requests by route.

        With `limit`, accounts also have `utilisation`, their mean share of the limit in use.
        """
        return self._object("GET", "/simulator/stats", {"limit": limit})

    def account(self, name: str, limit: int | None = None) -> JSON:
        """Return the statistics of one account, creating it if it is new."""
        self._call("POST", f"/simulator/accounts/{name}")
        account: JSON = self.stats(limit)["accounts"][name]
        return account

    def settings(self) -> JSON:
        """Return the current settings."""
        return self._object("GET", "/simulator/settings")

    def configure(self, **settings: object) -> JSON:
        """Change settings and return all of them.

        Raises:
            ValueError: a setting is unknown or invalid.
        """
        return self._object("POST", "/simulator/configure", body=settings)

    def fault_next(self, fault: Fault | str, count: int = 1, *, on: Call = "creation") -> None:
        """Inject a fault into each of the next `count` calls of kind `on`.

        Faults injected earlier come first.
        """
        self.configure(**{_FAULT_SETTINGS[on]: [str(fault)] * count})

    def change_account(
        self,
        name: str,
        *,
        revoke: Iterable[str] = (),
        restore: Iterable[str] = (),
        **changes: object,
    ) -> JSON:
        """Change settings of an account (`out_of_credit`, `burst`, …) or revoke its tokens.

        Args:
            name: name of the account.
            revoke: tokens that are rejected from now on.
            restore: revoked tokens that are accepted again.
            **changes: `out_of_credit`, `low_credit`, `requests_per_minute` and `burst`.
        """
        body = {"revoke": list(revoke), "restore": list(restore), **changes}
        return self._object("POST", f"/simulator/accounts/{name}", body=body)

    def reset(self) -> None:
        """Clear all state and restore the initial settings."""
        self._call("POST", "/simulator/reset")

    def predictions(self, account: str | None = None) -> list[JSON]:
        """Return all predictions with all their details, oldest first."""
        found: list[JSON] = self._call("GET", "/simulator/predictions", {"account": account})
        return found

    def timeline(self, account: str) -> list[tuple[float, int]]:
        """Return (seconds, number in flight since then) for each change of that number."""
        changes = self._object("GET", "/simulator/timeline").get(account, [])
        return [(at, count) for at, count in changes]

    def wait_for(self, *, account: str | None = None, within: float = 10, **counts: int) -> JSON:
        """Block until all counts are reached and return the statistics.

        Args:
            account: account to watch; None for the sum of all accounts.
            within: timeout in seconds, at most 60.
            **counts: minimum values of counts in the statistics, or of `ended`; `in_flight=0` waits
                until none is in flight.

        Raises:
            TimeoutError: the counts are not reached within the timeout.
        """
        query = {"account": account, "timeout": within, **counts}
        return self._object("GET", "/simulator/wait", query, timeout=within + 5)

    async def reached(
        self, *, account: str | None = None, within: float = 10, **counts: int
    ) -> JSON:
        """Wait as `wait_for` does, without blocking the event loop."""
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
