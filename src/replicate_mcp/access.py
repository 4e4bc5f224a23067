"""Who is calling, and whose token their predictions are made with: three tiers, one decision.

1. The admin key: the server's token, and the right to register, resize and configure.
2. The caller's own token: their own account, and their own batches.
3. The server's token for everybody else, where only this machine's user can be calling.

What was presented and is wrong is refused; it never falls to the next tier.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from replicate_mcp.errors import Unauthorized

WITHOUT_A_KEY = (
    "No Replicate token is set. Make one at https://replicate.com/account/api-tokens and put it "
    "into REPLICATE_API_TOKEN: in the host's configuration of this server, or in the environment."
)
UNKNOWN_CALLER = (
    "Who calls is not known: send your own Replicate token as `Authorization: Bearer r8_…`, or the "
    "admin key as `X-Admin-API-Key`."
)
UNKNOWN_HOST = (
    "This server does not know itself by the name in `Host`: who runs it can add the name to "
    "REPLICATE_MCP_ALLOWED_HOSTS."
)
WRONG_ADMIN_KEY = "The X-Admin-API-Key is wrong, or this server has none: leave it out, or mend it."
WRONG_BEARER = "`Authorization` must be `Bearer r8_…`, with a Replicate token."

ADMIN_HEADER = "x-admin-api-key"
OWN_KEY_HEADER = "x-replicate-api-key"

_PROXY_HEADERS = (
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Caller:
    """One who may see batches of their own.

    Attributes:
        name: `admin`, `server` for those who use the server's token, else `token:` and a
            fingerprint.
        token: what their predictions are made with; never shown.
    """

    name: str
    token: str = field(repr=False)

    @property
    def is_admin(self) -> bool:
        """Whether they may register, resize and configure for all."""
        return self.name == "admin"

    @property
    def brought_a_token(self) -> bool:
        """Whether their predictions are made with a token of their own."""
        return self.name.startswith("token:")

    @property
    def sees(self) -> tuple[str, ...]:
        """The callers whose batches this one may see."""
        return ("admin", "server") if self.is_admin else (self.name,)


@dataclass(frozen=True, slots=True)
class Access:
    """What a server has to tell its callers apart by.

    Attributes:
        listens_on_loopback: whether only this machine can connect; without meaning on stdio.
        allow_anonymous: whether the server's token is for whoever can connect.
        allowed_hosts: names under which it is reached beside loopback, for `Host` and `Origin`.
    """

    server_token: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)
    listens_on_loopback: bool = False
    allow_anonymous: bool = False
    allowed_hosts: tuple[str, ...] = ()

    def caller(
        self,
        headers: Mapping[str, str] | None = None,
        own_token: object = None,
        *,
        has_json: bool = True,
    ) -> Caller:
        """Decide who calls.

        Args:
            headers: of an HTTP request, by names in lower case; None on stdio.
            own_token: a token that came inside the request: `credentials.replicate_api_token` in
                a body, or MCP's `_meta`.
            has_json: whether the request's body, if it has one, says that it is JSON: what a form
                of a web page sends does not.

        Raises:
            Unauthorized: nobody that is known, or what was presented is wrong.
        """
        given = headers or {}
        if (key := given.get(ADMIN_HEADER)) is not None:
            if not self._is_admin_key(key):
                raise Unauthorized(WRONG_ADMIN_KEY)
            return Caller("admin", self._token_of_the_server())
        if token := _own_token(own_token, given):
            return Caller(f"token:{fingerprint(token)}", token)
        if headers is not None and not self._may_use_the_servers_token(headers, has_json):
            raise Unauthorized(UNKNOWN_CALLER)
        return Caller("server", self._token_of_the_server())

    def _is_admin_key(self, key: str) -> bool:
        if not self.admin_key:
            return False  # An unset key matches nothing.
        return hmac.compare_digest(key.encode(), self.admin_key.encode())

    def _token_of_the_server(self) -> str:
        token = _checked(self.server_token)
        if token is None:
            raise Unauthorized(WITHOUT_A_KEY)
        return token

    def _may_use_the_servers_token(self, headers: Mapping[str, str], has_json: bool) -> bool:
        host = headers.get("host", "")
        if not has_json or not self._is_own_origin(headers.get("origin"), host):
            return False
        if self.allow_anonymous:
            if not self._is_own_host(_name_of(host)):
                raise Unauthorized(UNKNOWN_HOST)
            return True
        return (
            self.listens_on_loopback
            and _name_of(host) in _LOOPBACK
            and not any(name in headers for name in _PROXY_HEADERS)
        )

    def _is_own_host(self, name: str) -> bool:
        """Whether `Host` is no public name that somebody else could have made to point here."""
        return "." not in name or _is_address(name) or name in self.allowed_hosts

    def _is_own_origin(self, origin: str | None, host: str) -> bool:
        """Whether a browser's page, if it is one that calls, came from this server.

        That `Origin` and `Host` agree is not enough: a name of somebody else's can be made to
        point here.
        """
        if origin is None:
            return True
        name = _name_of(urlsplit(origin).netloc)
        if name in self.allowed_hosts:
            return True
        return urlsplit(origin).netloc == host and (name in _LOOPBACK or _is_address(name))


def fingerprint(token: str) -> str:
    """What stands for a token wherever one may not be written: 16 hexadecimal digits."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to what listens on `host`."""
    return host in _LOOPBACK


def _own_token(inside: object, headers: Mapping[str, str]) -> str | None:
    """The token that a caller brought: inside the request, else in a header of its own."""
    brought = (inside, headers.get(OWN_KEY_HEADER), _bearer(headers.get("authorization")))
    tokens = (_checked(each) for each in brought if isinstance(each, str))
    return next(filter(None, tokens), None)


def _bearer(authorization: str | None) -> str | None:
    if authorization is None:
        return None
    scheme, _, token = authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip().startswith("r8_"):
        raise Unauthorized(WRONG_BEARER)
    return token


def _checked(token: str | None) -> str | None:
    """A token without the blanks around it; one that no header can carry is refused."""
    token = (token or "").strip()
    if any(not "!" <= character <= "~" for character in token):
        raise Unauthorized(
            "The Replicate token has blanks or other odd characters in it: copy it anew."
        )
    return token or None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name_of(host: str) -> str:
    """A host without its port: `localhost:8000`, `[::1]:8000`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def names_of(hosts: Iterable[str]) -> tuple[str, ...]:
    """Hosts as they are compared: without ports, in lower case."""
    return tuple(_name_of(host.strip()) for host in hosts if host.strip())
