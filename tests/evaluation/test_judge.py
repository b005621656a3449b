"""The judge, asked over real HTTP: a server that answers well, badly, late and not at all."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from prosg.cli import main
from prosg.data.row import Row, Stage, write_rows
from prosg.evaluation.judge.agreement import Agreement, Label, agreement, cohens_kappa, read_labels
from prosg.evaluation.judge.protocol import JudgeConfig, load_judge, preference
from prosg.evaluation.judge.summary import judged_steps, summary, summary_text
from prosg.evaluation.run_folder import read_run
from prosg.utils.options import build
from prosg.utils.store import read_log
from support.chat_server import Server, started

ANY = {"type": "words", "min": 1}


class JudgeServer(Server):
    """Says of a step that it was followed where the answer has its last word, and quotes that line.

    Words in an answer make it misbehave, the first `bad_times` times that it is asked about the answer.
    """

    def __init__(self, *, bad_times: int = 99, lean: str = "", **options: Any) -> None:
        super().__init__(**{"faults": 0.0, "bad": 0.0, **options})
        self.bad_times, self.lean = bad_times, lean
        self.asked: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()

    def say(self, body: dict[str, Any], rng: Random) -> tuple[str, str]:
        kind = body["response_format"]["json_schema"]["name"]
        parts = [part.partition("\n>>>")[0] for part in body["messages"][-1]["content"].split("<<<\n")[1:]]
        with self.lock:
            self.kinds[kind] += 1
            self.asked[parts[-1]] += 1
            bad = self.asked[parts[-1]] <= self.bad_times
        if kind == "musi_steps":
            if "unclear" in parts[0]:
                return "What do you mean?", "stop"
            return json.dumps({"sub_instructions": parts[0].removesuffix(".").split(", then ")}), "stop"
        if kind == "musi_comparison":
            better = self.lean or ("first" if len(parts[1]) > len(parts[2]) else "second")
            return json.dumps({"reason": "It is.", "better": better}), "stop"
        return self._judge(body["messages"][-1]["content"].partition("Steps:\n")[2], parts[1], bad)

    def _judge(self, told: str, answer: str, bad: bool) -> tuple[str, str]:
        steps = [line.split()[-1] for line in told.partition("\n\nReply")[0].splitlines()]
        lines = [next((line for line in answer.splitlines() if word in line), "") for word in steps]
        found = [{"step": n, "followed": "yes" if one else "no", "quote": one} for n, one in enumerate(lines, 1)]
        if bad and "PROSE" in answer:
            return "It follows them all.", "stop"
        if bad and "KEYS" in answer:
            return json.dumps({"verdicts": [{"number": 1, "ok": True} for _ in steps]}), "stop"
        if bad and "REFUSE" in answer:
            return "I'm sorry, but I can't judge that.", "stop"
        if bad and "CUT" in answer:
            return json.dumps({"verdicts": found})[:30], "length"
        if bad and "INVENT" in answer:
            found[-1] = {"step": len(steps), "followed": "yes", "quote": "words that nobody wrote"}
        return json.dumps({"verdicts": found}), "stop"


STAGED = Row(
    "staged",
    "Tell of the sea, then of a fish.",
    "The sea.\nA fish.",
    stages=(Stage("Tell of the sea", ANY, 0, ""), Stage("Tell of a fish", ANY, 8, "\nA")),
)
PLAIN = Row("plain", "Greet Anna, then thank Bob.", "Hello, Anna.\nThank you, Bob.")
LISTED = Row("listed", "Praise it twice.", "So red. So blue.", extra={"sub_instructions": ["Say red", "Say blue"]})


def make_run(folder: Path, answers: dict[str, list[str]], rows: tuple[Row, ...] = (STAGED, PLAIN, LISTED)) -> Path:
    write_rows(folder / "rows.jsonl", rows)
    (folder / "answers").mkdir()
    for name, texts in answers.items():
        lines = [json.dumps({"id": row.id, "text": text}) for row, text in zip(rows, texts, strict=False)]
        (folder / "answers" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


GOOD = ["The sea is wide.\nIt has a fish.", "Hello, Anna!\nThanks, Bob!", "It is red.\nIt is blue."]
HALF = ["The sea is wide.\nIt has none.", "Hello, Anna!", ""]


def make_config(folder: Path, url: str, **changes: Any) -> str:
    endpoint = {"base_url": url, "model": "judge", "api_key_env": "", "attempts": 4, "backoff": 0.01, "timeout": 10.0}
    content: dict[str, Any] = {"out": str(folder / "judge"), "budget": {"requests": 500, "tokens": 10**7}}
    content["endpoint"] = endpoint | changes.pop("endpoint", {})
    (folder / "judge.yaml").write_text(yaml.safe_dump(content | changes))
    return str(folder / "judge.yaml")


@pytest.fixture
def servers() -> Iterator[Any]:
    yield from started(JudgeServer)


def results(run: Path, name: str) -> dict[str, list[str]]:
    lines = read_log(run / "judge" / f"{name}.jsonl")
    return {line["id"]: [line["result"], *(stage["result"] for stage in line["stages"])] for line in lines}


def test_each_step_is_judged_and_nothing_is_asked_twice(tmp_path: Path, servers: Any, capsys: Any) -> None:
    server = servers()
    run = make_run(tmp_path / "run", {"good": GOOD, "half": HALF, "copy": GOOD})
    command = ["judge", str(run), "--config", make_config(tmp_path, server.url)]
    assert main(command) == 0
    assert results(run, "good") == {"staged": ["pass"] * 3, "plain": ["pass"] * 3, "listed": ["pass"] * 3}
    assert results(run, "copy") == results(run, "good")
    assert results(run, "half") == {
        "staged": ["fail", "pass", "fail"],
        "plain": ["fail", "pass", "fail"],
        "listed": ["fail", "fail", "fail"],
    }
    # One prompt has no steps of its own; equal answers are judged once, and an empty one needs no judge.
    assert server.kinds == {"musi_steps": 1, "musi_verdicts": 5}
    line = read_log(run / "judge" / "good.jsonl")[0]
    assert line["stages"][1] == {
        "stage": 2,
        "instruction": "Tell of a fish",
        "result": "pass",
        "quote": "It has a fish.",
        "why": "",
    }
    assert json.loads(line["replies"][0]["reply"])["verdicts"][1]["quote"] == "It has a fish."
    assert read_log(run / "judge" / "half.jsonl")[2]["stages"][0]["why"] == "the answer is empty"
    before = {path: path.read_bytes() for path in run.rglob("*.jsonl")}
    assert main(command) == 0
    assert sum(server.seen.values()) == 6
    assert before == {path: path.read_bytes() for path in run.rglob("*.jsonl")}
    out = capsys.readouterr().out
    assert "0 of 6" in out and "1.0 [1.0, 1.0]" in out


@pytest.mark.parametrize(
    ("word", "stages", "why"),
    [
        ("PROSE", ["unparsed", "unparsed"], "not JSON"),
        ("KEYS", ["unparsed", "unparsed"], "schema"),
        ("REFUSE", ["unparsed", "unparsed"], "a refusal"),
        ("CUT", ["unparsed", "unparsed"], "no verdict"),
        ("INVENT", ["pass", "unparsed"], "does not stand in the answer"),
    ],
)
def test_what_is_no_verdict_is_kept_apart_from_fail(
    tmp_path: Path, servers: Any, word: str, stages: list[str], why: str
) -> None:
    server = servers()
    run = make_run(tmp_path / "run", {"one": [f"The sea {word}.\nNo more."], "two": GOOD[:1]}, (STAGED,))
    assert main(["judge", str(run), "--config", make_config(tmp_path, server.url)]) == 0
    assert results(run, "one") == {"staged": ["unparsed", *stages]}
    assert results(run, "two") == {"staged": ["pass", "pass", "pass"]}
    line = read_log(run / "judge" / "one.jsonl")[0]
    assert why in line["stages"][1]["why"] and len(line["replies"]) == 3
    found = summary(run)["systems"]["one"]
    assert found["rows"] == {"pass": 0, "fail": 0, "unparsed": 1} and found["accuracy"] is None
    assert "-" in summary_text(run).splitlines()[2]


def test_the_first_verdict_of_a_step_counts(tmp_path: Path, servers: Any) -> None:
    server = servers(bad_times=1)
    texts = {"prose": ["The sea.\nPROSE."], "invent": ["The sea.\nINVENT"]}
    run = make_run(tmp_path / "run", texts, (STAGED,))
    assert main(["judge", str(run), "--config", make_config(tmp_path, server.url)]) == 0
    assert results(run, "prose") == results(run, "invent") == {"staged": ["fail", "pass", "fail"]}
    assert server.kinds == {"musi_verdicts": 4}


def test_an_instruction_that_cannot_be_taken_apart_is_unparsed(tmp_path: Path, servers: Any) -> None:
    row = Row("unclear", "An unclear wish.", "Yes.")
    run = make_run(tmp_path / "run", {"one": ["Yes."]}, (row,))
    assert main(["judge", str(run), "--config", make_config(tmp_path, servers().url)]) == 0
    line = read_log(run / "judge" / "one.jsonl")[0]
    assert (line["result"], line["stages"], len(line["replies"])) == ("unparsed", [], 3)


def test_a_late_server_is_waited_for(tmp_path: Path, servers: Any) -> None:
    calm = make_run(tmp_path / "calm", {"good": GOOD, "half": HALF})
    late = make_run(tmp_path / "late", {"good": GOOD, "half": HALF})
    (tmp_path / "a").mkdir()
    assert main(["judge", str(calm), "--config", make_config(tmp_path / "a", servers().url)]) == 0
    server = servers(faults=1.0, timeouts=1.0, patience=0.3, retry_after=("0.01",))
    assert main(["judge", str(late), "--config", make_config(tmp_path, server.url, endpoint={"timeout": 0.3})]) == 0
    assert server.outcomes["timeout"] and server.outcomes["reply"]
    for name in ("good", "half"):
        assert results(late, name) == results(calm, name)


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path, capsys: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    config = make_config(tmp_path, url, endpoint={"attempts": 2, "concurrency": 1})
    few = make_run(tmp_path / "few", {"a": GOOD})
    assert main(["judge", str(few), "--config", config]) == 1
    assert "3 requests met only failures (the last: no connection)" in capsys.readouterr().err
    assert results(few, "a") == {}
    many = make_run(tmp_path / "many", {name: [f"{name} sea.", "", f"{name} red."] for name in ("a", "b", "c")})
    assert main(["judge", str(many), "--config", config]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {url} gives no replies (no connection)")
    assert not (many / "judge").exists()


def test_caps_hold_and_what_is_missing_is_said(tmp_path: Path, servers: Any, capsys: Any) -> None:
    server = servers()
    run = make_run(tmp_path / "run", {"good": GOOD, "half": HALF})
    command = ["judge", str(run), "--config"]
    assert main([*command, make_config(tmp_path, server.url, budget={"requests": 3, "tokens": 10**7})]) == 1
    assert sum(server.seen.values()) == 3
    assert "budget.requests" in capsys.readouterr().err
    assert len(results(run, "good")) + len(results(run, "half")) == 3  # two verdicts, and the empty answer
    assert main([*command, make_config(tmp_path, server.url)]) == 0
    assert sum(server.seen.values()) == 6 and len(results(run, "good")) == 3


def test_a_preference_counts_where_both_orders_agree(tmp_path: Path, servers: Any, capsys: Any) -> None:
    fair, partial = servers(), servers(lean="first")
    for server, counts in ((fair, (3, 0, 0)), (partial, (0, 3, 3))):
        folder = tmp_path / str(counts[0])
        folder.mkdir()
        run = make_run(folder / "run", {"good": GOOD, "half": HALF, "copy": GOOD})
        config = make_config(folder, server.url, pairs=[["good", "half"], ["copy", "good"]])
        assert main(["judge", str(run), "--config", config]) == 0
        found = summary(run)["pairs"]["good--half"]
        assert (found["first"], found["tie"], found["disagreed"]) == counts
        assert summary(run)["pairs"]["copy--good"] == {
            "n": 3, "first": 0, "second": 0, "tie": 3, "unparsed": 0, "disagreed": 0,
        }  # fmt: skip
        assert server.kinds["musi_comparison"] == 6  # equal answers need no judge
    assert "good against half" in capsys.readouterr().out


def test_preferences() -> None:
    assert preference("first", "second") == "first"
    assert preference("second", "first") == "second"
    assert preference("first", "first") == preference("tie", "first") == preference("tie", "tie") == "tie"
    assert preference("unparsed", "first") == preference("first", "unparsed") == "unparsed"


def test_two_systems_that_a_comparison_cannot_be_read_of_are_unparsed(tmp_path: Path, servers: Any) -> None:
    server = servers(lean="both")
    run = make_run(tmp_path / "run", {"a": GOOD[:1], "b": HALF[:1]}, (STAGED,))
    assert main(["judge", str(run), "--config", make_config(tmp_path, server.url, pairs=[["a", "b"]])]) == 0
    assert read_log(run / "judge" / "pairs" / "a--b.jsonl")[0]["preferred"] == "unparsed"
    assert server.kinds["musi_comparison"] == 6


# -- people's labels


def test_cohens_kappa_is_the_textbooks() -> None:
    # p_o = .7, p_e = .5 * .6 + .5 * .4 = .5
    assert cohens_kappa(20, 5, 10, 15) == pytest.approx(0.4)
    assert cohens_kappa(45, 15, 25, 15) == pytest.approx(0.1304, abs=1e-4)
    assert cohens_kappa(5, 0, 0, 5) == 1
    assert cohens_kappa(0, 5, 5, 0) == -1
    assert cohens_kappa(5, 0, 0, 0) is None and cohens_kappa(0, 0, 0, 0) is None


def test_agreement_with_labels(tmp_path: Path, servers: Any, capsys: Any) -> None:
    run = make_run(tmp_path / "run", {"half": [*HALF[:2], "INVENT red"]})
    said = [("staged", 1, True), ("staged", 2, False), ("plain", 1, False), ("plain", 2, False), ("listed", 2, True)]
    lines = [json.dumps({"id": row, "system": "half", "stage": n, "label": label}) for row, n, label in said]
    labels = tmp_path / "labels.jsonl"
    labels.write_text("\n".join(lines))
    config = make_config(tmp_path, servers().url)
    assert main(["judge", str(run), "--config", config, "--labels", str(labels)]) == 0
    out = capsys.readouterr().out
    assert "Cohen's kappa 0.500, 4 steps: 1 both yes, 2 both no, 1 judge alone yes, 0 person alone yes" in out
    assert "1 without a verdict, 0 not judged" in out
    assert agreement(judged_steps(run), read_labels(labels)) == Agreement(1, 1, 0, 2, 1, 0)
    with pytest.raises(ValueError, match=r"stage 3 of 'plain', which has the stages \[1, 2\]"):
        agreement(judged_steps(run), {Label("plain", "half", 3): True})
    assert agreement(judged_steps(run), {Label("plain", "other", 3): True}).not_judged == 1
    labels.write_text(json.dumps({"id": "plain", "system": "whole", "stage": 1, "label": True}))
    assert main(["judge", str(run), "--config", config, "--labels", str(labels)]) == 2
    assert "labels.jsonl: no run has an answer of 'whole' to 'plain'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "a", "system": "s", "stage": 1}',
        '{"id": "a", "system": "s", "stage": true, "label": true}',
        '{"id": "a", "system": "s", "stage": 1, "label": 1}',
        '{"id": "a", "system": "s", "stage": 1, "label": true, "who": "me"}',
        "[1]",
    ],
)
def test_bad_labels_name_the_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "labels.jsonl"
    good = '{"id": "a", "system": "s", "stage": 2, "label": true}\n'
    file.write_text(good + line)
    with pytest.raises(ValueError, match="labels.jsonl:2: a label has"):
        read_labels(file)
    file.write_text(good + good)
    with pytest.raises(ValueError, match="labels.jsonl:2: a second label"):
        read_labels(file)


# -- what is wrong is said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"out": ""}, "out is missing"),
        ({"tries": 0}, "tries is 0; it must be at least 1"),
        ({"pair": []}, "unknown key pair"),
        ({"pairs": [["a"]]}, r"pairs[0] is ['a']"),
        ({"pairs": [["a", "c"]]}, "pairs names the system c; the runs have a, b"),
        ({"budget": {"tokens": 5}}, "budget.requests is missing"),
        ({"endpoint": {"attempts": 0}}, "endpoint.attempts is 0"),
        ({"endpoint": {"input_price": 1.0}}, "budget.money is missing"),
        ({"endpoint": {"api_key_env": "NO_SUCH_KEY"}}, "NO_SUCH_KEY, which is not set"),
    ],
)
def test_bad_configurations_are_one_line(tmp_path: Path, capsys: Any, changes: dict[str, Any], words: str) -> None:
    run = make_run(tmp_path / "run", {"a": GOOD, "b": HALF})
    assert main(["judge", str(run), "--config", make_config(tmp_path, "http://127.0.0.1:9/v1", **changes)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and words in lines[0]


def test_bad_folders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no rows.jsonl"):
        read_run(tmp_path)
    run = make_run(tmp_path / "run", {})
    with pytest.raises(ValueError, match="answers: has no NAME.jsonl"):
        read_run(run)
    file = run / "answers" / "a.jsonl"
    for line, words in (
        ('{"id": "plain"}', "a line is an object with"),
        ('{"id": "x", "text": ""}', "no row 'x'"),
        ('{"id": "staged", "text": ""}', "a second answer for 'staged'"),
    ):
        file.write_text('{"id": "staged", "text": ""}\n' + line + "\n")
        with pytest.raises(ValueError, match=f"a.jsonl:2: .*{words}"):
            read_run(run)
    file.write_text('{"id": "staged", "text": "Yes."}\n')
    for content, words in (("{", "not JSON"), ("[]", "holds a list"), ('{"a": {"label": 3}}', "a must be an object")):
        (run / "systems.json").write_text(content)
        with pytest.raises(ValueError, match=f"systems.json: {words}"):
            read_run(run)
    (run / "systems.json").write_text('{"a": {"label": "Ours"}}')
    assert read_run(run).systems["a"] == ("Ours", {"staged": "Yes."})


def test_the_shipped_configuration_lists_every_option() -> None:
    file = Path(__file__).parents[2] / "configs" / "judge.yaml"
    assert load_judge(file).budget.requests == 5000
    content = yaml.safe_load(file.read_text())
    wanted = dataclasses.asdict(build(JudgeConfig, {}))
    assert content.keys() == wanted.keys()
    for group in ("endpoint", "budget"):
        assert content[group].keys() == wanted[group].keys()
