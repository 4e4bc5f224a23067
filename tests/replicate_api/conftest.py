"""The network settings of this machine, out of the way of tests that set their own."""

import pytest

from network import NETWORK_VARIABLES


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Remove the variables that this machine needs for its own network."""
    for name in NETWORK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


def use(environment: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Set environment variables for the rest of the test."""
    for name, value in variables.items():
        environment.setenv(name, value)
