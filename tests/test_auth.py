"""The three tiers: every combination of a caller's credentials, and what must never happen."""

import logging
from collections.abc import Callable
from contextlib import suppress
from itertools import product

import pytest

from replicate_mcp.auth import Access, Caller, HttpRequest, fingerprint
from replicate_mcp.errors import (
    InvalidInput,
    ReplicateUnreachable,
    TooManyAttempts,
    Unauthorized,
)
from replicate_mcp.placeholders import placeholder
from replicate_mcp.refused_credentials import MAX_REFUSED, WINDOW_SECONDS, RefusedCredentials

SERVER, OWN, ADMIN = "r8_server", "r8_own", "the admin's key"
OWN_NAME = f"token:{fingerprint(OWN)}"
LOOPBACK = {"host": "127.0.0.1:8000"}

OPEN = Access(server_token=SERVER, admin_key=ADMIN, listens_on_loopback=True, allow_local=True)
NOT_ASKED_FOR = Access(server_token=SERVER, admin_key=ADMIN, listens_on_loopback=True)
ON_A_NETWORK = Access(server_token=SERVER, admin_key=ADMIN, allow_local=True)
CLOSED = Access(server_token=SERVER, admin_key=ADMIN)
WITHOUT_ADMIN = Access(server_token=SERVER, listens_on_loopback=True, allow_local=True)
ANONYMOUS = Access(server_token=SERVER, allow_anonymous=True, allowed_hosts=("mcp.example.com",))
BEHIND_A_PROXY = Access(
    server_token=SERVER,
    admin_key=ADMIN,
    listens_on_loopback=True,
    allow_local=True,
    allowed_hosts=("mcp.example.com",),
)
WITHOUT_TOKEN = Access(admin_key=ADMIN, listens_on_loopback=True, allow_local=True)

PROXY_HEADERS = (
    "CDN-Loop", "CF-Connecting-IP", "CF-Ray", "CF-Visitor", "Client-IP", "Fastly-Client-IP",
    "Fly-Client-IP", "Fly-Region", "Forwarded", "Ngrok-Auth-User-Email", "Tailscale-User-Login",
    "True-Client-IP", "Via", "X-Amz-Cf-Id", "X-Amzn-Trace-Id", "X-Appengine-User-IP",
    "X-Azure-ClientIP", "X-Client-IP", "X-Cluster-Client-IP", "X-Envoy-External-Address",
    "X-Forwarded", "X-Forwarded-For", "X-Forwarded-Port", "X-Goog-IAP-JWT-Assertion",
    "X-Nf-Client-Connection-Ip", "X-Original-Host", "X-Original-URI", "X-Real-IP",
    "X-Request-Start", "X-Vercel-Id", "X_Forwarded_For",
)  # fmt: skip


def request(headers: dict[str, str], *, has_json: bool = True, source: str = "") -> HttpRequest:
    """Return a request of a program of the server's own user."""
    return HttpRequest(headers, has_json, source, is_of_own_user=lambda: True)


# The server, the headers, a token inside the request, and the caller (None: rejected).
CASES = [
    # The admin key has precedence, and an invalid one never falls through.
    (OPEN, {"x-admin-api-key": ADMIN}, None, "admin"),
    (CLOSED, {"x-admin-api-key": ADMIN, "host": "mcp.example.com"}, None, "admin"),
    (OPEN, {"x-admin-api-key": ADMIN, "x-replicate-api-key": OWN}, OWN, "admin"),
    (OPEN, {"x-admin-api-key": "wrong"}, None, None),
    (OPEN, {"x-admin-api-key": "wrong", "x-replicate-api-key": OWN}, OWN, None),
    (OPEN, {"x-admin-api-key": ""}, None, None),
    (OPEN, {"x-admin-api-key": SERVER}, None, None),
    # An unset key matches nothing.
    (WITHOUT_ADMIN, {"x-admin-api-key": ""}, None, None),
    (WITHOUT_ADMIN, {"x-admin-api-key": "None"}, None, None),
    (WITHOUT_ADMIN, {"x-admin-api-key": ADMIN}, OWN, None),
    # The caller's own token: in the body or `_meta`, in its own header, or as a bearer token.
    (CLOSED, {}, OWN, OWN_NAME),
    (CLOSED, {"x-replicate-api-key": OWN}, None, OWN_NAME),
    (CLOSED, {"authorization": f"Bearer {OWN}"}, None, OWN_NAME),
    (CLOSED, {"authorization": f"bearer  {OWN} "}, None, OWN_NAME),
    (CLOSED, {"x-replicate-api-key": "r8_header"}, OWN, OWN_NAME),
    (CLOSED, {"x-replicate-api-key": OWN, "authorization": "Bearer r8_bearer"}, None, OWN_NAME),
    (CLOSED, {"x-replicate-api-key": ""}, None, None),
    (CLOSED, {}, "", None),
    (CLOSED, {}, {"a": "b"}, None),
    # An invalid token does not fall through to the server's token.
    (OPEN, LOOPBACK | {"x-replicate-api-key": ""}, None, None),
    (OPEN, LOOPBACK | {"x-replicate-api-key": " "}, None, None),
    (OPEN, LOOPBACK, "", None),
    (OPEN, LOOPBACK, {"a": "b"}, None),
    (OPEN, LOOPBACK, "r8_abc…", None),
    (OPEN, LOOPBACK | {"authorization": "Bearer something-else"}, None, None),
    (OPEN, LOOPBACK | {"authorization": "Basic dXNlcjpwYXNz"}, None, None),
    (WITHOUT_TOKEN, {"x-replicate-api-key": OWN}, None, OWN_NAME),
    # The server's token: only where the caller must be this machine's user.
    (OPEN, LOOPBACK, None, "server"),
    (OPEN, {"host": "localhost"}, None, "server"),
    (OPEN, {"host": "[::1]:8000"}, None, "server"),
    (OPEN, {"host": "evil.example.com"}, None, None),
    (OPEN, {"host": "127.0.0.1.evil.example.com"}, None, None),
    (OPEN, {}, None, None),
    (CLOSED, LOOPBACK, None, None),
    (OPEN, LOOPBACK | {"x-forwarded-for": "1.2.3.4"}, None, None),
    (OPEN, LOOPBACK | {"forwarded": "for=1.2.3.4"}, None, None),
    (OPEN, LOOPBACK | {"via": "1.1 proxy"}, None, None),
    (OPEN, LOOPBACK | {"x-forwarded-port": "443"}, None, None),
    (OPEN, LOOPBACK | {"cf-connecting-ip": "1.2.3.4"}, None, None),
    (OPEN, {"host": "localhost:8000.evil.example.com"}, None, None),
    (OPEN, {"host": "[::1].evil.example.com"}, None, None),
    # Not even there, unless it is enabled.
    (NOT_ASKED_FOR, LOOPBACK, None, None),
    (NOT_ASKED_FOR, {"host": "localhost"}, None, None),
    (NOT_ASKED_FOR, LOOPBACK | {"x-admin-api-key": ADMIN}, None, "admin"),
    (NOT_ASKED_FOR, LOOPBACK, OWN, OWN_NAME),
    (ON_A_NETWORK, LOOPBACK, None, None),
    # `Origin` may have any value.
    *((OPEN, LOOPBACK | {"origin": origin}, None, None) for origin in ("http://[::1", "//[", "")),
    # With another host name, there is a proxy in between, which may not identify itself.
    (BEHIND_A_PROXY, LOOPBACK, None, None),
    (BEHIND_A_PROXY, LOOPBACK | {"x-admin-api-key": ADMIN}, None, "admin"),
    (OPEN, LOOPBACK | {"origin": "http://127.0.0.1:8000"}, None, "server"),
    (OPEN, LOOPBACK | {"origin": "http://127.0.0.1:3000"}, None, None),
    (OPEN, LOOPBACK | {"origin": "https://evil.example.com"}, None, None),
    (OPEN, LOOPBACK | {"origin": "null"}, None, None),
    (WITHOUT_TOKEN, LOOPBACK, None, None),
    # Or where the owner allows anonymous callers; never to another site's page.
    (ANONYMOUS, {"host": "mcp.example.com", "x-forwarded-for": "1.2.3.4"}, None, "server"),
    (ANONYMOUS, {"host": "10.0.0.1", "origin": "https://mcp.example.com"}, None, "server"),
    (ANONYMOUS, {"host": "mcp.example.com", "origin": "https://evil.example.com"}, None, None),
    # A page under a name that resolves to this server sends no `Origin` with a GET.
    (ANONYMOUS, {"host": "evil.example.com"}, None, None),
    (ANONYMOUS, {"host": "10.0.0.1:8000"}, None, "server"),
    (ANONYMOUS, {"host": "[2001:db8::1]:8000"}, None, "server"),
    (ANONYMOUS, {"host": "localhost:8000"}, None, "server"),
    # A name without a dot is not the server's either: a network's resolver can invent one.
    (ANONYMOUS, {"host": "replicate-mcp:8000"}, None, None),
    (ANONYMOUS, {"host": "wpad"}, None, None),
    (ANONYMOUS, {"host": ""}, None, None),
    (ANONYMOUS, {}, None, None),
]


@pytest.mark.parametrize(("access", "headers", "inside", "name"), CASES)
def test_authenticate_identifies_the_caller(
    access: Access, headers: dict[str, str], inside: object, name: str | None
) -> None:
    if name is None:
        with pytest.raises(Unauthorized):
            access.authenticate(request(headers), inside)
        return
    caller = access.authenticate(request(headers), inside)
    assert caller.name == name
    assert caller.token == (OWN if name == OWN_NAME else SERVER)


@pytest.mark.parametrize("name", PROXY_HEADERS)
def test_any_proxy_header_denies_the_server_token_on_loopback(name: str) -> None:
    assert OPEN.authenticate(request(LOOPBACK)).name == "server"
    with pytest.raises(Unauthorized, match="came through a proxy"):
        OPEN.authenticate(request(LOOPBACK | {name.lower(): "x"}))


def test_program_of_another_user_may_not_use_the_server_token() -> None:
    with pytest.raises(Unauthorized, match="belongs to another user"):
        OPEN.authenticate(HttpRequest(LOOPBACK))


def test_connection_owner_is_not_checked_when_irrelevant() -> None:
    def fail() -> bool:
        raise AssertionError("asked")

    for access, headers, inside in (
        (NOT_ASKED_FOR, LOOPBACK, None),
        (OPEN, LOOPBACK, OWN),
        (OPEN, LOOPBACK | {"x-admin-api-key": ADMIN}, None),
        (OPEN, LOOPBACK | {"via": "x"}, None),
        (ANONYMOUS, LOOPBACK, None),
    ):
        with suppress(Unauthorized):
            access.authenticate(HttpRequest(headers, is_of_own_user=fail), inside)


def test_rejection_lists_every_way_to_authenticate() -> None:
    with pytest.raises(Unauthorized) as raised:
        NOT_ASKED_FOR.authenticate(request(LOOPBACK))
    for way in (
        "Authorization: Bearer",
        "X-Admin-API-Key",
        "serve --http --local",
        "REPLICATE_MCP_ALLOW_ANONYMOUS=1",
        "loopback callers were let in by themselves before",
    ):
        assert way in str(raised.value)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_only_the_address_guessing_admin_keys_is_throttled() -> None:
    clock = Clock()
    access = Access(server_token=SERVER, admin_key=ADMIN, refused=RefusedCredentials(clock))

    def send(key: str, source: str = "192.0.2.1") -> str:
        return access.authenticate(request({"x-admin-api-key": key}, source=source)).name

    for _ in range(50):  # Repeating the same wrong key is not guessing.
        with pytest.raises(Unauthorized):
            send("guess 0")
    for number in range(1, MAX_REFUSED):
        clock.now += 1
        with pytest.raises(Unauthorized):
            send(f"guess {number}")
    for key in ("another guess", ADMIN):
        with pytest.raises(TooManyAttempts) as raised:
            send(key)
    assert raised.value.retry_after == WINDOW_SECONDS - (MAX_REFUSED - 1)
    assert send(ADMIN, "192.0.2.2") == "admin"
    clock.now = WINDOW_SECONDS
    assert send(ADMIN) == "admin"


def test_principal_identifies_one_caller_without_revealing_key_validity() -> None:
    def of(headers: dict[str, str], source: str = "192.0.2.1") -> str:
        return OPEN.principal(request(LOOPBACK | headers, source=source))

    principals = [
        of({}),
        of({"x-admin-api-key": ADMIN}),
        of({"x-admin-api-key": "wrong"}),
        of({"x-replicate-api-key": OWN}),
        of({"x-replicate-api-key": "r8_other"}),
        of({"via": "x"}),
        of({"via": "x"}, "192.0.2.2"),
    ]
    assert len(set(principals)) == len(principals)
    assert of({"authorization": f"Bearer {OWN}"}) == of({"x-replicate-api-key": OWN})
    right, wrong = (of({"x-admin-api-key": key}) for key in (ADMIN, "wrong"))
    assert right.partition(":")[0] == wrong.partition(":")[0]
    assert not any(secret in "".join(principals) for secret in (OWN, ADMIN, SERVER))


def test_admin_of_a_server_without_a_token_has_no_token() -> None:
    admin = WITHOUT_TOKEN.authenticate(request({"x-admin-api-key": ADMIN}))
    assert admin.is_admin
    with pytest.raises(Unauthorized, match="No Replicate token is set"):
        _ = admin.token


def test_cross_site_form_cannot_use_the_server_token() -> None:
    assert OPEN.authenticate(request(LOOPBACK)).name == "server"
    for access in (OPEN, ANONYMOUS):
        with pytest.raises(Unauthorized):
            access.authenticate(request(LOOPBACK, has_json=False))
    assert CLOSED.authenticate(request({}, has_json=False), OWN).name == OWN_NAME


def test_stdio_caller_uses_the_server_token() -> None:
    assert CLOSED.authenticate_local().name == "server"
    assert CLOSED.authenticate_local(OWN).name == OWN_NAME


def test_journal_is_read_without_a_valid_token() -> None:
    assert CLOSED.local_reader() == CLOSED.authenticate_local()
    for token in (None, "", "r8_your_token"):
        reader = Access(server_token=token).local_reader()
        assert reader.visible_callers == ("server",)
        assert reader.own_token == (token or None)


def test_callers_see_only_their_own_batches_and_admin_also_those_of_the_server() -> None:
    admin, server = Caller("admin", SERVER), Caller("server", SERVER)
    own, other = Caller(OWN_NAME, OWN), Caller("token:other", "r8_other")
    assert admin.visible_callers == ("admin", "server")
    for one, another in product((server, own, other), (admin, server, own, other)):
        assert (another.name in one.visible_callers) == (one == another)


def test_secrets_are_hidden_in_repr_errors_and_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown = [repr(OPEN), repr(Caller(OWN_NAME, OWN)), str(Caller("server", SERVER))]
    for headers in ({"x-admin-api-key": "a wrong secret"}, {"authorization": "Bearer a-secret"}):
        with pytest.raises(Unauthorized) as raised:
            OPEN.authenticate(request(headers), OWN)
        shown.append(str(raised.value))
    for secret in (SERVER, OWN, ADMIN, "a wrong secret", "a-secret"):
        assert not any(secret in text for text in (*shown, caplog.text))


PLACEHOLDERS = {
    '"r8_s3cret"': "quotation marks",
    "'r8_s3cret'": "quotation marks",
    "“r8_s3cret”": "quotation marks",
    "${REPLICATE_API_TOKEN}": "variable",
    "${input:token}": "variable",
    "{{ secrets.TOKEN }}": "variable",
    "$REPLICATE_API_TOKEN": "variable",
    "$env:REPLICATE_API_TOKEN": "variable",
    "%REPLICATE_API_TOKEN%": "variable",
    "<token>": "brackets",
    "[your token]": "brackets",
    "undefined": "word",
    "Null": "word",
    "None": "word",
    "your-token-here": "text that stands",
    "YOUR_API_TOKEN": "text that stands",
    "r8_your_token": "text that stands",
    "r8_xxxxxxxxxxxx": "text that stands",
    "r8_***": "text that stands",
    "r8_…": "text that stands",
    "r8_": "text that stands",
    "op://vault/replicate/s3cret": "a reference to a secret",
    "vault:/kv/s3cret": "a reference to a secret",
    "/run/secrets/s3cret": "the path of a file",
    "./s3cret": "the path of a file",
    "~/s3cret": "the path of a file",
    "C:\\keys\\s3cret": "the path of a file",
    "sk-proj-s3cret-s3cret-s3cret": "the key of another service",
    "hf_s3crets3crets3crets3cret": "the key of another service",
    "ghp_s3crets3crets3crets3cret": "the key of another service",
}


@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_token_placeholder_is_rejected_without_repeating_it(text: str) -> None:
    ways: tuple[Callable[[], Caller], ...] = (
        lambda: Access(server_token=text).authenticate_local(),
        lambda: Access().authenticate_local(text),
        lambda: CLOSED.authenticate(HttpRequest({"x-replicate-api-key": text})),
        lambda: CLOSED.authenticate(HttpRequest({"authorization": f"Bearer {text}"})),
        lambda: OPEN.authenticate(HttpRequest(LOOPBACK), text),
    )
    for present in ways:
        with pytest.raises(Unauthorized, match="This is not a Replicate token") as raised:
            present()
        assert PLACEHOLDERS[text] in str(raised.value)
        assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("token", ["r8_" + "aB3" * 12, "r8_acme_1", "r8_secret_of_mine", "sk-x1"])
def test_real_token_is_not_a_placeholder(token: str) -> None:
    assert placeholder(token) is None
    assert placeholder(f" {token}\n") is None


def test_internal_network_details_are_shown_only_to_the_operator() -> None:
    error = ReplicateUnreachable("the proxy http://inside.example:1 does not answer")
    unprivileged = HttpRequest({"x-replicate-api-key": OWN})
    assert "inside.example" not in str(CLOSED.to_public_error(error, unprivileged))
    assert not CLOSED.to_public_error(error, unprivileged).retryable
    admin = HttpRequest({"x-admin-api-key": ADMIN})
    assert CLOSED.to_public_error(error, admin) is error


def test_invalid_settings_are_raised_for_every_local_caller() -> None:
    access = Access(server_token=SERVER, settings_error=InvalidInput("The limit is wrong."))
    for own in (None, OWN):
        with pytest.raises(InvalidInput, match="The limit is wrong"):
            access.authenticate_local(own)
    with pytest.raises(InvalidInput, match="The limit is wrong"):
        access.local_reader()
