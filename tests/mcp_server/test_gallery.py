"""The gallery, in a host that runs the official bridge, before the real server and a simulator."""

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, expect

from browser import running_browser
from conftest import environment
from http_api.conftest import Server, running_server
from mcp_server.host_page import HostPage, host_script, open_host
from replicate_mcp.mcp_server.gallery.app import gallery
from replicate_mcp.simulator import Simulator, running_simulator

NARROW = 340

Show = Callable[..., HostPage]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as launched:
        yield launched


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
    usual = {"predict_seconds": 0, "slow_seconds": 10, "clock_offset_seconds": 0}
    shared_simulator.configure(**usual, prompt_words=True, public_url="")
    return shared_simulator


@pytest.fixture(scope="module")
def server(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with running_server(environment(shared_simulator, tmp_path_factory.mktemp("state"))) as running:
        yield running


@pytest.fixture
def show(browser: Browser, script: str, server: Server, simulator: Simulator) -> Iterator[Show]:
    """Opens a host that calls a tool; afterwards, nothing may have gone astray in it.

    What it began is stopped then: each test has the simulator to itself.
    """
    opened: list[tuple[BrowserContext, HostPage]] = []

    def call(tool: str, given: dict[str, Any] | None, *, width: int = 760, **more: Any) -> HostPage:
        context, page = open_host(browser, server.url, script, width=width)
        opened.append((context, page))
        page.show(tool, given, **more)
        return page

    yield call
    for context, page in opened:
        context.close()
        assert page.complaints == []
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


def begun_elsewhere(server: Server, body: dict[str, Any]) -> str:
    """The address of a batch that another client began, once it has its first image."""
    begun = server.post("/generate-batch", body, prefer="respond-async").json()
    address = f"/batches/{begun['batch_id']}"
    while not server.get(address).json()["successful_count"]:
        time.sleep(0.1)
    return address


def batch_of(server: Server, url: str | None) -> dict[str, Any]:
    """The batch that an image is of."""
    listed = server.get("/batches").json()["batches"]
    whole = [server.get(f"/batches/{each['batch_id']}").json() for each in listed]
    (found,) = (each for each in whole if f"'{url}'" in str(each["successful_results"]))
    batch: dict[str, Any] = found
    return batch


def age_of_the_newest(server: Server) -> float:
    began = server.get("/batches").json()["batches"][0]["created_at"]
    return (datetime.now(UTC) - datetime.fromisoformat(began)).total_seconds()


def the_views_next_look(page: HostPage) -> None:
    """Wait until the view has looked for its batch: at which there are, and at one by itself."""
    for _ in range(4):  # One look is whole among these, and another has begun.
        page.page.wait_for_event("response", lambda answer: answer.url.endswith("/mcp"))


def test_a_tile_a_task_fills_as_images_arrive_and_nothing_jumps(
    show: Show, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds="0.5,0.5,6,6")
    given = {"tasks": tasks("a red car", "a blue house", "a green tree", "a grey cat")}
    page = show("generate_images", given, waits=False)
    expect(page.tiles).to_have_count(4)
    expect(page.tile("car.png")).to_contain_text("a red car")
    expect(loaded(page)).to_have_count(2)
    assert page.seen("answers") == [], "the model still waits for its answer"
    expect(page.view.get_by_role("heading")).to_have_text("2 of 4 made")
    expect(page.view.get_by_text("2 tasks remaining")).to_be_visible()
    bar = page.view.get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuenow", "2")
    expect(loaded(page)).to_have_count(4)
    expect(page.view.get_by_role("heading")).to_have_text("4 tasks completed")
    expect(page.view.get_by_text("URLs expire in 60 min")).to_be_visible()
    assert len(page.seen("heights")) <= 2, "it grew when the tiles came, and never again"


def test_tiles_come_while_the_model_still_writes_its_tasks(show: Show) -> None:
    written = [{"tasks": tasks("a red car", "a bl")}, {"tasks": tasks("a red car", "a blue house")}]
    page = show("generate_images", None, written=written)
    expect(page.tiles).to_have_count(2)
    expect(page.tile("house.png")).to_contain_text("a blue house")
    assert states(page) == ["pending"] * 2
    expect(page.view.get_by_role("heading")).to_have_text("2 tasks")


def test_nothing_is_shown_as_done_before_anything_is_known(show: Show) -> None:
    page = show("generate_images", None)
    expect(page.view.get_by_role("heading")).to_have_text("Preparing …")
    expect(page.view.get_by_role("progressbar").locator("span")).to_have_css("width", "0px")


def test_another_batch_that_is_newer_is_not_taken_for_the_calls_own(
    show: Show, simulator: Simulator, server: Server
) -> None:
    given = {"tasks": tasks("a [slow] car", "a [slow] house")}
    page = show("generate_images", given, waits=False)
    simulator.wait_for(account="acme", in_flight=2)
    begun_elsewhere(server, {"prompts": ["not this one", "nor a [slow] one"]})
    the_views_next_look(page)
    assert states(page) == ["pending"] * 2
    expect(page.view.get_by_text("Waiting for the first")).to_be_visible()


def test_of_calls_at_once_each_gallery_fills_with_its_own_batch_and_stops_that_one(
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
        assert page.seen("answers") == [], "the model still waits for its answer"
        batch = batch_of(server, loaded(page).get_attribute("src"))
        assert batch["successful_results"][0]["model"] == model
        batches.append(f"/batches/{batch['batch_id']}")
    older, _ = pages
    older.view.get_by_role("button", name="Stop", exact=True).click()
    older.view.get_by_role("button", name="Stop the rest?").click()
    expect(older.view.get_by_role("heading")).to_have_text("1 of 2 made · stopped")
    assert [server.get(each).json()["status"] for each in batches] == ["canceled", "running"]


def test_where_two_batches_can_be_a_calls_own_its_answer_tells(
    show: Show, simulator: Simulator, server: Server
) -> None:
    given = {"tasks": tasks("a [hang] car", "a [hang] house")}
    page = show("generate_images", given, waits=False)
    simulator.wait_for(account="acme", in_flight=2)
    own = f"/batches/{server.get('/batches').json()['batches'][0]['batch_id']}"
    simulator.configure(prompt_words=False, predict_seconds="0,60")
    other = begun_elsewhere(server, given)
    the_views_next_look(page)
    assert states(page) == ["pending"] * 2
    server.client.delete(own)
    expect(page.view.get_by_role("heading")).to_have_text("0 of 2 made · stopped")
    assert server.get(other).json()["status"] == "running"


def test_an_older_batch_of_the_same_tasks_is_not_taken_for_one_that_is_yet_to_begin(
    show: Show, simulator: Simulator, server: Server
) -> None:
    given = {"tasks": tasks("a red car", "a [hang] house")}
    begun_elsewhere(server, given)
    while age_of_the_newest(server) < 6:
        time.sleep(0.2)
    page = show("generate_images", given, waits=False, calls=False)
    the_views_next_look(page)
    assert states(page) == ["pending"] * 2
    expect(page.view.get_by_role("button", name="Stop")).to_have_count(0)


def test_a_call_that_was_stopped_before_its_answer_says_so(
    show: Show, simulator: Simulator
) -> None:
    page = show("generate_images", {"tasks": tasks("a [slow] car")}, waits=False)
    page.page.evaluate("host.cancel('by the user')")
    expect(page.view.get_by_role("alert")).to_have_text("The call was cancelled (by the user).")
    expect(page.view.get_by_role("list")).to_have_attribute("aria-busy", "false")


@pytest.mark.parametrize("end", ["cancel", "refuse"])
def test_what_was_made_stays_when_the_call_ends_without_results(
    show: Show, server: Server, end: str
) -> None:
    given = {"tasks": tasks(f"{end} a car", f"{end} a [hang] house")}
    page = show("generate_images", given, waits=False)
    expect(loaded(page)).to_have_count(1)
    page.page.evaluate(f"host.{end}('too late')")
    own = batch_of(server, loaded(page).get_attribute("src"))
    server.client.delete(f"/batches/{own['batch_id']}")
    expect(page.view.get_by_role("heading")).to_have_text("1 of 2 made · stopped")
    assert states(page) == ["succeeded", "failed"]


def test_how_far_a_running_batch_is_can_be_heard(show: Show) -> None:
    given = {"tasks": tasks("a red car", "a [hang] house"), "wait_seconds": 0}
    page = show("generate_images", given)
    expect(page.view.get_by_role("status")).to_have_text("1 of 2 made.")
    # What stands in something busy is kept from those who listen.
    expect(page.view.locator("[aria-busy=true]")).to_have_count(1)
    expect(page.view.get_by_role("list")).to_have_attribute("aria-busy", "true")
    expect(page.view.locator("[aria-busy=true] :is([role=status], [role=alert])")).to_have_count(0)


def test_more_room_is_asked_for_where_the_host_has_it(show: Show) -> None:
    room = {"availableDisplayModes": ["inline", "fullscreen"], "displayMode": "inline"}
    page = show("generate_images", {"tasks": tasks("a red car")}, context=room)
    page.view.get_by_role("button", name="Full screen").click()
    expect(page.view.get_by_role("button", name="Exit full screen")).to_be_visible()
    expect(page.view.locator("html")).to_have_attribute("data-display-mode", "fullscreen")


def test_a_batch_is_followed_after_the_models_answer(show: Show, simulator: Simulator) -> None:
    simulator.configure(predict_seconds="0.1,2")
    given = {"tasks": tasks("a red car", "a blue house"), "wait_seconds": 0}
    page = show("generate_images", given)
    assert page.seen("answers")[0]["structuredContent"]["status"] == "running"
    expect(loaded(page)).to_have_count(2)


def test_a_failure_says_why_and_is_made_again_in_its_place(
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
    failed.get_by_role("button", name=re.compile("Regenerate")).press("Enter")
    expect(failed).to_have_attribute("data-state", "succeeded")
    assert states(page) == ["succeeded"] * 3


def test_a_batch_is_stopped_after_a_second_thought(show: Show, simulator: Simulator) -> None:
    given = {"tasks": tasks("a red car", "a [hang] house", "a [hang] tree"), "wait_seconds": 0}
    page = show("generate_images", given)
    expect(loaded(page)).to_have_count(1)
    page.view.get_by_role("button", name="Stop", exact=True).click()
    page.view.get_by_role("button", name="Stop the rest?").click()
    expect(page.view.get_by_role("heading")).to_have_text("1 of 3 made · stopped")
    assert states(page) == ["succeeded", "failed", "failed"]
    expect(page.view.get_by_role("button", name=re.compile("^Stop"))).to_have_count(0)
    simulator.wait_for(account="acme", in_flight=0)


def test_an_image_is_made_again_with_another_seed_and_the_model_is_told(show: Show) -> None:
    given = {
        "tasks": tasks("a red car", aspect_ratio="16:9", seed=7) + tasks("a blue house"),
        "model": "black-forest-labs/flux-dev",
    }
    page = show("generate_images", given)
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
    (told,) = page.seen("modelContexts")
    assert f"task 0 regenerated: car_2.png {sources[1]}" in told


def test_an_image_made_again_while_its_batch_runs_takes_nobodys_place(
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


def test_an_image_is_opened_copied_and_downloaded_through_the_host(show: Show) -> None:
    page = show("generate_images", {"tasks": tasks("a red car")})
    page.page.context.grant_permissions(["clipboard-read"])
    url = page.seen("answers")[0]["structuredContent"]["successful_results"][0]["generated_files"][
        0
    ]["url"]
    page.view.get_by_role("button", name="Open car.png").click()
    page.view.get_by_role("link").click()
    page.view.get_by_role("button", name="Copy URL of car.png").click()
    page.view.get_by_role("button", name="Download car.png").click()
    expect(page.view.locator(".action[aria-busy]")).to_have_count(0)
    assert page.seen("opened") == [url, url]
    (saved,) = page.seen("downloaded")
    assert (saved["uri"], saved["name"]) == (url, "car.png")
    assert page.page.evaluate("navigator.clipboard.readText()") == url


def test_a_host_without_anything_optional_still_shows_what_was_made(
    show: Show, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds="0,5")
    given = {"tasks": tasks("a red car", "a blue house"), "wait_seconds": 2}
    page = show("generate_images", given, capabilities={})
    expect(loaded(page)).to_have_count(1)
    assert sorted(states(page)) == ["pending", "succeeded"]
    expect(page.view.get_by_role("alert")).to_contain_text("Ask for them in the conversation")
    expect(page.view.get_by_role("button", name=re.compile("Regenerate"))).to_have_count(0)
    link = page.view.get_by_role("link")
    assert (link.get_attribute("href") or "").startswith(simulator.url)
    assert link.get_attribute("rel") == "noopener noreferrer"
    page.view.get_by_role("button", name="Download").click()
    expect(page.view.get_by_label("URL", exact=True)).to_have_value(re.compile("^http"))


def test_urls_count_down_and_what_has_expired_is_marked(show: Show, simulator: Simulator) -> None:
    simulator.configure(clock_offset_seconds=-3596)  # It ended almost an hour ago.
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


def test_what_others_wrote_is_text_and_only_images_of_replicate_are_shown(
    show: Show, simulator: Simulator
) -> None:
    markup = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
    given = {"tasks": [{"prompt": markup}, {"prompt": f"{markup} [fail]"}]}
    page = show("generate_images", given)
    expect(page.tiles.first.locator(".note")).to_have_text(markup)
    expect(page.view.locator("b, img[src='x']")).to_have_count(0)
    assert page.view.locator("html").evaluate("() => document.title") == "Images"
    simulator.configure(public_url="https://elsewhere.example")
    astray = show("generate_images", {"tasks": tasks("a red car")})
    simulator.configure(public_url="")
    expect(astray.tiles.first).to_contain_text("not on a Replicate host")
    expect(astray.view.locator("a, img")).to_have_count(0)
    assert not [url for url in astray.requested if "elsewhere" in url]


def test_a_refusal_is_told_in_words(show: Show) -> None:
    page = show("generate_images", {"tasks": tasks("a red car", aspect_ratio="16x9")})
    expect(page.view.get_by_role("alert")).to_contain_text("'16x9' is not one of")
    expect(page.tiles).to_have_count(0)


def test_a_large_batch_is_fetched_page_by_page_and_shown_a_part_at_a_time(show: Show) -> None:
    given = {"tasks": tasks(*(f"car {number}" for number in range(130)))}
    page = show("generate_images", given)
    assert page.seen("answers")[0]["structuredContent"]["cursor"] == 50
    expect(page.view.get_by_role("heading")).to_have_text("130 tasks completed")
    expect(page.tiles).to_have_count(24)
    page.view.get_by_role("button", name="Show 72 of 106 more tasks").click()
    page.view.get_by_role("button", name="Show 34 more").click()
    expect(page.tiles).to_have_count(130)
    assert set(states(page)) == {"succeeded"}
    names = page.view.locator(".name").all_text_contents()
    assert names == [f"{number}.png" for number in range(130)]


def test_get_batch_shows_a_batch_and_with_a_cursor_only_the_rest(show: Show) -> None:
    first = show("generate_images", {"tasks": tasks("a red car", "a blue house", "a tree")})
    batch = first.seen("answers")[0]["structuredContent"]["batch_id"]
    whole = show("get_batch", {"batch_id": batch})
    expect(loaded(whole)).to_have_count(3)
    rest = show("get_batch", {"batch_id": batch, "after": 2})
    expect(loaded(rest)).to_have_count(1)
    expect(rest.tiles).to_have_count(1)
    # What else the task had for inputs is not in its result.
    again = rest.tiles.get_by_role(
        "button", name=re.compile("^Regenerate .* from its prompt only$")
    )
    again.click()
    expect(loaded(rest)).to_have_count(2)


def test_the_hosts_theme_variables_and_changes_are_followed(show: Show) -> None:
    look = {"theme": "dark", "styles": {"variables": {"--color-text-primary": "rgb(1, 2, 3)"}}}
    page = show("generate_images", {"tasks": tasks("a red car")}, context=look)
    body = page.view.locator("body")
    expect(body).to_have_css("background-color", "rgb(27, 28, 26)")
    expect(body).to_have_css("color", "rgb(1, 2, 3)")
    page.page.evaluate("host.change({ theme: 'light' })")
    expect(body).to_have_css("background-color", "rgb(255, 255, 255)")
    room = {"theme": "light", "containerDimensions": {"maxHeight": 200, "width": 760}}
    page.page.evaluate("(room) => host.change(room)", room)
    expect(page.view.locator("html")).to_have_css("max-height", "200px")


def test_everything_fits_a_narrow_column(show: Show) -> None:
    long = {"prompt": "unbreakable" * 30, "output_filename": f"{'x' * 150}.png"}
    failing = {"prompt": f"{'word ' * 60} [fail]", "num_outputs": 2}
    given = {"tasks": [long, failing, *tasks("a red car")]}
    page = show("generate_images", given, width=NARROW)
    assert page.fits()
    assert states(page) == ["succeeded", "failed", "succeeded"]
    tops = page.tiles.evaluate_all("(all) => all.map((each) => each.offsetTop)")
    assert tops[0] == tops[1], "two stand side by side"


def test_why_a_task_failed_is_not_cut_through_in_a_low_frame(show: Show) -> None:
    lines = """(all) => all.map((each) =>
      each.getBoundingClientRect().height / parseFloat(getComputedStyle(each).lineHeight))"""
    for ratio in ("16:9", "4:3", "1:1", "9:16"):
        flagged = tasks("a [nsfw] car", "a [nsfw] house", aspect_ratio=ratio)
        page = show("generate_images", {"tasks": flagged}, width=NARROW)
        expect(page.tiles.first).to_contain_text("The model refused the content")
        for seen in page.view.locator(".message-text").evaluate_all(lines):
            assert seen == pytest.approx(round(seen), abs=0.05), ratio
            assert seen > 2, ratio


def test_in_a_narrow_column_the_second_press_finds_stop_where_the_first_did(show: Show) -> None:
    room = {"availableDisplayModes": ["inline", "fullscreen"], "displayMode": "inline"}
    given = {"tasks": tasks("a red car", "a [fail] cat", "a [hang] house"), "wait_seconds": 0}
    page = show("generate_images", given, context=room, width=NARROW)
    expect(page.view.get_by_text("1 failed")).to_be_visible()
    expect(page.view.get_by_role("heading")).to_have_text("1 of 3 made")
    place = page.view.get_by_role("button", name="Stop", exact=True).bounding_box()
    assert place is not None
    for _ in range(2):
        page.page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    expect(page.view.get_by_role("heading")).to_have_text("1 of 3 made · stopped")


def test_the_keyboard_reaches_everything(show: Show) -> None:
    page = show("generate_images", {"tasks": tasks("a red car", "a blue house")})
    page.page.keyboard.press("Tab")
    reached = []
    for _ in range(6):
        focused = page.view.locator(":focus")
        assert focused.evaluate("(each) => getComputedStyle(each).outlineStyle") == "solid"
        reached.append(focused.get_attribute("aria-label") or focused.inner_text().strip())
        page.page.keyboard.press("Tab")
    assert reached == [
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
    assert len(page.seen("opened")) == 1


def test_what_the_browser_may_not_fetch_is_shown_by_its_thumbnail(
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
    assert all("ERR_FAILED" in each for each in page.complaints)
    page.complaints.clear()


def test_a_view_that_is_taken_away_asks_for_nothing_more(show: Show, simulator: Simulator) -> None:
    simulator.configure(predict_seconds=3)
    page = show("generate_images", {"tasks": tasks("a red car"), "wait_seconds": 0})
    page.page.evaluate("host.leave()")
    expect(page.view.get_by_role("heading")).to_have_text("0 of 1 made")


def test_images_may_come_from_replicate_and_a_simulator_on_loopback_only() -> None:
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


def test_the_documents_modules_are_one_script_without_imports() -> None:
    from replicate_mcp.mcp_server.gallery.document import document

    page = document(("http://127.0.0.1:1",))
    script = page.partition('<script type="module">')[2].partition("</script>")[0]
    assert re.findall(r"^(?:import|export)\b", script, re.MULTILINE) == []
    assert re.findall(r"""(?:src|href)=["'](?!\s*")""", page) == []
