"""Authentication of callers, and the choice of the Replicate token for their predictions.

There are three tiers:

1. The admin key: the server's token, and the right to register, resize and configure.
2. The caller's own token: the caller's own account and batches.
3. The server's token: for this machine's user on stdio, on the command line and in Python. Over
   HTTP only if the operator has enabled it: for programs of the server's own user on the same
   machine, or for every client that can connect.

Invalid credentials are refused; they never fall through to the next tier.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from replicate_mcp.addresses import host_name, is_ip_address, is_loopback
from replicate_mcp.errors import (
    BackendUnavailable,
    InvalidInput,
    ReplicateMcpError,
    ReplicateUnreachable,
    TooManyAttempts,
    Unauthorized,
)
from replicate_mcp.placeholders import NOT_A_TOKEN, placeholder
from replicate_mcp.proxy_headers import is_proxy_header
from replicate_mcp.refused_credentials import RefusedCredentials

NO_CREDENTIALS_MESSAGE = (
    "No Replicate token is set. Make one at https://replicate.com/account/api-tokens and put it "
    "into REPLICATE_API_TOKEN: in the host's configuration of this server, or in the environment."
)
UNKNOWN_CALLER = (
    "Authentication required: send your own Replicate token as `Authorization: Bearer r8_…`, or "
    "the admin key as `X-Admin-API-Key`. The server's operator can let programs of the same "
    "machine in with `serve --http --local` (REPLICATE_MCP_LOCAL=1), or any client with "
    "REPLICATE_MCP_ALLOW_ANONYMOUS=1; loopback callers were let in by themselves before."
)
NOT_LOCAL = (
    "Authentication required: this server lets programs of its own user on the same machine in "
    "without credentials, and {reason}. Send your own Replicate token as `Authorization: Bearer "
    "r8_…`, or the admin key as `X-Admin-API-Key`."
)
UNKNOWN_HOST = (
    "The name in `Host` is not one of this server's: its operator can add it to "
    "REPLICATE_MCP_ALLOWED_HOSTS."
)
FOREIGN_HOST = (
    "`Host` does not name this machine (names in REPLICATE_MCP_ALLOWED_HOSTS are served as well, "
    "to callers with a token or key)"
)
WRONG_ADMIN_KEY = (
    "Invalid X-Admin-API-Key, or none is configured on this server: correct it or leave it out."
)
NOT_JSON = (
    "Unauthenticated requests must send their body as `Content-Type: "
    "application/json`: this prevents cross-site form posts."
)
EMPTY_CREDENTIALS = (
    "The Replicate token is empty or malformed: send one that begins with r8_, or leave it out."
)
WRONG_BEARER = "`Authorization` must be `Bearer r8_…`, with a Replicate token."

HTTP_REQUEST = "http_request"
"""Key of an ASGI scope's state that holds the `HttpRequest`."""

BACKEND_UNAVAILABLE = (
    "The server's backend is unavailable, so nothing was created: try again later. Its operator "
    "sees the reason at /health with the admin key, or with `replicate-mcp doctor`."
)

REPLICATE_UNREACHABLE = (
    "This server cannot reach Replicate, so nothing was created. Its operator sees the reason with "
    "`replicate-mcp doctor`."
)

ADMIN_HEADER = "x-admin-api-key"
OWN_KEY_HEADER = "x-replicate-api-key"


@dataclass(frozen=True, slots=True)
class Caller:
    """A user of the server, with batches of their own.

    Attributes:
        name: `admin`; `server` for users of the server's token; else `token:` and the token's
            fingerprint.
        own_token: the token of the caller's predictions: their own or the server's; None if the
            server has none.
        source: the address that sent the caller's own token over HTTP; "" for every other token.
    """

    name: str
    own_token: str | None = field(repr=False)
    source: str = ""

    @property
    def token(self) -> str:
        """The token that the caller's predictions are created with; never to be shown.

        Raises:
            Unauthorized: the caller has no token of their own, and the server has none.
        """
        if self.own_token is None:
            raise Unauthorized(NO_CREDENTIALS_MESSAGE)
        return self.own_token

    @property
    def is_admin(self) -> bool:
        """Whether the caller may register, resize and configure for all."""
        return self.name == "admin"

    @property
    def has_own_token(self) -> bool:
        """Whether the caller's predictions are created with a token of their own."""
        return self.name.startswith("token:")

    @property
    def visible_callers(self) -> tuple[str, ...]:
        """The callers whose batches this caller may see."""
        return ("admin", "server") if self.is_admin else (self.name,)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """Properties of an HTTP request that identify its caller.

    Attributes:
        headers: by names in lower case; the values of a repeated header are joined with commas.
        has_json: whether the body, if there is one, is declared as JSON, which an HTML form cannot
            do.
        source: the client address of the request.
        is_of_own_user: returns whether the connection's other end belongs to the server's own user;
            called only if the decision depends on it.
    """

    headers: Mapping[str, str] = field(repr=False)
    has_json: bool = True
    source: str = ""
    is_of_own_user: Callable[[], bool] = field(default=lambda: False, repr=False)

    def credential_mark(self) -> str:
        """Return a fingerprint of the key or token in the headers; "" if absent.

        It does not reveal whether the credential is valid.

        Raises:
            Unauthorized: the value sent as a token cannot be one.
        """
        if (key := self.headers.get(ADMIN_HEADER)) is not None:
            return f"key:{fingerprint(key)}"
        token = _own_token(None, self.headers)
        return f"token:{fingerprint(token)}" if token else ""


@dataclass(frozen=True, slots=True)
class Access:
    """Rules and credentials with which a server authenticates its callers.

    Attributes:
        server_token: the server's own Replicate token; None if absent.
        admin_key: the admin key; None for no key, and then none matches.
        listens_on_loopback: whether only this machine can connect; meaningless on stdio.
        allow_local: whether programs of the server's own user that connect over loopback may use
            the server's token.
        allow_anonymous: whether every client that can connect may use the server's token.
        allowed_hosts: host names of the server besides loopback, for `Host` and `Origin`; without
            ports, in lower case.
        refused: wrong admin keys and refused tokens, by the address that sent them.
        settings_error: why the settings cannot be used; every local call fails with it.
    """

    server_token: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)
    listens_on_loopback: bool = False
    allow_local: bool = False
    allow_anonymous: bool = False
    allowed_hosts: tuple[str, ...] = ()
    refused: RefusedCredentials = field(default_factory=RefusedCredentials, repr=False)
    settings_error: InvalidInput | None = None

    def check_settings(self) -> None:
        """Raise `InvalidInput` if the settings cannot be used."""
        if self.settings_error is not None:
            raise InvalidInput(str(self.settings_error))

    def authenticate_local(self, own_token: object = None) -> Caller:
        """Return the caller on stdio, on the command line or in Python: this machine's user.

        Args:
            own_token: a token to use in place of the server's; None for the server's.

        Raises:
            Unauthorized: there is no token, or `own_token` is invalid.
            InvalidInput: the settings cannot be used.
        """
        self.check_settings()
        if (token := validate_token(own_token)) is not None:
            return Caller(f"token:{fingerprint(token)}", token)
        return self._server()

    def local_reader(self) -> Caller:
        """Return this machine's user as a reader of the journal, with or without a valid token.

        Replicate is not called. Hosts often keep the token in their own configuration, while the
        batches of the servers they start are in this user's state file.

        Raises:
            InvalidInput: the settings cannot be used.
        """
        self.check_settings()
        return Caller("server", self.server_token or None)

    def authenticate(self, request: HttpRequest, own_token: object = None) -> Caller:
        """Return the caller of an HTTP request.

        Args:
            request: the request's headers and source.
            own_token: the token sent inside the request, as `credentials` in a body or in MCP's
                `_meta`; None if absent.

        Raises:
            Unauthorized: the caller is unknown, or a credential is wrong.
            TooManyAttempts: the same address has sent too many wrong keys or tokens.
        """
        if (key := request.headers.get(ADMIN_HEADER)) is not None:
            mark = fingerprint(key)
            self.refused.check(request.source, mark)
            if not self._is_admin_key(key):
                self.refused.add(request.source, mark)
                raise Unauthorized(WRONG_ADMIN_KEY)
            return Caller("admin", validate_token(self.server_token or None))
        if token := _own_token(own_token, request.headers):
            return Caller(f"token:{fingerprint(token)}", token, request.source)
        if (reason := self._why_not_the_servers_token(request)) is not None:
            raise Unauthorized(reason)
        return self._server()

    def principal(self, request: HttpRequest) -> str:
        """Return an identifier for the sender of a request, from its headers alone.

        Requests with the same identifier come from the same caller. It never raises, and does not
        reveal whether an admin key is valid.
        """
        try:
            if mark := request.credential_mark():
                return mark
        except Unauthorized:  # The value sent as a token cannot be one.
            return f"unknown at {request.source}"
        if self._why_not_the_servers_token(request) is None:
            return "server"
        return f"unknown at {request.source}"

    def is_operator(self, request: HttpRequest) -> bool:
        """Return whether a request has the admin key, or is let in by `--local`."""
        if ADMIN_HEADER not in request.headers and self.allow_anonymous:
            return False
        with suppress(Unauthorized, TooManyAttempts):
            return not self.authenticate(request).has_own_token
        return False

    def to_public_error(self, error: ReplicateMcpError, request: HttpRequest) -> ReplicateMcpError:
        """Return the error that may be shown to the sender of a request.

        Only the operator may see which backend, proxy or certificates a server uses, and where they
        are.
        """
        if isinstance(error, ReplicateUnreachable) and not self.is_operator(request):
            return ReplicateUnreachable(REPLICATE_UNREACHABLE)
        if isinstance(error, BackendUnavailable) and not self.is_operator(request):
            return BackendUnavailable(BACKEND_UNAVAILABLE)
        return error

    def _server(self) -> Caller:
        if not self.server_token:
            raise Unauthorized(NO_CREDENTIALS_MESSAGE)
        return Caller("server", validate_token(self.server_token))

    def _is_admin_key(self, key: str) -> bool:
        if not self.admin_key:
            return False  # An unset key matches nothing.
        return hmac.compare_digest(key.encode(), self.admin_key.encode())

    def _why_not_the_servers_token(self, request: HttpRequest) -> str | None:
        """Return why a request without credentials may not use the server's token, or None."""
        host = request.headers.get("host", "")
        if not request.has_json:
            return NOT_JSON
        if not self._is_own_origin(request.headers.get("origin"), host):
            return UNKNOWN_CALLER
        if self.allow_anonymous:
            return None if self._is_own_host(host_name(host)) else UNKNOWN_HOST
        # A server with another name is reached through a proxy, which may not identify itself.
        has_another_name = not all(map(is_loopback, self.allowed_hosts))
        if not (self.allow_local and self.listens_on_loopback) or has_another_name:
            return UNKNOWN_CALLER
        if not is_loopback(host_name(host)):
            return NOT_LOCAL.format(reason=FOREIGN_HOST)
        if any(map(is_proxy_header, request.headers)):
            return NOT_LOCAL.format(reason="this request came through a proxy")
        if not request.is_of_own_user():
            return NOT_LOCAL.format(reason="this connection belongs to another user")
        return None

    def _is_own_host(self, name: str) -> bool:
        """Return whether `name` cannot be a foreign DNS name that resolves to this machine."""
        return is_loopback(name) or is_ip_address(name) or name in self.allowed_hosts

    def _is_own_origin(self, origin: str | None, host: str) -> bool:
        """Return whether a calling web page, if there is one, was served by this server.

        Equal `Origin` and `Host` do not suffice: a foreign name can be made to resolve to this
        machine.
        """
        if origin is None:
            return True
        try:
            place = urlsplit(origin).netloc
        except ValueError:
            return False
        name = host_name(place)
        if name in self.allowed_hosts:
            return True
        return place == host and (is_loopback(name) or is_ip_address(name))


def fingerprint(token: str) -> str:
    """Return 16 hexadecimal digits that identify a token where it must not be written."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()[:16]


def _own_token(inside: object, headers: Mapping[str, str]) -> str | None:
    """Return the caller's own token: from inside the request, else from its headers."""
    brought = (inside, headers.get(OWN_KEY_HEADER), _bearer(headers.get("authorization")))
    return next((validate_token(each) for each in brought if each is not None), None)


def _bearer(authorization: str | None) -> str | None:
    if authorization is None:
        return None
    scheme, _, token = authorization.strip().partition(" ")
    if scheme.lower() == "bearer" and (what := placeholder(token)) is not None:
        raise Unauthorized(NOT_A_TOKEN.format(what=what))
    if scheme.lower() != "bearer" or not token.strip().startswith("r8_"):
        raise Unauthorized(WRONG_BEARER)
    return token


def validate_token(token: object) -> str | None:
    """Return `token` without surrounding whitespace; None for None.

    Raises:
        Unauthorized: the token is empty or a placeholder, or cannot be sent in a header.
    """
    if token is None:
        return None
    if not isinstance(token, str) or not token.strip():
        raise Unauthorized(EMPTY_CREDENTIALS)
    token = token.strip()
    if (what := placeholder(token)) is not None:
        raise Unauthorized(NOT_A_TOKEN.format(what=what))
    if any(not "!" <= character <= "~" for character in token):
        raise Unauthorized(
            "The Replicate token contains whitespace or invalid characters: copy it again."
        )
    return token
