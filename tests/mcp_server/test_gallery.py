"""The gallery in a host with the official bridge, with the real server and a simulator."""

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Route, expect

from browser import Pages, running_browser
from conftest import environment
from http_api.conftest import Server, running_server
from mcp_server.host_page import HostPage, host_on, host_script
from replicate_mcp.mcp_server.gallery.app import gallery
from replicate_mcp.simulator import Simulator, running_simulator

NARROW_WIDTH = 340

Show = Callable[..., HostPage]


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    with running_browser() as browser:
        yield Pages(browser)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    return host_script(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def shared_simulator() -> Iterator[Simulator]:
    with running_simulator(
        requests_per_minute=60_000,
        burst=60_000,
        other_requests_per_minute=60_000,
        other_burst=60_000,
    ) as running:
        yield running


@pytest.fixture
def simulator(shared_simulator: Simulator) -> Simulator:
    defaults = {"predict_seconds": 0, "slow_seconds": 10, "clock_offset_seconds": 0}
    shared_simulator.configure(**defaults, prompt_words=True, public_url="")
    return shared_simulator


@pytest.fixture(scope="module")
def server(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with running_server(environment(shared_simulator, tmp_path_factory.mktemp("state"))) as running:
        yield running


@pytest.fixture
def show(pages: Pages, script: str, server: Server, simulator: Simulator) -> Iterator[Show]:
    """Open hosts that call a tool; afterwards, check for console errors and other hosts.

    All batches are cancelled at the end, so that each test has the simulator to itself.
    """
    opened: list[HostPage] = []

    def call(
        tool: str, arguments: dict[str, Any] | None, *, width: int = 760, **more: Any
    ) -> HostPage:
        page = host_on(pages.take(width), server.url, script)
        opened.append(page)
        page.show(tool, arguments, **more)
        return page

    yield call
    for page in opened:
        pages.leave(page.page)
    for page in opened:
        assert page.console_errors == []
        web = [each for each in page.requested if each.startswith("http")]
        hosts = {urlsplit(each).netloc for each in web}
        assert hosts <= {urlsplit(server.url).netloc, urlsplit(simulator.url).netloc}
    for batch in server.get("/batches").json()["batches"]:
        server.client.delete(f"/batches/{batch['batch_id']}")
    simulator.wait_for(account="acme", in_flight=0)


def tasks(*prompts: str, **inputs: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": prompt, "output_filename": f"{prompt.split()[-1]}.png", **inputs}
        for prompt in prompts
    ]


def states(page: HostPage) -> list[str]:
    found: list[str] = page.tiles.evaluate_all("(all) => all.map((each) => each.dataset.state)")
    return found


def loaded(page: HostPage) -> Locator:
    return page.view.locator("a.picture[data-loaded] img")


def start_elsewhere(server: Server, body: dict[str, Any]) -> str:
    """Start a batch from another client; return its path once it has its first image."""
    batch = server.post("/generate-batch", body, prefer="respond-async").json()
    path = f"/batches/{batch['batch_id']}"
    while not server.get(path).json()["successful_count"]:
        time.sleep(0.1)
    return path


def batch_of(server: Server, url: str | None) -> dict[str, Any]:
    """Return the batch of an image."""
    listed = server.get("/batches").json()["batches"]
    whole = [server.get(f"/batches/{each['batch_id']}").json() for each in listed]
    (found,) = (each for each in whole if f"'{url}'" in str(each["successful_results"]))
    batch: dict[str, Any] = found
    return batch


def newest_batch_age(server: Server) -> float:
    created_at = server.get("/batches").json()["batches"][0]["created_at"]
    return (datetime.now(UTC) - datetime.fromisoformat(created_at)).total_seconds()


def wait_for_next_poll(page: HostPage) -> None:
    """Wait until the view has searched for its batch: listed the recent ones and read one."""
    for _ in range(4):  # They contain one complete search and the start of another.
        page.page.wait_for_event("response", lambda response: response.url.endswith("/mcp"))


def test_tiles_fill_as_images_arrive_without_layout_shift(show: Show, simulator: Simulator) -> None:
    simulator.configure(predict_seconds="0.5,0.5,6,6")
    arguments = {"tasks": tasks("a red car", "a blue house", "a green tree", "a grey cat")}
    page = show("generate_images", arguments, waits=False)
    expect(page.tiles).to_have_count(4)
    expect(page.tile("car.png")).to_contain_text("a red car")
    expect(loaded(page)).to_have_count(2)
    assert page.recorded("results") == [], "the call has no result yet"
    expect(page.view.get_by_role("heading")).to_have_text("2 of 4 made")
    expect(page.view.get_by_text("2 tasks remaining")).to_be_visible()
    bar = page.view.get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuenow", "2")
    expect(loaded(page)).to_have_count(4)
    expect(page.view.get_by_role("heading")).to_have_text("4 tasks completed")
    expect(page.view.get_by_text("URLs expire in 60 min")).to_be_visible()
    assert len(page.recorded("heights")) <= 2, "the view grew once, when the tiles appeared"


def test_tiles_appear_while_the_model_writes_its_tasks(show: Show) -> None:
    partial = [{"tasks": tasks("a red car", "a bl")}, {"tasks": tasks("a red car", "a blue house")}]
    page = show("generate_images", None, partialArguments=partial)
    expect(page.tiles).to_have_count(2)
    expect(page.tile("house.png")).to_contain_text("a blue house")
    assert states(page) == ["pending"] * 2
    expect(page.view.get_by_role("heading")).to_have_text("2 tasks")


def test_no_progress_is_shown_before_anything_is_known(show: Show) -> None:
    page = show("generate_images", None)
    expect(page.view.get_by_role("heading")).to_have_text("Preparing …")
    expect(page.view.get_by_role("progressbar").locator("span")).to_have_css("width", "0px")


@pytest.mark.soak
def test_newer_batch_of_another_call_is_not_shown(
    show: Show, simulator: Simulator, server: Server
) -> None:
    arguments = {"tasks": tasks("a [slow] car", "a [slow] house")}
    page = show("generate_images", arguments, waits=False)
    simulator.wait_for(account="acme", in_flight=2)
    start_elsewhere(server, {"prompts": ["not this one", "nor a [slow] one"]})
    wait_for_next_poll(page)
    assert states(page) == ["pending"] * 2
    expect(page.view.get_by_text("Waiting for the first")).to_be_visible()


@pytest.mark.soak
def test_concurrent_calls_each_show_and_cancel_their_own_batch(
    show: Show, simulator: Simulator, server: Server
) -> None:
    same = tasks("a red car", "a [hang] house")
    models = ["black-forest-labs/flux-dev", "black-forest-labs/flux-schnell"]
    pages = []
    for model, seconds in zip(models, (5, 0), strict=True):
        simulator.configure(predict_seconds=seconds)
        pages.append(show("generate_images", {"tasks": same, "model": model}, waits=False))
        simulator.wait_for(account="acme", in_flight=2)
    batches = []
    for page, model in zip(pages, models, strict=True):
        expect(loaded(page)).to_have_count(1)
        assert page.recorded("results") == [], "the call has no result yet"
        batch = batch_of(server, loaded(page).get_attribute("src"))
        assert batch["successful_results"][0]["model"] == model
        batches.append(f"/batches/{batch['batch_id']}")
    older, _ = pages
    older.view.get_by_role("button", name="Stop", exact=True).click()
    older.view.get_by_role("button", name="Stop the rest?").click()
    expect(older.view.get_by_role("heading")).to_have_text("1 of 2 made · stopped")
    assert [server.get(each).json()["status"] for each in batches] == ["canceled", "running"]


@pytest.mark.soak
def test_ambiguous_batch_of_a_call_is_resolved_by_its_response(
    show: Show, simulator: Simulator, server: Server
) -> None:
    arguments = {"tasks": tasks("a [hang] car", "a [hang] house")}
    page = show("generate_images", arguments, waits=False)
    simulator.wait_for(account="acme", in_flight=2)
    own = f"/batches/{server.get('/batches').json()['batches'][0]['batch_id']}"
    simulator.configure(prompt_words=False, predict_seconds="0,60")
    other = start_elsewhere(server, arguments)
    wait_for_next_poll(page)
    assert states(page) == ["pending"] * 2
    server.client.delete(own)
    expect(page.view.get_by_role("heading")).to_have_text("0 of 2 made · stopped")
    assert server.get(other).json()["status"] == "running"


@pytest.mark.soak
def test_older_batch_with_equal_tasks_is_not_shown_for_a_new_call(
    show: Show, simulator: Simulator, server: Server
) -> None:
    arguments = {"tasks": tasks("a red car", "a [hang] house")}
    start_elsewhere(server, arguments)
    while newest_batch_age(server) < 6:
        time.sleep(0.2)
    page = show("generate_images", arguments, waits=False, calls=False)
    wait_for_next_poll(page)
    assert states(page) == ["pending"] * 2
    expect(page.view.get_by_role("button", name="Stop")).to_have_count(0)


def test_call_cancelled_before_its_response_is_shown_as_such(
    show: Show, simulator: Simulator
) -> None:
    page = show("generate_images", {"tasks": tasks("a [slow] car")}, waits=False)
    page.page.evaluate("host.cancel('by the user')")
    expect(page.view.get_by_role("alert")).to_have_text("The call was cancelled (by the user).")
    expect(page.view.get_by_role("list")).to_have_attribute("aria-busy", "false")


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_finished_images_stay_when_the_call_ends_without_results(
    show: Show, server: Server, end: str
) -> None:
    arguments = {"tasks": tasks(f"{end} a car", f"{end} a [hang] house")}
    page = show("generate_images", arguments, waits=False)
    expect(loaded(page)).to_have_count(1)
    page.page.evaluate(f"host.{end}('too late')")
    own = batch_of(server, loaded(page).get_attribute("src"))
    server.client.delete(f"/batches/{own['batch_id']}")
    expect(page.view.get_by_role("heading")).to_have_text("1 of 2 made · stopped")
    assert states(page) == ["succeeded", "stopped"]


@pytest.mark.soak
def test_running_batch_progress_is_announced_to_screen_readers(show: Show) -> None:
    arguments = {"tasks": tasks("a red car", "a [hang] house"), "wait_seconds": 0}
    page = show("generate_images", arguments)
    expect(page.view.get_by_role("status")).to_have_text("1 of 2 made.")
    # Screen readers do not announce changes inside a busy element.
    expect(page.view.locator("[aria-busy=true]")).to_have_count(1)
    expect(page.view.get_by_role("list")).to_have_attribute("aria-busy", "true")
    expect(page.view.locator("[aria-busy=true] :is([role=status], [role=alert])")).to_have_count(0)


@pytest.mark.soak
def test_fullscreen_is_offered_where_the_host_supports_it(show: Show) -> None:
    context = {"availableDisplayModes": ["inline", "fullscreen"], "displayMode": "inline"}
    page = show("generate_images", {"tasks": tasks("a red car")}, context=context)
    page.view.get_by_role("button", name="Full screen").click()
    expect(page.view.get_by_role("button", name="Exit full screen")).to_be_visible()
    expect(page.view.locator("html")).to_have_attribute("data-display-mode", "fullscreen")


def test_batch_is_polled_after_the_tool_response(show: Show, simulator: Simulator) -> None:
    simulator.configure(predict_seconds="0.1,2")
    arguments = {"tasks": tasks("a red car", "a blue house"), "wait_seconds": 0}
    page = show("generate_images", arguments)
    assert page.recorded("results")[0]["structuredContent"]["status"] == "running"
    expect(loaded(page)).to_have_count(2)


def test_failed_tile_shows_its_reason_and_can_be_retried_in_place(
    show: Show, simulator: Simulator
) -> None:
    page = show("generate_images", {"tasks": tasks("a fine day", "a [fail] car", "a red car")})
    assert states(page) == ["succeeded", "failed", "succeeded"]
    failed = page.tiles.nth(1)
    expect(failed).to_contain_text("The model failed")
    expect(failed).to_contain_text("prediction failed")
    page.view.get_by_role("button", name="1 failed").click()
    assert states(page) == ["failed"]
    page.view.get_by_role("button", name="1 failed").click()
    simulator.configure(prompt_words=False)
    failed.get_by_role("button", name="Regenerate car.png with a new seed").press("Enter")
    expect(failed).to_have_attribute("data-state", "succeeded")
    expect(failed).to_be_focused()
    assert states(page) == ["succeeded"] * 3
    expect(page.view.get_by_role("heading")).to_have_text("3 tasks completed")


def test_stopping_a_batch_needs_confirmation(show: Show, simulator: Simulator) -> None:
    arguments = {"tasks": tasks("a red car", "a [hang] house", "a [hang] tree"), "wait_seconds": 0}
    page = show("generate_images", arguments)
    expect(loaded(page)).to_have_count(1)
    page.view.get_by_role("button", name="Stop", exact=True).click()
    page.view.get_by_role("button", name="Stop the rest?").click()
    expect(page.view.get_by_role("heading")).to_have_text("1 of 3 made · stopped")
    assert states(page) == ["succeeded", "stopped", "stopped"]
    expect(page.view.locator("#detail")).to_contain_text("2 stopped")
    expect(page.view.get_by_role("button", name=re.compile("^Stop"))).to_have_count(0)
    simulator.wait_for(account="acme", in_flight=0)
    again = page.view.get_by_role("button", name="Make the other 2, which were stopped")
    again.click()
    expect(page.view.get_by_role("heading")).to_have_text("1 of 3 made")
    expect(page.tiles.nth(1)).to_be_focused()
    page.view.get_by_role("button", name="Stop", exact=True).click()
    page.view.get_by_role("button", name="Stop the rest?").click()
    expect(page.view.get_by_role("heading")).to_have_text("1 of 3 made · stopped")
    simulator.configure(prompt_words=False)
    again.click()
    expect(page.view.get_by_role("heading")).to_have_text("3 tasks completed")
    assert states(page) == ["succeeded"] * 3


def test_regeneration_uses_a_new_seed_and_updates_the_model_context(show: Show) -> None:
    arguments = {
        "tasks": tasks("a red car", aspect_ratio="16:9", seed=7) + tasks("a blue house"),
        "model": "black-forest-labs/flux-dev",
    }
    page = show("generate_images", arguments)
    first = page.tiles.first
    first.get_by_role("button", name="Regenerate car.png with a new seed").click()
    expect(page.tiles).to_have_count(3)
    another = page.tiles.nth(1)
    expect(another).to_have_attribute("data-state", "succeeded")
    expect(another).to_contain_text("car_2.png")
    size = "(image) => [image.naturalWidth, image.naturalHeight]"
    expect(loaded(page)).to_have_count(3)
    assert another.locator("img").evaluate(size) == first.locator("img").evaluate(size)
    sources = page.view.locator("img").evaluate_all("(all) => all.map((each) => each.src)")
    assert len(set(sources)) == 3
    (update,) = page.recorded("modelContextUpdates")
    assert f"task 0 regenerated: car_2.png {sources[1]}" in update


def test_retries_are_shown_in_their_place_when_the_view_is_opened_again(
    show: Show, simulator: Simulator, server: Server
) -> None:
    wide = {"aspect_ratio": "16:9", "output_format": "png"}
    prompts = ("a red car", "a [fail] house", "a [fail] tree", "a [nsfw] cat")
    arguments = {"tasks": tasks(*prompts, **wide)}
    page = show("generate_images", arguments)
    heading = page.view.get_by_role("heading")
    expect(heading).to_have_text("1 of 4 made")
    simulator.configure(prompt_words=False)
    page.view.get_by_role("button", name="Retry 2 tasks that failed").click()
    expect(heading).to_have_text("3 of 4 made")
    page.tiles.first.get_by_role("button", name="Regenerate").click()
    expect(heading).to_have_text("4 of 5 made")
    page.tiles.nth(1).get_by_role("button", name="Regenerate car_2.png").click()
    expect(heading).to_have_text("5 of 6 made")
    made = ["car.png", "car_2.png", "car_3.png", "house.png", "tree.png", "cat.png"]
    names = page.view.locator(".name")
    expect(names).to_have_text(made)
    urls = page.view.locator("a.picture").evaluate_all("(all) => all.map((each) => each.href)")
    (answer,) = page.recorded("results")

    page.show("get_batch", {"batch_id": answer["structuredContent"]["batch_id"]}, result=answer)
    expect(loaded(page)).to_have_count(5)
    expect(heading).to_have_text("5 of 6 made")
    expect(names).to_have_text(made)
    assert states(page) == ["succeeded"] * 5 + ["failed"]
    again = page.view.locator("a.picture").evaluate_all("(all) => all.map((each) => each.href)")
    assert again == urls
    sizes = loaded(page).evaluate_all(
        "(all) => all.map((each) => each.naturalWidth > 1.7 * each.naturalHeight)"
    )
    assert sizes == [True] * 5, "no input was lost"
    seeds = [each["input"]["seed"] for each in simulator.predictions()[-8:]]
    assert len(set(seeds)) == 8


def test_missing_credit_is_one_notice_and_is_retried_with_the_same_seeds(
    show: Show, simulator: Simulator
) -> None:
    simulator.change_account("acme", out_of_credit=True)
    page = show("generate_images", {"tasks": tasks("a red car", "a blue house", seed=7)})
    simulator.change_account("acme", out_of_credit=False)
    expect(page.view.get_by_text("The Replicate account has no credit left.")).to_be_visible()
    expect(page.tiles.first.locator(".message")).to_have_text("No credit left")
    page.view.get_by_role("link", name="Add credit").click()
    expect(page.tiles).to_have_count(2)
    page.view.get_by_role("button", name="Retry 2").click()
    expect(loaded(page)).to_have_count(2)
    expect(page.view.get_by_role("link", name="Add credit")).to_have_count(0)
    assert [each["input"]["seed"] for each in simulator.predictions()[-2:]] == [7, 7]
    assert page.recorded("opened") == ["https://replicate.com/account/billing"]


def test_refused_retry_leaves_the_image_and_shows_the_reason(
    show: Show, simulator: Simulator
) -> None:
    secret = {"input_image": f"https://example.com/?key=r8_{'x' * 20}"}
    arguments = {"tasks": tasks("a red car", model="flux-kontext-max", **secret)}
    page = show("generate_images", arguments)
    page.tiles.get_by_role("button", name="Regenerate").click()
    expect(page.view.get_by_role("alert")).to_contain_text("is a secret, which is not kept")
    assert states(page) == ["succeeded"]
    expect(page.view.get_by_role("heading")).to_have_text("1 task completed")


@pytest.mark.soak
def test_retry_whose_answer_was_lost_is_shown_and_not_repeated(
    show: Show, simulator: Simulator
) -> None:
    page = show("generate_images", {"tasks": tasks("a red car")})

    def lose_answer(route: Route) -> None:
        if "retry_tasks" not in (route.request.post_data or ""):
            return route.continue_()
        route.fetch()
        return route.abort()

    page.page.route("**/mcp", lose_answer)
    page.tiles.get_by_role("button", name="Regenerate").click()
    expect(page.view.get_by_role("alert")).to_contain_text("Could not retry")
    expect(loaded(page)).to_have_count(2)
    expect(page.view.get_by_role("heading")).to_have_text("2 tasks completed")
    page.console_errors.clear()


@pytest.mark.soak
def test_regenerated_image_takes_no_place_of_a_running_task(
    show: Show, simulator: Simulator
) -> None:
    simulator.configure(slow_seconds=5)
    slow = ("a [slow] house", "a [slow] tree", "a [slow] cat")
    page = show("generate_images", {"tasks": tasks("a red car", *slow), "wait_seconds": 0})
    page.tiles.first.get_by_role("button", name="Regenerate car.png").click()
    expect(page.tiles).to_have_count(5)
    expect(loaded(page)).to_have_count(5)
    shown = page.tiles.evaluate_all(
        "(all) => all.map((each) => [...each.querySelectorAll('.name, .note')]"
        ".map((text) => text.textContent))"
    )
    names = ["car.png", "car_2.png", "house.png", "tree.png", "cat.png"]
    assert shown == [
        list(pair) for pair in zip(names, ["a red car", "a red car", *slow], strict=True)
    ]
    assert states(page) == ["succeeded"] * 5


def test_image_is_opened_copied_and_downloaded_through_the_host(show: Show) -> None:
    page = show("generate_images", {"tasks": tasks("a red car")})
    page.page.context.grant_permissions(["clipboard-read"])
    url = page.recorded("results")[0]["structuredContent"]["successful_results"][0][
        "generated_files"
    ][0]["url"]
    page.view.get_by_role("button", name="Open car.png").click()
    page.view.get_by_role("link").click()
    page.view.get_by_role("button", name="Copy URL of car.png").click()
    page.view.get_by_role("button", name="Download car.png").click()
    expect(page.view.locator(".action[aria-busy]")).to_have_count(0)
    assert page.recorded("opened") == [url, url]
    (saved,) = page.recorded("downloaded")
    assert (saved["uri"], saved["name"]) == (url, "car.png")
    assert page.page.evaluate("navigator.clipboard.readText()") == url


@pytest.mark.soak
def test_host_without_optional_capabilities_still_shows_images(
    show: Show, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds="0,5")
    arguments = {"tasks": tasks("a red car", "a blue house"), "wait_seconds": 2}
    page = show("generate_images", arguments, capabilities={})
    expect(loaded(page)).to_have_count(1)
    assert sorted(states(page)) == ["pending", "succeeded"]
    expect(page.view.get_by_role("alert")).to_contain_text("Ask for them in the conversation")
    expect(page.view.get_by_role("button", name=re.compile("Regenerate"))).to_have_count(0)
    link = page.view.get_by_role("link")
    assert (link.get_attribute("href") or "").startswith(simulator.url)
    assert link.get_attribute("rel") == "noopener noreferrer"
    page.view.get_by_role("button", name="Download").click()
    expect(page.view.get_by_label("URL", exact=True)).to_have_value(re.compile("^http"))


@pytest.mark.soak
def test_urls_show_an_expiry_countdown_and_are_marked_expired(
    show: Show, simulator: Simulator
) -> None:
    simulator.configure(clock_offset_seconds=-3596)  # The prediction ended almost an hour ago.
    page = show("generate_images", {"tasks": tasks("a red car")})
    tile = page.tiles.first
    expect(tile.locator(".status")).to_have_text(re.compile(r"^\d s$"))
    expect(tile).to_have_attribute("data-state", "expired")
    expect(tile.locator(".status")).to_have_text("expired")
    expect(tile.get_by_role("link")).to_have_count(0)
    expect(tile.get_by_role("button")).to_have_count(1)
    simulator.configure(clock_offset_seconds=-4000)
    late = show("generate_images", {"tasks": tasks("a blue house")})
    expect(late.tiles.first).to_contain_text("Replicate deletes images after an hour.")


def test_foreign_text_is_escaped_and_only_replicate_images_are_shown(
    show: Show, simulator: Simulator
) -> None:
    markup = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
    arguments = {"tasks": [{"prompt": markup}, {"prompt": f"{markup} [fail]"}]}
    page = show("generate_images", arguments)
    expect(page.tiles.first.locator(".note")).to_have_text(markup)
    expect(page.view.locator("b, img[src='x']")).to_have_count(0)
    assert page.view.locator("html").evaluate("() => document.title") == "Images"
    simulator.configure(public_url="https://elsewhere.example")
    foreign = show("generate_images", {"tasks": tasks("a red car")})
    simulator.configure(public_url="")
    expect(foreign.tiles.first).to_contain_text("not on a Replicate host")
    expect(foreign.view.locator("a, img")).to_have_count(0)
    assert not [url for url in foreign.requested if "elsewhere" in url]


def test_rejected_call_shows_its_error_message(show: Show) -> None:
    page = show("generate_images", {"tasks": tasks("a red car", aspect_ratio="16x9")})
    expect(page.view.get_by_role("alert")).to_contain_text("'16x9' is not one of")
    expect(page.tiles).to_have_count(0)


@pytest.mark.soak
def test_large_batch_is_fetched_and_shown_page_by_page(show: Show) -> None:
    arguments = {"tasks": tasks(*(f"car {number}" for number in range(130)))}
    page = show("generate_images", arguments)
    assert page.recorded("results")[0]["structuredContent"]["cursor"] == 50
    expect(page.view.get_by_role("heading")).to_have_text("130 tasks completed")
    expect(page.tiles).to_have_count(24)
    page.view.get_by_role("button", name="Show 72 of 106 more tasks").click()
    page.view.get_by_role("button", name="Show 34 more").click()
    expect(page.tiles).to_have_count(130)
    assert set(states(page)) == {"succeeded"}
    names = page.view.locator(".name").all_text_contents()
    assert names == [f"{number}.png" for number in range(130)]


@pytest.mark.soak
def test_get_batch_shows_a_batch_or_only_the_rest_with_a_cursor(show: Show) -> None:
    first = show("generate_images", {"tasks": tasks("a red car", "a blue house", "a tree")})
    batch = first.recorded("results")[0]["structuredContent"]["batch_id"]
    whole = show("get_batch", {"batch_id": batch})
    expect(loaded(whole)).to_have_count(3)
    rest = show("get_batch", {"batch_id": batch, "after": 2})
    expect(loaded(rest)).to_have_count(1)
    expect(rest.tiles).to_have_count(1)
    rest.tiles.get_by_role("button", name=re.compile("^Regenerate")).click()
    expect(loaded(rest)).to_have_count(2)


@pytest.mark.soak
def test_host_theme_variables_and_changes_are_applied(show: Show) -> None:
    context = {"theme": "dark", "styles": {"variables": {"--color-text-primary": "rgb(1, 2, 3)"}}}
    page = show("generate_images", {"tasks": tasks("a red car")}, context=context)
    body = page.view.locator("body")
    expect(body).to_have_css("background-color", "rgb(27, 28, 26)")
    expect(body).to_have_css("color", "rgb(1, 2, 3)")
    page.page.evaluate("host.setContext({ theme: 'light' })")
    expect(body).to_have_css("background-color", "rgb(255, 255, 255)")
    context = {"theme": "light", "containerDimensions": {"maxHeight": 200, "width": 760}}
    page.page.evaluate("(context) => host.setContext(context)", context)
    expect(page.view.locator("html")).to_have_css("max-height", "200px")


@pytest.mark.soak
def test_layout_fits_a_narrow_column(show: Show) -> None:
    long = {"prompt": "unbreakable" * 30, "output_filename": f"{'x' * 150}.png"}
    failing = {"prompt": f"{'word ' * 60} [fail]", "num_outputs": 2}
    arguments = {"tasks": [long, failing, *tasks("a red car")]}
    page = show("generate_images", arguments, width=NARROW_WIDTH)
    assert page.fits()
    assert states(page) == ["succeeded", "failed", "succeeded"]
    tops = page.tiles.evaluate_all("(all) => all.map((each) => each.offsetTop)")
    assert tops[0] == tops[1], "two tiles are side by side"


@pytest.mark.soak
def test_failure_reason_shows_whole_lines_in_low_tiles(show: Show) -> None:
    lines = """(all) => all.map((each) =>
      each.getBoundingClientRect().height / parseFloat(getComputedStyle(each).lineHeight))"""
    for ratio in ("16:9", "4:3", "1:1", "9:16"):
        flagged = tasks("a [nsfw] car", "a [nsfw] house", aspect_ratio=ratio)
        page = show("generate_images", {"tasks": flagged}, width=NARROW_WIDTH)
        expect(page.tiles.first).to_contain_text("The model refused the content")
        for line_count in page.view.locator(".message-text").evaluate_all(lines):
            assert line_count == pytest.approx(round(line_count), abs=0.05), ratio
            assert line_count > 2, ratio


@pytest.mark.soak
def test_stop_confirmation_button_stays_in_place_in_a_narrow_column(show: Show) -> None:
    context = {"availableDisplayModes": ["inline", "fullscreen"], "displayMode": "inline"}
    arguments = {"tasks": tasks("a red car", "a [fail] cat", "a [hang] house"), "wait_seconds": 0}
    page = show("generate_images", arguments, context=context, width=NARROW_WIDTH)
    expect(page.view.get_by_text("1 failed")).to_be_visible()
    expect(page.view.get_by_role("heading")).to_have_text("1 of 3 made")
    place = page.view.get_by_role("button", name="Stop", exact=True).bounding_box()
    assert place is not None
    for _ in range(2):
        page.page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    expect(page.view.get_by_role("heading")).to_have_text("1 of 3 made · stopped")


def test_all_controls_are_reachable_by_keyboard(show: Show) -> None:
    page = show("generate_images", {"tasks": tasks("a red car", "a blue house")})
    page.page.keyboard.press("Tab")
    labels = []
    for _ in range(6):
        focused = page.view.locator(":focus")
        assert focused.evaluate("(each) => getComputedStyle(each).outlineStyle") == "solid"
        labels.append(focused.get_attribute("aria-label") or focused.inner_text().strip())
        page.page.keyboard.press("Tab")
    assert labels == [
        "(opens in a new window)",
        "Open car.png",
        "Copy URL of car.png",
        "Download car.png",
        "Regenerate car.png with a new seed",
        "(opens in a new window)",
    ]
    page.page.keyboard.press("Home")
    first = page.view.get_by_role("link").first
    expect(first).to_be_focused()
    page.page.keyboard.press("ArrowRight")
    expect(page.view.get_by_role("link").nth(1)).to_be_focused()
    page.page.keyboard.press("ArrowLeft")
    page.page.keyboard.press("Enter")
    expect(first.get_by_role("img")).to_have_attribute("alt", "car.png: a red car")
    assert len(page.recorded("opened")) == 1


@pytest.mark.soak
def test_image_blocked_by_the_browser_is_shown_by_its_thumbnail(
    show: Show, simulator: Simulator
) -> None:
    prompts = [f"picture {number}" for number in range(30)]
    page = show("generate_images", {"tasks": tasks(*prompts, megapixels="0.25")}, waits=False)
    page.page.context.route(f"{simulator.url}/**", lambda route: route.abort())
    expect(loaded(page).first).to_be_visible()
    for tile in page.tiles.all():
        tile.scroll_into_view_if_needed()
    expect(loaded(page)).to_have_count(24)
    kinds = loaded(page).evaluate_all("(all) => all.map((each) => each.src.slice(0, 16))")
    assert set(kinds) == {"data:image/webp;"}
    assert all("ERR_FAILED" in each for each in page.console_errors)
    page.console_errors.clear()


@pytest.mark.soak
def test_removed_view_sends_no_more_requests(show: Show, simulator: Simulator) -> None:
    simulator.configure(predict_seconds=3)
    page = show("generate_images", {"tasks": tasks("a red car"), "wait_seconds": 0})
    page.page.evaluate("host.teardown()")
    expect(page.view.get_by_role("heading")).to_have_text("0 of 1 made")


def test_image_sources_are_only_replicate_and_a_loopback_simulator() -> None:
    for base_url, more in (
        ("https://api.replicate.com", []),
        ("https://replicate.example.com", []),
        ("http://localhost:9001", ["http://localhost:9001", "http://127.0.0.1:9001"]),
    ):
        served = gallery(base_url)
        meta = served.meta or {}
        allowed = ["https://replicate.delivery", "https://*.replicate.delivery", *more]
        assert meta["ui"]["csp"] == {"resourceDomains": allowed}
        assert f'name="image-origins" content="{" ".join(more)}"' in str(served.content)


def test_view_modules_are_bundled_into_one_script_without_imports() -> None:
    from replicate_mcp.mcp_server.gallery.document import document

    page = document(("http://127.0.0.1:1",))
    script = page.partition('<script type="module">')[2].partition("</script>")[0]
    assert re.findall(r"^(?:import|export)\b", script, re.MULTILINE) == []
    assert re.findall(r"""(?:src|href)=["'](?!\s*")""", page) == []
