"""Which files an output has, whatever JSON a model gave."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostile import HOSTILE_TEXTS, UNUSABLE_URLS
from replicate_mcp.replicate_api.outputs import MAX_FILES, extension_of, is_file_url, outputs_of

DELIVERY = "https://replicate.delivery"
A, B = "https://replicate.delivery/a.png", "https://replicate.delivery/b.png"


@pytest.mark.parametrize(
    ("output", "urls"),
    [
        (A, (A,)),
        ([A, B], (A, B)),
        ({"image": A, "mask": [B]}, (A, B)),
        ([[A], {"b": {"c": B}}], (A, B)),
        ("HTTPS://replicate.delivery/a.png", ("HTTPS://replicate.delivery/a.png",)),
        ([A, "https://[x/", "https://a\uff0fb/x.png", B], (A, B)),
        (None, ()),
        (["I cannot draw that", 5, True, {"a": None}], ()),
        ([A, B, A], (A, B)),
        ({"image": A, "images": [A, B]}, (A, B)),
        ({"image": A, "license": "https://creativecommons.org/licenses/by/4.0/"}, (A,)),
        ({"source": "https://example.com/page.html", "files": [A, B]}, (A, B)),
        ({"notice": "https://example.com/LICENSE.txt", "image": A}, (A,)),
        ({"a": f"{DELIVERY}/a", "page": "https://replicate.com/p/x"}, (f"{DELIVERY}/a",)),
        ({"a": f"{DELIVERY}/a.json", "b": A}, (f"{DELIVERY}/a.json", A)),
        ({"text": "no", "license": "https://example.com/license", "url": None}, ()),
        ({"licence": {"url": "https://example.com/l"}, "image": None}, ()),
        ({"Source": ["https://example.com/a"], "license_url": "https://example.com/l"}, ()),
        ({"source": "https://example.com/a.png"}, ("https://example.com/a.png",)),
        ({"source": f"{DELIVERY}/a"}, (f"{DELIVERY}/a",)),
        ({"image": "https://example.com/a", "license": "https://b/l"}, ("https://example.com/a",)),
        (["https://example.com/a", "https://example.com/b.PNG"], ("https://example.com/b.PNG",)),
        (["https://example.com/a"], ("https://example.com/a",)),
    ],
)
def test_the_files_of_an_output(output: object, urls: tuple[str, ...]) -> None:
    assert outputs_of(output).urls == urls


def test_the_files_of_an_output_are_at_most_so_many() -> None:
    urls = [f"https://replicate.delivery/{number}.png" for number in range(MAX_FILES + 50)]
    assert outputs_of(urls).urls == tuple(urls[:MAX_FILES])


def test_an_output_that_came_inline_has_its_urls_only_later() -> None:
    assert outputs_of(["DATA:image/png;base64,AAAA"]).inline
    assert not outputs_of(["database", A]).inline


def test_a_deep_output_is_no_file_and_no_fault() -> None:
    deep: object = A
    for _ in range(20_000):
        deep = [deep]
    assert outputs_of(deep).urls == ()


def test_a_wide_output_is_looked_at_so_far() -> None:
    assert outputs_of([1] * 1_000_000 + [A]).urls == ()


@pytest.mark.parametrize(
    "text",
    [
        *(each for each in UNUSABLE_URLS if each != "//elsewhere.example/x.png"),
        *(f"https://replicate.delivery/{each}.png" for each in HOSTILE_TEXTS[:9]),
        "https://replicate.delivery/a b.png",
        'https://replicate.delivery/"onerror=.png',
        "https://replicate.delivery:0/a.png",
        "https://replicate.delivery:99999/a.png",
        "https://example.com see this page",
        "https://",
        "https:///a.png",
        "httpsx://a/b.png",
        "https://a/" + "b" * 5_000,
    ],
)
def test_what_is_no_url_of_a_file(text: str) -> None:
    assert not is_file_url(text)


@given(st.text())
def test_no_text_is_a_fault(text: str) -> None:
    for each in (text, f"https://{text}", f"https://a/{text}"):
        is_file_url(each)
        extension_of(each)
