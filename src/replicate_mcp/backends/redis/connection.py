"""The connection to a Redis or Valkey server: its address, the script, and its errors."""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

import anyio

from replicate_mcp.backends.names import unencodable
from replicate_mcp.backends.space import JOURNAL_BYTES
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.platform.shell import install_command
from replicate_mcp.platform.sockets import keepalive_options

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub
    from redis.asyncio.connection import SSLConnection

log = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
"""Seconds for which a process counts as alive without contact: the same for all processes."""

MIN_LEASE_SECONDS = 0.1

PREFIX = "replicate-mcp"
"""Prefix of every key, in braces: on a cluster, all keys share one slot."""

MAX_TIMEOUT_SECONDS = 5.0
MIN_TIMEOUT_SECONDS = 1.0
"""Bounds on the timeout of a reply, in seconds; between them, it is a third of the lease."""

HIDDEN = "the address in REPLICATE_MCP_BACKEND"
"""Replacement for an address of which no part can be shown safely."""

RECONNECT_SECONDS = 0.2
"""Pause before the wake-up connection is re-established."""

_RULES = {
    "rate_limit": "rate_limit",
    "admission": "admission",
    "cancel_after": "distinct_cancel_after",
}
"""Decisions that are also implemented in Python: each file, and the name of its value."""

_SHARED_STATE = {"shared_state": "shared_state"}
"""The same of the state that a renewal returns."""

_LUA_FILES = (
    "generation",
    "leases",
    "queue",
    "permits",
    "holders",
    "space",
    "journal",
    "cache",
    "resync",
    "commands",
    "call",
)
"""The other files of the script, which share the context in `prelude.lua`."""


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server, and the settings shared there.

    Attributes:
        url: the URL for the client, with its password.
        shown: the URL for people, without the password.
        lease: the lease of a process in seconds.
        prefix: the prefix of every key.
    """

    url: str = field(repr=False)
    shown: str
    lease: float
    prefix: str

    @classmethod
    def parse(cls, value: str) -> "Address":
        """Parse a `redis://` or `rediss://` URL with the optional parameters `lease` and `prefix`.

        Raises:
            BackendUnavailable: the URL is invalid; the message shows a valid form.
        """
        try:
            parts = urlsplit(value)
            query = dict(parse_qsl(parts.query))
            lease = float(query.pop("lease", LEASE_SECONDS))
            fine = parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0
            fine = fine and not _is_broken_by_a_password(parts)
        except ValueError:
            # The error is not shown: it may contain a part of a password.
            fine = False
        if not fine or not MIN_LEASE_SECONDS <= lease < math.inf:
            raise BackendUnavailable(
                f"{masked(value)} is not the address of a Redis: set REPLICATE_MCP_BACKEND to "
                "redis://user:password@host:6379/0, or rediss:// for TLS. What is special in a "
                "password has to be escaped (/ as %2F, @ as %40); ?lease= is in seconds."
            ) from None
        prefix = query.pop("prefix", PREFIX)
        url = urlunsplit(parts._replace(query=urlencode(query)))
        return cls(url, masked(value), lease, f"{{{prefix}}}:")

    @property
    def timeout(self) -> float:
        """The timeout of a reply in seconds."""
        return min(MAX_TIMEOUT_SECONDS, max(MIN_TIMEOUT_SECONDS, self.lease / 3))


def masked(url: str) -> str:
    """Return `url` without its secrets."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return HIDDEN
    if _is_broken_by_a_password(parts):
        return HIDDEN
    user = f"{parts.username}:***@" if parts.username else "***@" if parts.password else ""
    return f"{parts.scheme}://{user}{parts.hostname or ''}{port}{parts.path}"


def _is_broken_by_a_password(parts: SplitResult) -> bool:
    """Return whether an @ follows the host: then a password's /, ? or # was not escaped."""
    return any("@" in part for part in (parts.path, parts.query, parts.fragment))


class Script:
    """A script in Lua, which the server keeps by its SHA-1."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def of(cls, values: Mapping[str, str], files: Iterable[str]) -> "Script":
        """Compose a script of named values, of the context in `prelude.lua`, and of `files`.

        Args:
            values: the files that return a value, and its name in the script.
            files: the files that share the context.
        """
        # Each file becomes a function, so that its shared locals are looked up once for all of its
        # functions, which are created at every call.
        parts = [f"(function()\n{lua(each)}end)();\n" for each in files]
        return cls("".join([_lua_values(values), lua("prelude"), *parts, "return answer()\n"]))


class RedisConnection:
    """Runs scripts, one round trip a call, and translates errors.

    Attributes:
        orphan_messages: counts the messages that there are new orphans, and interruptions in which
            one may have been lost.
        is_listening: whether `wait_for_wakeup` receives messages now.

    Args:
        address: the address of the server.
        clock: returns seconds since the epoch, for tests; None for the server's clock, which all
            shared times use.
        journal_bytes: the allowance of each account in the journal.
    """

    def __init__(
        self,
        address: Address,
        *,
        clock: Callable[[], float] | None = None,
        journal_bytes: int = JOURNAL_BYTES,
    ) -> None:
        self.address = address
        self._journal_bytes = journal_bytes
        self._clock = clock
        self._script = Script.of(_RULES, _LUA_FILES)
        # Most of a call's time goes to creating the functions of its script: the scripts of the
        # calls that idle processes make have few.
        self._small_scripts = {
            "renew": Script.of(_SHARED_STATE, ["generation", "leases", "renewal", "call"]),
            "renew_quickly": Script(_lua_values(_SHARED_STATE) + lua("quick_renewal")),
            "has_orphans": Script(lua("has_orphans")),
        }
        self._client = self._connect()
        self._wake_ups: PubSub | None = None
        self._orphans_channel = f"{address.prefix}orphans"
        self.orphan_messages = 0
        self.is_listening = False

    async def call(
        self, step: str, holder: str, arguments: dict[str, Any], *, sequence: int = 0
    ) -> list[Any]:
        """Call a command of the script; reconnect once if the connection was lost.

        Args:
            step: the name of the command.
            holder: the id of this process.
            arguments: the arguments of the command; those that are None are left out.
            sequence: a number that rises with each call that changes something; 0 for one that does
                not. A call whose reply was lost may be repeated with the same arguments.

        Raises:
            BackendUnavailable: the call may have been carried out.
            InvalidInput: a text in `arguments` is not valid Unicode; nothing was carried out.
        """
        from redis import exceptions

        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            body = json.dumps(given, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise unencodable() from None
        argv = (
            self.address.prefix, step, holder, sequence, round(self.address.lease * 1000),
            "" if self._clock is None else repr(self._clock()), self._journal_bytes,
            body,
        )  # fmt: skip
        for tries_left in (1, 0):
            try:
                script = self._small_scripts.get(step, self._script)
                answer: list[Any] = await self._evaluate(script, argv)
                return answer
            except (exceptions.RedisError, OSError) as error:
                # An idle connection breaks when the server is restarted.
                if tries_left and type(error) is exceptions.ConnectionError:
                    continue
                raise BackendUnavailable(self._error_message(error)) from error
        raise AssertionError("unreachable")

    async def server_info(self) -> dict[str, Any]:
        """Return the server's INFO.

        Raises:
            BackendUnavailable: the server did not reply.
        """
        from redis.exceptions import RedisError

        try:
            return dict(await self._client.info())
        except (RedisError, OSError) as error:
            raise BackendUnavailable(self._error_message(error)) from error

    async def listen(self, holder: str) -> None:
        """Subscribe to this process's wake-ups, for `wait_for_wakeup`.

        This is the first request to the server, so errors in the address appear here.

        Raises:
            BackendUnavailable: the server did not reply, or the address has an invalid option.
        """
        from redis.exceptions import RedisError

        wake_ups = self._client.pubsub(ignore_subscribe_messages=True)
        try:
            channels = f"{self.address.prefix}wake:{holder}", self._orphans_channel
            with anyio.fail_after(self.address.timeout):
                await wake_ups.subscribe(*channels)
                for _ in channels:
                    await wake_ups.get_message(timeout=None)  # Consume the confirmation.
        except BaseException as error:
            # On cancellation too: nothing else refers to this connection. An error that is not of
            # the network is caused by an option, which the client checks only on connecting.
            with anyio.CancelScope(shield=True):
                await wake_ups.aclose()  # type: ignore[no-untyped-call]
            if not isinstance(error, Exception):
                raise
            if not isinstance(error, RedisError | OSError):
                raise BackendUnavailable(self._wrong_option(error)) from error
            raise BackendUnavailable(self._error_message(error)) from error
        self._wake_ups = wake_ups

    async def wait_for_wakeup(self, holder: str) -> None:
        """Wait for the next wake-up, a batch that waits for a process, or a restored connection."""
        self.is_listening = True
        try:
            await self._wait_for_wakeup(holder)
        finally:
            self.is_listening = False

    async def _wait_for_wakeup(self, holder: str) -> None:
        from redis.exceptions import RedisError

        while self._wake_ups is not None:
            try:
                message = await self._wake_ups.get_message(timeout=None)
                if message and message["channel"] == self._orphans_channel:
                    self.orphan_messages += 1
                    if not message["data"]:  # Nothing waits for a process.
                        continue
                if message:
                    return
                # After the system has closed the connection, the client returns None at once,
                # forever: the loop would block everything else.
                await self._stop_listening()
            except (RedisError, OSError) as error:
                log.info("wake-ups of %s are interrupted: %s", self.address.shown, error)
                await self._stop_listening()
        while self._wake_ups is None:
            await anyio.sleep(RECONNECT_SECONDS)
            try:
                await self.listen(holder)
            except BackendUnavailable as error:
                log.debug("%s", error)

    async def close(self) -> None:
        """Close all connections."""
        await self._stop_listening()
        await self._client.aclose()

    async def _stop_listening(self) -> None:
        self.orphan_messages += 1  # Some may be lost from now on.
        if self._wake_ups is not None:
            wake_ups, self._wake_ups = self._wake_ups, None
            await wake_ups.aclose()  # type: ignore[no-untyped-call]

    async def _evaluate(self, script: "Script", argv: tuple[Any, ...]) -> Any:
        from redis.exceptions import NoScriptError

        generation = f"{self.address.prefix}generation"
        with anyio.fail_after(self.address.timeout):
            try:
                return await self._client.evalsha(script.sha, 1, generation, *argv)
            except NoScriptError:
                return await self._client.eval(script.text, 1, generation, *argv)

    def _connect(self) -> "Redis":
        # Imported here to keep start-up fast: most processes use a file instead.
        try:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError:
            raise BackendUnavailable(
                f"The backend redis:// needs the client: {install_command('redis')}"
            ) from None
        try:
            client = Redis.from_url(
                self.address.url,
                decode_responses=True,
                protocol=2,
                # The timeout surrounds each whole call: the client's own timeout on sending may
                # swallow a cancellation (asyncio.wait_for, before Python 3.12).
                socket_timeout=None,
                socket_connect_timeout=self.address.timeout,
                socket_keepalive=True,
                socket_keepalive_options=keepalive_options(self.address.timeout),
                retry=Retry(NoBackoff(), 0),
            )
        except Exception as error:  # Of any type: each option is converted differently.
            raise BackendUnavailable(self._wrong_option(error)) from None
        if (
            self.address.url.startswith("rediss:")
            and "ssl_" not in urlsplit(self.address.url).query
        ):
            client.connection_pool.connection_class = _tls_connection(self.address.shown)
        return client

    def _wrong_option(self, error: Exception) -> str:
        """Return the message for a rejected option: the one that the error names, else all."""
        options = [name for name, _ in parse_qsl(urlsplit(self.address.url).query)]
        named = [name for name in options if repr(name) in str(error)]
        return (
            f"The address in REPLICATE_MCP_BACKEND ({self.address.shown}) has an option that the "
            f"Redis client cannot use: {', '.join(named or options)}."
        )

    def _error_message(self, error: Exception) -> str:
        """Return the error message for people."""
        where, said = f"Redis at {self.address.shown}", str(error).strip().rstrip(".")
        if isinstance(error, TimeoutError):
            said = f"no answer within {self.address.timeout:g} s"
        for marks, sentence in _SENTENCES.items():
            if type(error).__name__ in marks or any(mark in said for mark in marks):
                return f"{where} {sentence}"
        return (
            f"{where} cannot be used ({said or type(error).__name__}): no work begins until it "
            "can, and what runs is followed to its end."
        )


def _tls_connection(shown: str) -> "type[SSLConnection]":
    """Return the client's TLS connection class, with this machine's trusted certificates.

    Raises:
        BackendUnavailable: an environment variable prevents TLS.
    """
    from redis.asyncio.connection import SSLConnection

    from replicate_mcp.tls import TlsSettingsError, client_context

    try:
        context = client_context()
    except TlsSettingsError as error:
        raise BackendUnavailable(f"Redis at {shown} cannot be reached: {error}.") from None

    class TlsConnection(SSLConnection):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.ssl_context.context = context

    return TlsConnection


_SENTENCES = {
    ("CERTIFICATE_VERIFY_FAILED",): "has a certificate that this machine does not trust: set "
    "SSL_CERT_FILE to the file of its certificate authority, or end REPLICATE_MCP_BACKEND in "
    "?ssl_ca_certs=/a/whole/path.pem.",
    ("OutOfMemoryError", "-OOM"): "is out of memory, so it takes no new work, and what runs is "
    "followed to its end: raise its maxmemory, or remove what else fills it.",
    ("MISCONF",): "takes no writes, since it cannot save its memory to disk: see its log.",
    ("ReadOnlyError", "-READONLY"): "is a replica, which takes no writes: set "
    "REPLICATE_MCP_BACKEND to the primary.",
    ("AuthenticationError", "NOAUTH"): "refuses the user or the "
    "password in REPLICATE_MCP_BACKEND (redis://user:password@host:6379/0), or misses them.",
    ("NoPermissionError", "NOPERM"): "does not allow this user what is needed: EVAL, EVALSHA, "
    "SUBSCRIBE, what scripts do (INFO and TIME among it), and the keys and channels that begin "
    "with the prefix.",
    ("MovedError", "ClusterCrossSlotError", "-MOVED"): "is one of a cluster's nodes, and not the "
    "one that keeps these keys: one primary is needed.",
}
"""Messages by the client's class of an error, or by a part of its text."""


def _lua_values(values: Mapping[str, str]) -> str:
    return "".join(
        f"local {name} = (function()\n{lua(file)}end)()\n" for file, name in values.items()
    )


def lua(file: str) -> str:
    """Return the text of a file of the script."""
    folder = resources.files("replicate_mcp.backends.redis").joinpath("lua")
    return folder.joinpath(f"{file}.lua").read_text("utf-8")
