"""The lock files of the tests' npm packages pin the same content for every registry."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_lock_files_pin_packages_by_digest_only() -> None:
    locks = [
        path
        for path in ROOT.rglob("package-lock.json")
        if not {"node_modules", ".venv"} & {*path.parts}
    ]
    assert len(locks) >= 4
    for lock in locks:
        for name, package in json.loads(lock.read_text("utf-8"))["packages"].items():
            assert "resolved" not in package, (lock, name)
            assert not name or "integrity" in package, (lock, name)
