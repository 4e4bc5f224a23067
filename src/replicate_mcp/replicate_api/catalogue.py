"""Image models worth knowing, chosen by hand: what each is good at, and what it costs, roughly.

Any other image model of Replicate's works as well; these are for those who have no favourite yet.
"""

from dataclasses import dataclass
from typing import Literal

from replicate_mcp.tasks.models import ALIASES

PriceClass = Literal["$", "$$", "$$$", "$$$$"]

PRICE_CLASSES = "$ under 1 cent an image, $$ up to 3, $$$ up to 6, $$$$ more"
"""Of a megapixel, as far as prices were public in 2026; the API does not tell them."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One entry.

    Attributes:
        name: `owner/name`.
        edits: whether it can start from images that are given to it.
    """

    name: str
    good_at: str
    price: PriceClass
    edits: bool

    @property
    def alias(self) -> str | None:
        """Its short name, if it has one."""
        return _SHORT_NAMES.get(self.name)


_SHORT_NAMES = {name: alias for alias, name in ALIASES.items()}

CATALOGUE: tuple[KnownModel, ...] = (
    KnownModel(
        "black-forest-labs/flux-schnell", "drafts and volume: under a second an image", "$", False
    ),
    KnownModel("black-forest-labs/flux-2-klein-4b", "volume at the lowest price", "$", True),
    KnownModel("black-forest-labs/flux-dev", "good quality at a moderate price", "$$", True),
    KnownModel(
        "black-forest-labs/flux-2-dev", "several reference images, open weights", "$$", True
    ),
    KnownModel(
        "black-forest-labs/flux-2-pro", "photorealism, up to 8 reference images", "$$", True
    ),
    KnownModel("black-forest-labs/flux-1.1-pro", "polished images from short prompts", "$$$", True),
    KnownModel("black-forest-labs/flux-kontext-pro", "editing an image by a sentence", "$$$", True),
    KnownModel(
        "black-forest-labs/flux-kontext-max", "editing with lettering, at its best", "$$$$", True
    ),
    KnownModel("qwen/qwen-image", "long text in images, Chinese too", "$$", True),
    KnownModel("bytedance/seedream-4", "up to 4K, series of related images", "$$", True),
    KnownModel("ideogram-ai/ideogram-v3-turbo", "posters, logos and lettering", "$$", True),
    KnownModel("recraft-ai/recraft-v3", "illustration and design in named styles", "$$$", False),
    KnownModel("google/imagen-4", "fine detail and photorealism", "$$$", False),
    KnownModel("google/nano-banana", "editing and combining images in plain words", "$$$", True),
    KnownModel("google/nano-banana-pro", "infographics, exact text, up to 14 images", "$$$$", True),
    KnownModel(
        "stability-ai/stable-diffusion-3.5-large", "varied styles, fine control", "$$$$", True
    ),
)
