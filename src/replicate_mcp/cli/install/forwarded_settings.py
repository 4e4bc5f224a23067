"""Environment variables that `install` copies into a host's configuration.

Hosts start servers without the environment of the user's shell.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from replicate_mcp.cli.install.server_entry import holds_password
from replicate_mcp.tls import CERTIFICATE_VARIABLES

FORWARDED_SETTINGS = (
    "REPLICATE_BASE_URL",
    "REPLICATE_CONCURRENT_LIMIT",
    "REPLICATE_REQUESTS_PER_MINUTE",
    "DEFAULT_GLOBAL_SEMAPHORE_ID",
    "REPLICATE_MCP_DEFAULT_MODEL",
    "REPLICATE_MCP_BACKEND",
    "REPLICATE_MCP_WAIT_SECONDS",
    "REPLICATE_MCP_PREDICTION_SECONDS",
    "REPLICATE_MCP_BATCH_SECONDS",
    "REPLICATE_MCP_RESUME",
    "REPLICATE_MCP_MAX_IMAGES_PER_DAY",
    "REPLICATE_MCP_JOURNAL_MB",
    "REPLICATE_MCP_CONFIRM_ABOVE",
    "REPLICATE_MCP_FILES",
)
"""Settings used by a server on stdio that are not secret."""

_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")

NETWORK_VARIABLES = (*_PROXIES, *(name.lower() for name in _PROXIES), *CERTIFICATE_VARIABLES)
"""Proxy and certificate variables; names of proxy variables may be lower case."""


def forwarded_settings(values: Mapping[str, Any], origins: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of the environment, skipping any that hold a password with a message."""
    found = {}
    for name in FORWARDED_SETTINGS:
        if origins[name] != "environment":
            continue
        if holds_password(str(values[name])):
            print(
                f"{name} holds a password, and is not written there: put it into the file that "
                "--env-file names.",
                file=sys.stderr,
            )
            continue
        found[name] = str(values[name])
    return found


def forwarded_network(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the network variables of the environment, with absolute paths."""
    found = {name: environ[name] for name in NETWORK_VARIABLES if environ.get(name)}
    for name in CERTIFICATE_VARIABLES:
        if name in found and not found[name].startswith("~"):
            found[name] = str(Path(found[name]).absolute())
    return found


def describe_network(network: Mapping[str, str]) -> Iterator[str]:
    """Yield sentences about the network variables of an entry."""
    from replicate_mcp.tls import TlsSettingsError, client_context

    if not network:
        return
    names = ", ".join(network)
    yield f"This environment's {names} goes along: hosts start servers without your shell's."
    for name, value in network.items():
        if holds_password(value, name):
            yield f"{name} holds a password, which is kept in that file in the clear."
    try:
        client_context()
    except TlsSettingsError as error:
        yield f"No TLS connection can be made like this: {error}."
