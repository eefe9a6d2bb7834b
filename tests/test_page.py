"""The page of `python -m jaxbusi.serve` in a real browser, as people use it."""

import contextlib
import csv
import dataclasses
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxbusi.data.records import CLASSES
from jaxbusi.data.splits import read_rows
from jaxbusi.serve.loading import load
from jaxbusi.serve.run import ServedRun
from scripts.fuzz_dicom import encode
from tests.serving import LIMITS, Served, serving, tiny_fusion, trained_once

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
expect = sync_api.expect

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

# Where the suite runs there may be no display, no user to sandbox and nothing to update from.
_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run",
]  # fmt: skip
_SLOW = 60_000  # Milliseconds: the first answer waits for the programs to be compiled.
_TOKEN = "a-token-of-the-tests-0123456789"
_BUSY = {"status": 503, "json": {"error": "busy"}, "headers": {"Retry-After": "1"}}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, worker_id, phantoms) -> Path:
    trained = trained_once(tmp_path_factory, worker_id, phantoms)
    return shutil.copytree(trained, tmp_path_factory.mktemp("paged") / "run")


@pytest.fixture(scope="module")
def run(workdir) -> ServedRun:
    with tiny_fusion():
        return load(workdir)


@pytest.fixture(scope="module")
def served(run) -> Iterator[Served]:
    with serving(run) as found:
        yield found


@dataclasses.dataclass(frozen=True)
class Visit:
    """A page that is open, what the browser complained of, and what it asked for."""

    page: sync_api.Page
    complaints: list[str]
    asked: list[str]

    def choose(self, *files: Path | dict) -> None:
        self.page.locator("#files").set_input_files(list(files))

    def rows(self, state: str) -> sync_api.Locator:
        return self.page.locator(f'#list li[data-state="{state}"]')


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        expect.set_options(timeout=_SLOW)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, served) -> Iterator[Callable[..., Visit]]:
    """Opens the page; what it is given is said of the browser's window."""
    with contextlib.ExitStack() as stack:

        def open_page(before: Callable = lambda page: None, at: str = "", **window) -> Visit:
            context = stack.enter_context(browser.new_context(**window))
            page = context.new_page()
            page.set_default_timeout(_SLOW)
            made = Visit(page, [], [])
            page.on("console", lambda line: made.complaints.append(line.text))
            page.on("pageerror", lambda error: made.complaints.append(str(error)))
            page.on("request", lambda request: made.asked.append(request.url))
            before(page)
            page.goto(at or served.url)
            return made

        yield open_page


@pytest.fixture
def images(phantoms) -> list[Path]:
    return [phantoms / name / f"{name} (1).png" for name in ("benign", "malignant", "normal")]


def test_an_image_gets_an_answer_with_maps_and_nothing_else_is_asked(visit, images, served):
    one = visit()
    one.choose(images[0])
    expect(one.page.locator("#answer")).to_have_text(re.compile(r"^(benign|malignant|normal), "))
    values = [float(data.get_attribute("value")) for data in one.page.locator("#bars data").all()]
    assert len(values) == 3
    assert sum(values) == pytest.approx(1, abs=1e-3)
    expect(one.page.locator("#maps .base").first).to_be_visible()
    assert one.page.locator("#maps figure").count() >= 2
    for picture in one.page.locator("#maps img:visible").all():
        assert picture.evaluate("one => one.decode().then(() => one.naturalWidth)") > 0
        assert picture.get_attribute("class") == "map" or picture.get_attribute("alt")
    # Rollout is the same whatever the answer, and speaks for none.
    rollout = one.page.locator('#maps [data-map="rollout"] .empty')
    expect(rollout).to_have_text("This map is empty.")
    assert one.complaints == []
    assert {url for url in one.asked if not url.startswith(("data:", served.url))} == set()
    assert any("/api/explain" in url for url in one.asked)


def test_the_slider_sets_the_opacity_of_the_maps(visit, images):
    one = visit()
    one.choose(images[0])
    shown = one.page.locator("#maps figure[data-map] .map").first
    slider = one.page.get_by_label("Opacity of the maps")
    expect(shown).to_have_css("opacity", "0.6")
    slider.fill("25")
    expect(shown).to_have_css("opacity", "0.25")
    slider.focus()
    one.page.keyboard.press("Home")
    expect(shown).to_have_css("opacity", "0")


def test_a_bad_file_is_said_in_words_and_the_others_go_on(visit, images, tmp_path):
    text = tmp_path / "<b>notes.txt"
    text.write_text("no image")
    many = visit()
    many.choose(images[0], text, *images[1:])
    expect(many.rows("done")).to_have_count(3)
    bad = many.rows("failed")
    expect(bad).to_have_count(1)
    expect(bad.locator(".pick span").first).to_have_text(text.name)  # and no markup
    expect(bad.get_by_role("button", name=re.compile("^Try again"))).to_be_visible()
    bad.locator(".pick").click()
    expect(many.page.locator("#failure-words")).to_have_text(re.compile(r"\w+ \w+"))
    expect(many.page.locator("#found")).to_be_hidden()
    expect(many.page.locator("#progress")).to_have_text("3 of 4 files answered, 1 with an error.")
    many.page.get_by_role("button", name="Remove all").click()
    expect(many.page.locator("#nothing")).to_be_visible()


def test_results_are_saved(visit, images, tmp_path):
    text = tmp_path / "=notes.txt"  # to a spreadsheet a formula
    text.write_text("no image")
    two = visit()
    two.choose(images[0], text)
    expect(two.rows("done")).to_have_count(1)
    expect(two.rows("failed")).to_have_count(1)
    with two.page.expect_download() as saved:
        two.page.get_by_role("button", name="All results as CSV").click()
    good, bad = csv.DictReader(io.StringIO(Path(saved.value.path()).read_text()))
    values = [float(good[name]) for name in CLASSES]
    assert sum(values) == pytest.approx(1)
    assert good["predicted"] == CLASSES[values.index(max(values))]
    assert all(float(good[f"{name}_low"]) <= float(good[name]) for name in CLASSES)
    assert (good["file"], good["frame"], good["error"]) == (images[0].name, "1", "")
    assert float(good["distance"]) > 0
    assert (bad["file"], bad["predicted"], bad["trained_on"]) == ("'=notes.txt", "", "")
    assert "no image" in bad["error"]
    with two.page.expect_download() as saved:
        two.page.get_by_role("button", name="This result as JSON").click()
    text = Path(saved.value.path()).read_text()
    assert json.loads(text)["file"] == images[0].name
    assert "data:image" not in text


def test_an_image_that_was_trained_on_is_said_to_be(visit, workdir, phantoms):
    rows = read_rows(workdir / "split.csv")
    trained, other = (
        next(phantoms / row.image for row in rows if row.part == part) for part in ("train", "test")
    )
    two = visit()
    two.choose(trained, other)
    expect(two.rows("done")).to_have_count(2)
    expect(two.page.locator("#remembered")).to_have_text(re.compile("very image was trained on"))
    states = two.page.locator("#list .state")
    expect(states.first).to_have_text(re.compile("⚠ trained on"))
    expect(states.last).not_to_have_text(re.compile("⚠ trained on"))
    two.page.keyboard.press("ArrowRight")
    expect(two.page.locator("#name")).to_have_text(other.name)
    expect(two.page.locator("#remembered")).to_be_hidden()
    with two.page.expect_download() as saved:
        two.page.get_by_role("button", name="All results as CSV").click()
    lines = csv.DictReader(io.StringIO(Path(saved.value.path()).read_text()))
    assert [line["trained_on"] for line in lines] == ["true", "false"]


def test_the_page_warns_of_an_image_that_is_unlike_the_training_images(visit):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    drawn = io.BytesIO()
    Image.fromarray(noise).save(drawn, "PNG")
    one = visit()
    one.choose({"name": "noise.png", "mimeType": "image/png", "buffer": drawn.getvalue()})
    warning = one.page.locator("#unfamiliar")
    expect(warning).to_be_visible()
    expect(warning).to_have_text(re.compile("do not rely on this answer"))
    [away] = re.findall(r"distance (\d+\.\d\d), limit 1", warning.inner_text())
    assert float(away) > 1
    expect(one.page.locator("#list .state")).to_have_text(re.compile("⚠ unlike the training"))


def test_of_a_clip_the_slider_chooses_the_frame(visit):
    frames = np.full((3, 40, 50), 10, np.uint8)
    frames[1] = 200
    clip = encode([frame.tobytes() for frame in frames], frames.shape[1:])
    one = visit()
    one.choose({"name": "clip", "mimeType": "application/dicom", "buffer": clip})
    slider = one.page.get_by_label("Frame of the clip")
    expect(slider).to_have_attribute("max", "3")
    expect(one.page.locator("#explained")).to_be_visible()
    assert _grey(one.page.locator("#maps .base").first) == 10
    slider.fill("2")
    expect(one.page.locator("#list .state")).to_have_text(re.compile(", frame 2"))
    expect(one.page.get_by_label("Frame number")).to_have_value("2")
    assert _grey(one.page.locator("#maps .base").first) == 200
    assert [url.split("?")[1] for url in one.asked if "/api/explain" in url] == [
        "frame=1", "frame=2",
    ]  # fmt: skip


def _grey(picture: sync_api.Locator) -> int:
    """The value of a picture's first pixel."""
    return picture.evaluate(
        """async (picture) => {
          await picture.decode();
          const context = document.createElement("canvas").getContext("2d");
          context.drawImage(picture, 0, 0);
          return context.getImageData(0, 0, 1, 1).data[0];
        }"""
    )


def test_a_phone_shows_all_without_scrolling_sideways(visit, images, tmp_path):
    bad = tmp_path / ("a_name_without_any_space" * 6)
    bad.write_text("no image")
    phone = visit(viewport={"width": 390, "height": 844})
    phone.choose(images[0], bad)
    expect(phone.rows("failed")).to_have_count(1)
    expect(phone.page.locator("#explained")).to_be_visible()
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert phone.page.evaluate(fits)
    longest = "malignant, >99\u00a0%"
    phone.page.locator("#answer").evaluate("(one, words) => (one.textContent = words)", longest)
    phone.page.evaluate("document.documentElement.style.fontSize = '200%'")
    assert phone.page.evaluate(fits)
    phone.page.evaluate("document.documentElement.style.fontSize = ''")
    phone.page.get_by_role("link", name="Skip to the result").focus()
    phone.page.keyboard.press("Enter")
    expect(phone.page.locator("#answer")).to_be_in_viewport()
    expect(phone.page.locator("#notice")).to_be_in_viewport()  # always


def test_everything_is_reached_by_keyboard(visit, images):
    keys = visit()
    for _ in range(2):
        keys.page.keyboard.press("Tab")
    expect(keys.page.locator("#files")).to_be_focused()
    keys.choose(*images)
    expect(keys.rows("done")).to_have_count(3)
    keys.page.keyboard.press("Tab")
    keys.page.keyboard.press("ArrowDown")
    expect(keys.page.locator("#name")).to_have_text(images[1].name)
    expect(keys.page.locator("#list .pick").nth(1)).to_be_focused()
    expect(keys.page.get_by_role("status")).to_have_text(
        re.compile(rf"^{re.escape(images[1].name)}: ")
    )
    keys.page.keyboard.press("ArrowRight")
    expect(keys.page.locator("#name")).to_have_text(images[2].name)
    keys.page.keyboard.press("Tab")
    keys.page.keyboard.press("Enter")  # on the button that removes it
    expect(keys.page.locator("#list li")).to_have_count(2)
    expect(keys.page.locator("#name")).to_have_text(images[1].name)


def test_light_and_dark(visit):
    page = visit().page
    colours = set()
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_a_token_is_asked_for_and_does_not_stay_in_the_address(visit, images, run):
    with serving(run, dataclasses.replace(LIMITS, token=_TOKEN)) as guarded:
        typed = visit(at=guarded.url)
        typed.choose(images[0])
        expect(typed.page.locator("#token-words")).to_have_text(re.compile("JAXBUSI_TOKEN"))
        typed.page.get_by_label("Token", exact=True).fill("wrong")
        typed.page.keyboard.press("Enter")
        expect(typed.page.locator("#token-words")).to_have_text(re.compile("not take this token"))
        typed.page.get_by_label("Token", exact=True).fill(_TOKEN)
        typed.page.keyboard.press("Enter")
        expect(typed.rows("done")).to_have_count(1)
        expect(typed.page.locator("#token-form")).to_be_hidden()
        linked = visit(at=f"{guarded.url}#token={_TOKEN}")
        linked.choose(images[0])
        expect(linked.rows("done")).to_have_count(1)
        assert "token" not in linked.page.url


def test_a_busy_server_and_one_that_is_away_are_asked_again(visit, images):
    def trouble(page: sync_api.Page) -> None:
        page.route("**/api/explain*", lambda route: route.abort(), times=1)
        page.route("**/api/explain*", lambda route: route.fulfill(**_BUSY), times=1)

    one = visit(trouble)
    one.choose(images[0])
    expect(one.page.locator("#progress")).to_have_text(re.compile("busy"))
    expect(one.page.locator("#failure-words")).to_have_text(re.compile("cannot be reached"))
    one.page.locator("#failure-again").click()
    expect(one.rows("done")).to_have_count(1)
