"""`make audit` fails on published advisories, and `make sbom` lists what the image installs."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.markers import Marker

from deploy.files import instructions
from distribution.conftest import ROOT

HASH = f"--hash=sha256:{'0' * 64}"

NPM_LOCK = {
    "name": "audited",
    "version": "1.0.0",
    "lockfileVersion": 3,
    "packages": {
        "": {"name": "audited", "version": "1.0.0", "dependencies": {"left": "1.0.0"}},
        "node_modules/left": {"version": "1.0.0", "integrity": "sha512-AA=="},
    },
}

PYTHON_ADVISORY = {
    "id": "GHSA-1111-1111-1111",
    "aliases": ["CVE-2026-0001"],
    "summary": "Right runs code",
    "affected": [{"package": {"name": "right", "ecosystem": "PyPI"}, "ranges": []}],
}

NPM_ADVISORY = {
    "id": 1,
    "url": "https://github.com/advisories/GHSA-2222-2222-2222",
    "title": "Left runs code",
    "severity": "high",
    "vulnerable_versions": "<2",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two lock files with one package each, and an empty list of accepted advisories."""
    (tmp_path / "requirements.lock").write_text(f"right==1.0 {HASH}\n")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "package-lock.json").write_text(json.dumps(NPM_LOCK))
    (tmp_path / "web" / "package.json").write_text(json.dumps(NPM_LOCK["packages"][""]))  # type: ignore[index]
    (tmp_path / "tools").mkdir()
    allow(tmp_path)
    return tmp_path


def allow(project: Path, *entries: tuple[str, str], days: int = 1) -> None:
    """Accept advisories of packages for `days` from today."""
    until = (datetime.now(UTC) + timedelta(days=days)).date()
    (project / "tools" / "audit-allowed.toml").write_text(
        "\n".join(
            f'[[advisory]]\nid = "{advisory}"\npackage = "{package}"\n'
            f'reason = "not reachable"\nreview_by = {until}\n'
            for advisory, package in entries
        )
    )


@contextmanager
def services(python: list[Any], npm: dict[str, Any]) -> Iterator[str]:
    """Serve the advisories as OSV and as npm's registry do, and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(200, {"vulns": python} if self.path == "/v1/query" else npm)

        def do_GET(self) -> None:
            self.answer(404, {})

        def answer(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def audit(project: Path, address: str) -> tuple[int, str]:
    """Return the exit code and the output of an audit that queries these services."""
    if shutil.which("npm") is None:
        assert not os.environ.get("CI"), "npm is missing: nothing was audited"
        pytest.skip("npm is missing: nothing is audited")
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "audit.py", project],
        env={
            **os.environ,
            "PIP_AUDIT_OSV_URL": f"{address}/v1/query",
            "npm_config_registry": address,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.soak
@pytest.mark.parametrize(("target", "program"), [("check", "audit.py"), ("sbom", "sbom.py")])
def test_make_target_runs_its_program(target: str, program: str) -> None:
    steps = subprocess.run(
        ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert f"tools/{program}" in steps


@pytest.mark.soak
def test_an_advisory_fails_the_audit(project: Path) -> None:
    with services([PYTHON_ADVISORY], {"left": [NPM_ADVISORY]}) as address:
        code, printed = audit(project, address)
    assert code == 1
    python, npm = sorted(printed.splitlines(), reverse=True)
    assert python.startswith("right 1.0 (requirements.lock): CVE-2026-0001, GHSA-1111-1111-1111: ")
    assert npm.startswith(f"left <2 ({Path('web', 'package-lock.json')}): GHSA-2222-2222-2222: ")


@pytest.mark.soak
def test_audit_without_findings_passes(project: Path) -> None:
    with services([], {}) as address:
        code, printed = audit(project, address)
    assert (code, printed) == (0, "No open advisories in 2 audits.\n")


@pytest.mark.soak
def test_accepted_advisory_passes_by_any_of_its_ids(project: Path) -> None:
    allow(project, ("CVE-2026-0001", "right"), ("GHSA-2222-2222-2222", "left"), days=0)
    with services([PYTHON_ADVISORY], {"left": [NPM_ADVISORY]}) as address:
        code, printed = audit(project, address)
    assert code == 0, printed


@pytest.mark.soak
def test_an_advisory_of_another_package_is_not_accepted(project: Path) -> None:
    allow(project, ("CVE-2026-0001", "left"))
    with services([PYTHON_ADVISORY], {}) as address:
        code, printed = audit(project, address)
    assert code == 1
    assert "right 1.0" in printed


@pytest.mark.soak
def test_an_expired_entry_fails_even_without_a_service(project: Path) -> None:
    allow(project, ("CVE-2026-0001", "right"), days=-1)
    with services([PYTHON_ADVISORY], {}) as address:
        code, printed = audit(project, address)
    assert code == 1
    assert "CVE-2026-0001 of right in audit-allowed.toml: its date has passed" in printed
    assert audit(project, "http://127.0.0.1:1")[0] == 1


@pytest.mark.soak
def test_an_unused_entry_fails(project: Path) -> None:
    allow(project, ("CVE-2026-0001", "right"))
    with services([], {}) as address:
        code, printed = audit(project, address)
    assert code == 1
    assert "CVE-2026-0001 of right in audit-allowed.toml: no lock file needs it any more" in printed


@pytest.mark.soak
def test_unavailable_audit_service_is_reported_without_failing(project: Path) -> None:
    allow(project, ("CVE-2026-0001", "right"))
    code, printed = audit(project, "http://127.0.0.1:1")
    assert code == 0
    python, npm = printed.splitlines()
    assert re.match(r"NOT AUDITED: Python packages: .*refused", python)
    assert re.match(rf"NOT AUDITED: {Path('web', 'package-lock.json')}: .*ECONNREFUSED", npm)


def test_the_committed_list_is_readable_and_in_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "audit.py", ROOT],
        env={**os.environ, "PIP_AUDIT_OSV_URL": "http://127.0.0.1:1/v1/query", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.soak
def test_every_lock_file_can_be_audited() -> None:
    with services([], {}) as address:
        _, printed = audit(ROOT, address)
    assert "NOT AUDITED" not in printed


@pytest.mark.soak
def test_sbom_lists_what_the_image_installs(tmp_path: Path) -> None:
    target = tmp_path / "made" / "sbom.cdx.json"
    subprocess.run([sys.executable, ROOT / "tools" / "sbom.py", target], check=True)
    text = target.read_text("utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    wheel = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    assert wheel is not None
    subject = bill["metadata"]["component"]
    assert (subject["name"], subject["version"]) == ("replicate-mcp", wheel[1])
    listed = {(each["name"], each["version"]) for each in bill["components"]}
    assert listed == locked_for_the_image()
    assert all(
        each["purl"] == f"pkg:pypi/{each['name']}@{each['version']}" for each in bill["components"]
    )


def locked_for_the_image() -> set[tuple[str, str]]:
    """Return the name and version of each line of the image's lock that applies to its system."""
    (python,) = [given for _, given in instructions() if given.startswith("PYTHON=")]
    image = {
        "python_full_version": f"{python.partition('=')[2]}.0",
        "sys_platform": "linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    lines = re.findall(
        r"^([\w.-]+)==(\S+)(?: ; (.*))? \\$",
        (ROOT / "deploy" / "image.lock").read_text("utf-8"),
        re.MULTILINE,
    )
    assert len(lines) > 20
    return {
        (name, version)
        for name, version, marker in lines
        if not marker or Marker(marker).evaluate(image)
    }
