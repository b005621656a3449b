"""The rating pages and the server behind them."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from prosg.cli import main
from prosg.evaluation.ratings.items import items_for_annotator, read_items
from prosg.evaluation.ratings.server import UNUSABLE_FILE, make_app
from prosg.evaluation.ratings.store import current_ratings
from support.rating import SYSTEMS, make_run, open_browser, page_token, rate_page, rating_lines


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_pages_are_blind_and_escape_texts(run: Path) -> None:
    browser = open_browser(run)
    pages = [browser.get(f"/prompt/{number}") for number in range(1, 5)]
    for page in pages:
        text = page.text.lower()
        assert not [word for word in (*SYSTEMS, *SYSTEMS.values(), str(run), "row0") if word and word.lower() in text]
        assert "<b>" not in page.text and "<b>text</b>" in unescape(page.text)
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert page.headers["cache-control"] == "no-store"
        assert page.text.count("<fieldset") == page.text.count("<legend>") == 9
        assert page.text.count('type="radio"') == page.text.count("<label><input") == 54
        assert not re.search(r"(?:src|href)=\"(?!/|data:,)", page.text)
    assert browser.get("/prompt/5").status_code == browser.get("/prompt/0").status_code == 404
    for name, words in (("page.css", ".answers"), ("page.js", "ArrowDown")):
        content = browser.get(f"/{name}").text
        assert words in content and "http" not in content


def test_rating_starts_at_the_first_unfinished_prompt(run: Path) -> None:
    browser = open_browser(run)
    assert browser.get("/").headers["location"] == "/prompt/1"
    rate_page(browser, 1)
    rate_page(browser, 3)
    assert browser.get("/").headers["location"] == "/prompt/2"
    rate_page(browser, 2, letters="AB")
    restarted = open_browser(run)
    assert restarted.get("/").headers["location"] == "/prompt/2"
    assert restarted.get("/prompt/2").text.count(" checked") == 6
    assert '<progress id="bar" max="4" value="2">' in restarted.get("/prompt/2").text
    assert restarted.get("/done").headers["location"] == "/"
    rate_page(restarted, 2, letters="C")
    rate_page(restarted, 4)
    assert restarted.get("/").headers["location"] == "/done"
    assert "All 4 prompts" in restarted.get("/done").text
    assert len(rating_lines(run)) == 36


def test_a_rating_is_written_at_once_and_may_be_changed(run: Path) -> None:
    browser = open_browser(run)
    rating = {"token": page_token(browser.get("/prompt/2").text), "letter": "B", "scale": "accuracy", "value": 5}
    assert browser.post("/rate", json=rating).json() == {"finished": 0}
    assert browser.post("/rate", json=rating | {"value": 0}).json() == {"finished": 0}
    item = items_for_annotator(read_items([run])[0], "anna")[1]
    candidate = item.candidates[1]
    first, second = rating_lines(run)
    assert (first["value"], second["value"]) == (5, 0)
    fields = {"id": item.id, "system": candidate.system, "scale": "accuracy", "shown": "B", "seed": 0}
    assert second | fields == second
    assert current_ratings([item], "anna") == {(item.id, candidate.name, "accuracy"): 0}
    page = browser.get("/prompt/2").text
    assert page.count(" checked") == 1 and 'name="B-accuracy" value="0" checked' in page


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"value": 6}, 422),
        ({"value": -1}, 422),
        ({"value": "3"}, 422),
        ({"value": True}, 422),
        ({"value": 2.5}, 422),
        ({"scale": "beauty"}, 422),
        ({"letter": "D"}, 422),
        ({"system": "plus"}, 422),
        ({"token": "0" * 24}, 409),
    ],
)
def test_invalid_ratings_are_not_written(run: Path, change: dict[str, Any], status: int) -> None:
    browser = open_browser(run)
    rating = {"token": page_token(browser.get("/prompt/1").text), "letter": "A", "scale": "fluency", "value": 3}
    assert browser.post("/rate", json=rating | change).status_code == status
    assert not rating_lines(run)


BODIES = [
    (b"x" * 300_000, 413),
    (b"[" * 4000, 422),
    (b"[" * 5000, 413),
    (b'{"token": "\\ud83d", "letter": "\\ud83d", "scale": "fluency", "value": 3}', 409),
    (b'{"token": "TOKEN", "letter": "\\ud83d", "scale": "fluency", "value": 3}', 422),
    (b'{"token": "TOKEN", "\\ud83d": 1, "letter": "A", "scale": "fluency", "value": 3}', 422),
    (b'{"token": "TOKEN", "letter": "A", "scale": "fluency", "value": ' + b"1" * 2000 + b"}", 422),
    (b'{"token": "TOKEN", "letter": "A", "scale": "fluency", "value": NaN}', 422),
    (b"\xff", 422),
    (b"", 422),
    (b"null", 422),
]


@pytest.mark.parametrize(("body", "status"), BODIES)
def test_bodies_that_are_no_ratings_are_refused_in_one_line(run: Path, body: bytes, status: int) -> None:
    browser = open_browser(run)
    body = body.replace(b"TOKEN", page_token(browser.get("/prompt/1").text).encode())
    reply = browser.post("/rate", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == status and "\n" not in reply.json()["detail"] and len(reply.json()["detail"]) < 300
    assert not rating_lines(run)


def test_a_body_without_an_end_is_not_kept(run: Path) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(10_000):
            yield b"x" * 1000

    reply = open_browser(run).post("/rate", content=endless(), headers={"content-type": "application/json"})
    assert reply.status_code == 413 and not rating_lines(run)


def test_a_file_that_fails_is_named_in_the_terminal_alone(tmp_path: Path, capsys: Any) -> None:
    """Of two runs with a system each, the name of the file would say which of them wrote the answer just rated."""
    runs = [make_run(tmp_path / name, systems={name: ""}) for name in ("plus", "static")]
    items = items_for_annotator(read_items(runs)[0], "anna")
    browser = TestClient(make_app(items, "anna"), base_url="http://127.0.0.1:8765")
    letter = "AB"[[candidate.system for candidate in items[0].candidates].index("plus")]
    rating = {"token": page_token(browser.get("/prompt/1").text), "letter": letter, "scale": "fluency", "value": 3}
    (runs[0] / "ratings").write_text("a file where a folder has to be")
    reply = browser.post("/rate", json=rating)
    assert reply.status_code == 500 and reply.json() == {"detail": UNUSABLE_FILE}
    assert "no-store" in reply.headers["cache-control"]
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(runs[0] / "ratings") in error and error.count("\n") == 1


def test_forms_of_other_sites_are_refused(run: Path) -> None:
    browser = open_browser(run)
    rating = {"token": page_token(browser.get("/prompt/1").text), "letter": "A", "scale": "fluency", "value": 3}
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert browser.post("/rate", content=json.dumps(rating), headers={"content-type": kind}).status_code == 415
    assert not rating_lines(run)


def test_a_page_of_another_annotator_or_seed_is_refused(run: Path) -> None:
    page = open_browser(run, "anna").get("/prompt/1").text
    rating = {"token": page_token(page), "letter": "A", "scale": "fluency", "value": 3}
    for browser in (open_browser(run, "bob"), open_browser(run, "anna", seed=1)):
        reply = browser.post("/rate", json=rating)
        assert reply.status_code == 409 and "load it again" in reply.json()["detail"]
    assert not rating_lines(run, "anna") and not rating_lines(run, "bob")


def test_requests_under_another_host_name_are_refused(run: Path) -> None:
    assert open_browser(run).get("/prompt/1", headers={"host": "elsewhere.example"}).status_code == 400


def test_who_has_no_login_name_names_the_annotator(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def getuser() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", getuser)
    assert main(["rate", str(run)]) == 2
    assert "--annotator is missing" in capsys.readouterr().err


def test_bad_options_are_one_line(run: Path, tmp_path: Path, capsys: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = [
            ([str(run), "--annotator", "../anna"], "--annotator is '../anna'"),
            ([str(run), "--annotator", ""], "--annotator is ''"),
            ([str(run), "--rows", "0"], "--rows is 0"),
            ([str(run), "--merge"], str(run)),
            ([str(tmp_path)], "rows.jsonl"),
            ([str(run), "--annotator", "anna", "--port", port], f"--port {port}"),
            ([str(run), "--annotator", "anna", "--port", "70000"], "0 to 65535"),
        ]
        for options, words in cases:
            assert main(["rate", *options]) == 2
            lines = capsys.readouterr().err.splitlines()
            assert len(lines) == 1 and words in lines[0]
    assert not (run / "ratings").exists()
