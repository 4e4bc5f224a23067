"""How a request names a model, and what each kind of name means."""

import re
from dataclasses import dataclass
from typing import Literal

from replicate_mcp.tasks.recommended_models import CATALOGUE, suggest_model, unambiguous_names
from replicate_mcp.text import escaped

ModelKind = Literal["model", "version", "deployment"]

ALIASES = {known.alias: known.name for known in CATALOGUE if known.alias}
"""Short names that stand for a model."""

SHORT_NAMES = ALIASES | {
    short: name for short, name in unambiguous_names().items() if short not in ALIASES
}
"""Every short name: the aliases first, then each recommended model's name without its owner."""

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_MODEL = re.compile(rf"({_PART})/({_PART})(?::([A-Za-z0-9]{{4,64}}))?")
_DEPLOYMENT = re.compile(rf"deployments/({_PART})/({_PART})")


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model as Replicate addresses it.

    `kind` is `model` (`owner/name`), `version` (`owner/name:version`) or `deployment`
    (`deployments/owner/name`); `version` is empty unless the name carries one.
    """

    kind: ModelKind
    owner: str
    name: str
    version: str = ""

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Parse a full name, or a short one in any case.

        Raises:
            ValueError: the text is none of the forms; the message says which there are.
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
            f"'{escaped(text[:80])}' is not a model's name (write {forms}, or a short name: "
            f"{', '.join(_short_names_like(text))}){hint}"
        )

    @property
    def path(self) -> str:
        """`owner/name`, without version or prefix."""
        return f"{self.owner}/{self.name}"

    def __str__(self) -> str:
        """The name in full, as it is written in requests and results."""
        if self.kind == "deployment":
            return f"deployments/{self.path}"
        return f"{self.path}:{self.version}" if self.version else self.path


def _short_names_like(text: str) -> list[str]:
    """Return the short names that begin with `text`, else all of them."""
    asked = text.casefold()
    found = [name for name in SHORT_NAMES if asked and name.startswith(asked)]
    return found or list(SHORT_NAMES)
