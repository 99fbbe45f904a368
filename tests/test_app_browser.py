"""The gallery as a person uses it, in a headless browser: found, filtered, redrawn, watched, read by keyboard.

Screenshots of every page, on a desk and on a phone, light and dark, are left in pytest's temporary folder.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pretask.gallery.panels import to_plain
from pretask.task import Panel
from test_app import CONTENTS
from test_reports_html import make_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to open the page in")

SLOW = 60_000  # ms: drawing imports torch first, and machines are busy
DESK, PHONE = {"width": 1366, "height": 860}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Photographs, two runs of which one still trains, a broken one, and evidence."""
    from conftest import photo

    root = tmp_path_factory.mktemp("gallery")
    (root / "snapshots").mkdir()
    for number in range(8):
        Image.fromarray(photo(number, (48, 48))).save(root / "snapshots" / f"{number}.png")
    make_run(root / "runs" / "good", number=40)
    make_run(root / "runs" / "now", "simclr", number=15, seed=1)
    (root / "runs" / "now" / "encoder.safetensors").unlink()
    (root / "runs" / "broken").mkdir()
    (root / "runs" / "broken" / "config.yaml").write_text("task: [unclosed\n")
    shutil.copytree(Path(__file__).parents[1] / "evidence", root / "evidence")
    return root


@pytest.fixture(scope="module")
def address(place):
    """The command itself; it is up in less than ten seconds."""
    command = [
        sys.executable,
        "-m",
        "pretask",
        "app",
        "--data",
        "snapshots",
        "--read",
        "image_size=48",
        "--port",
        "0",
    ]
    server = subprocess.Popen([*command, "--no-browser"], cwd=place, stdout=subprocess.PIPE, text=True)
    found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
    assert found
    yield found[0]
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as play:
        playwright.expect.set_options(timeout=SLOW)
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, address):
    """Opens a page; in the end nothing went wrong in it, and nothing was asked of any other place."""
    contexts, wrong = [], []

    def opened(path: str = "", size=DESK, scheme: str = "light", **more):
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme, **more))
        page = contexts[-1].new_page()
        page.set_default_timeout(SLOW)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda asked: wrong.append(asked.url) if not inside(asked.url) else None)
        page.goto(address + path)
        return page

    def inside(url: str) -> bool:
        return url.startswith((address, "data:"))

    yield opened
    for context in contexts:
        context.close()
    unexpected = [
        what for what in wrong if "the server responded with a status" not in what
    ]  # that is provoked
    assert not unexpected


def test_a_method_is_found_and_its_puzzle_redrawn(visit):
    page = visit()
    expect(page.get_by_role("heading", level=1)).to_have_text("Could you solve it?")
    expect(page.locator(".count")).to_contain_text("methods")
    page.get_by_role("searchbox", name="Search methods").fill("which way is up")
    page.get_by_role("button", name="image", exact=True).press("Enter")
    expect(page.get_by_role("link", name="Masked autoencoder")).to_be_hidden()
    expect(page.get_by_role("link", name="Rotation prediction")).to_be_visible()
    expect(page.locator("article:visible .look img").first).to_be_visible(timeout=SLOW)
    expect(page.locator("article:visible .source").first).to_have_text("your data")

    page.get_by_role("link", name="Rotation prediction").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    before = page.locator(".sample img").first.get_attribute("src", timeout=SLOW)
    slider = page.get_by_role("slider", name="crop scale, 1 of 2, slider")
    slider.press("Home")
    expect(page.locator(".sample img").first).not_to_have_attribute("src", before)
    assert "crop_scale=%5B0%2C1%5D" in page.url, "the address keeps what was chosen"
    expect(page.locator(".lines pre").first).to_have_text(
        "pretask train rotation --data snapshots --set crop_scale=0,1"
    )

    page.get_by_role("spinbutton", name="jitter").fill("")
    page.get_by_role("spinbutton", name="jitter").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("jitter must be float")
    page.get_by_role("button", name="All to default").click()
    expect(page.locator(".sample img").first).to_have_attribute("src", before)
    expect(page.get_by_role("alert")).to_have_count(0)

    page.get_by_role("spinbutton", name="jitter").fill("0.3")
    page.get_by_role("spinbutton", name="jitter").press("Enter")
    page.get_by_role("button", name="Let me guess").click()
    expect(page.locator(".truth img")).to_have_count(0)
    page.get_by_role("button", name="Show what is true").first.click()
    expect(page.locator(".truth img")).to_have_count(1)
    page.get_by_role("button", name="Other samples").click()
    expect(page.locator(".sample img").first).not_to_have_attribute("src", before)


def test_a_run_is_watched_and_its_map_explored(visit, place):
    page = visit("#/runs")
    expect(page.locator("article")).to_have_count(3)
    broken = page.locator("article", has_text="cannot be read")
    expect(broken.get_by_role("alert")).to_contain_text("mend it")
    expect(page.get_by_role("heading", name="Leaderboard")).to_be_visible(timeout=SLOW)
    page.locator("article[data-run=now]").get_by_role("checkbox").uncheck()
    expect(page.get_by_text("Choose two runs or more")).to_be_visible()

    page.get_by_role("link", name="SimCLR").click()
    expect(page.get_by_text(re.compile("training, step"))).to_be_visible()
    curve = page.locator("svg.chart").first
    before = curve.get_attribute("aria-label")
    with (place / "runs" / "now" / "metrics.csv").open("a") as file:
        file.write("2500,25,0.001,0.05,0.123,0.123,0.9,,,0.01,0.05,2000\n")
    expect(curve).not_to_have_attribute("aria-label", before)
    assert "0.123 at step 2500" in curve.get_attribute("aria-label")
    scrub = page.get_by_role("slider", name="Through training")
    scrub.press("Home")
    expect(page.locator(".sheets figure.on img")).to_have_attribute("alt", "Contact sheet at step 0")
    page.get_by_role("button", name="Ask it").click()
    expect(page.get_by_role("alert")).to_contain_text("no checkpoint")

    page.goto(page.url.partition("#")[0] + "#/run/good")
    canvas = page.locator(".map canvas")
    canvas.scroll_into_view_if_needed(timeout=SLOW)
    box = canvas.bounding_box()
    data = json.loads(page.request.get(page.url.partition("#")[0] + "api/map/good").body())["data"]
    side = min(box["width"], box["height"]) - 52
    spot = {
        "x": box["width"] / 2 + (data["x"][7] - 0.5) * side,
        "y": box["height"] / 2 - (data["y"][7] - 0.5) * side,
    }
    canvas.hover(position=spot)
    expect(page.locator(".map .tip .thumb")).to_be_visible()
    canvas.click(position=spot)
    near = page.locator(".map aside .found button")
    expect(near).to_have_count(8)
    near.first.click()
    canvas.press("ArrowRight")
    canvas.press("Enter")
    expect(page.locator(".map aside h3").last).to_contain_text("digit")
    page.goto(page.url.partition("#")[0] + "#/run/broken")
    expect(page.get_by_role("alert")).to_contain_text("config.yaml")


def test_every_kind_of_panel_is_drawn_heard_and_turned(visit):
    rows = [
        [to_plain(Panel(f"the {kind}", content, "input", kind), 8000)] for kind, content in CONTENTS.items()
    ]
    page = visit()
    answer = json.dumps({"title": "", "note": "", "rows": rows, "data": "all", "own": False})
    page.route("**/api/preview", lambda route: route.fulfill(body=answer, content_type="application/json"))
    page.goto(page.url + "#/method/ppt")
    expect(page.locator(".sample")).to_have_count(len(CONTENTS))
    for canvas in page.locator(".sample canvas").all():
        canvas.scroll_into_view_if_needed()
        expect(canvas).to_have_attribute("aria-label", re.compile("the "))
        page.wait_for_timeout(120)
        assert canvas.evaluate(
            "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size > 2"
        )
    assert page.locator("audio").evaluate("a => a.duration") == pytest.approx(0.1)
    page.get_by_role("button", name="Pause: the video").click()
    frames = page.get_by_role("slider", name="the video: frame")
    frames.press("End")
    expect(page.locator(".player output").first).to_have_text("frame 5 of 5")
    page.get_by_role("button", name="Motion").click()
    cloud = page.locator("canvas.of-points")
    before = cloud.evaluate("c => c.toDataURL()")
    page.wait_for_timeout(200)
    assert cloud.evaluate("c => c.toDataURL()") == before, "without motion nothing moves"
    cloud.press("ArrowRight")
    assert cloud.evaluate("c => c.toDataURL()") != before


NAMELESS = """() => [...document.querySelectorAll('a, button, input, select, canvas, audio, [role=img], img')]
  .filter((e) => e.checkVisibility() && !e.closest('[aria-hidden=true]'))
  .filter((e) => !(e.ariaLabel || e.labels?.length || e.textContent.trim() || e.hasAttribute('alt') || e.title))
  .map((e) => e.outerHTML.slice(0, 120))"""

PAGES = {
    "methods": "",
    "method": "#/method/rotation",
    "runs": "#/runs",
    "run": "#/run/good",
    "evidence": "#/evidence",
}


@pytest.mark.parametrize(("size", "scheme"), [(DESK, "light"), (PHONE, "dark")], ids=["desk", "phone"])
def test_every_page_fits_and_everything_has_a_name(visit, tmp_path_factory, size, scheme):
    shots = tmp_path_factory.getbasetemp() / "screenshots"
    shots.mkdir(exist_ok=True)
    page = visit(size=size, scheme=scheme, reduced_motion="reduce")
    for name, path in PAGES.items():
        page.goto(page.url.partition("#")[0] + path)
        expect(page.get_by_role("heading", level=1).first).to_be_visible()
        expect(page.locator("#content[aria-busy=true]")).to_have_count(0)
        if name != "methods":
            expect(page.locator("[aria-busy=true]")).to_have_count(0, timeout=SLOW)
        page.screenshot(path=shots / f"{name}-{size['width']}-{scheme}.png")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, f"{name} is too wide"
        assert page.evaluate(NAMELESS) == [], name
        expect(page.get_by_role("button", name="Motion")).to_have_attribute("aria-pressed", "false")
    print(f"screenshots: {shots}")


FOCUSED = "(e => e.ariaLabel || e.textContent.trim() || e.id)(document.activeElement)"


def test_all_of_it_is_reached_by_keyboard(visit):
    page = visit("#/method/rotation")
    expect(page.locator(".sample img").first).to_be_visible(timeout=SLOW)
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(FOCUSED))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or page.evaluate("document.activeElement === document.body"), reached
    wanted = {
        "Skip to the content",
        "Runs",
        "Motion",
        "Other samples",
        "Let me guess",
        "jitter",
        "jitter, slider",
    }
    assert wanted <= reached


def test_a_server_that_is_gone_is_said(visit):
    page = visit()
    expect(page.locator("article").first).to_be_visible()
    page.route("**/api/**", lambda route: route.fulfill(status=500, body="no json"))
    page.get_by_role("link", name="Evidence").click()
    expect(page.get_by_role("alert")).to_contain_text("Is pretask app still running?")
