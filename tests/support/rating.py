"""Runs to rate, and a browser at the rating pages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from prosg.data.row import Row, write_rows
from prosg.evaluation.ratings.items import SCALES, items_for_annotator, read_items
from prosg.evaluation.ratings.server import make_app

SYSTEMS = {"phase1": "Phase one", "plus": "Own update", "static": ""}
"""Labels by name."""


def make_run(folder: Path, rows: int = 4, systems: Mapping[str, str] = SYSTEMS, first: int = 0) -> Path:
    """The folder of an evaluation with rows row0, row1, ... and all systems' answers to them."""
    numbers = range(first, first + rows)
    write_rows(folder / "rows.jsonl", [Row(f"row{i}", f"Say <{i}> & then list.", "x") for i in numbers])
    (folder / "answers").mkdir()
    for number, name in enumerate(systems):
        lines = [json.dumps({"id": f"row{i}", "text": f"<b>text</b> {i}.{number}"}) for i in numbers]
        (folder / "answers" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    labels = {name: {"label": label} for name, label in systems.items() if label}
    (folder / "systems.json").write_text(json.dumps(labels))
    return folder


def open_browser(run: Path, annotator: str = "anna", seed: int = 0) -> TestClient:
    """A client of the rating server of one annotator."""
    items = items_for_annotator(read_items([run])[0], annotator, seed=seed)
    return TestClient(make_app(items, annotator, seed), base_url="http://127.0.0.1:8765", follow_redirects=False)


def page_token(page: str) -> str:
    match = re.search('data-token="([0-9a-f]+)"', page)
    assert match
    return match[1]


def rate_page(browser: TestClient, number: int, value: int = 3, letters: str = "ABC") -> None:
    """Rates some answers of a page on all scales."""
    token = page_token(browser.get(f"/prompt/{number}").text)
    for letter in letters:
        for scale in SCALES:
            rating = {"token": token, "letter": letter, "scale": scale, "value": value}
            assert browser.post("/rate", json=rating).status_code == 200


def rating_lines(run: Path, annotator: str = "anna") -> list[dict[str, Any]]:
    """The recorded ratings of an annotator; [] where there is no file."""
    file = run / "ratings" / f"{annotator}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
