"""Compare the lock files with published security advisories: `make audit`.

Python packages are checked by pip-audit against OSV, npm packages by `npm audit`. An unreachable
service is reported and does not fail the audit. An advisory that is not listed in
`audit-allowed.toml` fails it, and so does an expired or unused entry. Packages that are installed
on other systems only are not audited.
"""

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from replicate_mcp.text import one_line

ROOT = Path(__file__).parents[1]

PYTHON_LOCKS = (
    Path("requirements.lock"),
    Path("deploy", "image.lock"),
    Path("deploy", "image-build.lock"),
)

NOT_SEARCHED = {"node_modules", ".venv", "site", "dist"}

CONNECT_TIMEOUT_SECONDS = 15
AUDIT_TIMEOUT_SECONDS = 120
"""Maximum duration of one audit, including all its requests."""

MAX_CONCURRENT_AUDITS = 4


@dataclass(frozen=True)
class Advisory:
    """Known vulnerability of a locked package."""

    package: str
    version: str
    ids: frozenset[str]
    title: str
    lock: str

    def __str__(self) -> str:
        package = f"{self.package} {self.version}".strip()
        return f"{package} ({self.lock}): {', '.join(sorted(self.ids))}: {self.title}"


@dataclass(frozen=True)
class Allowed:
    """Advisory that is accepted until a date, with the reason."""

    id: str
    package: str
    reason: str
    review_by: date

    def __str__(self) -> str:
        return f"{self.id} of {self.package} in audit-allowed.toml"

    def covers(self, advisory: Advisory) -> bool:
        """Return whether this entry names `advisory`."""
        return self.id in advisory.ids and self.package == advisory.package


class NotAudited(Exception):
    """An audit failed; the message says why."""


def read_allowed(file: Path) -> list[Allowed]:
    """Return the accepted advisories."""
    entries = tomllib.loads(file.read_text("utf-8")).get("advisory", [])
    return [Allowed(**entry) for entry in entries]


def audit_python(root: Path) -> list[Advisory]:
    """Return the advisories for the Python packages of all lock files."""
    locks = [lock for lock in PYTHON_LOCKS if (root / lock).exists()]
    command = [
        *(sys.executable, "-m", "pip_audit"),
        *(f"--requirement={lock}" for lock in locks),
        "--disable-pip",
        "--vulnerability-service=osv",
        "--format=json",
        "--progress-spinner=off",
        f"--timeout={CONNECT_TIMEOUT_SECONDS}",
    ]
    answer = run(command, root)
    advisories = []
    for package in answer["dependencies"]:
        if "skip_reason" in package:
            raise NotAudited(package["skip_reason"])
        advisories += [
            Advisory(
                package["name"],
                package["version"],
                frozenset([found["id"], *found["aliases"]]),
                found["description"],
                ", ".join(map(str, locks)),
            )
            for found in package["vulns"]
        ]
    return advisories


def audit_npm(root: Path, lock: Path) -> list[Advisory]:
    """Return the advisories for the npm packages of one lock file."""
    npm = shutil.which("npm")
    if npm is None:
        raise NotAudited("npm is missing")
    command = [
        *(npm, "audit"),
        "--package-lock-only",
        "--json",
        "--fetch-retries=0",
        f"--fetch-timeout={CONNECT_TIMEOUT_SECONDS * 1000}",
    ]
    answer = run(command, root / lock.parent)
    if "vulnerabilities" not in answer:
        raise NotAudited(str(answer.get("message") or answer.get("error")))
    # An entry is an object for the package's own advisory, and a name for one of a dependency.
    return [
        Advisory(
            found["name"],
            found["range"],
            frozenset([found["url"].rpartition("/")[2]]),
            found["title"],
            str(lock),
        )
        for package in answer["vulnerabilities"].values()
        for found in package["via"]
        if isinstance(found, dict)
    ]


def run(command: list[str], folder: Path) -> dict[str, Any]:
    """Return the JSON object that `command` prints, whatever its exit code."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=AUDIT_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotAudited(f"no answer within {AUDIT_TIMEOUT_SECONDS} s") from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise NotAudited(reason) from None
    return answer


def problems(
    advisories: Iterable[Advisory], allowed: list[Allowed], today: date, complete: bool
) -> list[str]:
    """Return the problems to solve; unused entries are detected only after a `complete` audit."""
    found = list(advisories)
    open_advisories = [a for a in found if not any(entry.covers(a) for entry in allowed)]
    expired = [entry for entry in allowed if entry.review_by < today]
    unused = [entry for entry in allowed if not any(entry.covers(a) for a in found)]
    return [
        *(f"{advisory}. Upgrade it, or accept it" for advisory in open_advisories),
        *(f"{entry}: its date has passed. Review it" for entry in expired),
        *(f"{entry}: no lock file needs it any more. Remove it" for entry in unused if complete),
    ]


def npm_locks(root: Path) -> list[Path]:
    """Return npm's lock files below `root`, as relative paths."""
    found = (lock.relative_to(root) for lock in root.rglob("package-lock.json"))
    return sorted(lock for lock in found if not NOT_SEARCHED & {*lock.parts})


def main(root: Path = ROOT) -> int:
    """Audit every lock file, print the findings, and return the exit code."""
    allowed = read_allowed(root / "tools" / "audit-allowed.toml")
    advisories: list[Advisory] = []
    reasons: dict[str, list[str]] = {}
    with ThreadPoolExecutor(MAX_CONCURRENT_AUDITS) as pool:
        audits = {"Python packages": pool.submit(audit_python, root)}
        audits |= {str(lock): pool.submit(audit_npm, root, lock) for lock in npm_locks(root)}
        for name, audit in audits.items():
            try:
                advisories += audit.result()
            except NotAudited as error:
                reasons.setdefault(str(error), []).append(name)
    for reason, names in reasons.items():
        print(f"NOT AUDITED: {', '.join(names)}: {one_line(reason)}")
    today = datetime.now(UTC).date()
    found = problems(advisories, allowed, today, complete=not reasons)
    for problem in found:
        print(one_line(problem))
    if not reasons and not found:
        print(f"No open advisories in {len(audits)} audits.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
