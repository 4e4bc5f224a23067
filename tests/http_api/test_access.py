"""Authentication over real HTTP: each combination of credentials, their location and the route."""

import json
from dataclasses import dataclass
from itertools import product

import httpx
import pytest

from http_api.conftest import ADMIN_KEY, Serve, Traced
from http_api.entry_points import WAYS
from replicate_mcp.simulator import Simulator

SERVERS_ACCOUNT, OWN_ACCOUNT = "acme", "other"
OWN_TOKEN = "r8_other_ofTheCaller"
WRONG_KEY = "a-wrong-admin-key"
SECRETS = ("r8_acme_1", OWN_TOKEN, ADMIN_KEY, WRONG_KEY, "not-a-replicate-token")


@dataclass(frozen=True)
class Place:
    """A server's configuration and address.

    Attributes:
        host: the `Host` header of callers; None for the address itself.
        knows_its_names: whether the MCP SDK rejects other hosts before authentication.
    """

    words: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    host: str | None = None
    has_token: bool = True
    has_admin_key: bool = True
    allows_anonymous: bool = False
    is_loopback: bool = True
    lets_local_programs_in: bool = True
    knows_its_names: bool = True


PLACES = {
    "loopback": Place(),
    "loopback, no admin key": Place(
        variables=(("REPLICATE_MCP_ADMIN_API_KEY", ""),), has_admin_key=False
    ),
    "loopback, no token": Place(variables=(("REPLICATE_API_TOKEN", ""),), has_token=False),
    "loopback, nothing asked for": Place(
        variables=(("REPLICATE_MCP_LOCAL", ""),), lets_local_programs_in=False
    ),
    "network": Place(words=("--host", "0.0.0.0"), is_loopback=False, knows_its_names=False),
    "network, anonymous": Place(
        words=("--host", "0.0.0.0"),
        variables=(
            ("REPLICATE_MCP_ALLOW_ANONYMOUS", "1"),
            ("REPLICATE_MCP_ALLOWED_HOSTS", "images.example.com"),
        ),
        host="images.example.com",
        allows_anonymous=True,
        is_loopback=False,
    ),
}

ADMIN = {"none": None, "right": ADMIN_KEY, "wrong": WRONG_KEY, "empty": ""}

OWN = ("none", "own header", "bearer", "inside", "empty header", "empty inside", "wrong bearer")

SITUATIONS = (
    "a program",
    "through a proxy",
    "a page of its own",
    "a page of another site",
    "a page whose name points here",
    "a form",
    "no type",
)


COMBINATIONS = list(product(WAYS, ADMIN, OWN, SITUATIONS))

SAMPLE = ("loopback", "network, anonymous")
"""Places that `make test` tries, with a third of the combinations each."""

CASES = [
    pytest.param(PLACES[name], COMBINATIONS[start::3], id=f"{name}, a third")
    for start, name in enumerate(SAMPLE)
] + [
    pytest.param(place, COMBINATIONS, marks=pytest.mark.soak, id=name)
    for name, place in PLACES.items()
]


def account_billed(place: Place, way: str, admin: str, own: str, situation: str) -> str | None:
    """Return the account that may be billed by the three tiers, or None."""
    from_another_site = situation in ("a page of another site", "a page whose name points here")
    if situation in ("a form", "no type"):
        return None  # Such a body is not read.
    if way == "mcp" and place.knows_its_names and from_another_site:
        return None
    if admin != "none":
        right = admin == "right" and place.has_admin_key and place.has_token
        return SERVERS_ACCOUNT if right else None
    if own in ("wrong bearer", "empty header", "empty inside"):
        return None  # Invalid credentials do not fall through to the next tier.
    if own in ("own header", "bearer", "inside"):
        return OWN_ACCOUNT
    if from_another_site or not place.has_token:
        return None
    is_local = place.is_loopback and place.lets_local_programs_in
    if place.allows_anonymous or (is_local and situation != "through a proxy"):
        return SERVERS_ACCOUNT
    return None


def headers_of(place: Place, url: str, admin: str, own: str, situation: str) -> dict[str, str]:
    """Return the headers sent beside the body."""
    headers = {"content-type": "application/json"}
    if place.host:
        headers["host"] = place.host
    if (key := ADMIN[admin]) is not None:
        headers["x-admin-api-key"] = key
    headers |= {
        "own header": {"x-replicate-api-key": OWN_TOKEN},
        "empty header": {"x-replicate-api-key": ""},
        "bearer": {"authorization": f"Bearer {OWN_TOKEN}"},
        "wrong bearer": {"authorization": "Bearer not-a-replicate-token"},
    }.get(own, {})
    headers |= {
        "through a proxy": {"x-forwarded-for": "203.0.113.9"},
        "a page of its own": {"origin": f"https://{place.host}" if place.host else url},
        "a page of another site": {"origin": "https://evil.example.com"},
        "a page whose name points here": {
            "host": "evil.example.com",
            "origin": "http://evil.example.com",
        },
        "a form": {"content-type": "text/plain"},
    }.get(situation, {})
    if situation == "no type":
        del headers["content-type"]
    return headers


def images_by_account(simulator: Simulator) -> dict[str, int]:
    accounts = (SERVERS_ACCOUNT, OWN_ACCOUNT)
    return {name: int(simulator.account(name)["created"]) for name in accounts}


@pytest.mark.parametrize(("place", "combinations"), CASES)
def test_each_request_bills_only_the_account_chosen_by_the_three_auth_tiers(
    serve: Serve,
    traced: Traced,
    simulator: Simulator,
    place: Place,
    combinations: list[tuple[str, str, str, str]],
) -> None:
    with serve(*place.words, program=traced.program, **dict(place.variables)) as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        before = images_by_account(simulator)
        with httpx.Client(base_url=url, timeout=30) as client:
            for way, admin, own, situation in combinations:
                inside = {"inside": OWN_TOKEN, "empty inside": ""}.get(own)
                path, body, headers = WAYS[way](inside)
                headers |= headers_of(place, url, admin, own, situation)
                answer = client.post(path, content=json.dumps(body), headers=headers)
                after = images_by_account(simulator)
                made = {name: after[name] - before[name] for name in after}
                before = after
                billed = account_billed(place, way, admin, own, situation)
                expected = {name: int(name == billed) for name in after}
                assert made == expected, (way, admin, own, situation, answer.text)
                assert not [secret for secret in SECRETS if secret in answer.text]
    spans = traced.spans.read_text("utf-8")
    assert "tools/call generate_images" in spans
    assert not [secret for secret in SECRETS if secret in spans or secret in "".join(server.log)]
