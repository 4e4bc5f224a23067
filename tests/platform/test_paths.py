"""Locations of files on each system."""

from pathlib import Path

import pytest

from replicate_mcp.platform import paths


def test_windows_state_folder_is_outside_appdata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "IS_WINDOWS", True)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.state_folder("replicate-mcp") == tmp_path / ".replicate-mcp"
