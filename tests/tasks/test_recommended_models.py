"""Recommended models: their entries, search, and the nearest name to a typo."""

import pytest

from replicate_mcp.tasks.recommended_models import (
    BY_NAME,
    CATALOGUE,
    PRICE_CLASSES,
    PRICES,
    RecommendedModel,
    search,
    suggest_model,
    unambiguous_names,
)

# Name, price, inputs; "-" marks a model without an image input, "=" one without a prompt.
ENTRIES = """\
black-forest-labs/flux-schnell $ - aspect_ratio megapixels num_outputs output_format seed
black-forest-labs/flux-2-klein-4b $ images aspect_ratio output_megapixels output_format seed images[]
black-forest-labs/flux-dev $$ image aspect_ratio megapixels num_outputs prompt_strength output_format seed image
black-forest-labs/flux-2-dev $$ input_images aspect_ratio width height output_format seed input_images[]
black-forest-labs/flux-2-pro $$ input_images aspect_ratio resolution output_format seed input_images[]
black-forest-labs/flux-1.1-pro $$$ image_prompt aspect_ratio width height output_format seed image_prompt
black-forest-labs/flux-kontext-pro $$$ input_image aspect_ratio output_format seed input_image
black-forest-labs/flux-kontext-max $$$$ input_image aspect_ratio output_format seed input_image
qwen/qwen-image $$ image aspect_ratio image_size strength output_format seed image
bytedance/seedream-4 $$ image_input size aspect_ratio max_images sequential_image_generation image_input[]
ideogram-ai/ideogram-v3-turbo $$ image aspect_ratio resolution style_reference_images[] mask seed image
recraft-ai/recraft-v3 $$$ - size aspect_ratio style
google/imagen-4 $$$ - aspect_ratio output_format
google/nano-banana $$$ image_input aspect_ratio output_format image_input[]
google/nano-banana-pro $$$$ image_input aspect_ratio resolution output_format image_input[]
stability-ai/stable-diffusion-3.5-large $$$$ image aspect_ratio cfg prompt_strength output_format seed image
851-labs/background-remover $ =image image format background_type threshold
nightmareai/real-esrgan $ =image image scale face_enhance
recraft-ai/recraft-crisp-upscale $ =image image
recraft-ai/recraft-vectorize $$ =image image
"""  # noqa: E501

NAMES = [line.split()[0] for line in ENTRIES.splitlines()]
EDITING = [name for name in NAMES[:16] if name not in {NAMES[0], NAMES[11], NAMES[12]}]


def test_each_recommended_model_has_its_price_and_inputs() -> None:
    for line, known in zip(ENTRIES.splitlines(), CATALOGUE, strict=True):
        name, price, image, *inputs = line.split()
        assert (known.name, known.price, list(known.inputs)) == (name, price, inputs)
        assert known.image_input == image.strip("-=")
        assert known.takes_prompt is not image.startswith("=")
        assert known.edits_by_prompt is image.isidentifier()
        assert BY_NAME[name] is known
    assert {known.alias: known.name for known in CATALOGUE if known.alias} == {
        "flux-dev": "black-forest-labs/flux-dev",
        "flux-kontext-max": "black-forest-labs/flux-kontext-max",
        "qwen-image": "qwen/qwen-image",
    }


def test_entry_has_no_image_input_or_search_terms_by_default() -> None:
    known = RecommendedModel("owner/name", "anything", "$", ("seed",))
    assert (known.image_input, known.alias, known.search_terms) == ("", None, "")
    assert known.takes_prompt
    assert not known.edits_by_prompt
    assert CATALOGUE[0].search_terms == ""


def test_each_price_class_has_an_explanation() -> None:
    assert PRICES == {
        "$": "under 1 cent",
        "$$": "1 to 3 cents",
        "$$$": "3 to 6 cents",
        "$$$$": "over 6 cents",
    }
    assert PRICE_CLASSES == (
        "$ under 1 cent, $$ 1 to 3 cents, $$$ 3 to 6 cents, $$$$ over 6 cents an image"
    )


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", NAMES),
        ("the best model for images", NAMES),
        ("posters", ["ideogram-ai/ideogram-v3-turbo"]),
        ("Logo, seed!", ["ideogram-ai/ideogram-v3-turbo"]),
        ("posters zeppelin", []),
        ("edit", EDITING),
        ("reference photo", EDITING),
        ("diting", []),
        ("FLUX_2", NAMES[1:2] + NAMES[3:5]),
        ("num_outputs", ["black-forest-labs/flux-schnell", "black-forest-labs/flux-dev"]),
        ("upscal", ["nightmareai/real-esrgan", "recraft-ai/recraft-crisp-upscale"]),
        ("restore faces", ["nightmareai/real-esrgan"]),
        ("transparent png", ["851-labs/background-remover"]),
        ("vectorizer", ["recraft-ai/recraft-vectorize"]),
        ("no prompt", NAMES[16:]),
    ],
)
def test_search_matches_each_query_word_as_a_word_prefix(query: str, names: list[str]) -> None:
    assert [known.name for known in search(query)] == names


def test_stop_words_do_not_narrow_a_search() -> None:
    words = (
        "a an and best fast for from good image images in make model models of on or the to with"
    )
    for word in words.split():
        for query, name in (
            ("esrgan", "nightmareai/real-esrgan"),
            ("illustration", "recraft-ai/recraft-v3"),
        ):
            assert [known.name for known in search(f"{word} {query}")] == [name], word


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("flux-shnell", "black-forest-labs/flux-schnell"),
        (" Black-Forest-Labs/FLUX-SCHNEL ", "black-forest-labs/flux-schnell"),
        ("somebody/flux-schnel", "black-forest-labs/flux-schnell"),
        ("a/b/nano-banan", "google/nano-banana"),
        ("a/" + "x" * 20 + "/nano-banan", "google/nano-banana"),
        ("google/banana", "google/nano-banana"),
        ("black-forest-labs/flux", "black-forest-labs/flux-dev"),
        ("x" * 150 + "/imagen-44", "google/imagen-4"),
        ("real-esrgn", "nightmareai/real-esrgan"),
        ("stability-ai/sd-3.5-large", None),
        ("zeppelin", None),
        ("x" * 200, None),
        ("", None),
    ],
)
def test_nearest_recommended_name_is_suggested(text: str, name: str | None) -> None:
    assert suggest_model(text) == name


def test_every_name_without_owner_is_unique() -> None:
    assert unambiguous_names() == {name.split("/")[1]: name for name in NAMES}
