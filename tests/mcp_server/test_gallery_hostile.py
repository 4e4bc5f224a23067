"""Hostile texts in the gallery, in a real browser: shown as text, never run, never a link."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Route, expect

from browser import dialogs_of, exact_texts
from hostile import FOREIGN_URLS, HOSTILE_TEXTS, SCRIPT_TAG, UNUSABLE_URLS
from mcp_server.host_page import HostPage
from mcp_server.test_gallery import (  # noqa: F401 - its fixtures
    Show,
    pages,
    script,
    server,
    shared_simulator,
    show,
    simulator,
)
from replicate_mcp.simulator import Simulator

HOSTILE_URLS = (*UNUSABLE_URLS, *FOREIGN_URLS)

Change = Callable[[dict[str, Any]], None]


def show_changed(page: HostPage, prompts: list[str], change: Change) -> None:
    """Call `generate_images`; apply `change` to the results before the host receives them."""
    page.page.route("**/mcp", lambda route: change_response(route, change))
    page.show("generate_images", {"tasks": [{"prompt": prompt} for prompt in prompts]})


def change_response(route: Route, change: Change) -> None:
    """Change the structured results in the server's real responses to the host and the view."""
    if route.request.method != "POST":
        route.continue_()
        return
    response = route.fetch()
    lines = [change_line(line, change) for line in response.text().splitlines()]
    route.fulfill(response=response, body="\n".join(lines) + "\n\n")


def change_line(line: str, change: Change) -> str:
    """Change the results in one line of an event stream, or in a JSON response."""
    start = "data: " if line.startswith("data: ") else ""
    try:
        message = json.loads(line.removeprefix(start))
        change(message["result"]["structuredContent"])
    except (ValueError, KeyError, TypeError):
        return line
    return start + json.dumps(message)


def expect_no_injection(page: HostPage, dialogs: list[str], simulator: Simulator) -> None:  # noqa: F811
    """Check that no script ran, no text became an element, and all links are image URLs."""
    assert dialogs == []
    expect(page.view.locator("img[src='x'], b, body script[src], iframe")).to_have_count(0)
    urls = page.view.locator("[href], [src], [action]").evaluate_all(
        "(all) => all.flatMap((each) => [each.href, each.src, each.action])"
        ".filter((each) => typeof each === 'string' && each)"
    )
    hosts = {urlsplit(each).netloc for each in urls}
    assert hosts <= {urlsplit(simulator.url).netloc}
    assert {urlsplit(each).scheme for each in urls} <= {"http"}


@pytest.mark.soak
def test_hostile_task_text_is_shown_as_text(
    show: Show,  # noqa: F811
    simulator: Simulator,  # noqa: F811
) -> None:
    page = show("generate_images", None)
    dialogs = dialogs_of(page.page)
    texts = [text for text in HOSTILE_TEXTS if text.strip()]
    arguments = {"tasks": [{"prompt": text, "output_filename": text} for text in texts]}
    # The view receives the model's arguments before the server has validated them.
    call = (
        "(json) => host.show({ tool: 'generate_images', toolArguments: JSON.parse(json),"
        " calls: false })"
    )
    page.page.evaluate(call, json.dumps(arguments))
    expect(page.tiles).to_have_count(len(texts))
    assert exact_texts(page.view.locator(".tile .note")) == texts
    assert exact_texts(page.view.locator(".tile .name")) == texts
    expect_no_injection(page, dialogs, simulator)


@pytest.mark.parametrize("half", [HOSTILE_TEXTS[:12], HOSTILE_TEXTS[-12:]], ids=["first", "last"])
def test_hostile_result_fields_are_shown_as_text(
    show: Show,  # noqa: F811
    simulator: Simulator,  # noqa: F811
    half: tuple[str, ...],
) -> None:
    texts = [*half, *half]

    def change(page: dict[str, Any]) -> None:
        for row in page["successful_results"]:
            text = texts[row["task_index"]]
            row.update(prompt=text, output_filename=text, model=text, prediction_id=text)
            for file in row["generated_files"]:
                file["filename"] = text
        for row in page["failed_results"]:
            text = texts[row["task_index"]]
            row.update(prompt=text, output_filename=text, error=text, error_code=text)

    page = show("generate_images", None)
    dialogs = dialogs_of(page.page)
    prompts = [f"car {n}" for n in range(12)] + [f"car {n} [fail]" for n in range(12)]
    show_changed(page, prompts, change)
    expect(
        page.view.locator(".tile[data-state='succeeded'], .tile[data-state='failed']")
    ).to_have_count(24)
    assert exact_texts(page.view.locator(".tile .note")) == texts
    assert exact_texts(page.view.locator(".tile .name")) == texts
    assert exact_texts(page.view.locator(".tile[data-state='failed'] .message-text")) == texts[12:]
    assert page.view.locator("html").evaluate("() => document.title") == "Images"
    expect_no_injection(page, dialogs, simulator)


def test_hostile_url_is_neither_linked_nor_requested(
    show: Show,  # noqa: F811
    simulator: Simulator,  # noqa: F811
) -> None:
    def change(page: dict[str, Any]) -> None:
        for row in page["successful_results"]:
            for file in row["generated_files"]:
                file["url"] = HOSTILE_URLS[row["task_index"]]

    page = show("generate_images", None)
    dialogs = dialogs_of(page.page)
    show_changed(page, [f"car {n}" for n in range(len(HOSTILE_URLS))], change)
    page.view.get_by_role("button", name="Show ").click()
    expect(page.tiles).to_have_count(len(HOSTILE_URLS))
    refused = page.view.get_by_text("The URL is not on a Replicate host.")
    expect(refused).to_have_count(len(HOSTILE_URLS))
    expect(page.view.locator("a, img")).to_have_count(0)
    assert page.recorded("opened") == []
    assert not [url for url in page.requested if "elsewhere" in url]
    expect_no_injection(page, dialogs, simulator)


@pytest.mark.soak
def test_hostile_error_text_is_shown_as_text(
    show: Show,  # noqa: F811
    simulator: Simulator,  # noqa: F811
) -> None:
    page = show("generate_images", None)
    dialogs = dialogs_of(page.page)
    for text in filter(str.strip, HOSTILE_TEXTS):
        page.page.evaluate("(text) => host.fail(JSON.parse(text))", json.dumps(text))
        error = page.view.locator("#error")
        error.evaluate(
            "async (element, text) => { while (element.textContent !== JSON.parse(text))"
            " await new Promise(requestAnimationFrame); }",
            json.dumps(text),
        )
        expect(error.locator("*")).to_have_count(0)
    expect_no_injection(page, dialogs, simulator)


def test_script_in_action_labels_is_shown_as_text(
    show: Show,  # noqa: F811
    simulator: Simulator,  # noqa: F811
) -> None:
    def change(page: dict[str, Any]) -> None:
        for file in page["successful_results"][0]["generated_files"]:
            file["filename"] = SCRIPT_TAG

    page = show("generate_images", None)
    dialogs = dialogs_of(page.page)
    show_changed(page, ["a red car"], change)
    expect(page.view.locator("a.picture[data-loaded] img")).to_have_count(1)
    for name in ("Open", "Copy URL of", "Download"):
        page.view.get_by_role("button", name=f"{name} {SCRIPT_TAG}").click()
    page.page.wait_for_function("host.opened.length && host.downloaded.length")
    assert {urlsplit(url).netloc for url in page.recorded("opened")} == {
        urlsplit(simulator.url).netloc
    }
    expect_no_injection(page, dialogs, simulator)
