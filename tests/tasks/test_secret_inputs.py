"""Inputs that are secrets, by their names, contents and schemas."""

from typing import Any

import pytest

from replicate_mcp.tasks.secret_inputs import is_secret, is_secret_schema


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("hf_api_token", "x", True),
        ("API_KEY", "x", True),
        ("password", "x", True),
        ("s3_access_key", "x", True),
        ("Client_Secret", "x", True),
        ("token", "", False),
        ("max_tokens", "x", False),
        ("key", "c minor", False),
        ("mytoken", "x", False),
        ("seed_token", 7, False),
        ("hf_token", ["x"], False),
        ("x" * 94 + "_token", "x", True),
        ("images", [{"a": ["https://x.y/?t=r8_0123456789"]}], True),
        ("options", {"r8_0123456789": 1}, True),
        ("image", "data:image/png;base64,AAr8_0123456789", False),
        ("image", "r8_short", False),
        ("image", "r8_012345678", False),
        ("image", "r8_012345678é", False),
    ],
)
def test_secrets_are_known_by_their_name_or_content(name: str, value: Any, secret: bool) -> None:
    assert is_secret(name, value) is secret


def test_schema_marks_secrets() -> None:
    assert is_secret_schema({"type": "string", "format": "password"})
    assert is_secret_schema({"x-cog-secret": True})
    assert is_secret_schema({"writeOnly": True})
    assert not is_secret_schema({"type": "string", "format": "uri"})
    assert not is_secret_schema({"writeOnly": False, "x-cog-secret": None})
