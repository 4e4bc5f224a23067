"""What neither SQLite nor Redis can hold as a name."""

from replicate_mcp.errors import InvalidInput


def unencodable() -> InvalidInput:
    """Return the error for text that has no UTF-8, as half of a surrogate pair has none."""
    return InvalidInput(
        "A name, an id or a key contains half a character (an unpaired surrogate): send it without."
    )


def check_encodable(text: str) -> None:
    """Raise InvalidInput for text that has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise unencodable() from None
