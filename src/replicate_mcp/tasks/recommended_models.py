"""Recommended image models, with what each is good at and its approximate price.

Any other image model on Replicate works as well.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

PriceClass = Literal["$", "$$", "$$$", "$$$$"]

PRICES: dict[PriceClass, str] = {
    "$": "under 1 cent",
    "$$": "1 to 3 cents",
    "$$$": "3 to 6 cents",
    "$$$$": "over 6 cents",
}
"""Price per megapixel, as far as public in 2026; the API does not return prices."""

PRICE_CLASSES = ", ".join(f"{mark} {cents}" for mark, cents in PRICES.items()) + " an image"


@dataclass(frozen=True, slots=True)
class RecommendedModel:
    """A recommended model.

    Attributes:
        name: `owner/name`.
        inputs: the inputs that most requests use, besides the prompt; `[]` marks a list.
        image_input: the input among them that accepts an image to start from; "" if absent.
        alias: its short name; None if it has none.
        takes_prompt: whether it draws from a prompt; otherwise it only accepts an image.
        search_terms: further words by which a search finds it.
    """

    name: str
    good_at: str
    price: PriceClass
    inputs: tuple[str, ...]
    image_input: str = ""
    alias: str | None = None
    takes_prompt: bool = True
    search_terms: str = ""

    @property
    def edits_by_prompt(self) -> bool:
        """Whether it edits an image according to a prompt."""
        return self.takes_prompt and bool(self.image_input)


def _known(
    name: str,
    good_at: str,
    price: PriceClass,
    inputs: str,
    image_input: str = "",
    alias: str | None = None,
) -> RecommendedModel:
    listed = (*inputs.split(), *filter(None, [image_input]))
    terms = "editing photo reference" if image_input else ""
    return RecommendedModel(
        name, good_at, price, listed, image_input.removesuffix("[]"), alias, search_terms=terms
    )


def _image_only(
    name: str, good_at: str, price: PriceClass, inputs: str, search_terms: str
) -> RecommendedModel:
    """Return a model that accepts the image in its input `image`, and no prompt."""
    listed = ("image", *inputs.split())
    return RecommendedModel(
        name, good_at, price, listed, "image", takes_prompt=False, search_terms=search_terms
    )


CATALOGUE: tuple[RecommendedModel, ...] = (
    _known(
        "black-forest-labs/flux-schnell",
        "drafts and volume: under a second an image",
        "$",
        "aspect_ratio megapixels num_outputs output_format seed",
    ),
    _known(
        "black-forest-labs/flux-2-klein-4b",
        "volume at the lowest price",
        "$",
        "aspect_ratio output_megapixels output_format seed",
        "images[]",
    ),
    _known(
        "black-forest-labs/flux-dev",
        "good quality at a moderate price",
        "$$",
        "aspect_ratio megapixels num_outputs prompt_strength output_format seed",
        "image",
        alias="flux-dev",
    ),
    _known(
        "black-forest-labs/flux-2-dev",
        "several reference images, open weights",
        "$$",
        "aspect_ratio width height output_format seed",
        "input_images[]",
    ),
    _known(
        "black-forest-labs/flux-2-pro",
        "photorealism, up to 8 reference images",
        "$$",
        "aspect_ratio resolution output_format seed",
        "input_images[]",
    ),
    _known(
        "black-forest-labs/flux-1.1-pro",
        "polished images from short prompts",
        "$$$",
        "aspect_ratio width height output_format seed",
        "image_prompt",
    ),
    _known(
        "black-forest-labs/flux-kontext-pro",
        "editing an image by a sentence",
        "$$$",
        "aspect_ratio output_format seed",
        "input_image",
    ),
    _known(
        "black-forest-labs/flux-kontext-max",
        "editing with lettering, at its best",
        "$$$$",
        "aspect_ratio output_format seed",
        "input_image",
        alias="flux-kontext-max",
    ),
    _known(
        "qwen/qwen-image",
        "long text in images, Chinese too",
        "$$",
        "aspect_ratio image_size strength output_format seed",
        "image",
        alias="qwen-image",
    ),
    _known(
        "bytedance/seedream-4",
        "up to 4K, series of related images",
        "$$",
        "size aspect_ratio max_images sequential_image_generation",
        "image_input[]",
    ),
    _known(
        "ideogram-ai/ideogram-v3-turbo",
        "posters, logos and lettering",
        "$$",
        "aspect_ratio resolution style_reference_images[] mask seed",
        "image",
    ),
    _known(
        "recraft-ai/recraft-v3",
        "illustration and design in named styles",
        "$$$",
        "size aspect_ratio style",
    ),
    _known(
        "google/imagen-4",
        "fine detail and photorealism",
        "$$$",
        "aspect_ratio output_format",
    ),
    _known(
        "google/nano-banana",
        "editing and combining images in plain words",
        "$$$",
        "aspect_ratio output_format",
        "image_input[]",
    ),
    _known(
        "google/nano-banana-pro",
        "infographics, exact text, up to 14 images",
        "$$$$",
        "aspect_ratio resolution output_format",
        "image_input[]",
    ),
    _known(
        "stability-ai/stable-diffusion-3.5-large",
        "varied styles, fine control",
        "$$$$",
        "aspect_ratio cfg prompt_strength output_format seed",
        "image",
    ),
    _image_only(
        "851-labs/background-remover",
        "cutting out: an image without its background, no prompt",
        "$",
        "format background_type threshold",
        "remove removal removing backgrounds cutout transparent transparency png alpha",
    ),
    _image_only(
        "nightmareai/real-esrgan",
        "upscaling up to 10 times, faces too, no prompt",
        "$",
        "scale face_enhance",
        "upscaler enlarge larger enhance super resolution restore",
    ),
    _image_only(
        "recraft-ai/recraft-crisp-upscale",
        "upscaling for web and print, sharper, no prompt",
        "$",
        "",
        "upscaler enlarge larger enhance super resolution sharpen",
    ),
    _image_only(
        "recraft-ai/recraft-vectorize",
        "turning an image into SVG, no prompt",
        "$$",
        "",
        "vectors vectorizer vectorization trace tracing convert",
    ),
)

BY_NAME = {known.name: known for known in CATALOGUE}


def unambiguous_names() -> dict[str, str]:
    """Return each model's full name by its name without the owner, if only one model has it."""
    full_names: dict[str, list[str]] = {}
    for known in CATALOGUE:
        full_names.setdefault(known.name.partition("/")[2], []).append(known.name)
    return {short: names[0] for short, names in full_names.items() if len(names) == 1}


_STOP_WORDS = {"a", "an", "and", "best", "fast", "for", "from", "good", "image", "images", "in"}
_STOP_WORDS |= {"make", "model", "models", "of", "on", "or", "the", "to", "with"}
"""Words of a query that do not distinguish models."""


def search(query: str) -> list[RecommendedModel]:
    """Return the models whose words match every word of the query as a prefix.

    Words of `_STOP_WORDS` are ignored.
    """
    asked = [word for word in _words(query) if word not in _STOP_WORDS]
    return [
        known
        for known in CATALOGUE
        if all(any(word.startswith(each) for word in _words(_text(known))) for each in asked)
    ]


def suggest_model(text: str) -> str | None:
    """Return the recommended model whose name is closest to `text`; None if none is close."""
    from difflib import get_close_matches

    asked = text.strip().casefold()
    names = {each: known.name for known in CATALOGUE for each in _spellings(known)}
    near = get_close_matches(asked, names, 1, 0.8) if len(asked) <= 100 else []
    near = near or get_close_matches(asked.rpartition("/")[2][:100], names, 1, 0.8)
    return names[near[0]] if near else None


def _spellings(known: RecommendedModel) -> Iterator[str]:
    yield known.name
    yield known.name.partition("/")[2]


def _text(known: RecommendedModel) -> str:
    inputs = " ".join(known.inputs)
    return f"{known.name} {known.alias or ''} {known.good_at} {inputs} {known.search_terms}"


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())
