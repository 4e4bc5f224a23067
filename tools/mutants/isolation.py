"""Isolation of tests from each other: random draws and temporary files."""

import os
import shutil
import tempfile
from pathlib import Path


def use_short_hypothesis() -> None:
    """Configure Hypothesis for reproducible runs without database and shrinking."""
    from hypothesis import Phase, settings

    settings.register_profile(
        "mutants",
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
    )
    settings.load_profile("mutants")


def warm_hypothesis() -> None:
    """Load Hypothesis's data once before forking: it takes several seconds."""
    from hypothesis import given
    from hypothesis import strategies as st

    @given(st.integers(), st.floats(), st.text())
    def draw(number: int, real: float, text: str) -> None:
        pass

    draw()


def use_folder(folder: Path) -> None:
    """Use `folder` for this process's temporary files."""
    folder.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
    tempfile.tempdir = None


def clear_folder(folder: Path) -> None:
    """Remove the files that tests left behind."""
    shutil.rmtree(folder, ignore_errors=True)
