"""Names of models in requests, and what each form of a name refers to."""

import re
from dataclasses import dataclass
from typing import Literal

from replicate_mcp.tasks.recommended_models import CATALOGUE, suggest_model, unambiguous_names
from replicate_mcp.text import escaped, with_full_stop

ModelKind = Literal["model", "version", "deployment"]

ALIASES = {known.alias: known.name for known in CATALOGUE if known.alias}
"""Aliases of models, with the full names."""

SHORT_NAMES = ALIASES | {
    short: name for short, name in unambiguous_names().items() if short not in ALIASES
}
"""All short names: the aliases first, then each recommended model's name without its owner."""

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_MODEL = re.compile(rf"({_PART})/({_PART})(?::([A-Za-z0-9]{{4,64}}))?")
_DEPLOYMENT = re.compile(rf"deployments/({_PART})/({_PART})")


@dataclass(frozen=True, slots=True)
class ModelName:
    """The name of a model, as Replicate addresses it.

    Attributes:
        kind: `model` (`owner/name`), `version` (`owner/name:version`) or `deployment`
            (`deployments/owner/name`).
        version: id of the version; "" if the name has none.
    """

    kind: ModelKind
    owner: str
    name: str
    version: str = ""

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Parse a full name, or a short one in any case.

        Raises:
            ValueError: the text has none of the forms; the message is a sentence that lists them.
        """
        text = SHORT_NAMES.get(text.strip().casefold(), text.strip())
        if found := _DEPLOYMENT.fullmatch(text):
            return cls("deployment", found[1], found[2])
        if found := _MODEL.fullmatch(text):
            return cls("version" if found[3] else "model", found[1], found[2], found[3] or "")
        forms = "owner/name, owner/name:version, deployments/owner/name"
        near = suggest_model(text)
        hint = f": did you mean {near}?" if near else ""
        raise ValueError(
            with_full_stop(
                f"'{escaped(text[:80])}' is not a model's name (write {forms}, or a short name: "
                f"{', '.join(_short_names_like(text))}){hint}"
            )
        )

    @property
    def path(self) -> str:
        """`owner/name`, without version or prefix."""
        return f"{self.owner}/{self.name}"

    def __str__(self) -> str:
        """Return the full name, as written in requests and results."""
        if self.kind == "deployment":
            return f"deployments/{self.path}"
        return f"{self.path}:{self.version}" if self.version else self.path


def _short_names_like(text: str) -> list[str]:
    """Return the short names that begin with `text`, or all of them if none does."""
    asked = text.casefold()
    found = [name for name in SHORT_NAMES if asked and name.startswith(asked)]
    return found or list(SHORT_NAMES)
