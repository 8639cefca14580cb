"""The chat page in a real Chromium, against a real Ray Serve with a tiny random model behind it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright import sync_api as playwright

from serve.settings import PageSettings
from tests.serving import make_served, serve_job
from tests.unit.converse.memory import picture

pytestmark = [pytest.mark.ray, pytest.mark.browser]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


BEGINS = PageSettings(mode="always", examples=("something striped", "<b>a red one</b>"))


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        reason = "Chromium is not installed: run `make system-deps` as root"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def address(chromium: str, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    args = make_served(str(tmp_path_factory.mktemp("page"))).replace(page=BEGINS)
    with serve_job(args, signal.SIGINT) as found:  # Ctrl-C
        yield found


@pytest.fixture(scope="module", autouse=True)
def patience() -> None:
    playwright.expect.set_options(timeout=30_000)  # a full machine answers late, and that is not what is tested here


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as runner:
        opened = runner.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: playwright.Browser, address: str) -> Iterator[playwright.Page]:
    opened = browser.new_page(viewport={"width": 1200, "height": 860})
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on(
        "console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None
    )
    opened.set_default_timeout(30_000)
    opened.goto(address)
    yield opened
    opened.close()
    assert faults == [], "no script error, nothing blocked by the page's own policy"


def screenshot(page: playwright.Page, name: str) -> None:
    """Keep a picture of the page where CHATSEARCH_SCREENSHOTS says, for people to look at."""
    folder = os.environ.get("CHATSEARCH_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def say(page: playwright.Page, text: str, mode: str) -> None:
    page.get_by_text(mode, exact=True).click()
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def test_it_begins_with_the_mode_and_the_examples_it_is_served_with(page: playwright.Page) -> None:
    expect = playwright.expect
    expect(page.locator("input[name=mode][value=always]")).to_be_checked()
    examples = page.get_by_label("Examples").get_by_role("button")
    expect(examples).to_have_text(list(BEGINS.examples))
    examples.first.click()
    expect(page.get_by_label("Message", exact=True)).to_have_value(BEGINS.examples[0])


def test_type_see_candidates_click_one_undo(page: playwright.Page, tmp_path: Path) -> None:
    expect = playwright.expect
    screenshot(page, "welcome")
    expect(page.locator("#served")).to_contain_text("model")
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()

    say(page, "something to eat that keeps the doctor away", "Pictures")
    candidates = page.locator(".turn.assistant:not(.pending) .candidate")
    expect(candidates).to_have_count(10)
    expect(candidates.first).to_contain_text("1")
    pictures = "[...document.querySelectorAll('.candidate img')]"
    widths = page.evaluate(f"Promise.all({pictures}.map((image) => image.decode().then(() => image.naturalWidth)))")
    assert min(widths) > 0, "every picture has arrived"
    screenshot(page, "candidates")

    candidates.nth(1).click()
    expect(page.locator('.candidate[aria-pressed="true"]')).to_have_count(1)
    expect(candidates.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(candidates.nth(1)).to_contain_text("picked")
    expect(page.locator(".turn.pending")).to_have_count(0)
    screenshot(page, "picked")

    candidates.nth(0).click()  # another pick rewinds to the same [IMG]
    expect(candidates.nth(0)).to_have_attribute("aria-pressed", "true")
    expect(candidates.nth(1)).to_have_attribute("aria-pressed", "false")

    page.get_by_role("button", name="Undo").click()
    expect(candidates.nth(1)).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator('.candidate[aria-pressed="true"]')).to_have_count(0)
    expect(candidates).to_have_count(10)

    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    exported = json.loads(Path(download.value.path()).read_text())
    assert len(exported["transcript"]["steps"]) == 1

    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.get_by_role("heading", name="Find the picture you mean")).to_be_visible()


def test_words_stream_in_and_text_is_never_markup(page: playwright.Page) -> None:
    expect = playwright.expect
    hostile = "<img src=x onerror=\"document.title='owned'\"> <b>bold</b>"
    say(page, hostile, "Words")
    expect(page.locator(".turn.user:not(.pending) .text")).to_have_text(hostile)
    expect(page.locator(".turn.assistant:not(.pending)")).to_have_count(1)
    assert page.title() == "chatsearch"
    assert page.locator(".turn b").count() == 0
    page.reload()
    expect(page.locator(".turn.user .text")).to_have_text(hostile)


def test_attach_a_picture_remove_it_send_it_and_delete_the_conversation(
    page: playwright.Page, tmp_path: Path, address: str
) -> None:
    expect = playwright.expect
    files = []
    for seed in (901, 902):
        files.append(tmp_path / f"{seed}.png")
        files[-1].write_bytes(picture(seed))
    page.set_input_files("#file", files)
    expect(page.locator("#attachments img")).to_have_count(2)
    page.get_by_role("button", name="Remove 901.png").click()
    expect(page.locator("#attachments img")).to_have_count(1)
    say(page, "like this one", "Pictures")
    shown = page.locator(".turn.user:not(.pending) img.shown")
    expect(shown).to_have_count(1)
    assert page.evaluate("document.querySelector('.turn.user img.shown').decode().then(() => true)")
    screenshot(page, "attachment")
    where = page.evaluate("sessionStorage.getItem('chatsearch.conversation')")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    expect(page.locator(".turn")).to_have_count(0)
    assert page.request.get(f"{address}/v1/conversations/{where}").status == 404


def test_errors_are_shown_as_toasts_and_the_message_comes_back(page: playwright.Page) -> None:
    expect = playwright.expect
    say(page, "word " * 1500, "Words")
    toast = page.locator(".toast")
    expect(toast).to_contain_text("the limit is 400")
    expect(toast).to_contain_text("trace")
    expect(page.locator(".turn")).to_have_count(0)
    assert page.get_by_label("Message", exact=True).input_value().startswith("word word")
    screenshot(page, "toast")
    page.keyboard.press("Escape")
    expect(toast).to_have_count(0)


def test_a_new_conversation_takes_nothing_from_the_answer_that_was_left(page: playwright.Page, tmp_path: Path) -> None:
    expect = playwright.expect
    upload = tmp_path / "903.png"
    upload.write_bytes(picture(903))
    held: list[playwright.Route] = []
    for where in ("**/v1/conversations", "**/turns"):  # left while it is created, and while it is answered
        page.route(where, lambda route: held.append(route))  # noqa: PLW0108 - playwright marks what it is given
        page.set_input_files("#file", upload)
        expect(page.locator("#attachments img")).to_have_count(1)
        with page.expect_request(where):
            say(page, "a red apple", "Words")
        expect(page.get_by_role("button", name="Send")).to_be_disabled()
        page.get_by_role("button", name="New").click()
        expect(page.get_by_role("button", name="Send")).to_be_enabled()
        expect(page.locator(".turn")).to_have_count(0)
        expect(page.locator("#attachments img")).to_have_count(0)
        expect(page.get_by_label("Message", exact=True)).to_have_value("")
        expect(page.locator(".toast")).to_have_count(0)
        assert page.evaluate("sessionStorage.getItem('chatsearch.conversation')") is None
        page.unroute(where)
    assert len(held) == 2
    say(page, "a blue car", "Words")
    expect(page.locator(".turn.user:not(.pending) .text")).to_have_text("a blue car")


def test_a_pick_that_fails_leaves_no_mark(page: playwright.Page) -> None:
    expect = playwright.expect
    say(page, "something striped", "Pictures")
    candidates = page.locator(".turn.assistant:not(.pending) .candidate")
    expect(candidates).to_have_count(10)
    body = json.dumps({"title": "Overloaded", "detail": "All replicas are busy.", "status": 503})
    page.route("**/picks", lambda route: route.fulfill(status=503, content_type="application/problem+json", body=body))
    candidates.nth(2).click()
    expect(page.locator(".toast")).to_contain_text("busy")
    expect(page.locator('.candidate[aria-pressed="true"]')).to_have_count(0)
    page.unroute("**/picks")
    candidates.nth(2).click()
    expect(candidates.nth(2)).to_contain_text("picked")


def test_it_works_by_keyboard_on_a_narrow_dark_screen(browser: playwright.Browser, address: str) -> None:
    expect = playwright.expect
    page = browser.new_page(viewport={"width": 390, "height": 780}, color_scheme="dark")
    page.goto(address)
    expect(page.locator("input[name=mode][value=always]"), "its settings have come").to_be_checked()
    page.keyboard.type("a red apple")
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant:not(.pending) .candidate")).to_have_count(10)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out sideways"
    page.locator(".candidate").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".candidate").first).to_contain_text("picked")
    screenshot(page, "narrow-dark")
    page.close()


def test_the_api_reference_is_drawn_without_foreign_scripts(page: playwright.Page, address: str) -> None:
    paths = page.request.get(f"{address}/openapi.json").json()["paths"]
    page.goto(f"{address}/docs")
    playwright.expect(page.locator(".reference details")).to_have_count(sum(len(methods) for methods in paths.values()))
    page.locator(".reference details").first.locator("summary").click()
    playwright.expect(page.locator(".reference pre").first).to_contain_text("messages")
    screenshot(page, "docs")
