"""Write a CycloneDX bill of materials of the Docker image's Python packages: `make sbom`.

It lists this package and what `deploy/image.lock` installs on the image's system and Python. The
base image's own packages are not included: scan the built image for those.
"""

import re
import sys
import tomllib
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "dist" / "sbom.cdx.json"

LINUX = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "sys_platform": "linux",
}


def image_environment() -> dict[str, str]:
    """Return the image's values for requirement markers."""
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    (python,) = re.findall(r"^ARG PYTHON=(\S+)$", dockerfile, re.MULTILINE)
    return {**LINUX, "python_version": python, "python_full_version": f"{python}.0"}


def component(name: str, version: str, kind: ComponentType = ComponentType.LIBRARY) -> Component:
    """Return the component of a package from PyPI."""
    purl = PackageURL("pypi", name=name, version=version)
    return Component(name=name, version=version, type=kind, purl=purl, bom_ref=str(purl))


def image_lock() -> list[Requirement]:
    """Return the requirements of the image's lock file, without their hashes."""
    lines = (ROOT / "deploy" / "image.lock").read_text("utf-8").splitlines()
    return [Requirement(line.removesuffix("\\")) for line in lines if not line.startswith(" ")]


def bill_of_materials() -> Bom:
    """Return the bill of materials: this package, and the packages its image installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    subject = component(project["name"], project["version"], ComponentType.APPLICATION)
    environment = image_environment()
    components = [
        component(package.name, str(package.specifier).removeprefix("=="))
        for package in image_lock()
        if package.marker is None or package.marker.evaluate(environment)
    ]
    bom = Bom(components=components)
    bom.metadata.component = subject
    bom.register_dependency(subject, components)
    return bom


def main(target: Path = TARGET) -> None:
    """Write the bill of materials to `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    outputter = make_outputter(bill_of_materials(), OutputFormat.JSON, SchemaVersion.V1_6)
    outputter.output_to_file(str(target), allow_overwrite=True, indent=2)
    print(target)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
