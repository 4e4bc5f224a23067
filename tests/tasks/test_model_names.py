"""Model names as requests write them."""

import pytest

from replicate_mcp.tasks import recommended_models
from replicate_mcp.tasks.model_name import ALIASES, SHORT_NAMES, ModelName
from replicate_mcp.tasks.recommended_models import CATALOGUE, RecommendedModel, unambiguous_names


def test_every_recommended_model_has_its_short_name() -> None:
    for known in CATALOGUE:
        short = known.name.partition("/")[2]
        assert str(ModelName.parse(short)) == known.name
        assert str(ModelName.parse(f" {short.upper()} ")) == known.name
    assert list(SHORT_NAMES)[: len(ALIASES)] == list(ALIASES)


def test_short_name_shared_by_two_owners_is_ambiguous(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rival = RecommendedModel("somebody/flux-schnell", "x", "$", ())
    monkeypatch.setattr(recommended_models, "CATALOGUE", (*CATALOGUE, rival))
    names = unambiguous_names()
    assert "flux-schnell" not in names
    assert names["flux-2-pro"] == "black-forest-labs/flux-2-pro"


@pytest.mark.parametrize("text", ["flux-shnell", "owner", "a/b/c", "", "x\x1b[2J"])
def test_invalid_model_name_is_rejected_with_the_forms_and_nearest_name(text: str) -> None:
    with pytest.raises(ValueError, match="write owner/name, owner/name:version") as refused:
        ModelName.parse(text)
    assert str(refused.value).isprintable()
    if text == "flux-shnell":
        assert str(refused.value).endswith("did you mean black-forest-labs/flux-schnell?")


@pytest.mark.parametrize("text", ["owner", "", "a/b/c"])
def test_invalid_model_name_is_rejected_listing_every_short_name(text: str) -> None:
    with pytest.raises(ValueError, match="or a short name: ") as refused:
        ModelName.parse(text)
    assert all(name in str(refused.value) for name in SHORT_NAMES)


def test_prefix_of_short_names_is_rejected_listing_the_matches() -> None:
    with pytest.raises(ValueError, match="'flux' is not a model's name") as refused:
        ModelName.parse("flux")
    listed = str(refused.value).partition("a short name: ")[2].split(")")[0].split(", ")
    assert listed == [name for name in SHORT_NAMES if name.startswith("flux")]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("owner/name", ModelName("model", "owner", "name")),
        (" o.w-n_1/n.a-m_2 ", ModelName("model", "o.w-n_1", "n.a-m_2")),
        ("owner/name:5c7d", ModelName("version", "owner", "name", "5c7d")),
        ("o/n:" + "A1" * 32, ModelName("version", "o", "n", "A1" * 32)),
        ("deployments/owner/name", ModelName("deployment", "owner", "name")),
        ("deployments/name", ModelName("model", "deployments", "name")),
        ("Flux-Dev", ModelName("model", "black-forest-labs", "flux-dev")),
    ],
)
def test_model_name_is_parsed_in_each_form_and_formatted_in_full(
    text: str, name: ModelName
) -> None:
    found = ModelName.parse(text)
    assert (found, found.version) == (name, name.version or "")
    assert found.path == f"{name.owner}/{name.name}"
    if text != "Flux-Dev":
        assert str(found) == text.strip()


@pytest.mark.parametrize(
    "text", ["owner/name:abc", "o/n:" + "a" * 65, "o/n:a-b-c", "-o/n", "o/.n", "o /n"]
)
def test_nearly_valid_model_name_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="is not a model's name"):
        ModelName.parse(text)


def test_rejection_without_a_near_name_lists_the_short_names() -> None:
    with pytest.raises(ValueError, match="is not a model's name") as refused:
        ModelName.parse("x" * 90)
    assert str(refused.value) == (
        f"'{'x' * 80}' is not a model's name (write owner/name, owner/name:version, "
        f"deployments/owner/name, or a short name: {', '.join(SHORT_NAMES)})."
    )


def test_short_names_start_with_the_aliases() -> None:
    assert list(SHORT_NAMES)[:4] == ["flux-dev", "flux-kontext-max", "qwen-image", "flux-schnell"]
    assert ALIASES == {
        "flux-dev": "black-forest-labs/flux-dev",
        "flux-kontext-max": "black-forest-labs/flux-kontext-max",
        "qwen-image": "qwen/qwen-image",
    }
