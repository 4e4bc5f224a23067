"""Hostile texts in the dashboard, in a real browser: shown as text, never run, never a link."""

import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from browser import dialogs_of, exact_texts
from hostile import FOREIGN_URLS, HOSTILE_TEXTS, LONG, SCRIPT_TAG, SCRIPT_URL, UNUSABLE_URLS
from http_api.conftest import ADMIN_KEY, Server
from http_api.test_dashboard import RESPOND_ASYNC, OpenDashboard, open_dashboard, pages  # noqa: F401 - its fixtures
from replicate_mcp.simulator import Simulator

NO_LINKS = (*UNUSABLE_URLS, *FOREIGN_URLS)


def change_responses(page: Page, path: str, change: Any) -> None:
    """Apply `change` to the JSON of the server's real responses before the page reads them."""

    def change_response(route: Route) -> None:
        response = route.fetch()
        body = response.json()
        change(body)
        route.fulfill(response=response, body=json.dumps(body))

    page.route(path, change_response)


def expect_no_injection(page: Page, dialogs: list[str], *origins: str) -> None:
    """Check that no script ran, no text became an element, and all links are on `origins`."""
    assert dialogs == []
    expect(page.locator("img[src='x'], main b, main script, main iframe")).to_have_count(0)
    urls = page.evaluate(
        "[...document.querySelectorAll('[href], [src], [action]')]"
        ".flatMap((each) => [each.href, each.src, each.action])"
        ".filter((each) => typeof each === 'string' && each)"
    )
    assert {origin(each) for each in urls} <= set(origins)


def origin(url: str) -> str:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@pytest.fixture
def results(server: Server) -> dict[str, Any]:
    """Return a batch with one image and one failed task for each hostile URL."""
    count = len(NO_LINKS)
    body = {"prompts": [f"car {n}" for n in range(count)] + [f"{n} [fail]" for n in range(count)]}
    made: dict[str, Any] = server.post("/generate-batch", body).json()
    assert (made["successful_count"], made["failed_count"]) == (count, count)
    return made


def test_hostile_prompts_are_shown_as_text(
    server: Server,
    simulator: Simulator,
    open_dashboard: OpenDashboard,  # noqa: F811
) -> None:
    prompts = [text for text in HOSTILE_TEXTS if text.strip() and text != LONG]
    accepted = []
    for prompt in prompts:
        made = server.client.post(
            "/generate",
            content=json.dumps({"prompt": prompt}),
            headers={"content-type": "application/json"},
        )
        if made.status_code == 200:
            accepted.append(prompt)
    assert SCRIPT_TAG in accepted
    assert SCRIPT_URL in accepted
    visit = open_dashboard(server.url)
    dialogs = dialogs_of(visit.page)
    expect(visit.page.locator(".batch")).to_have_count(len(accepted))
    expect(visit.page.locator(".batch .toggle .prompt:empty")).to_have_count(0)
    assert exact_texts(visit.page.locator(".batch .toggle .prompt")) == accepted[::-1]
    expect_no_injection(visit.page, dialogs, server.url, simulator.url)


def test_hostile_result_fields_are_shown_as_text(
    server: Server,
    simulator: Simulator,
    results: dict[str, Any],
    open_dashboard: OpenDashboard,  # noqa: F811
) -> None:
    texts = [HOSTILE_TEXTS[n % len(HOSTILE_TEXTS)] for n in range(results["total_tasks"])]

    def change(page: dict[str, Any]) -> None:
        for row in page["successful_results"]:
            text = texts[row["task_index"]]
            row.update(prompt=text, output_filename=text, model=text, prediction_id=text)
            for file in row["generated_files"]:
                file["filename"] = text
        for row in page["failed_results"]:
            text = texts[row["task_index"]]
            row.update(prompt=text, output_filename=text, error=text, error_code=text)

    visit = open_dashboard(server.url)
    page = visit.page
    dialogs = dialogs_of(page)
    change_responses(page, f"{server.url}/batches/b_*", change)
    page.reload()
    tiles, made = page.locator("figure.tile"), results["successful_count"]
    expect(tiles).to_have_count(24)
    page.locator("button.more").click()
    expect(tiles).to_have_count(made)
    for selector in (".filename", ".prompt", "dd:first-of-type"):
        assert exact_texts(page.locator(f"figure.tile {selector}")) == texts[:made], selector
    assert exact_texts(page.locator(".failure .error-message")) == list(dict.fromkeys(texts[made:]))
    assert set(exact_texts(page.locator(".failure .filename"))) == set(texts[made:])
    for each in tiles.get_by_role("button", name="Download").all()[:17]:
        each.click()
    expect_no_injection(page, dialogs, server.url, simulator.url)


def test_hostile_url_is_not_a_link(
    server: Server,
    results: dict[str, Any],
    open_dashboard: OpenDashboard,  # noqa: F811
) -> None:
    def change(page: dict[str, Any]) -> None:
        for row in page["successful_results"]:
            for file in row["generated_files"]:
                file["url"] = NO_LINKS[row["task_index"]]

    visit = open_dashboard(server.url)
    page = visit.page
    dialogs = dialogs_of(page)
    change_responses(page, f"{server.url}/batches/b_*", change)
    page.reload()
    page.locator("button.more").click()
    expect(page.locator("figure.tile")).to_have_count(len(NO_LINKS))
    expect(page.locator("figure.tile").get_by_role("link")).to_have_count(0)
    expect(page.locator("figure.tile").get_by_text("No link")).to_have_count(len(NO_LINKS))
    expect_no_injection(page, dialogs, server.url)


def test_hostile_server_names_and_errors_are_shown_as_text(
    server: Server,
    open_dashboard: OpenDashboard,  # noqa: F811
) -> None:
    admin = {"x_admin_api_key": ADMIN_KEY}
    server.post("/global-semaphores", {"semaphore_id": "team", "limit": 2}, **admin)
    body = {"prompts": ["a [hang]"], "external_semaphore_id": "team"}
    batch = server.post("/generate-batch", body, **RESPOND_ASYNC).json()
    reasons = iter(HOSTILE_TEXTS)

    def rename(page: dict[str, Any]) -> None:
        usual, *_ = page["semaphores"]
        page["semaphores"] = [{**usual, "name": name} for name in HOSTILE_TEXTS]

    def relabel(page: dict[str, Any]) -> None:
        for batch in page["batches"]:
            batch["semaphore"] = SCRIPT_TAG

    def reject_deletion(route: Route) -> None:
        if route.request.method == "DELETE":
            error = {"error": next(reasons), "error_code": SCRIPT_TAG}
            route.fulfill(status=400, body=json.dumps(error), content_type="application/json")
        else:
            route.continue_()

    visit = open_dashboard(server.url, errors_expected=True)
    page = visit.page
    dialogs = dialogs_of(page)
    change_responses(page, f"{server.url}/global-semaphores", rename)
    change_responses(page, f"{server.url}/batches", relabel)
    change_responses(page, f"{server.url}/batches?*", relabel)
    page.route(f"{server.url}/batches/b_*", reject_deletion)
    page.reload()
    expect(page.locator(".semaphore h3")).to_have_count(len(HOSTILE_TEXTS))
    assert exact_texts(page.locator(".semaphore h3")) == list(HOSTILE_TEXTS)
    expect(page.get_by_text(f"semaphore: {SCRIPT_TAG}")).to_be_visible()
    page.get_by_role("button", name="Cancel batch").click()
    for text in HOSTILE_TEXTS:
        page.get_by_role("button", name="Cancel this batch").click()
        page.wait_for_function(
            "(text) => document.querySelector('#toast').textContent === JSON.parse(text)",
            arg=json.dumps(text),
        )
    expect_no_injection(page, dialogs, server.url)
    server.client.delete(f"/batches/{batch['batch_id']}")
