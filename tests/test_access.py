"""Three tiers: every combination of what a caller presents, and what must never happen."""

import logging
from itertools import product

import pytest

from replicate_mcp.access import Access, Caller, fingerprint
from replicate_mcp.errors import Unauthorized

SERVER, OWN, ADMIN = "r8_server", "r8_own", "the admin's key"
OWN_NAME = f"token:{fingerprint(OWN)}"
LOOPBACK = {"host": "127.0.0.1:8000"}

OPEN = Access(server_token=SERVER, admin_key=ADMIN, listens_on_loopback=True)
CLOSED = Access(server_token=SERVER, admin_key=ADMIN)
WITHOUT_ADMIN = Access(server_token=SERVER, listens_on_loopback=True)
ANONYMOUS = Access(server_token=SERVER, allow_anonymous=True, allowed_hosts=("mcp.example.com",))
BEHIND_A_PROXY = Access(
    server_token=SERVER,
    admin_key=ADMIN,
    listens_on_loopback=True,
    allowed_hosts=("mcp.example.com",),
)
WITHOUT_TOKEN = Access(admin_key=ADMIN, listens_on_loopback=True)

# The server, the headers, a token inside the request, and who that is (None: nobody).
CASES = [
    # The admin's key comes first, and a wrong one never falls through.
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
    # The caller's own token: in the body or `_meta`, a header of its own, or as a bearer.
    (CLOSED, {}, OWN, OWN_NAME),
    (CLOSED, {"x-replicate-api-key": OWN}, None, OWN_NAME),
    (CLOSED, {"authorization": f"Bearer {OWN}"}, None, OWN_NAME),
    (CLOSED, {"authorization": f"bearer  {OWN} "}, None, OWN_NAME),
    (CLOSED, {"x-replicate-api-key": "r8_header"}, OWN, OWN_NAME),
    (CLOSED, {"x-replicate-api-key": OWN, "authorization": "Bearer r8_bearer"}, None, OWN_NAME),
    (CLOSED, {"x-replicate-api-key": ""}, None, None),
    (CLOSED, {}, "", None),
    (CLOSED, {}, {"a": "b"}, None),
    # What was presented as a token and is none does not fall to the server's.
    (OPEN, LOOPBACK | {"x-replicate-api-key": ""}, None, None),
    (OPEN, LOOPBACK | {"x-replicate-api-key": " "}, None, None),
    (OPEN, LOOPBACK, "", None),
    (OPEN, LOOPBACK, {"a": "b"}, None),
    (OPEN, LOOPBACK, "r8_abc…", None),
    (OPEN, LOOPBACK | {"authorization": "Bearer something-else"}, None, None),
    (OPEN, LOOPBACK | {"authorization": "Basic dXNlcjpwYXNz"}, None, None),
    (WITHOUT_TOKEN, {"x-replicate-api-key": OWN}, None, OWN_NAME),
    # The server's token: only where only this machine's user can be calling.
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
    # Where it has another name, a proxy is in between, which may not say so.
    (BEHIND_A_PROXY, LOOPBACK, None, None),
    (BEHIND_A_PROXY, LOOPBACK | {"x-admin-api-key": ADMIN}, None, "admin"),
    (OPEN, LOOPBACK | {"origin": "http://127.0.0.1:8000"}, None, "server"),
    (OPEN, LOOPBACK | {"origin": "http://127.0.0.1:3000"}, None, None),
    (OPEN, LOOPBACK | {"origin": "https://evil.example.com"}, None, None),
    (OPEN, LOOPBACK | {"origin": "null"}, None, None),
    (WITHOUT_TOKEN, LOOPBACK, None, None),
    # Or where its owner gave it to whoever can connect; never to another site's page.
    (ANONYMOUS, {"host": "mcp.example.com", "x-forwarded-for": "1.2.3.4"}, None, "server"),
    (ANONYMOUS, {"host": "10.0.0.1", "origin": "https://mcp.example.com"}, None, "server"),
    (ANONYMOUS, {"host": "mcp.example.com", "origin": "https://evil.example.com"}, None, None),
    # A page of a name that was made to point here sends no `Origin` with a GET.
    (ANONYMOUS, {"host": "evil.example.com"}, None, None),
    (ANONYMOUS, {"host": "10.0.0.1:8000"}, None, "server"),
    (ANONYMOUS, {"host": "replicate-mcp:8000"}, None, "server"),
]


@pytest.mark.parametrize(("access", "headers", "inside", "name"), CASES)
def test_who_calls(
    access: Access, headers: dict[str, str], inside: object, name: str | None
) -> None:
    if name is None:
        with pytest.raises(Unauthorized):
            access.caller(headers, inside)
        return
    caller = access.caller(headers, inside)
    assert caller.name == name
    assert caller.token == (OWN if name == OWN_NAME else SERVER)


def test_the_admin_of_a_server_without_a_token_is_the_admin_and_has_none_to_spend() -> None:
    admin = WITHOUT_TOKEN.caller({"x-admin-api-key": ADMIN})
    assert admin.is_admin
    with pytest.raises(Unauthorized, match="No Replicate token is set"):
        _ = admin.token


def test_a_form_of_a_web_page_cannot_spend_the_servers_money() -> None:
    assert OPEN.caller(LOOPBACK, has_json=True).name == "server"
    for access in (OPEN, ANONYMOUS):
        with pytest.raises(Unauthorized):
            access.caller(LOOPBACK, has_json=False)
    assert CLOSED.caller({}, OWN, has_json=False).name == OWN_NAME


def test_on_stdio_the_servers_token_is_its_users() -> None:
    assert CLOSED.caller().name == "server"
    assert CLOSED.caller(own_token=OWN).name == OWN_NAME


def test_nobody_sees_anothers_batches_but_the_admin_those_of_the_server() -> None:
    admin, server = Caller("admin", SERVER), Caller("server", SERVER)
    own, other = Caller(OWN_NAME, OWN), Caller("token:other", "r8_other")
    assert admin.sees == ("admin", "server")
    for one, another in product((server, own, other), (admin, server, own, other)):
        assert (another.name in one.sees) == (one == another)


def test_no_secret_is_shown_in_a_repr_an_error_or_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown = [repr(OPEN), repr(Caller(OWN_NAME, OWN)), str(Caller("server", SERVER))]
    for headers in ({"x-admin-api-key": "a wrong secret"}, {"authorization": "Bearer a-secret"}):
        with pytest.raises(Unauthorized) as raised:
            OPEN.caller(headers, OWN)
        shown.append(str(raised.value))
    for secret in (SERVER, OWN, ADMIN, "a wrong secret", "a-secret"):
        assert not any(secret in text for text in (*shown, caplog.text))
