"""Hostile filenames in a journal: files are written only inside the target folder."""

from pathlib import Path

import pytest

from hostile import HOSTILE_TEXTS
from replicate_mcp.cli.downloader import Saver
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks import filenames

from .test_download import COVER, file_at

NAMES = [
    name
    for text in HOSTILE_TEXTS
    for name in (text, f"{text}red_car.webp", f"red{text}car.webp", f"red_car{text}")
]


async def test_hostile_filename_writes_a_plain_file_into_the_folder_or_nothing(
    simulator: Simulator, tmp_path: Path
) -> None:
    folder = tmp_path / "one" / "inside"
    saver = Saver(folder, simulator.url, overwrite=True)
    files = [file_at(simulator.url + COVER, name) for name in NAMES]
    names = {file.filename for file in files}  # A lone surrogate has become a question mark.
    failed = await saver.save(files)
    refused = {each.filename for each in failed}
    assert refused == {name for name in names if filenames.problem(name)}
    assert all(each.reason.startswith("its name ") for each in failed)
    assert "red%0acar.webp" in names - refused
    # With or without an added extension: the accepted files exist, and no others.
    saved = {each.name.removesuffix(".webp") for each in folder.iterdir()}
    assert saved == {name.removesuffix(".webp") for name in names - refused}
    assert all(each.name.isprintable() and each.is_file() for each in folder.iterdir())
    assert set(tmp_path.rglob("*")) == {tmp_path / "one", folder, *folder.iterdir()}


@pytest.mark.parametrize("name", ["../red_car.webp", "/tmp/red_car.webp", "..\\red_car.webp"])
async def test_overwriting_never_touches_files_outside_the_folder(
    simulator: Simulator, tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "red_car.webp"
    outside.write_text("mine")
    folder = tmp_path / "inside"
    failed = await Saver(folder, simulator.url, overwrite=True).save(
        [file_at(simulator.url + COVER, name)]
    )
    assert len(failed) == 1
    assert outside.read_text() == "mine"
