"""Reports: whole by themselves, whatever the texts hold; judge, ratings and several runs in one."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from prosg.cli import main
from prosg.data.row import Row, Stage, derived_id
from prosg.evaluation.config import EvalConfig
from prosg.evaluation.report.blocks import Section, TableBlock
from prosg.evaluation.report.html import to_report_html
from prosg.evaluation.report.writer import write_reports
from support.evaluations import NO_CODE, RIGHT, code_row, finished, read, results

NASTY = "<script>alert(1)</script> a | b ![x](http://evil.example/x.png) & *c* _d_ `e` \\"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, and the text of each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.comments: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data.strip())


def tables(markdown: str) -> list[list[list[str]]]:
    """Every table's cells; a table's lines have as many as its head."""
    found: list[list[list[str]]] = []
    before = ""
    for line in markdown.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
            cells = [cell.strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]]
            if not before.startswith("|"):
                assert before == ""  # a table needs a blank line before it
                found.append([])
            found[-1].append(cells)
            assert len(cells) == len(found[-1][0])
        before = line
    return found


def cells(places: Sequence[dict[str, int]], right: bool) -> dict[str, Any]:
    one = {"kind": "code", "text": "", "right": [True, right]}
    return {"answers": [
        {**one, "id": f"row-{row}", **place, "distance_tokens": 9 * place["sentences"]}
        for place in places for row in (1, 2)
    ]}  # fmt: skip


def full(folder: Path, **changes: Any) -> EvalConfig:
    """A run with every section, and texts that would break a page."""
    rows = [code_row(1), code_row(2), Row("plain", NASTY, NASTY, "free")]
    systems = {
        "one": {"model": "m", "label": f"$x_1$ {NASTY}", "seed": 1},
        "other": {"model": "m", "label": "_hidden", "seed": 1, "update": "other"},
        "far": {"label": "far", "endpoint": {"model": "m", "api_key_env": "", "requests": 1, "tokens": 1}},
    }
    texts = {"one": [RIGHT, NO_CODE, NASTY], "other": [NO_CODE, NO_CODE, "a\nb\n\nc"], "far": [RIGHT, RIGHT, ""]}
    costs = {"batch": 2, "prompt_tokens": 4, "encode_ms": 1.0, "token_ms": 0.5, "state_bytes": 10, "parameters": 100,
             "encode_ms_update": 1.5, "token_ms_update": 0.7, "update_bytes": 3, "module_parameters": 10}  # fmt: skip
    parts = {
        name: {
            "curve": cells([{"sentences": n} for n in (5, 60, 120)], name == "one"),
            "capacity": cells([{"sentences": 1, "items": n} for n in (4, 6)], True),
            "overhead": costs,
        }
        for name in ("one", "other")
    }
    parts["far"] = {name: {"left_out": "no states"} for name in ("curve", "capacity", "overhead")}
    return finished(folder, rows, systems, texts, parts, title="A <b>title</b> | of & nothing", **changes)


def written(folder: Path, **changes: Any) -> Path:
    config = full(folder, **changes)
    write_reports([config.folder], config.folder)
    return config.folder


def test_the_page_needs_nothing_else_and_runs_nothing(tmp_path: Path) -> None:
    text = (written(tmp_path) / "report.html").read_text()
    page = Page(text)
    assert {"svg", "table", "figure", "article", "nav", "blockquote"} <= {tag for tag, _ in page.elements}
    assert not {"script", "iframe", "object", "embed", "link", "img", "b"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                assert (value or "").startswith("#"), (name, value)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)'\"]*)", text))
    # What people and models wrote stands there as they wrote it.
    assert any(NASTY in found for found in page.texts["blockquote"])
    assert any(NASTY in found for found in page.texts["p"])
    assert page.texts["h1"] == ["A <b>title</b> | of & nothing"]
    links = [attributes.get("href") for tag, attributes in page.elements if tag == "a"]
    assert links == [f"#s{i}" for i in range(len(links))]
    assert set(links) <= {f"#{attributes.get('id')}" for tag, attributes in page.elements if tag == "section"}


def test_every_figure_has_axes_and_a_caption_and_every_table_one(tmp_path: Path) -> None:
    out = written(tmp_path)
    page = Page((out / "report.html").read_text())
    assert len(page.texts["svg"]) == len(page.texts["figcaption"]) == 2
    assert all(len(caption) > 40 for caption in page.texts["figcaption"])
    assert len(page.texts["table"]) == len(page.texts["caption"]) and all(page.texts["caption"])
    # Letters are drawn as shapes; what they say stands in comments.
    for label in ("tokens written before the late stage (log scale)", "items that the prompt gives",
                  "late stage exactly right (share of prompts)", "1,080"):  # fmt: skip
        assert label in page.comments
    assert any("$x_1$" in comment for comment in page.comments)  # no formula
    assert any("_hidden" in comment for comment in page.comments)
    for number in (1, 2):
        assert (out / f"report-{number}.svg").read_text().startswith("<svg")


def test_markdown_has_the_same_tables_and_no_html(tmp_path: Path) -> None:
    out = written(tmp_path)
    text = (out / "report.md").read_text()
    found = tables(text)
    page = Page((out / "report.html").read_text())
    assert len(found) == len(page.texts["table"]) + 2  # the cases
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert "](http" not in text
    assert text.count("](report-") == 2
    assert re.sub(r"<br>", "", text).count("<") == 0


def test_results_are_the_same_whatever_the_folder(tmp_path: Path) -> None:
    first = (written(tmp_path / "a") / "results.json").read_text().replace(str(tmp_path / "a"), "")
    second = (written(tmp_path / "b") / "results.json").read_text().replace(str(tmp_path / "b"), "")
    assert first == second
    figure = [(tmp_path / name / "out" / "report-1.svg").read_bytes() for name in "ab"]
    assert figure[0] == figure[1]


# -- judge and ratings

PLAIN = [Row(f"row-{i}", f"Tell, then sing, {i}.", "x", "free") for i in (1, 2)]
TWO = {"a": {"model": "a"}, "b": {"model": "b"}}


def judged(config: EvalConfig, name: str, lines: Sequence[dict[str, Any]]) -> None:
    folder = config.folder / "judge"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def line(row: str, *passed: str, **more: Any) -> dict[str, Any]:
    said = [{"stage": i, "instruction": "do", "result": one, "quote": "", "why": ""} for i, one in enumerate(passed, 1)]
    result = "pass" if set(passed) == {"pass"} else "fail"
    return {"id": row, "result": result, "stages": said, "replies": [], **more}


def test_rows_without_checks_are_undecided_until_they_are_judged(tmp_path: Path) -> None:
    config = finished(tmp_path, PLAIN, TWO, {"a": ["yes", "no"], "b": ["no", "no"]})
    write_reports([config.folder], config.folder)
    assert [(row.get("accuracy"), row["undecided"]) for row in results(config.folder)] == [(None, 2), (None, 2)]
    said = (config.folder / "report.md").read_text()
    assert "not counted: a 2 and b 2." in said and "| undecided |" in said

    judged(config, "a", [line("row-1", "pass", "pass"), line("row-2", "pass", "fail")])
    judged(config, "b", [line("row-1", "pass", "unparsed"), line("row-2", "fail", "fail")])
    assert main(["report", str(config.folder)]) == 0
    found = results(config.folder)
    assert [(row["accuracy"], row["undecided"]) for row in found] == [(0.5, 0), (0.0, 1)]
    assert [row["late_accuracy"] for row in found] == [0.5, 0.0]
    said = (config.folder / "report.md").read_text()
    assert "not counted: b 1." in said and "## The judge" in said
    assert ["a", "answer", "right", "yes"] in [row for table in tables(said) for row in table]


def test_a_verdict_on_another_answer_does_not_count(tmp_path: Path) -> None:
    config = finished(tmp_path, PLAIN, {"a": {"model": "a"}}, {"a": ["yes", "no"]})
    right, wrong = derived_id(PLAIN[0].prompt, "yes"), derived_id(PLAIN[1].prompt, "what it wrote before")
    judged(config, "a", [line("row-1", "pass", answer=right), line("row-2", "pass", answer=wrong)])
    assert read(config).systems[0].verdicts == {"row-1": (True,), "row-2": (None,)}


def rated(config: EvalConfig, annotator: str, values: dict[tuple[str, str], int], texts: dict[str, str]) -> None:
    folder = config.folder / "ratings"
    folder.mkdir(exist_ok=True)
    prompts = {row.id: row.prompt for row in PLAIN}
    lines = [
        {"id": row, "system": system, "scale": scale, "value": value, "answer": derived_id(prompts[row], texts[system])}
        for (row, system), value in values.items()
        for scale in ("fluency", "accuracy", "quality")
    ]
    (folder / f"{annotator}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))


def test_peoples_ratings_stand_in_the_main_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = finished(tmp_path, PLAIN, TWO, {"a": ["yes", "yes"], "b": ["no", "no"]})
    texts = {"a": "yes", "b": "no"}
    rated(config, "ann", {("row-1", "a"): 5, ("row-2", "a"): 4, ("row-1", "b"): 1}, texts)
    rated(config, "bob", {("row-1", "a"): 3, ("row-1", "b"): 2}, texts)
    assert main(["report", str(config.folder)]) == 0
    said = (config.folder / "report.md").read_text()
    main_table = next(one for one in tables(said) if one[0][:2] == ["system", "perplexity"])
    assert main_table[0][3:] == ["fluency, people", "accuracy, people", "quality, people"]
    assert [row[3:] for row in main_table[2:]] == [["4.00"] * 3, ["1.50"] * 3]
    assert "## People's ratings" in said and "Krippendorff's alpha" in said
    # Ratings of answers that are others by now are left out, and the report is written.
    rated(config, "ann", {("row-1", "a"): 5}, {"a": "what it wrote before"})
    (config.folder / "ratings" / "bob.jsonl").unlink()
    assert main(["report", str(config.folder)]) == 0
    assert "ratings are left out" in capsys.readouterr().err
    assert "people |" not in (config.folder / "report.md").read_text()


# -- several runs


def test_several_runs_of_the_same_rows_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [code_row(number) for number in (1, 2)]
    first = finished(tmp_path / "a", rows, {"x": {"model": "x", "label": "same"}}, {"x": [RIGHT, RIGHT]})
    second = finished(tmp_path / "b", rows, {**TWO, "x": {"model": "y", "label": "same"}},
                      {"x": [NO_CODE, RIGHT], "a": [RIGHT, NO_CODE], "b": [NO_CODE, NO_CODE]})  # fmt: skip
    out = tmp_path / "c"
    assert main(["report", str(first.folder), str(second.folder), "--out", str(out)]) == 0
    # What both call the same is told apart; the folders have the same name, so by their paths.
    names = [row["system"] for row in results(out)]
    assert names == [f"{first.folder}: same", "a", "b", f"{second.folder}: same"]
    assert {row["system"]: row["accuracy"] for row in results(out)}[f"{second.folder}: same"] == 0.5
    assert f'beside "{first.folder}: same"' in (out / "report.html").read_text().replace("&quot;", '"')
    assert sorted(file.name for file in out.iterdir()) == ["report.html", "report.md", "results.json"]

    def complaint(*arguments: str) -> str:
        assert main(["report", *arguments]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1, told
        return told[0]

    both = (str(first.folder), str(second.folder))
    assert "--out is missing" in complaint(*both)
    assert "a run is named twice" in complaint(both[0], both[0], "--out", str(out), "--overwrite")
    assert f"--out is {both[1]}, one of the runs" in complaint(*both, "--out", both[1])
    assert f"{tmp_path}: has no config.json; name the folder of an evaluation (prosg eval)" in complaint(str(tmp_path))
    others = finished(tmp_path / "d", [code_row(3)], TWO, {"a": [RIGHT], "b": [RIGHT]})
    assert "asked other rows than" in complaint(both[0], str(others.folder), "--out", str(out), "--overwrite")


def test_a_report_can_be_moved_with_its_run(tmp_path: Path) -> None:
    """Models need not be there any more: what was measured is what counts."""
    before = written(tmp_path / "here")
    shutil.move(before, tmp_path / "moved")
    assert main(["report", str(tmp_path / "moved")]) == 0
    assert results(tmp_path / "moved", measure="free")


def test_a_run_without_anything_measured_says_so(tmp_path: Path) -> None:
    rows = [code_row(1)]
    config = finished(tmp_path, rows, TWO, {}, {"a": {}, "b": {}}, measures=["accuracy", "curve"])
    assert write_reports([config.folder], config.folder) == ["a: accuracy", "a: curve", "b: accuracy", "b: curve"]
    assert results(config.folder) == []
    assert (
        "Not whole: a: accuracy, a: curve, b: accuracy and b: curve are missing"
        in (config.folder / "report.md").read_text()
    )


def test_stages_that_are_not_there_are_shown_so(tmp_path: Path) -> None:
    stages = (
        Stage("tell", {"type": "words", "min": 1}, 0, ""),
        Stage("end", {"type": "exact", "text": "End"}, 1, "\nEnd"),
    )
    row = Row("row-1", "Tell, then end.", "a\nEnd", "k", stages)
    config = finished(tmp_path, [row], {"a": {"model": "a"}}, {"a": ["a long story " * 100]})
    write_reports([config.folder], config.folder)
    said = (config.folder / "report.md").read_text()
    assert "| 2. end | WRONG | (not there) |" in said and " [...] " in said


def test_controls_of_one_model_in_any_combination(tmp_path: Path) -> None:
    systems = {name: {"model": "m", "label": name, "update": update, "state": "wiped"}
               for name, update in (("x", "other"), ("y", "mean"))}  # fmt: skip
    config = finished(tmp_path, [code_row(1), code_row(2)], systems, {"x": [RIGHT] * 2, "y": [NO_CODE] * 2})
    write_reports([config.folder], config.folder)
    said = (config.folder / "report.md").read_text()
    assert "| another prompt's, state wiped | the mean update, state wiped |" in said


def test_tables_of_a_page_scroll_and_numbers_stand_to_the_right() -> None:
    table = [["system", "late stage", "claim", "note"], ["a", ".98 [.9, 1.0]", "better", "x" * 60], ["b", "-", "-", ""]]
    page = Page(to_report_html("Title", [Section("One", [TableBlock(table, "What it is.")])]))
    cells = [attributes.get("class") for tag, attributes in page.elements if tag == "td"]
    assert cells == ["number", None, "long"] * 2
    (frame,) = [attributes for _, attributes in page.elements if attributes.get("class") == "table"]
    assert (frame["tabindex"], frame["role"], frame["aria-label"]) == ("0", "region", "What it is.")


def test_a_model_whose_logits_are_no_numbers_has_its_place_in_the_report(tmp_path: Path) -> None:
    rows = [code_row(number) for number in range(6)]

    def parts(right: bool, nll: float) -> dict[str, Any]:
        answers = [
            {"id": row.id, "kind": "code", "sentences": n, "text": "", "right": [right] * 2, "finite": right}
            | {"distance_tokens": 9 * n * right}
            for row in rows
            for n in (1, 2)
        ]
        score = {"nll": nll, "tokens": 9, "exact": False, "late_nll": nll, "late_tokens": 4, "late_exact": False}
        return {"perplexity": {row.id: score for row in rows}, "curve": {"answers": answers}}

    systems = {"whole": {"model": "demo"}, "broken": {"model": "demo", "update": "other"}}
    given = {"whole": parts(True, 9.0), "broken": parts(False, math.nan)}
    config = finished(tmp_path, rows, systems, {}, given, curve={"sentences": [1, 2]}, data={"kinds": ["code"]})
    assert write_reports([config.folder], config.folder) == []
    found = json.loads((config.folder / "results.json").read_text(), parse_constant=pytest.fail)["rows"]
    free = {row["system"]: row for row in found if row["measure"] == "free"}
    assert free["whole"]["perplexity"] and "perplexity" not in free["broken"] and free["broken"]["not_finite"] == 6
    report = (config.folder / "report.md").read_text()
    assert "| broken | likelihood per token | not finite | not finite |" in report
    assert "12 of broken" in report and "nan" not in report


def test_ratings_are_told_by_files_since_labels_may_be_shared(tmp_path: Path) -> None:
    systems: dict[str, dict[str, Any]] = {
        "a": {"model": "a", "label": "b"},
        "b": {"model": "b", "label": "own"},
        "c": {"model": "c", "label": "b", "seed": 2},
    }
    texts = {"a": "yes", "b": "no", "c": "so"}
    config = finished(tmp_path, PLAIN, systems, {name: [text, text] for name, text in texts.items()})
    rated(config, "ann", {("row-1", "a"): 5, ("row-1", "b"): 1, ("row-1", "c"): 3}, texts)
    assert main(["report", str(config.folder)]) == 0
    said = tables((config.folder / "report.md").read_text())
    main_table = next(one for one in said if one[0][:2] == ["system", "perplexity"])
    assert {row[0]: row[3] for row in main_table[2:]} == {"b": "4.00", "own": "1.00"}
    means = next(one for one in said if one[0][-1] == "ratings")
    assert sorted((row[0], row[1][:4]) for row in means[2:]) == [("b", "3.00"), ("b", "5.00"), ("own", "1.00")]
    pairs = next(one for one in said if one[0][0] == "difference")
    assert [row[0] for row in pairs[2:]] == ["b - own", "b - b", "own - b"] and pairs[2][-1] == "1"
