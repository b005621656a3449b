"""People's ratings: the order they see, the page, the files, and what is made of them."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections import Counter
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from prosg.cli import main
from prosg.data.row import Row, write_rows
from prosg.evaluation.ratings.alpha import ordinal_alpha
from prosg.evaluation.ratings.items import SCALES, Item, letter, ordered, read_items
from prosg.evaluation.ratings.merge import merge, merge_text
from prosg.evaluation.ratings.server import make_app
from prosg.evaluation.ratings.store import current, write

SYSTEMS = {"phase1": "Phase one", "plus": "Own update", "static": ""}


def make_run(folder: Path, rows: int = 4, systems: dict[str, str] = SYSTEMS, first: int = 0) -> Path:
    places = range(first, first + rows)
    write_rows(folder / "rows.jsonl", [Row(f"row{i}", f"Say <{i}> & then list.", "x") for i in places])
    (folder / "answers").mkdir()
    for number, name in enumerate(systems):
        lines = [json.dumps({"id": f"row{i}", "text": f"<b>text</b> {i}.{number}"}) for i in places]
        (folder / "answers" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    labels = {name: {"label": label} for name, label in systems.items() if label}
    (folder / "systems.json").write_text(json.dumps(labels))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def client(run: Path, annotator: str = "anna", seed: int = 0) -> TestClient:
    items = ordered(read_items([run])[0], annotator, seed=seed)
    return TestClient(make_app(items, annotator, seed), base_url="http://127.0.0.1:8765", follow_redirects=False)


def token(page: str) -> str:
    found = re.search('data-token="([0-9a-f]+)"', page)
    assert found
    return found[1]


def rate(browser: TestClient, number: int, value: int = 3, letters: str = "ABC") -> None:
    page = browser.get(f"/prompt/{number}").text
    for name in letters:
        for scale in SCALES:
            rating = {"token": token(page), "letter": name, "scale": scale, "value": value}
            assert browser.post("/rate", json=rating).status_code == 200


def lines(run: Path, annotator: str = "anna") -> list[dict[str, Any]]:
    file = run / "ratings" / f"{annotator}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


# -- what is shown, in which order


def test_the_order_follows_from_seed_and_annotator(run: Path) -> None:
    items, left_out = read_items([run])
    assert left_out == 0 and len(items) == 4
    assert ordered(items, "anna") == ordered(items, "anna")
    others = [ordered(items, "bob"), ordered(items, "anna", seed=1)]
    assert all(other != ordered(items, "anna") for other in others)
    drawn = [{item.id for item in ordered(items, who, rows=2, seed=3)} for who in ("anna", "bob", "carl")]
    assert drawn[0] == drawn[1] == drawn[2] and len(drawn[0]) == 2
    assert len(ordered(items, "anna", rows=9)) == 4
    with pytest.raises(ValueError, match="--rows is 0"):
        ordered(items, "anna", rows=0)


def test_every_system_stands_behind_every_letter(tmp_path: Path) -> None:
    items = ordered(read_items([make_run(tmp_path / "run", 60)])[0], "anna")
    for place in range(3):
        found = Counter(item.candidates[place].system for item in items)
        assert min(found[name] for name in SYSTEMS) >= 10
    assert [letter(place) for place in (0, 25, 26)] == ["A", "Z", "A2"]


def test_rows_without_all_answers_are_left_out(run: Path) -> None:
    file = run / "answers" / "plus.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[1:]) + "\n")
    items, left_out = read_items([run])
    assert left_out == 1 and [item.id for item in items] == ["row1", "row2", "row3"]


def test_runs_are_pooled_by_row(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", systems={"plus": "Update", "phase1": ""})
    two = make_run(tmp_path / "two", systems={"plus": "Update"}, first=2)
    items, _ = read_items([one, two])
    assert [len(item.candidates) for item in items] == [2, 2, 3, 3, 1, 1]
    names = {candidate.name for item in items for candidate in item.candidates}
    assert names == {"phase1", f"Update ({one}/plus)", f"Update ({two}/plus)"}
    candidate = items[2].candidates[-1]
    write(items[2], candidate, "anna", "fluency", 4, shown="B", seed=0)
    assert len(lines(two)) == 1 and not lines(one)
    assert current(items, "anna") == {("row2", f"Update ({two}/plus)", "fluency"): 4}
    with pytest.raises(ValueError, match="a run is named twice"):
        read_items([one, one])
    write_rows(two / "rows.jsonl", [Row(f"row{i}", "Something else.", "x") for i in range(2, 6)])
    with pytest.raises(ValueError, match="row 'row2' has another prompt"):
        read_items([one, two])


# -- the page


def test_the_page_is_blind_and_texts_are_texts(run: Path) -> None:
    browser = client(run)
    pages = [browser.get(f"/prompt/{number}") for number in range(1, 5)]
    for page in pages:
        said = page.text.lower()
        assert not [word for word in (*SYSTEMS, *SYSTEMS.values(), str(run), "row0") if word and word.lower() in said]
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


def test_the_page_opens_at_the_first_prompt_that_is_open(run: Path) -> None:
    browser = client(run)
    assert browser.get("/").headers["location"] == "/prompt/1"
    rate(browser, 1)
    rate(browser, 3)
    assert browser.get("/").headers["location"] == "/prompt/2"
    rate(browser, 2, letters="AB")
    again = client(run)  # as after a kill
    assert again.get("/").headers["location"] == "/prompt/2"
    assert again.get("/prompt/2").text.count(" checked") == 6
    assert '<progress id="bar" max="4" value="2">' in again.get("/prompt/2").text
    assert again.get("/done").headers["location"] == "/"
    rate(again, 2, letters="C")
    rate(again, 4)
    assert again.get("/").headers["location"] == "/done"
    assert "All 4 prompts are rated" in again.get("/done").text
    assert len(lines(run)) == 36


def test_a_rating_is_written_at_once_and_may_be_changed(run: Path) -> None:
    browser = client(run)
    page = browser.get("/prompt/2").text
    rating = {"token": token(page), "letter": "B", "scale": "accuracy", "value": 5}
    assert browser.post("/rate", json=rating).json() == {"finished": 0}
    assert browser.post("/rate", json=rating | {"value": 0}).json() == {"finished": 0}
    item = ordered(read_items([run])[0], "anna")[1]
    candidate = item.candidates[1]
    assert [line["value"] for line in lines(run)] == [5, 0]
    assert {key: lines(run)[1][key] for key in ("id", "system", "scale", "shown", "seed")} == {
        "id": item.id, "system": candidate.system, "scale": "accuracy", "shown": "B", "seed": 0,
    }  # fmt: skip
    assert current([item], "anna") == {(item.id, candidate.name, "accuracy"): 0}
    shown = browser.get("/prompt/2").text
    assert shown.count(" checked") == 1 and 'name="B-accuracy" value="0" checked' in shown


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
def test_what_is_no_rating_is_not_written(run: Path, change: dict[str, Any], status: int) -> None:
    browser = client(run)
    rating = {"token": token(browser.get("/prompt/1").text), "letter": "A", "scale": "fluency", "value": 3}
    assert browser.post("/rate", json=rating | change).status_code == status
    assert not lines(run)


def test_a_page_of_somebody_else_is_refused(run: Path) -> None:
    page = client(run, "anna").get("/prompt/1").text
    rating = {"token": token(page), "letter": "A", "scale": "fluency", "value": 3}
    for browser in (client(run, "bob"), client(run, "anna", seed=1)):
        reply = browser.post("/rate", json=rating)
        assert reply.status_code == 409 and "earlier start" in reply.json()["detail"]
    assert not lines(run, "anna") and not lines(run, "bob")


def test_requests_under_another_name_are_refused(run: Path) -> None:
    assert client(run).get("/prompt/1", headers={"host": "elsewhere.example"}).status_code == 400


# -- the files


WRITER = """
import sys
from prosg.evaluation.ratings.items import read_items
from prosg.evaluation.ratings.store import write
items, _ = read_items([sys.argv[1]])
for value in range(60):
    write(items[0], items[0].candidates[int(sys.argv[2])], "anna", "fluency", value % 6, shown="A", seed=0)
"""


def test_two_processes_do_not_corrupt_a_file(run: Path) -> None:
    (run / "ratings").mkdir()
    (run / "ratings" / "anna.jsonl").write_text('{"id": "row0", "sys')  # what a kill left
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(run), str(n)]) for n in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    counts = Counter((line["system"], line["value"]) for line in lines(run))
    assert counts == {(name, value): 10 for name in ("phase1", "plus") for value in range(6)}


def test_ratings_of_an_answer_that_changed_do_not_count(run: Path) -> None:
    browser = client(run)
    rate(browser, 1)
    item = ordered(read_items([run])[0], "anna")[0]
    file = run / "answers" / "plus.jsonl"
    answers = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(a | {"text": "new"} if a["id"] == item.id else a) + "\n" for a in answers))
    assert client(run).get("/").headers["location"] == "/prompt/1"
    assert merge([run])["ratings"] == 6 and merge([run])["ignored"] == 3
    assert "3 more are of answers that are others by now" in merge_text(merge([run]))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "row0"}', "no rating"),
        ('{"id": "a", "system": "b", "scale": "beauty", "value": 1, "answer": "c"}', "no rating"),
        ('{"id": "a", "system": "b", "scale": "quality", "value": 7, "answer": "c"}', "value is 7; allowed: 0 to 5"),
        ("oops", "not JSON"),
    ],
)
def test_bad_files_name_the_line(run: Path, line: str, words: str, capsys: Any) -> None:
    rate(client(run), 1)
    with open(run / "ratings" / "anna.jsonl", "a") as file:
        file.write(line + "\n")
    assert main(["rate", str(run), "--merge"]) == 2
    told = capsys.readouterr().err
    assert "anna.jsonl:10: " in told and words in told
    reply = client(run).get("/prompt/1")
    assert reply.status_code == 500 and "anna.jsonl:10: " in reply.json()["detail"]


# -- what is made of them


def by_units(rows: str) -> list[list[int]]:
    """Raters' values, one line each, as units' values; a full stop stands for none."""
    raters = [line.split() for line in rows.strip().splitlines()]
    return [[int(value) for value in unit if value != "."] for unit in zip(*raters, strict=True)]


def test_alpha_is_the_published_one() -> None:
    # Krippendorff 2011, example C: four observers, twelve units; ordinal alpha .815.
    published = """
        1 2 3 3 2 1 4 1 2 . . .
        1 2 3 3 2 2 4 1 2 5 . 3
        . 3 3 3 2 3 4 2 2 5 1 .
        1 2 3 3 2 4 4 1 2 5 1 .
    """
    assert ordinal_alpha(by_units(published)) == pytest.approx(0.815, abs=5e-4)


def test_alpha_at_its_ends() -> None:
    assert ordinal_alpha([[0, 0], [3, 3, 3], [5, 5]]) == 1
    # Two values that always differ: n = 4, each met 2 and occurs 2 times, alpha = 1 - 3 * 2 / 4.
    assert ordinal_alpha([[0, 1], [1, 0]]) == pytest.approx(-0.5)
    for undefined in ([], [[3], [4]], [[2, 2], [2, 2]]):
        assert ordinal_alpha(undefined) is None
    # Only the order counts.
    assert ordinal_alpha([[0, 1], [1, 1], [5, 5]]) == ordinal_alpha([[0, 3], [3, 3], [4, 4]])


def give(items: list[Item], annotator: str, values: dict[str, list[int]]) -> None:
    for item in items:
        for candidate in item.candidates:
            if candidate.system in values:
                for scale in ("fluency", "quality"):
                    value = values[candidate.system][int(item.id[3:])]
                    write(item, candidate, annotator, scale, value, shown="A", seed=0)


def test_merged_ratings(run: Path, capsys: Any) -> None:
    items, _ = read_items([run])
    give(items, "anna", {"phase1": [1, 2, 3, 4], "plus": [2, 3, 4, 5]})
    give(items, "bob", {"phase1": [1, 2, 3, 4], "plus": [4, 5, 4, 5]})
    give(items[:1], "carl", {"static": [0]})
    found = merge([run])
    assert found["annotators"] == ["anna", "bob", "carl"] and found["ratings"] == 34 and found["ignored"] == 0
    fluency = found["scales"]["fluency"]
    assert fluency["systems"]["Phase one"] | {"interval": []} == {"mean": 2.5, "interval": [], "n": 8, "prompts": 4}
    assert fluency["systems"]["Own update"]["mean"] == 4.0 and fluency["systems"]["static"]["n"] == 1
    assert fluency["units"] == 8
    values = [[1, 1], [2, 2], [3, 3], [4, 4], [2, 4], [3, 5], [4, 4], [5, 5]]
    assert fluency["alpha"] == pytest.approx(ordinal_alpha(values))
    [difference] = fluency["differences"]
    assert (difference["ours"], difference["theirs"]) == ("Phase one", "Own update")
    assert difference["mean"] == -1.5 and difference["n"] == 8 and difference["prompts"] == 4
    assert difference["interval"][0] >= -2 and difference["interval"][1] <= -1
    assert found["scales"]["accuracy"]["systems"] == {} and found["scales"]["accuracy"]["alpha"] is None
    json.dumps(found)
    assert main(["rate", str(run), "--merge"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("3 annotators (anna, bob, carl), 34 ratings\n")
    assert re.search(r"Phase one - Own update +-1\.50 \[-2\.00, -1\.\d\d\] +- +-1\.50", out)
    assert re.search(r"Own update +4\.00 \[", out)


# -- the command


def test_what_is_wrong_is_one_line(run: Path, tmp_path: Path, capsys: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = [
            ([str(run), "--annotator", "../anna"], "--annotator is '../anna'"),
            ([str(run), "--annotator", ""], "--annotator is ''"),
            ([str(run), "--rows", "0"], "--rows is 0"),
            ([str(run), "--merge"], "has no ratings yet"),
            ([str(tmp_path)], "has no rows.jsonl"),
            ([str(run), "--annotator", "anna", "--port", port], f"--port {port} cannot be had"),
            ([str(run), "--annotator", "anna", "--port", "70000"], "allowed: 0 to 65535"),
        ]
        for options, words in cases:
            assert main(["rate", *options]) == 2
            told = capsys.readouterr().err.splitlines()
            assert len(told) == 1 and words in told[0]
    assert not (run / "ratings").exists()
