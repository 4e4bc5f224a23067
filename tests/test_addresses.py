"""Host names without their ports, loopback and IP addresses."""

import pytest

from replicate_mcp.addresses import host_name, is_ip_address, is_loopback_url


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:8000", "localhost"),
        (" localhost:8000 ", "localhost"),
        ("localhost:", "localhost"),
        ("a_b.c-d.example:1", "a_b.c-d.example"),
        ("[::1]", "::1"),
        ("[::1]:8000", "::1"),
        ("[2001:DB8::1]:80", "2001:db8::1"),
        ("[::ffff:1.2.3.4]", "::ffff:1.2.3.4"),
        ("::1", ""),
        ("", ""),
        ("a b", ""),
        ("localhost:80a", ""),
        ("localhost:80:80", ""),
        ("user@localhost", ""),
        ("localhost/x", ""),
        ("[localhost]", ""),
        ("é.example", ""),
    ],
)
def test_host_name_is_parsed_without_its_port(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize(
    ("host", "is_address"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("[::1]", False),
        ("127.0.0.1:80", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_ip_address_has_neither_brackets_nor_a_port(host: str, is_address: bool) -> None:
    assert is_ip_address(host) is is_address


@pytest.mark.parametrize(
    ("url", "is_loopback"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://LOCALHOST/v1", True),
        ("http://[::1]", True),
        ("http://127.0.0.2", False),
        ("https://localhost.example", False),
        ("localhost:8000", False),
    ],
)
def test_host_of_a_url_decides_whether_it_is_loopback(url: str, is_loopback: bool) -> None:
    assert is_loopback_url(url) is is_loopback
