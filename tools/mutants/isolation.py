"""Keep what tests of mutants draw and write away from each other."""

import os
import shutil
import tempfile
from pathlib import Path


def use_short_hypothesis() -> None:
    """Let Hypothesis repeat itself, keep nothing, and not look for smaller examples."""
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
    """Let Hypothesis read here, once, what it would read in each fork: it takes seconds."""
    from hypothesis import given
    from hypothesis import strategies as st

    @given(st.integers(), st.floats(), st.text())
    def draw(number: int, real: float, text: str) -> None:
        pass

    draw()


def use_folder(folder: Path) -> None:
    """Let temporary files of this process be in a folder of its own."""
    folder.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
    tempfile.tempdir = None


def clear_folder(folder: Path) -> None:
    """Remove what tests left."""
    shutil.rmtree(folder, ignore_errors=True)
