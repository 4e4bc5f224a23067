"""Who is calling, and whose token their predictions are made with: three tiers, one decision.

1. The admin key: the server's token, and the right to register, resize and configure.
2. The caller's own token: their own account, and their own batches.
3. The server's token for everybody else, where only this machine's user can be calling.

What was presented and is wrong is refused; it never falls to the next tier.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
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
NOT_JSON = (
    "Without a token or key of your own the body has to be sent as `Content-Type: "
    "application/json`: a form of any web page could be sent otherwise."
)
EMPTY_CREDENTIALS = (
    "What was sent as a Replicate token is empty, or no token: send one that begins with r8_, or "
    "none."
)
WRONG_BEARER = "`Authorization` must be `Bearer r8_…`, with a Replicate token."

ADMIN_HEADER = "x-admin-api-key"
OWN_KEY_HEADER = "x-replicate-api-key"

_PROXY_HEADERS = (
    "cf-connecting-ip",
    "forwarded",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-real-ip",
)
"""What proxies add, beside all that begins with `x-forwarded-`."""

_HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(:[0-9]*)?")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Caller:
    """One who may see batches of their own.

    Attributes:
        name: `admin`, `server` for those who use the server's token, else `token:` and a
            fingerprint.
        own_token: the token that is theirs, or the server's; None where a server has none.
    """

    name: str
    own_token: str | None = field(repr=False)

    @property
    def token(self) -> str:
        """What their predictions are made with; never shown.

        Raises:
            Unauthorized: there is none.
        """
        if self.own_token is None:
            raise Unauthorized(WITHOUT_A_KEY)
        return self.own_token

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
        allowed_hosts: names under which it is reached beside loopback, for `Host` and `Origin`;
            without ports, in lower case.
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
            own_token: what came as a token inside the request, as `credentials` in a body or in
                MCP's `_meta`; None where nothing did.
            has_json: whether the request's body, if it has one, says that it is JSON: what a form
                of a web page sends does not.

        Raises:
            Unauthorized: nobody that is known, or what was presented is wrong.
        """
        given = headers or {}
        if (key := given.get(ADMIN_HEADER)) is not None:
            if not self._is_admin_key(key):
                raise Unauthorized(WRONG_ADMIN_KEY)
            return Caller("admin", checked(self.server_token or None))
        if token := _own_token(own_token, given):
            return Caller(f"token:{fingerprint(token)}", token)
        if headers is not None and not self._may_use_the_servers_token(headers, has_json):
            raise Unauthorized(UNKNOWN_CALLER)
        if not self.server_token:
            raise Unauthorized(WITHOUT_A_KEY)
        return Caller("server", checked(self.server_token))

    def _is_admin_key(self, key: str) -> bool:
        if not self.admin_key:
            return False  # An unset key matches nothing.
        return hmac.compare_digest(key.encode(), self.admin_key.encode())

    def _may_use_the_servers_token(self, headers: Mapping[str, str], has_json: bool) -> bool:
        host = headers.get("host", "")
        if not has_json:
            raise Unauthorized(NOT_JSON)
        if not self._is_own_origin(headers.get("origin"), host):
            return False
        if self.allow_anonymous:
            if not self._is_own_host(_name_of(host)):
                raise Unauthorized(UNKNOWN_HOST)
            return True
        return (
            self.listens_on_loopback
            # Under another name it is reached through a proxy, which may hide that it is one.
            and all(name in _LOOPBACK for name in self.allowed_hosts)
            and _name_of(host) in _LOOPBACK
            and not any(map(_is_of_a_proxy, headers))
        )

    def _is_own_host(self, name: str) -> bool:
        """Whether `Host` is no public name that somebody else could have made to point here."""
        is_public = "." in name and not _is_address(name)
        return bool(name) and (not is_public or name in self.allowed_hosts)

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
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()[:16]


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to what listens on `host`."""
    return host in _LOOPBACK


def _own_token(inside: object, headers: Mapping[str, str]) -> str | None:
    """The token that a caller brought: inside the request, else in a header of its own."""
    brought = (inside, headers.get(OWN_KEY_HEADER), _bearer(headers.get("authorization")))
    return next((checked(each) for each in brought if each is not None), None)


def _bearer(authorization: str | None) -> str | None:
    if authorization is None:
        return None
    scheme, _, token = authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip().startswith("r8_"):
        raise Unauthorized(WRONG_BEARER)
    return token


def checked(token: object) -> str | None:
    """A token without the blanks around it; None for None.

    Raises:
        Unauthorized: it is empty, or no header can carry it.
    """
    if token is None:
        return None
    if not isinstance(token, str) or not token.strip():
        raise Unauthorized(EMPTY_CREDENTIALS)
    token = token.strip()
    if any(not "!" <= character <= "~" for character in token):
        raise Unauthorized(
            "The Replicate token has blanks or other odd characters in it: copy it anew."
        )
    return token


def _is_of_a_proxy(header: str) -> bool:
    return header in _PROXY_HEADERS or header.startswith("x-forwarded-")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name_of(host: str) -> str:
    """A host without its port (`localhost:8000`, `[::1]:8000`); "" where it is none."""
    found = _HOST.fullmatch(host.strip().lower())
    return (found["address"] or found["name"]) if found else ""
