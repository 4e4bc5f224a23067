"""The dashboard in a real browser, with a real server and a simulator."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from browser import Pages, running_browser, watch
from http_api.conftest import ADMIN_KEY, Serve, Server
from replicate_mcp.http_api.dashboard.routes import prefers_html, security_headers
from replicate_mcp.simulator import Simulator

PHONE_WIDTH = 390

RESPOND_ASYNC = {"prefer": "respond-async"}


REPORT_VIOLATIONS = (
    "document.addEventListener('securitypolicyviolation', (event) =>"
    " console.error('CSP violation:', event.violatedDirective, event.blockedURI))"
)


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    """Return pages of the system's browser."""
    with running_browser() as browser:
        yield Pages(browser, REPORT_VIOLATIONS)


@dataclass
class Visit:
    """An open page, with its requests and console errors."""

    page: Page
    requested: list[str] = field(default_factory=list)
    console_errors: list[str] = field(default_factory=list)
    errors_expected: bool = False
    """Whether the test causes error responses such as 401, which the browser logs as errors."""

    def is_error(self, text: str) -> bool:
        return not (self.errors_expected and text.startswith("Failed to load resource"))

    def semaphore(self, name: str) -> Locator:
        return self.page.locator(f"[data-semaphore='{name}']")

    def sign_in(self, kind: str, secret: str) -> None:
        form = self.page.locator("form.sign-in")
        form.get_by_role("radio", name=kind).check()
        form.get_by_role("textbox", name=kind).fill(secret)
        form.get_by_role("button", name="Sign in").click()

    def fits(self) -> bool:
        """Whether the page has no horizontal overflow."""
        fits: bool = self.page.evaluate(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )
        return fits


OpenDashboard = Callable[..., Visit]


@pytest.fixture
def open_dashboard(pages: Pages, simulator: Simulator) -> Iterator[OpenDashboard]:
    """Open dashboards; afterwards, check for console errors and requests to other hosts."""
    visits: list[tuple[Visit, set[str]]] = []

    def open_at(url: str, *, width: int = 1280, errors_expected: bool = False) -> Visit:
        visit = Visit(pages.take(width), errors_expected=errors_expected)
        watch(visit.page, visit.requested, visit.console_errors, visit.is_error)
        visits.append((visit, {urlsplit(url).netloc, urlsplit(simulator.url).netloc}))
        visit.page.goto(url)
        return visit

    yield open_at
    for visit, _ in visits:
        pages.leave(visit.page)
    for visit, hosts in visits:
        assert visit.console_errors == []
        web = [each for each in visit.requested if not each.startswith("blob:")]
        assert {urlsplit(each).netloc for each in web} <= hosts


@pytest.mark.soak
def test_semaphore_bars_fill_during_a_batch_and_drain_afterwards(
    server: Server, simulator: Simulator, open_dashboard: OpenDashboard
) -> None:
    admin = {"x_admin_api_key": ADMIN_KEY}
    server.post("/global-semaphores", {"semaphore_id": "team", "limit": 2}, **admin)
    visit = open_dashboard(server.url)
    team, account = visit.semaphore("team"), visit.semaphore("replicate-global")
    expect(team).to_contain_text("0 of 2 in use")
    expect(account).to_contain_text("Replicate account")
    expect(account).to_contain_text(
        "0 waiting · 60,000 predictions per minute · shared on this machine"
    )
    expect(team).to_contain_text("0 waiting · shared on this machine")
    body = {"prompts": ["a [hang]"] * 5, "external_semaphore_id": "team"}
    batch = server.post("/generate-batch", body, **RESPOND_ASYNC).json()
    expect(team).to_contain_text("2 of 2 in use")
    expect(team).to_contain_text("3 waiting")
    expect(team.get_by_role("meter")).to_have_attribute("aria-valuenow", "2")
    expect(account).to_contain_text("2 of 60 in use")
    expect(visit.page.get_by_text("2 running · 3 waiting")).to_be_visible()
    expect(visit.page).to_have_title("0/5 · replicate-mcp")
    expect(visit.page.get_by_text("semaphore: team")).to_be_visible()
    server.client.delete(f"/batches/{batch['batch_id']}")
    expect(team).to_contain_text("0 of 2 in use")
    expect(team.get_by_role("meter")).to_have_attribute("aria-valuenow", "0")
    expect(visit.page).to_have_title("replicate-mcp")


NOT_DELIVERED = (
    "https://evil.example.com/x.png",
    "http://replicate.delivery/x.png",
    "https://replicate.delivery.evil.example.com/x.png",
    "https://replicate.delivery:8443/x.png",
    "https://ann:s3cret@replicate.delivery/x.png",
    "http://127.0.0.1:1/x.png",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "https://[x/",
)


def test_foreign_urls_become_neither_links_nor_images(
    server: Server, open_dashboard: OpenDashboard
) -> None:
    made = server.post("/generate-batch", {"prompts": ["x"] * (len(NOT_DELIVERED) + 1)}).json()
    assert made["successful_count"] == len(NOT_DELIVERED) + 1
    visit = open_dashboard(server.url)

    def replace_urls(route: Route) -> None:
        response = route.fetch()
        body = response.json()
        for row in body["successful_results"]:
            if row["task_index"] < len(NOT_DELIVERED):
                row["generated_files"][0]["url"] = NOT_DELIVERED[row["task_index"]]
        route.fulfill(response=response, json=body)

    visit.page.route("**/batches/b_*", replace_urls)
    visit.page.reload()
    expect(visit.page.locator("a.thumbnail img")).to_have_count(1)
    expect(visit.page.get_by_text("No link")).to_have_count(len(NOT_DELIVERED))
    expect(visit.page.locator("a.thumbnail")).to_have_attribute("href", re.compile("/delivery/"))
    visit.page.get_by_role("button", name="Download generated_image_1.webp").click()
    expect(
        visit.page.get_by_text("This page cannot download generated_image_1.webp.")
    ).to_be_visible()


@pytest.mark.soak
def test_running_count_stays_visible_when_another_replica_responds(
    serve: Serve, open_dashboard: OpenDashboard
) -> None:
    with serve() as runs, serve() as other:
        runs.post("/generate-batch", {"prompts": ["a [hang]"] * 3}, **RESPOND_ASYNC)
        page = open_dashboard(runs.url).page
        expect(page.get_by_text("3 running")).to_be_visible()

        def answer_from_other(route: Route) -> None:
            path = route.request.url.removeprefix(runs.url)
            route.fulfill(response=route.fetch(url=other.url + path))

        page.route("**/batches/b_*", answer_from_other)
        for _ in range(2):
            with page.expect_response(lambda response: "/batches/b_" in response.url) as caught:
                pass
            assert "running_count" not in caught.value.json()
        expect(page.get_by_text("3 running")).to_be_visible()


def test_thumbnails_appear_and_open_the_delivered_file(
    server: Server, open_dashboard: OpenDashboard
) -> None:
    visit = open_dashboard(server.url)
    page = visit.page
    expect(page.get_by_text("No batches in the last 24 hours")).to_be_visible()
    tasks = [
        {"prompt": "a red car", "output_filename": "car.png", "seed": 7},
        {"prompt": "two houses", "output_filename": "houses.png", "num_outputs": 2},
    ]
    made = server.post("/generate-batch", {"tasks": tasks}).json()
    urls = [file["url"] for row in made["successful_results"] for file in row["generated_files"]]
    tiles = page.locator("figure.tile")
    expect(tiles).to_have_count(3)
    expect(tiles.locator(".thumbnail[data-loaded] img")).to_have_count(3)
    links = tiles.get_by_role("link").all()
    assert [link.get_attribute("href") for link in links] == urls
    assert {link.get_attribute("target") for link in links} == {"_blank"}
    assert all("noopener" in (link.get_attribute("rel") or "") for link in links)
    expect(tiles.first).to_contain_text("car.png")
    expect(tiles.first).to_contain_text("a red car")
    expect(tiles.first).to_contain_text("seed 7")
    expect(tiles.first).to_contain_text("flux-schnell")
    expect(tiles.first).to_contain_text(re.compile(r"expires in (59|60) min"))
    tiles.first.get_by_role("button", name="Details").click()
    expect(tiles.first).to_contain_text("black-forest-labs/flux-schnell")
    expect(tiles.first.locator("dt", has_text="Output filename").locator("+ dd")).to_have_text(
        "car.png"
    )
    with page.context.expect_page() as opened:
        links[0].click()
    assert opened.value.url == urls[0]
    open_tile, grid = tiles.first.bounding_box(), page.locator(".grid").bounding_box()
    assert open_tile
    assert grid
    assert open_tile["width"] == grid["width"]
    assert opened.value.evaluate("window.opener") is None


def test_image_can_be_saved_under_its_name_and_its_url_copied(
    server: Server, open_dashboard: OpenDashboard
) -> None:
    server.post("/generate", {"prompt": "a red car", "output_filename": "red car.png"})
    visit = open_dashboard(server.url)
    page = visit.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tile = page.locator("figure.tile")
    with page.expect_download() as downloading:
        tile.get_by_role("button", name="Download").click()
    assert downloading.value.suggested_filename == "red car.png"
    assert downloading.value.path().read_bytes().startswith(b"\x89PNG")
    tile.get_by_role("button", name="Copy URL").click()
    expect(page.get_by_role("status")).to_have_text("URL copied.")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == tile.get_by_role("link").get_attribute("href")


@pytest.mark.soak
def test_toast_covers_no_image_and_disappears_on_sign_in(
    server: Server, open_dashboard: OpenDashboard
) -> None:
    server.post("/generate", {"prompt": "a red car"})
    page = open_dashboard(server.url).page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy URL").click()
    toast_text = page.get_by_role("status")
    expect(toast_text).to_have_text("URL copied.")
    toast, bar = toast_text.bounding_box(), page.locator("header").bounding_box()
    assert toast
    assert bar
    assert toast["y"] + toast["height"] <= bar["height"]
    page.get_by_role("button", name="Sign in").click()
    expect(toast_text).to_have_text("")
    expect(page.locator("#connection")).to_have_text("Not signed in")
    page.get_by_role("button", name="Back").click()
    expect(page.locator("#connection")).to_have_text("Live")


@pytest.mark.soak
def test_images_show_an_expiry_countdown_and_are_marked_expired(
    server: Server, simulator: Simulator, open_dashboard: OpenDashboard
) -> None:
    simulator.configure(clock_offset_seconds=-3593)  # The predictions ended almost an hour ago.
    server.post("/generate", {"prompt": "a red car"})
    visit = open_dashboard(server.url)
    tile = visit.page.locator("figure.tile")
    expect(tile).to_contain_text(re.compile(r"expires in \d+ s"))
    expect(tile.get_by_role("link")).to_have_count(1)
    expect(tile.locator(".expiry")).to_have_text("expired")
    expect(tile.get_by_role("link")).to_have_count(0)
    expect(tile.get_by_role("button", name="Download")).to_have_count(0)
    visit.page.reload()
    expect(tile.locator(".expiry")).to_have_text("expired")
    expect(tile.get_by_role("img")).to_have_count(0)


def test_failed_tasks_are_grouped_with_their_reason(
    server: Server, open_dashboard: OpenDashboard
) -> None:
    body = {"prompts": ["a fine one", "a [fail]", "b [fail]", "c [nsfw]"]}
    server.post("/generate-batch", body)
    visit = open_dashboard(server.url)
    failures = visit.page.get_by_role("region", name="Failed tasks")
    failed = failures.locator("[data-code='prediction_failed']")
    expect(failed).to_contain_text("The model failed")
    expect(failed).to_contain_text("2 tasks")
    expect(failed.locator("li")).to_have_text(
        ["generated_image_2a [fail]", "generated_image_3b [fail]"]
    )
    expect(failures.locator("[data-code='content_flagged']")).to_contain_text("refused the content")
    expect(visit.page.locator("figure.tile")).to_have_count(1)
    expect(visit.page.get_by_text("1 of 4 made, 3 failed")).to_be_visible()


def test_failed_tasks_and_images_are_made_again_in_new_batches(
    server: Server, simulator: Simulator, open_dashboard: OpenDashboard
) -> None:
    wide = {"aspect_ratio": "16:9", "seed": 7}
    tasks = [{"prompt": prompt, **wide} for prompt in ("a car", "a [fail]", "a [nsfw]", "b [fail]")]
    first = server.post("/generate-batch", {"tasks": tasks}).json()["batch_id"]
    visit = open_dashboard(server.url)
    page = visit.page
    batches = page.locator(".batch")
    expect(batches.locator(".status")).to_have_text(["1 of 4"])
    simulator.configure(prompt_words=False)
    page.get_by_role("button", name=f"Retry 2 tasks of batch {first}").press("Enter")
    expect(batches.locator(".status")).to_have_text(["Done", "1 of 4"])
    expect(batches.first.locator(".counts + .detail")).to_have_text(f"Retry of {first}")
    expect(page.get_by_role("button", name=re.compile(r"^Retry \d"))).to_have_count(0)
    expect(batches.last.locator(".toggle")).to_be_focused()
    failed = page.locator("[data-code='prediction_failed']").get_by_role("link")
    retry = batches.first.get_attribute("data-batch")
    expect(failed).to_have_text([str(retry)])
    failed.click()
    expect(batches.first.locator(".toggle")).to_be_focused()

    tile = batches.last.locator("figure.tile")
    tile.get_by_role("button", name="Make generated_image_1.webp again with a new seed").click()
    expect(batches.locator(".status")).to_have_text(["Done", "Done", "1 of 4"])
    inputs = [each["input"] for each in simulator.predictions()]
    assert {each["aspect_ratio"] for each in inputs} == {"16:9"}
    assert 7 not in [each["seed"] for each in inputs[4:]], "the model had failed, or made one"

    page.reload()
    expect(batches.locator(".status")).to_have_text(["Done", "Done", "1 of 4"])
    batches.last.locator(".toggle").click()
    expect(failed).to_have_text([str(retry)])
    expect(page.get_by_role("button", name=re.compile(r"^Retry \d"))).to_have_count(0)


def test_status_of_a_batch_without_images_is_failed_and_its_credit_can_be_added(
    server: Server, simulator: Simulator, open_dashboard: OpenDashboard
) -> None:
    simulator.change_account("acme", out_of_credit=True)
    tasks = [{"prompt": f"car {number}", "seed": number} for number in range(30)]
    batch = server.post("/generate-batch", {"tasks": tasks}).json()["batch_id"]
    simulator.change_account("acme", out_of_credit=False)
    page = open_dashboard(server.url).page
    expect(page.locator(".batch .status")).to_have_text("Failed")
    billing = page.get_by_role("link", name="Add credit")
    expect(billing).to_have_attribute("href", "https://replicate.com/account/billing")
    expect(page.get_by_role("button", name=re.compile("more$"))).to_have_count(0)
    retry = page.locator(".failure").get_by_role("button", name="Retry")
    expect(retry).to_have_text("Retry 30 tasks")
    server.post(f"/batches/{batch}/retry", {"task_indexes": list(range(1, 30))})  # Elsewhere.
    expect(retry).to_have_text("Retry 1 task")
    retry.click()
    expect(page.locator(".batch .status")).to_have_text(["Done", "Done", "Failed"])
    assert sorted(each["input"]["seed"] for each in simulator.predictions()) == list(range(30))


def test_retries_are_grouped_by_whether_new_seeds_can_help(
    server: Server, open_dashboard: OpenDashboard
) -> None:
    page = open_dashboard(server.url).page

    def groups(*codes: str) -> Any:
        rows = [{"error": "x", "error_code": code} for code in codes]
        script = """async (rows) => (await import("/dashboard/retry-rules.js")).groupBySeed(rows)
          .map(([newSeed, group]) => [newSeed, ...group.map((row) => row.error_code)])"""
        return page.evaluate(script, rows)

    waiting = "dependency_failed"
    assert groups("canceled", "prediction_failed") == [
        [False, "canceled"],
        [True, "prediction_failed"],
    ]
    assert groups(waiting, "no_output") == [[True, waiting, "no_output"]]
    assert groups("interrupted", waiting) == [[False, "interrupted", waiting]]


@pytest.mark.soak
def test_collapsed_finished_batch_is_titled_by_its_first_prompts(
    server: Server, open_dashboard: OpenDashboard
) -> None:
    prompts = ["a red car", f"a blue {'very ' * 20}old house", "a [fail]"]
    server.post("/generate-batch", {"prompts": prompts})
    server.post("/generate-batch", {"prompts": ["two cats"] * 4})
    server.post("/generate", {"prompt": "a green boat"})
    page = open_dashboard(server.url).page
    prompt_lists = page.locator(".batch .toggle .prompt")
    expect(prompt_lists).to_have_text(
        ["a green boat", "two cats, …", re.compile(r"^a red car, a blue very .*y…, a \[fail\]$")]
    )
    expect(page.locator(".batch-body:visible")).to_have_count(1)
    expect(page.get_by_role("progressbar")).to_have_count(0)
    older = page.locator(".batch").last
    older.locator(".toggle").click()
    expect(older.locator("figure.tile")).to_have_count(2)
    expect(older.locator(".failure li")).to_have_count(1)


@pytest.mark.soak
def test_pending_tasks_have_tiles_and_large_batches_show_a_remainder(
    server: Server, open_dashboard: OpenDashboard
) -> None:
    visit = open_dashboard(server.url)
    page = visit.page
    small = server.post("/generate-batch", {"prompts": ["a [hang]"] * 8}, **RESPOND_ASYNC).json()
    pending = page.locator(".pending:visible")
    more = page.get_by_role("button", name=re.compile(r"^\+ .* more$"))
    expect(pending).to_have_count(8)
    expect(more).to_have_count(0)
    server.client.delete(f"/batches/{small['batch_id']}")
    expect(pending).to_have_count(0)
    server.post("/generate-batch", {"prompts": ["a fine one", *["a [hang]"] * 99]}, **RESPOND_ASYNC)
    expect(page.locator("figure.tile")).to_have_count(1)
    expect(pending).to_have_count(23)
    expect(more).to_have_text("+ 76 more")
    more.click()
    expect(pending).to_have_count(83)
    expect(more).to_have_text("+ 16 more")
    more.click()
    expect(more).to_have_count(0)
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate("document.getAnimations().length") == 0


def test_markup_in_a_prompt_is_shown_as_text(server: Server, open_dashboard: OpenDashboard) -> None:
    markup = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
    server.post("/generate-batch", {"prompts": [markup, f"{markup} [fail]"]})
    visit = open_dashboard(server.url)
    page = visit.page
    expect(page.locator("figure.tile .prompt")).to_have_text(markup)
    expect(page.get_by_role("region", name="Failed tasks")).to_contain_text(markup)
    expect(page.locator("main b, main img[src='x']")).to_have_count(0)
    expect(page).to_have_title("replicate-mcp")


def test_cancelling_a_batch_needs_confirmation(
    server: Server, simulator: Simulator, open_dashboard: OpenDashboard
) -> None:
    prompts = ["a fine one", "a [fail]", *["a [hang]"] * 3]
    server.post("/generate-batch", {"prompts": prompts}, **RESPOND_ASYNC)
    visit = open_dashboard(server.url)
    page = visit.page
    expect(page.locator(".batch .counts")).to_have_text("1 of 5 made, 1 failed")
    expect(page.locator(".batch .detail").first).to_have_text("3 running")
    cancel = page.get_by_role("button", name="Cancel batch")
    cancel.click()
    page.get_by_role("group", name="Cancel this batch?").press("Escape")
    expect(cancel).to_be_focused()
    assert simulator.account("acme")["in_flight"] == 3
    cancel.click()
    page.get_by_role("button", name="Cancel this batch").click()
    simulator.wait_for(account="acme", in_flight=0)
    expect(page.get_by_text("Cancelled", exact=True)).to_be_visible()
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^Batch cancelled: 1 of 5 "))
    expect(page.locator(".batch .counts")).to_have_text("1 of 5 made, 1 failed, 3 cancelled")
    expect(page.locator("[data-code='canceled']")).to_contain_text("3 tasks")
    assert simulator.account("acme")["canceled"] == 3
    server.post("/generate", {"prompt": "a red car"})
    page.reload()
    counts = page.locator(".batch .counts")
    expect(counts).to_have_text(["1 of 1 made", "1 of 5 made, 1 failed, 3 cancelled"])


def test_admin_registers_and_resizes_semaphores(
    server: Server, open_dashboard: OpenDashboard
) -> None:
    visit = open_dashboard(server.url, errors_expected=True)
    page = visit.page
    expect(visit.semaphore("replicate-global")).to_be_visible()
    expect(page.get_by_role("button", name="Register a semaphore")).to_have_count(0)
    page.get_by_role("button", name="Sign in").click()
    visit.sign_in("Admin key", "wrong")
    expect(page.get_by_role("alert").first).to_contain_text("Invalid X-Admin-API-Key")
    visit.sign_in("Admin key", ADMIN_KEY)
    page.get_by_role("button", name="Register a semaphore").click()
    form = page.get_by_role("form", name="Register a semaphore")
    form.get_by_label("Name").fill("not a name")
    form.get_by_label("Limit").fill("7")
    form.get_by_role("button", name="Register").click()
    expect(form.get_by_role("alert")).to_contain_text("is not a name")
    form.get_by_label("Name").fill("posters")
    form.get_by_role("button", name="Register").click()
    expect(visit.semaphore("posters")).to_contain_text("0 of 7 in use")
    page.get_by_role("button", name="Resize posters").click()
    page.get_by_label("New limit of posters").fill("0")
    page.get_by_label("New limit of posters").press("Enter")
    expect(visit.semaphore("posters").get_by_role("alert")).to_contain_text("from 1 to 10,000")
    page.get_by_label("New limit of posters").fill("3")
    page.get_by_label("New limit of posters").press("Enter")
    expect(visit.semaphore("posters")).to_contain_text("0 of 3 in use")
    limits = {each["name"]: each["limit"] for each in _semaphores(server)}
    assert limits == {"replicate-global": 60, "posters": 3}


def test_dashboard_requires_sign_in_and_keeps_credentials_per_tab(
    serve: Serve, open_dashboard: OpenDashboard
) -> None:
    token = "r8_other_1"
    with serve("--host", "0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        server.client.base_url = url
        server.post("/generate", {"prompt": "mine"}, x_replicate_api_key=token)
        server.post("/generate", {"prompt": "somebody else's"}, x_replicate_api_key="r8_third_1")
        visit = open_dashboard(url, errors_expected=True)
        page = visit.page
        expect(page.get_by_role("heading", name="Sign in to continue")).to_be_visible()
        expect(page.get_by_role("heading", name="Batches")).to_be_hidden()
        visit.sign_in("Replicate token", "r8__of_nobody")
        expect(page.locator("p.form-error:visible")).to_contain_text("refused the token")
        visit.sign_in("Replicate token", token)
        expect(page.locator("figure.tile .prompt")).to_have_text("mine")
        expect(visit.semaphore("replicate-global")).to_contain_text("your account")
        expect(page.locator(".batch")).to_have_count(1)
        page.reload()
        expect(page.locator("figure.tile .prompt")).to_have_text("mine")
        assert page.evaluate("localStorage.length") == 0
        assert page.evaluate("document.cookie") == ""
        assert token in page.evaluate("JSON.stringify({...sessionStorage})")
        assert token not in page.content()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in to continue")).to_be_visible()
        expect(page.get_by_text("mine")).to_have_count(0)
        assert page.evaluate("sessionStorage.length") == 0
        assert token not in page.url
        assert not [each for each in visit.requested if token in each]


def test_unreachable_server_is_reported_and_reconnected(
    serve: Serve, open_dashboard: OpenDashboard
) -> None:
    with serve() as first:
        visit = open_dashboard(first.url, errors_expected=True)
        expect(visit.page.get_by_text("Live")).to_be_visible()
        first.terminate()
        expect(visit.page.get_by_role("alert")).to_have_text("The server cannot be reached.")
        expect(visit.page.get_by_text("Retrying in")).to_be_visible()
    with serve("--port", str(urlsplit(first.url).port)):
        visit.page.get_by_role("button", name="Retry now").click()
        expect(visit.page.get_by_text("Live")).to_be_visible()
        expect(visit.page.get_by_role("alert")).to_have_text("")
        expect(visit.page.get_by_text("Retrying in")).to_be_hidden()


@pytest.mark.soak
def test_hidden_tab_sends_no_requests(
    server: Server, simulator: Simulator, open_dashboard: OpenDashboard
) -> None:
    visit = open_dashboard(server.url)
    page = visit.page
    expect(page.get_by_text("No batches in the last 24 hours")).to_be_visible()
    _hide(page, True)
    expect(page.get_by_text("Paused")).to_be_visible()
    before = len(visit.requested)
    simulator.configure(predict_seconds=4)  # Longer than the polling interval of an idle page.
    server.post("/generate", {"prompt": "meanwhile"})
    assert len(visit.requested) == before
    _hide(page, False)
    expect(page.get_by_text("1 of 1 made")).to_be_visible()


@pytest.mark.soak
def test_throttling_pause_is_shown_as_a_countdown(
    server: Server, simulator: Simulator, open_dashboard: OpenDashboard
) -> None:
    simulator.configure(throttle_seconds=30, throttle_header=True, fault_next=["429"])
    server.post("/generate-batch", {"prompts": ["a"]}, **RESPOND_ASYNC)
    visit = open_dashboard(server.url)
    paused = visit.semaphore("replicate-global").get_by_text("Throttled by Replicate")
    expect(paused).to_contain_text(re.compile(r"resume in (2\d|30) s"))


@pytest.mark.soak
def test_layout_fits_a_phone(server: Server, open_dashboard: OpenDashboard) -> None:
    admin = {"x_admin_api_key": ADMIN_KEY}
    name = "a-name-as-long-as-names-may-be-" + "x" * 60
    server.post("/global-semaphores", {"semaphore_id": name, "limit": 200}, **admin)
    tasks = [
        {"prompt": "word " * 60, "output_filename": f"{'long_' * 30}.png", "num_outputs": 3},
        {"prompt": f"{'unbreakable' * 30} [fail]", "output_filename": f"{'x' * 150}.png"},
        {"prompt": "on and on [hang]"},
        {"prompt": f"{'word ' * 30}[fail]"},
    ]
    body = {"tasks": tasks, "external_semaphore_id": name}
    visit = open_dashboard(server.url, width=PHONE_WIDTH)
    page = visit.page
    expect(page.get_by_text("No batches in the last 24 hours")).to_be_visible()
    assert visit.fits()
    server.post("/generate-batch", body, **RESPOND_ASYNC)
    expect(page.locator("figure.tile")).to_have_count(3)
    expect(page.locator(".failure")).to_have_count(1)
    failed = page.locator(".failure .filename", has_text="generated_image_4")
    expect(failed).to_be_visible()
    assert failed.evaluate("name => name.scrollWidth <= name.clientWidth")
    page.get_by_role("button", name="Details").first.click()
    page.get_by_role("button", name="Cancel batch").click()
    assert visit.fits()
    page.get_by_role("button", name="Sign in").click()
    assert visit.fits()
    visit.sign_in("Admin key", ADMIN_KEY)
    page.get_by_role("button", name="Register a semaphore").click()
    page.get_by_role("button", name=f"Resize {name}").click()
    assert visit.fits()


def test_all_controls_are_reachable_by_keyboard(
    server: Server, open_dashboard: OpenDashboard
) -> None:
    server.post("/generate", {"prompt": "a red car", "output_filename": "car.png"})
    visit = open_dashboard(server.url)
    page = visit.page
    expect(page.locator("figure.tile")).to_have_count(1)
    focused = []
    for _ in range(8):
        page.keyboard.press("Tab")
        focused.append(
            page.evaluate(
                "[document.activeElement.textContent,"
                " getComputedStyle(document.activeElement).outlineStyle]"
            )
        )
    names = [re.sub(r"\s+", " ", text).strip() for text, _ in focused]
    assert names[:3] == ["Skip to content", "Sign in", "1 of 1 madea red car"]
    assert names[4:] == [
        "(opens in a new tab)",
        "Details of car.png",
        "Copy URL of car.png",
        "Download car.png",
    ]
    assert {outline for _, outline in focused} == {"solid"}
    toggle = page.locator(".batch .toggle")
    toggle.press("Enter")
    expect(toggle).to_have_attribute("aria-expanded", "false")
    expect(page.locator("figure.tile")).to_be_hidden()


# An Accept header, and whether it is a browser's.
ACCEPTED: list[tuple[str, bool]] = [
    ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
    ("text/html", True),
    ("TEXT/HTML ; q=0.5, */*;q=0.1", True),
    ("*/*", False),
    ("", False),
    ("application/json", False),
    ("application/json, text/plain, */*", False),
    ("application/json, text/html;q=0.9", False),
    ("text/html;q=0", False),
    ("text/html;q=x", False),
]


@pytest.mark.parametrize(("accept", "is_browser"), ACCEPTED)
def test_browsers_get_the_page_and_programs_get_json(accept: str, is_browser: bool) -> None:
    assert prefers_html(accept) is is_browser


def test_client_not_accepting_html_gets_the_health_response(server: Server) -> None:
    response = server.get("/")
    assert response.json() == server.get("/health").json()
    assert response.headers["vary"] == "Accept"
    page = server.get("/", headers={"accept": "text/html"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["vary"] == "Accept"


def test_static_files_are_cached_and_have_a_strict_content_policy(
    server: Server, simulator: Simulator
) -> None:
    for name, kind in (
        ("dashboard.js", "text/javascript; charset=utf-8"),
        ("dashboard.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ):
        response = server.get(f"/dashboard/{name}")
        assert response.headers["content-type"] == kind
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        cached = server.get(
            f"/dashboard/{name}", headers={"if-none-match": response.headers["etag"]}
        )
        assert (cached.status_code, cached.content) == (304, b"")
    rules = _rules(server.get("/", headers={"accept": "text/html"}).headers)
    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == rules["style-src"] == ["'self'"]
    assert rules["frame-ancestors"] == ["'none'"]
    assert simulator.url in rules["img-src"]
    for missing in ("index.html", "routes.py", "..%2froutes.py", "none.js"):
        assert server.get(f"/dashboard/{missing}").status_code == 404


def test_image_sources_include_only_a_loopback_simulator() -> None:
    delivery = ["https://replicate.delivery", "https://*.replicate.delivery"]
    for url, more in (
        ("https://api.replicate.com", []),
        ("https://replicate.example.com:8443", []),
        ("http://127.0.0.1:9001", ["http://127.0.0.1:9001"]),
        ("http://localhost:9001", ["http://localhost:9001", "http://127.0.0.1:9001"]),
        ("http://[::1]:9001", ["http://127.0.0.1:9001"]),
    ):
        rules = _rules({k.lower(): v for k, v in security_headers(url).items()})
        assert rules["img-src"] == rules["connect-src"] == ["'self'", *delivery, *more]


def _rules(headers: Any) -> dict[str, list[str]]:
    rules = [rule.split() for rule in headers["content-security-policy"].split(";")]
    return {name: values for name, *values in rules}


def _semaphores(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.get("/global-semaphores").json()["semaphores"]
    return found


def _hide(page: Page, hidden: bool) -> None:
    """Simulate a switch to or from another tab, which a headless browser cannot do."""
    page.evaluate(
        "(hidden) => {"
        " Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )
