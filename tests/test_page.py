"""The page of `python -m jaxbusi.serve` in a real browser, as people use it."""

import base64
import contextlib
import dataclasses
import io
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

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
_TOKEN_WANTED = {"status": 401, "json": {"error": "no token"}}
_BUSY = {"status": 503, "json": {"error": "busy"}, "headers": {"Retry-After": "1"}}


# --- To be replaced by the real server on a tiny run: from here ---------------------------------
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_CLASSES = ("benign", "malignant", "normal")
_MAPS = {"grad_cam_resnet18": "Grad-CAM, ResNet18", "rollout": "attention rollout, ViT"}


def _uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _model() -> dict:
    known = {"known": True, "about": "30 images"}
    return {
        "run": "tiny", "jaxbusi": "0", "checkpoint_step": 1,
        "weights_sha256": "a" * 64, "config_sha256": "b" * 64, "classes": _CLASSES,
        "branches": {"resnet18": "ResNet18 (local)", "vit": "ViT (global)"}, "maps": _MAPS,
        "scale": {"stops": ["#000000", "#ffffff"], "ends": ["0", "3"], "label": "of even"},
        "calibration": {"calibrated": False, "about": "few images"},
        "familiarity": known, "neighbours": known, "protocol": "clean", "views": 5,
        "pictures": False, "limits": {"bytes": 2**20, "types": ["PNG"]}, "notice": "For research.",
    }  # fmt: skip


def _explained(body: bytes) -> dict:
    values = dict(zip(_CLASSES, (0.2, 0.5, 0.3), strict=True))
    drawn = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 255, 0, 128)).save(drawn, "PNG")
    still = dict.fromkeys(_CLASSES, 0.0)
    return {
        "frame": 1, "frames": 1, "width": 64, "height": 64, "predicted": "malignant",
        "probabilities": {
            name: {"value": value, "low": value - 0.1, "high": value + 0.1}
            for name, value in values.items()
        },
        "views": 5, "record": None, "distance": 1.4, "unfamiliar": True,
        "weights_sha256": "a" * 64, "config_sha256": "b" * 64, "image": _uri(body),
        "maps": {key: {"png": _uri(drawn.getvalue()), "empty": False} for key in _MAPS},
        "contributions": {
            "baseline": values, "shares": None, "points": {"resnet18": still, "vit": still}
        },
        "neighbours": None,
    }  # fmt: skip


class _Answers(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", _POLICY)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/api/model":
            return self._answer(200, "application/json", json.dumps(_model()).encode())
        name = self.path.rsplit("/", 1)[-1] or "page.html"
        kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
        source = resources.files("jaxbusi").joinpath("serve", "static", name)
        self._answer(200, kinds[name.rsplit(".", 1)[-1]], source.read_bytes())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        good = body.startswith(b"\x89PNG")
        found = _explained(body) if good else {"error": "no image format that is read"}
        self._answer(200 if good else 415, "application/json", json.dumps(found).encode())


@pytest.fixture(scope="module")
def served() -> Iterator[SimpleNamespace]:
    """A server of the page; `url` without a slash at the end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


# --- To be replaced: to here --------------------------------------------------------------------


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

        def open_page(before: Callable = lambda page: None, at: str = "/", **window) -> Visit:
            context = stack.enter_context(browser.new_context(**window))
            page = context.new_page()
            page.set_default_timeout(_SLOW)
            made = Visit(page, [], [])
            page.on("console", lambda line: made.complaints.append(line.text))
            page.on("pageerror", lambda error: made.complaints.append(str(error)))
            page.on("request", lambda request: made.asked.append(request.url))
            before(page)
            page.goto(served.url + at)
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
    assert one.complaints == []
    assert {url for url in one.asked if not url.startswith(("data:", served.url + "/"))} == set()
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


def test_results_are_saved(visit, images):
    two = visit()
    two.choose(*images[:2])
    expect(two.rows("done")).to_have_count(2)
    with two.page.expect_download() as saved:
        two.page.get_by_role("button", name="All results as CSV").click()
    lines = Path(saved.value.path()).read_text().splitlines()
    assert lines[0].startswith("file,frame,predicted,benign,malignant,normal,benign_low")
    assert [line.split(",")[0] for line in lines[1:]] == [path.name for path in images[:2]]
    with two.page.expect_download() as saved:
        two.page.get_by_role("button", name="This result as JSON").click()
    text = Path(saved.value.path()).read_text()
    assert json.loads(text)["file"] == images[0].name
    assert "data:image" not in text


def test_a_phone_shows_all_without_scrolling_sideways(visit, images, tmp_path):
    bad = tmp_path / ("a_name_without_any_space" * 6)
    bad.write_text("no image")
    phone = visit(viewport={"width": 390, "height": 844})
    phone.choose(images[0], bad)
    expect(phone.rows("failed")).to_have_count(1)
    expect(phone.page.locator("#explained")).to_be_visible()
    assert phone.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
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
    colours = {
        visit(color_scheme=theme).page.evaluate("getComputedStyle(document.body).backgroundColor")
        for theme in ("light", "dark")
    }
    assert len(colours) == 2


def test_a_token_is_asked_for_and_does_not_stay_in_the_address(visit, images):
    def guard(page: sync_api.Page) -> None:
        def check(route: sync_api.Route) -> None:
            right = route.request.headers.get("authorization") == "Bearer right"
            route.continue_() if right else route.fulfill(**_TOKEN_WANTED)

        page.route("**/api/**", check)

    typed = visit(guard)
    typed.choose(images[0])
    typed.page.get_by_label("Token", exact=True).fill("wrong")
    typed.page.keyboard.press("Enter")
    expect(typed.page.locator("#token-words")).to_have_text(re.compile("does not take this token"))
    typed.page.get_by_label("Token", exact=True).fill("right")
    typed.page.keyboard.press("Enter")
    expect(typed.rows("done")).to_have_count(1)
    expect(typed.page.locator("#token-form")).to_be_hidden()
    linked = visit(guard, at="/#token=right")
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
