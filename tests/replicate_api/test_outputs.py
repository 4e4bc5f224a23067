"""Output files extracted from arbitrary JSON of models."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostile import HOSTILE_TEXTS, UNUSABLE_URLS
from replicate_mcp.replicate_api.outputs import Outputs, extension_of, is_file_url, outputs_of

DELIVERY = "https://replicate.delivery"
PBXT = "https://pbxt.replicate.delivery"
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
        ([f"{PBXT}/a", "https://example.com/b"], (f"{PBXT}/a",)),
        (["https://replicate.delivery.example/a", A], (A,)),
        (["http://example.com/a.png"], ("http://example.com/a.png",)),
    ],
)
def test_output_files_are_extracted(output: object, urls: tuple[str, ...]) -> None:
    assert outputs_of(output).urls == urls


def test_output_has_at_most_a_hundred_files() -> None:
    urls = [f"https://replicate.delivery/{number}.png" for number in range(150)]
    assert outputs_of(urls).urls == tuple(urls[:100])
    assert outputs_of(urls[:99]).urls == tuple(urls[:99])


def test_output_is_by_default_not_inline_and_has_no_text() -> None:
    assert outputs_of(A) == Outputs((A,)) == Outputs((A,), inline=False, words="")
    assert outputs_of(None) == Outputs()


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("I cannot draw that", "I cannot draw that"),
        (["No.", "Sorry."], "No. Sorry."),
        (["a b", "c  d"], "a b c  d"),
        ({"why": "No.", "file": A, "more": [1, "Sorry."]}, "No. Sorry."),
        # Tokens of a language model contain their own spaces.
        (["It", " can", "not"], "It cannot"),
        (["Not ", "that", "."], "Not that."),
        (["", "x", ""], " x "),
        # The kept text is limited, and the rest is not read.
        ("x" * 2_001, "x" * 2_000),
        ([" " + "x" * 1_998, "yz"], " " + "x" * 1_998 + "y"),
        (["a", "b" * 1_999, " c"], "a " + "b" * 1_998),
    ],
)
def test_text_of_an_output_is_extracted(output: object, words: str) -> None:
    assert outputs_of(output).words == words


def test_inline_output_is_detected() -> None:
    assert outputs_of(["DATA:image/png;base64,AAAA"]).inline
    assert not outputs_of(["database", A]).inline


def test_deeply_nested_output_yields_no_file_and_no_error() -> None:
    deep: object = A
    for _ in range(20_000):
        deep = [deep]
    assert outputs_of(deep).urls == ()


def test_wide_output_is_searched_up_to_a_limit() -> None:
    assert outputs_of([1] * 1_000_000 + [A]).urls == ()
    assert outputs_of([1] * 9_998 + [A]).urls == (A,)
    assert outputs_of([1] * 9_999 + [A]).urls == ()


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
        "https://replicate.delivery/é.png",
        "https://a/" + "b" * 4_087,
    ],
)
def test_non_file_urls_are_not_outputs(text: str) -> None:
    assert not is_file_url(text)


@pytest.mark.parametrize("text", [A, "http://a/b", "HTTP://a:80/b?c#d", "https://a/" + "b" * 4_086])
def test_file_urls_are_recognised(text: str) -> None:
    assert is_file_url(text)


@given(st.text())
def test_file_url_functions_accept_any_text(text: str) -> None:
    for each in (text, f"https://{text}", f"https://a/{text}"):
        is_file_url(each)
        extension_of(each)
