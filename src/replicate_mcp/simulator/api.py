"""ASGI application of the simulator: checks route, token, rate and faults, then responds."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from replicate_mcp.simulator.engine.accounts import Account, TokenBucket
from replicate_mcp.simulator.engine.clock import DateHeader
from replicate_mcp.simulator.engine.fault_injection import Call, Fault
from replicate_mcp.simulator.http_exchange import Answer, Exchange
from replicate_mcp.simulator.problem_details import Problem, not_found, of_status, throttled
from replicate_mcp.simulator.route_context import Simulation
from replicate_mcp.simulator.routes import control, delivery, models, predictions

Handler = Callable[[Simulation, Exchange, Account], Awaitable[Answer]]
OpenHandler = Callable[[Simulation, Exchange], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """Call of Replicate's API, which requires a token."""

    name: str
    pattern: re.Pattern[str]
    handler: Handler
    call: Call | None


@dataclass(frozen=True, slots=True)
class OpenRoute:
    """Path that requires no token: an output file or a control route of the simulator."""

    pattern: re.Pattern[str]
    handler: OpenHandler


class Api:
    """ASGI application for one simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self._date = DateHeader()
        self._open: set[Exchange] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        exchange = Exchange(scope, receive, send)
        self._open.add(exchange)
        try:
            if exchange.path.startswith("/v1/"):
                await self._answer_with_token(exchange)
            else:
                await self._answer_without_token(exchange)
        finally:
            self._open.discard(exchange)

    def hang_up(self) -> None:
        """Reset all connections with a request in progress."""
        for exchange in list(self._open):
            exchange.hang_up()

    async def _answer_with_token(self, exchange: Exchange) -> None:
        world = self.simulation.world
        bucket: TokenBucket | None = None
        try:
            route = _find(exchange)
            world.requests[route.name] += 1
            account = world.account_of(exchange.header(b"authorization"))
            creates = route.call == "creation"
            bucket = account.creations if creates else account.others
            account.counts["creations_seen" if creates else "other_calls"] += 1
            seconds = bucket.take(world.clock.now())
            fault = None if seconds or route.call is None else world.faults.next_fault(route.call)
            if fault is not None:
                account.counts["faults"] += 1
            world.wake_watchers()
            if seconds or fault is Fault.THROTTLED:
                account.counts["throttled"] += 1
                settings = account.wording(world.settings)
                named = bucket.refill_seconds if seconds else settings.throttle_seconds
                raise throttled(settings, named, bucket.per_minute, bucket.burst)
            exchange.fault = fault if fault is not None and fault.is_after else None
            if fault is not None and exchange.fault is None:
                answer = None
            else:
                answer = await route.handler(self.simulation, exchange, account)
        except Problem as problem:
            answer, fault = Answer.problem(problem), None
        headers = [(b"date", self._now())]
        if bucket is not None:
            headers.append((b"ratelimit-remaining", str(bucket.remaining).encode()))
            headers.append((b"ratelimit-reset", str(bucket.refill_seconds).encode()))
        await _send(exchange, answer, fault, headers)

    async def _answer_without_token(self, exchange: Exchange) -> None:
        try:
            answer = await _find_open(exchange)(self.simulation, exchange)
        except Problem as problem:
            answer = Answer.problem(problem)
        await exchange.send(answer.with_headers([(b"date", self._now())]))

    def _now(self) -> bytes:
        world = self.simulation.world
        return self._date.at(world.clock.now() + world.settings.clock_offset_seconds)


def route_names() -> list[str]:
    """Return method and path of every implemented call of Replicate's API."""
    return [route.name for routes in _ROUTES.values() for route in routes]


async def _send(
    exchange: Exchange,
    answer: Answer | None,
    fault: Fault | None,
    headers: list[tuple[bytes, bytes]],
) -> None:
    """Send the response, or the effect of a fault in its place."""
    if fault is not None and fault.http_status is not None:
        answer, fault = _error(fault.http_status), None
    whole = None if answer is None else answer.with_headers(headers)
    match fault:
        case None if whole is not None:
            await exchange.send(whole)
        case Fault.TRUNCATED if whole is not None:
            await exchange.send_truncated(whole)
        case Fault.MALFORMED if whole is not None:
            await exchange.send_malformed(whole)
        case Fault.RESET | Fault.RESET_AFTER:
            await exchange.reset()
        case _:
            await exchange.silence()


def _error(status: int) -> Answer:
    return Answer.edge_error(status) if status >= 520 else Answer.problem(of_status(status))


def _find(exchange: Exchange) -> Route:
    for route in _ROUTES.get(exchange.method, ()):
        if found := route.pattern.fullmatch(exchange.path):
            exchange.args = found.groups()
            return route
    raise not_found()


def _find_open(exchange: Exchange) -> OpenHandler:
    for route in _OPEN_ROUTES.get(exchange.method, ()):
        if found := route.pattern.fullmatch(exchange.path):
            exchange.args = found.groups()
            return route.handler
    raise not_found()


def _routes(method: str, *routes: tuple[str, Handler, Call | None]) -> dict[str, tuple[Route, ...]]:
    return {
        method: tuple(
            Route(f"{method} {path}", _compiled(path), handler, call)
            for path, handler, call in routes
        )
    }


def _compiled(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{\w+\}", "([^/]+)", path))


_ROUTES: dict[str, tuple[Route, ...]] = {
    **_routes(
        "POST",
        ("/v1/models/{owner}/{name}/predictions", predictions.create_by_model, "creation"),
        ("/v1/predictions", predictions.create_by_version, "creation"),
        (
            "/v1/deployments/{owner}/{name}/predictions",
            predictions.create_by_deployment,
            "creation",
        ),
        ("/v1/predictions/{id}/cancel", predictions.cancel, "cancel"),
        ("/v1/files", models.create_file, "upload"),
    ),
    **_routes(
        "GET",
        ("/v1/predictions/{id}", predictions.get, "prediction"),
        ("/v1/predictions", predictions.list_newest_first, "list"),
        ("/v1/models/{owner}/{name}", models.get_model, "model"),
        ("/v1/models/{owner}/{name}/versions", models.list_versions, "get"),
        ("/v1/models/{owner}/{name}/versions/{id}", models.get_version, "model"),
        ("/v1/models", models.list_models, "get"),
        ("/v1/search", models.search, "get"),
        ("/v1/account", models.get_account, "account"),
        ("/v1/collections", models.list_collections, "get"),
        ("/v1/collections/{slug}", models.get_collection, "get"),
        ("/v1/deployments", models.list_deployments, "get"),
        ("/v1/deployments/{owner}/{name}", models.get_deployment, "model"),
        ("/v1/files", models.list_files, "get"),
        ("/v1/files/{id}", models.get_file, "get"),
        ("/v1/webhooks/default/secret", models.get_webhook_secret, "secret"),
    ),
    **_routes("QUERY", ("/v1/models", models.search_models, "get")),
    **_routes("DELETE", ("/v1/files/{id}", models.delete_file, None)),
}

_DELIVERY = (
    OpenRoute(re.compile(r"/delivery/([^/]+)/out-(\d{1,3})(?:\.(\w+))?"), delivery.get_output),
    OpenRoute(re.compile(r"/delivery/covers/([^/]+)/(.+)\.webp"), delivery.get_cover),
)
_OPEN_ROUTES: dict[str, tuple[OpenRoute, ...]] = {
    "HEAD": _DELIVERY,
    "GET": (
        *_DELIVERY,
        OpenRoute(re.compile("/simulator/stats"), control.get_stats),
        OpenRoute(re.compile("/simulator/settings"), control.get_settings),
        OpenRoute(re.compile("/simulator/predictions"), control.get_predictions),
        OpenRoute(re.compile("/simulator/timeline"), control.get_timeline),
        OpenRoute(re.compile("/simulator/wait"), control.wait),
    ),
    "POST": (
        OpenRoute(re.compile("/simulator/configure"), control.configure),
        OpenRoute(re.compile("/simulator/reset"), control.reset),
        OpenRoute(re.compile("/simulator/accounts/([^/]+)"), control.change_account),
    ),
}
