"""Who is calling, and whose token their predictions are made with."""

import hashlib
from dataclasses import dataclass, field

from replicate_mcp.errors import Unauthorized

WITHOUT_A_KEY = (
    "No Replicate token is set. Make one at https://replicate.com/account/api-tokens and put it "
    "into REPLICATE_API_TOKEN: in the host's configuration of this server, or in the environment."
)


@dataclass(frozen=True, slots=True)
class Caller:
    """One who may see batches of their own.

    Attributes:
        name: `server` for those who use the server's token, else `token:` and a fingerprint.
        token: what their predictions are made with; never shown.
    """

    name: str
    token: str = field(repr=False)

    @property
    def sees(self) -> tuple[str, ...]:
        """The callers whose batches this one may see."""
        return (self.name,)


def fingerprint(token: str) -> str:
    """What stands for a token wherever one may not be written: 16 hexadecimal digits."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def caller_for(*, own_token: str | None, server_token: str | None) -> Caller:
    """The caller of a request: by the token they brought, else by the server's.

    Raises:
        Unauthorized: there is neither, or it cannot be a token.
    """
    own_token = _checked(own_token)
    server_token = _checked(server_token)
    if own_token:
        return Caller(f"token:{fingerprint(own_token)}", own_token)
    if server_token:
        return Caller("server", server_token)
    raise Unauthorized(WITHOUT_A_KEY)


def _checked(token: str | None) -> str | None:
    """A token without the blanks around it; one that no header can carry is refused."""
    token = (token or "").strip()
    if any(not "!" <= character <= "~" for character in token):
        raise Unauthorized(
            "The Replicate token has blanks or other odd characters in it: copy it anew."
        )
    return token or None
