"""File URLs, paths, and text that is neither."""

import pytest

from replicate_mcp.tasks.file_urls import is_input_url, is_large_data, is_local


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/cat.png",
        "HTTPS://EXAMPLE.COM/cat.png?a=b#c",
        "http://127.0.0.1:8010/files/cat.png",
        "http://[::1]:8010/cat.png",
        "https://例え.jp/猫.png",
        "https://example.com/a cat.png",
        "https://you:secret@example.com/cat.png",
        "data:image/png;base64,iVBORw0KGgo=",
        "data:image/png;base64,iVBO\nRw0K\nGgo=\n",
        "data:image/png;base64,iVBO%2BRw0K-_",
        "data:;base64,AAAA",
        "data:a:b,c",
        "DATA:image/svg+xml;charset=utf-8,%3Csvg/%3E",
        "data:image/svg+xml,<svg width='8'/>",
    ],
)
def test_loadable_text_is_a_file_url(text: str) -> None:
    assert is_input_url(text)
    assert not is_local(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "sandbox:/mnt/data/x.png",
        "attachment://x.png",
        "blob:http://x/y",
        "cid:abc",
        "ftp://a/b",
        "javascript:1",
        "https:",
        "https://",
        "http://",
        "https:x.png",
        "ttps://x/a.png",
        "https:///x.png",
        "https://:80/x.png",
        "https://[broken/x.png",
        "https://a b/x.png",
        "https://x/a.png\n",
        "https://x\\a.png",
        "https://x:0/a.png",
        "https://x:99999/a.png",
        "https://x:port/a.png",
        "data:image/png;base64,!!!",
        "data:image/png;base64,",
        "data:image/png;base64,[truncated]",
        "data:image/png;base64,<the image>",
        "data:image/png;base64,…",
        "data:image/png;base64,...",
        "data:image/png",
        "data:",
        "data:,",
    ],
)
def test_unloadable_text_is_neither_a_file_url_nor_a_path(text: str) -> None:
    assert not is_input_url(text)
    assert not is_local(text)


@pytest.mark.parametrize(
    "text",
    [
        "cat.png",
        "/home/you/cat.png",
        "C:\\cat.png",
        "c:/cat.png",
        "a b.png",
        "[1].png",
        "~/cat.png",
    ],
)
def test_text_without_a_scheme_may_be_a_path(text: str) -> None:
    assert is_local(text)
    assert not is_input_url(text)


@pytest.mark.parametrize("text", ["file:///home/you/cat.png", "FILE:cat.png", "content:abc"])
def test_url_on_the_local_machine_is_recognised(text: str) -> None:
    assert is_local(text)
    assert is_input_url(text)


@pytest.mark.parametrize("scheme", ["data:", "DATA:"])
def test_data_uri_over_sixteen_thousand_characters_is_large(scheme: str) -> None:
    uri = f"{scheme}image/png;base64,".ljust(16_000, "A")
    assert not is_large_data(uri)
    assert is_large_data(uri + "A")


@pytest.mark.parametrize("value", ["dato:" + "A" * 20_000, ["data:,A"] * 20_000, 7, None])
def test_other_long_value_is_no_large_data_uri(value: object) -> None:
    assert not is_large_data(value)
