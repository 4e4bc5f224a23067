"""Checks of a Redis server's configuration from its INFO, for `doctor`."""

from collections.abc import Mapping
from typing import Any

MIN_VERSION = (6, 2)


def config_warnings(info: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each setting that should be changed."""
    return [*_version(info), *_memory(info), *_persistence(info), *_role(info)]


def _version(info: Mapping[str, Any]) -> list[str]:
    if "valkey_version" in info:
        return []
    version = str(info.get("redis_version", "0"))
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if parts >= MIN_VERSION:
        return []
    return [f"it is version {version}: Redis 6.2 or newer, or Valkey, is needed."]


def _memory(info: Mapping[str, Any]) -> list[str]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction" or not info.get("maxmemory"):
        return []
    return [
        f"its maxmemory-policy is {policy}, which throws keys away when memory is short: set "
        "noeviction. Limits hold either way, but work pauses for a lease, and results are lost."
    ]


def _persistence(info: Mapping[str, Any]) -> list[str]:
    if info.get("aof_enabled"):
        return []
    return [
        "it keeps no append-only file: after a restart, work pauses for a lease, and finished "
        "batches since its last snapshot are forgotten. Set appendonly yes."
    ]


def _role(info: Mapping[str, Any]) -> list[str]:
    if info.get("role", "master") == "master":
        return []
    return ["it is a replica, which takes no writes: name the primary."]
