"""The playground in a browser: ask, stream, switch the memory, reload and go on; wide and narrow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import CODE, live_server

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
PICTURES = os.environ.get("PROSG_PICTURES")
"""Folder for screenshots, to look at."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with live_server(tmp_path_factory.mktemp("playground"), "--template", "world") as server:
        yield server.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def picture(page: Any, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


def ask(page: Any, text: str) -> list[str]:
    """Sends a message; the last texts of both columns once they are written."""
    page.fill("#question", text)
    page.press("#question", "Enter")
    playwright.expect(page.locator("#send")).to_have_text("Send", timeout=60000)
    return [column.locator(".turn.assistant").last.inner_text() for column in page.locator(".column").all()]


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_playground(browser: Any, url: str, width: int, height: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": height})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(url)
    page.locator("body[data-ready=true]").wait_for()
    picture(page, f"empty-{width}")
    page.click("#settings summary")
    page.fill("#tokens", "40")
    page.fill("#temperature", "0")
    page.click("#settings summary")
    first = ask(page, CODE)
    assert all(first)
    distances = page.locator(".distance b").all_inner_texts()
    assert len(distances) == 2 and all(int(text) > 0 for text in distances)
    for note in page.locator(".turn.assistant small").all_inner_texts():
        assert "tokens since the prompt" in note and "4821937" in note
    columns = page.locator(".column select")
    columns.nth(0).select_option("update")
    columns.nth(1).select_option("update")
    second = ask(page, "And now?")
    assert all(second)
    assert all(
        int(new) > int(old) for new, old in zip(page.locator(".distance b").all_inner_texts(), distances, strict=True)
    )
    picture(page, f"asked-{width}")
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0
    box = page.locator("#ask").bounding_box()
    assert box["y"] + box["height"] <= height
    notes = page.locator(".turn.assistant small").all_inner_texts()
    page.reload()
    page.locator("body[data-ready=true]").wait_for()
    assert page.locator(".turn.assistant small").all_inner_texts() == notes
    assert page.locator(".column").nth(0).locator(".turn").count() == 4
    assert [page.locator(".column select").nth(n).input_value() for n in (0, 1)] == ["update", "update"]
    assert all(ask(page, "Once more."))
    page.click("#settings summary")
    picture(page, f"options-{width}")
    page.click("#reset")
    assert page.locator(".turn").count() == 0
    page.goto(f"{url}reference")
    page.locator("details").first.wait_for()
    page.click("details >> nth=0")
    picture(page, f"reference-{width}")
    assert page.locator("details").count() >= 12
    assert errors == []
    page.close()


def test_what_an_answer_repeats_of_its_prompt(browser: Any, url: str) -> None:
    page = browser.new_page()
    page.goto(url)
    found = page.evaluate(
        """async () => {
            const { compare, summary } = await import("/playground/facts.js");
            const turns = [
                { role: "user", content: "Remember 48219 and that Anna met Ben. Tell a story." },
                { role: "user", content: "Add 1234." },
            ];
            const found = compare(turns, "Anna said 48291, then 1234.");
            return [found, summary(found), summary(compare(turns.slice(0, 1), "48219"))];
        }"""
    )
    assert found[0] == {"repeated": ["Anna"], "missing": ["48219", "Ben"], "invented": ["48291"]}
    assert found[1] == ["repeats Anna", "without 48219, Ben", "in no message: 48291"]
    assert found[2] == ["repeats 48219", "without Anna, Ben"]
    page.close()
