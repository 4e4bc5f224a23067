"""Validation of names, which SQLite and Redis store as UTF-8."""

from replicate_mcp.errors import InvalidInput


def unencodable() -> InvalidInput:
    """Return the error for text that UTF-8 cannot encode, such as an unpaired surrogate."""
    return InvalidInput(
        "A name, an id or a key contains half a character (an unpaired surrogate): send it without."
    )


def check_encodable(text: str) -> None:
    """Raise `InvalidInput` for text that UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise unencodable() from None
