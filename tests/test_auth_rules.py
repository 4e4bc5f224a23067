"""Authentication rules one by one: origins, tokens, proxies, and operators' visibility."""

from typing import Any

import pytest

from replicate_mcp import auth
from replicate_mcp.addresses import is_loopback
from replicate_mcp.auth import (
    Access,
    Caller,
    HttpRequest,
    fingerprint,
    validate_token,
)
from replicate_mcp.errors import (
    BackendUnavailable,
    InvalidInput,
    ReplicateUnavailable,
    ReplicateUnreachable,
    TooManyAttempts,
    Unauthorized,
)
from replicate_mcp.refused_credentials import MAX_REFUSED

SERVER, OWN, ADMIN = "r8_server", "r8_own", "the admin's key"
LOOPBACK = {"host": "127.0.0.1:8000"}


def server(**settings: Any) -> Access:
    """Return a server that accepts programs of its own user."""
    return Access(
        **{
            "server_token": SERVER,
            "admin_key": ADMIN,
            "listens_on_loopback": True,
            "allow_local": True,
            **settings,
        }
    )


def request(headers: dict[str, str] | None = None, **fields: Any) -> HttpRequest:
    return HttpRequest(LOOPBACK | (headers or {}), **{"is_of_own_user": lambda: True, **fields})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_addresses_accept_only_local_connections(host: str) -> None:
    assert is_loopback(host)
    assert server().authenticate(request({"host": host if ":" not in host else f"[{host}]"}))


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.2", "::", "", "localhost.example"])
def test_other_addresses_accept_remote_connections(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(Unauthorized):
        server().authenticate(request({"host": host}))


def test_token_fingerprint_has_sixteen_unique_digits() -> None:
    assert fingerprint("r8_own") == fingerprint("r8_own") != fingerprint("r8_other")
    assert len(fingerprint("r8_own")) == 16
    assert fingerprint("r8_\ud800")


@pytest.mark.parametrize(("given", "token"), [("r8_a", "r8_a"), (" r8_a\n", "r8_a"), (None, None)])
def test_token_is_stripped_of_whitespace(given: object, token: str | None) -> None:
    assert validate_token(given) == token


@pytest.mark.parametrize("given", ["r8_!a~"])
def test_token_may_contain_any_header_character(given: str) -> None:
    assert validate_token(given) == given


@pytest.mark.parametrize("given", ["", " \n", 7, [], {}, False])
def test_non_string_token_is_rejected(given: object) -> None:
    with pytest.raises(Unauthorized, match="is empty or malformed"):
        validate_token(given)


@pytest.mark.parametrize("given", ["r8_a b", "r8_a\tb", "r8_é", "r8_a\x7f", "r8_a\x00b"])
def test_token_invalid_in_a_header_is_rejected(given: str) -> None:
    with pytest.raises(Unauthorized, match="whitespace or invalid characters") as refused:
        validate_token(given)
    assert given not in str(refused.value)


@pytest.mark.parametrize("value", ["Bearer r8_own", "bearer r8_own", " BEARER  r8_own "])
def test_bearer_authorization_is_a_token(value: str) -> None:
    assert server().authenticate(request({"authorization": value})).own_token == OWN


@pytest.mark.parametrize(
    "value",
    [
        *("r8_own", "Basic r8_own", "Basic undefined", "Bearer", "Bearer own", "Bearer: r8_own"),
        *("", "Bearer xr8_"),
    ],
)
def test_non_bearer_authorization_is_rejected(value: str) -> None:
    with pytest.raises(Unauthorized, match="`Authorization` must be `Bearer r8_…`"):
        server().authenticate(request({"authorization": value}))


# The header and settings of a request without credentials, and why it is rejected.
REASONS: list[tuple[dict[str, Any], dict[str, str], dict[str, Any], str | None]] = [
    ({}, {}, {}, None),
    ({}, {}, {"has_json": False}, auth.NOT_JSON),
    ({}, {"origin": "https://evil.example"}, {}, auth.UNKNOWN_CALLER),
    ({"allow_local": False}, {}, {}, auth.UNKNOWN_CALLER),
    ({"listens_on_loopback": False}, {}, {}, auth.UNKNOWN_CALLER),
    ({"allowed_hosts": ("mcp.example",)}, {}, {}, auth.UNKNOWN_CALLER),
    ({"allowed_hosts": ("localhost", "127.0.0.1")}, {}, {}, None),
    ({}, {"host": "evil.example"}, {}, "and `Host` does not name this machine"),
    ({}, {"via": "1.1 x"}, {}, "and this request came through a proxy"),
    ({}, {}, {"is_of_own_user": lambda: False}, "and this connection belongs to another user"),
    ({"allow_anonymous": True}, {"via": "1.1 x"}, {"is_of_own_user": lambda: False}, None),
    ({"allow_anonymous": True}, {"host": "evil.example"}, {}, auth.UNKNOWN_HOST),
    ({"allow_anonymous": True, "allowed_hosts": ("a.example",)}, {"host": "A.example:1"}, {}, None),
    ({"allow_anonymous": True}, {}, {"has_json": False}, auth.NOT_JSON),
    (
        {"allow_anonymous": True},
        *({"origin": "https://evil.example"}, {}, auth.UNKNOWN_CALLER),
    ),
    (
        {"allow_anonymous": True, "allowed_hosts": ("a.example",)},
        *({"origin": "https://a.example"}, {}, None),
    ),
    ({}, {"origin": "http://127.0.0.1:8000"}, {}, None),
    ({}, {"origin": "http://localhost:8000"}, {}, auth.UNKNOWN_CALLER),
    ({}, {"host": "localhost:8000", "origin": "http://localhost:8000"}, {}, None),
    (
        {"allow_anonymous": True},
        *({"host": "evil.example", "origin": "http://evil.example"}, {}, auth.UNKNOWN_CALLER),
    ),
    ({"allow_anonymous": True}, {"host": "10.0.0.1", "origin": "http://10.0.0.1"}, {}, None),
    ({}, {"origin": "http://[::1"}, {}, auth.UNKNOWN_CALLER),
]


@pytest.mark.parametrize(("settings", "headers", "fields", "reason"), REASONS)
def test_request_without_credentials_is_admitted_or_rejected_with_a_reason(
    settings: dict[str, Any], headers: dict[str, str], fields: dict[str, Any], reason: str | None
) -> None:
    asked = request(headers, source="192.0.2.1", **fields)
    found = server(**settings)
    if reason is None:
        assert found.authenticate(asked) == Caller("server", SERVER)
        assert found.principal(asked) == "server"
        return
    with pytest.raises(Unauthorized) as refused:
        found.authenticate(asked)
    assert reason in str(refused.value)
    assert found.principal(asked) == "unknown at 192.0.2.1"


@pytest.mark.parametrize(
    "name",
    [
        *("cdn-loop", "client-ip", "forwarded", "true-client-ip", "via", "x-arr-log-id"),
        *("x-arr-ssl", "x-client-ip", "x-cluster-client-ip", "x-forwarded", "x-from-cdn"),
        *("x-host", "x-proxyuser-ip", "x-real-ip", "x-request-start", "x-scheme"),
        *("x-url-scheme", "x-varnish"),
    ],
)
def test_known_proxy_headers_are_recognised(name: str) -> None:
    for each in (name, name.replace("-", "_")):
        with pytest.raises(Unauthorized, match="came through a proxy"):
            server().authenticate(request({each: "x"}))
    assert server().authenticate(request({f"x-not-{name}": "x"})).name == "server"


@pytest.mark.parametrize(
    "name",
    [
        *("ali-cdn-real-ip", "cf-connecting-ip", "cloudfront-viewer-address", "do-connecting-ip"),
        *("fastly-client-ip", "fly-client-ip", "incap-client-ip", "ngrok-auth-user-email"),
        *("rndr-id", "tailscale-user-login", "x-akamai-edgescape", "x-amz-cf-id"),
        *("x-amzn-trace-id", "x-appengine-user-ip", "x-azure-clientip", "x-cloud-trace-context"),
        *("x-envoy-external-address", "x-fastly-ssl", "x-fd-healthprobe", "x-forwarded-for"),
        *("x-goog-authenticated-user-email", "x-ms-proxy", "x-nf-client-connection-ip"),
        *("x-ngrok-user", "x-original-url", "x-railway-edge", "x-sucuri-clientip", "x-vercel-id"),
    ],
)
def test_vendor_prefixed_proxy_headers_are_recognised(name: str) -> None:
    with pytest.raises(Unauthorized, match="came through a proxy"):
        server().authenticate(request({name: "x"}))


def test_ordinary_headers_are_not_proxy_headers() -> None:
    names = ("accept", "user-agent", "content-type", "x-request-id", "mcp-session-id", "priority")
    assert server().authenticate(request(dict.fromkeys(names, "x"))).name == "server"


# Identification of a request's sender.


def test_credential_mark_identifies_the_key_or_token() -> None:
    assert request().credential_mark() == ""
    assert request({"x-admin-api-key": "k"}).credential_mark() == f"key:{fingerprint('k')}"
    both = request({"x-admin-api-key": "k", "x-replicate-api-key": OWN})
    assert both.credential_mark() == f"key:{fingerprint('k')}"
    for headers in ({"x-replicate-api-key": OWN}, {"authorization": f"Bearer {OWN}"}):
        assert request(headers).credential_mark() == f"token:{fingerprint(OWN)}"
    with pytest.raises(Unauthorized):
        request({"x-replicate-api-key": ""}).credential_mark()


def test_principal_with_a_malformed_token_is_unknown_at_its_address() -> None:
    malformed = request({"x-replicate-api-key": ""}, source="192.0.2.1")
    assert server().principal(malformed) == "unknown at 192.0.2.1"


@pytest.mark.parametrize(
    ("settings", "headers", "is_operator"),
    [
        ({}, {}, True),
        ({}, {"x-admin-api-key": ADMIN}, True),
        ({}, {"x-admin-api-key": "wrong"}, False),
        ({}, {"x-replicate-api-key": OWN}, False),
        ({}, {"host": "evil.example"}, False),
        ({"allow_anonymous": True}, {}, False),
        ({"allow_anonymous": True}, {"x-admin-api-key": ADMIN}, True),
    ],
)
def test_internal_network_errors_are_shown_only_to_the_operator(
    settings: dict[str, Any], headers: dict[str, str], is_operator: bool
) -> None:
    found, asked = server(**settings), request(headers)
    assert found.is_operator(asked) is is_operator
    for error, public in (
        (ReplicateUnreachable("the proxy inside"), auth.REPLICATE_UNREACHABLE),
        (BackendUnavailable("redis://inside"), auth.BACKEND_UNAVAILABLE),
    ):
        public_error = found.to_public_error(error, asked)
        assert type(public_error) is type(error)
        assert (public_error is error) is is_operator
        assert str(public_error) == (str(error) if is_operator else public)
    for other in (ReplicateUnavailable("Replicate did not answer."), InvalidInput("Wrong.")):
        assert found.to_public_error(other, asked) is other


def test_address_guessing_keys_is_not_an_operator() -> None:
    found = server()
    for number in range(MAX_REFUSED):
        with pytest.raises(Unauthorized):
            found.authenticate(request({"x-admin-api-key": f"guess {number}"}, source="192.0.2.1"))
    asked = request({"x-admin-api-key": ADMIN}, source="192.0.2.1")
    with pytest.raises(TooManyAttempts):
        found.authenticate(asked)
    assert not found.is_operator(asked)


# Callers.


def test_caller_with_its_own_token_has_its_address() -> None:
    found = server().authenticate(request({"x-replicate-api-key": OWN}, source="192.0.2.1"))
    assert found == Caller(f"token:{fingerprint(OWN)}", OWN, "192.0.2.1")
    assert (found.has_own_token, found.is_admin) == (True, False)
    assert found.visible_callers == (found.name,)


def test_admin_and_server_callers_have_the_server_token_and_no_address() -> None:
    admin = server().authenticate(request({"x-admin-api-key": ADMIN}, source="192.0.2.1"))
    assert admin == Caller("admin", SERVER)
    assert (admin.is_admin, admin.has_own_token) == (True, False)
    local = server().authenticate(request(source="192.0.2.1"))
    assert local == Caller("server", SERVER)
    assert (local.is_admin, local.has_own_token, local.visible_callers) == (
        False,
        False,
        ("server",),
    )
    assert (
        server(server_token="").authenticate(request({"x-admin-api-key": ADMIN})).own_token is None
    )


def test_reprs_show_no_credentials_or_rejected_senders() -> None:
    found = Access(server_token=SERVER, admin_key=ADMIN)
    found.refused.add("192.0.2.1", "a mark")
    assert repr(found) == (
        "Access(listens_on_loopback=False, allow_local=False, allow_anonymous=False, "
        "allowed_hosts=(), settings_error=None)"
    )
    sent = HttpRequest({"authorization": f"Bearer {OWN}", "x-admin-api-key": ADMIN})
    assert repr(sent) == "HttpRequest(has_json=True, source='')"
    assert repr(Caller("server", SERVER)) == "Caller(name='server', source='')"


@pytest.mark.parametrize("token", [None, ""])
def test_server_without_a_token_explains_how_to_get_one(token: str | None) -> None:
    found = server(server_token=token)
    with pytest.raises(Unauthorized, match="No Replicate token is set"):
        found.authenticate_local()
    with pytest.raises(Unauthorized, match="No Replicate token is set"):
        found.authenticate(request())


def test_server_token_is_validated_like_others() -> None:
    assert server(server_token=" r8_a ").authenticate_local().own_token == "r8_a"
    malformed = server(server_token="r8_a b")
    with pytest.raises(Unauthorized, match="whitespace or invalid characters"):
        malformed.authenticate_local()
    with pytest.raises(Unauthorized, match="whitespace or invalid characters"):
        malformed.authenticate(request({"x-admin-api-key": ADMIN}))
