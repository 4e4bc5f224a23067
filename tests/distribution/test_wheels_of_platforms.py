"""Every platform installs from wheels alone, without a compiler. Queries the package index."""

import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from distribution.conftest import PYTHONS, ROOT

pytestmark = pytest.mark.soak

UV = Path(sys.executable).with_name("uv")

LINUX = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")

DESKTOPS = (
    "x86_64-pc-windows-msvc",
    "aarch64-pc-windows-msvc",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    *LINUX,
)
"""The platforms that `requirements.lock` is for: the project is developed and tested there."""

ALL = (*DESKTOPS, "x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl")

EXTRAS = ("redis", "preview", "http", "simulator")

CONCURRENT = 8
"""How many resolutions wait for the index at once."""


class NoWheels(Exception):
    """No version or wheel of a package for a platform; the message is uv's explanation."""


@dataclass(frozen=True)
class Target:
    """A platform, by its name in uv, and a version of Python."""

    platform: str
    python: str

    def resolve(self, *words: str | Path, only_wheels: bool = True) -> str:
        """Return the versions that uv chooses for the target, one per line.

        Raises:
            NoWheels: there is no such set of versions.
        """
        command: list[str | Path] = [UV, "pip", "compile", "--no-python-downloads", *words]
        command += ["--quiet", "--no-header", "--no-annotate"]
        command += ["--only-binary", ":all:"] if only_wheels else []
        command += ["--python-platform", self.platform, "--python-version", self.python]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NoWheels(f"{self.platform}, Python {self.python}: {done.stderr}")
        return done.stdout


def targets(platforms: Iterable[str], *pythons: str) -> list[Target]:
    """Return each platform with each version of Python."""
    return [Target(*each) for each in product(platforms, pythons or PYTHONS)]


def missing(targets: Iterable[Target], check: Callable[[Target], object]) -> list[str]:
    """Return uv's explanations of the checks that fail."""

    def explanation(target: Target) -> str | None:
        try:
            check(target)
        except NoWheels as error:
            return str(error)
        return None

    with ThreadPoolExecutor(CONCURRENT) as pool:
        return [each for each in pool.map(explanation, targets) if each]


def test_the_package_installs_with_all_extras() -> None:
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    assert not missing(targets(ALL), lambda each: each.resolve("pyproject.toml", *extras))


def test_newest_allowed_cryptography_has_a_wheel(tmp_path: Path) -> None:
    # pip prefers a newer version that has to be compiled to an older one with a wheel.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    bounds = [each for each in project["dependencies"] if each.startswith("cryptography")]
    allowed = tmp_path / "allowed.in"
    allowed.write_text("\n".join(["cryptography", *bounds]))

    def newest(target: Target) -> None:
        pinned = tmp_path / f"{target.platform}-{target.python}.in"
        pinned.write_text(target.resolve("--no-deps", allowed, only_wheels=False))
        target.resolve("--no-deps", pinned)

    assert not missing(targets(ALL, PYTHONS[0]), newest)  # one wheel supports every Python


def test_the_bundle_installs(unpacked: Path) -> None:
    words = ("--project", unpacked, unpacked / "pyproject.toml")
    assert not missing(targets(DESKTOPS), lambda each: each.resolve(*words))


def test_development_lock_installs_unchanged() -> None:
    # PyYAML, a dependency of the tests only, has no wheel there, and builds without a compiler.
    tried = {*targets(DESKTOPS)} - {Target("aarch64-pc-windows-msvc", "3.11")}
    assert not missing(tried, lambda each: each.resolve("--no-deps", "requirements.lock"))


def test_image_locks_install_unchanged() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    python = dockerfile.partition("ARG PYTHON=")[2].split()[0]
    words = ("--no-deps", "deploy/image.lock", "deploy/image-build.lock")
    assert not missing(targets(LINUX, python), lambda each: each.resolve(*words))
