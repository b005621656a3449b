"""`prosg judge` over real HTTP, with a server that answers well, badly, late and not at all."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prosg.cli import main
from prosg.data.row import Row
from prosg.evaluation.judge.summary import judge_summary, judge_summary_text
from prosg.utils.store import read_log
from support.chat_server import server_factory
from support.judging import GOOD, HALF, STAGED, JudgeServer, make_config, make_run


@pytest.fixture
def servers() -> Iterator[Any]:
    yield from server_factory(JudgeServer)


def results(run: Path, name: str) -> dict[str, list[str]]:
    """By row: its result, then those of its steps."""
    lines = read_log(run / "judge" / f"{name}.jsonl")
    return {line["id"]: [line["result"], *(stage["result"] for stage in line["stages"])] for line in lines}


def test_each_step_is_judged_and_no_request_is_repeated(tmp_path: Path, servers: Any, capsys: Any) -> None:
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
    assert "empty" in read_log(run / "judge" / "half.jsonl")[2]["stages"][0]["why"]
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
        ("REFUSE", ["unparsed", "unparsed"], "refusal"),
        ("CUT", ["unparsed", "unparsed"], "no verdict"),
        ("INVENT", ["pass", "unparsed"], "quote"),
    ],
)
def test_replies_without_a_verdict_are_not_failures(
    tmp_path: Path, servers: Any, word: str, stages: list[str], why: str
) -> None:
    run = make_run(tmp_path / "run", {"bad": [f"The sea {word}.\nNo more."], "good": GOOD[:1]}, (STAGED,))
    assert main(["judge", str(run), "--config", make_config(tmp_path, servers().url)]) == 0
    assert results(run, "bad") == {"staged": ["unparsed", *stages]}
    assert results(run, "good") == {"staged": ["pass", "pass", "pass"]}
    line = read_log(run / "judge" / "bad.jsonl")[0]
    assert why in line["stages"][1]["why"] and len(line["replies"]) == 3
    system = judge_summary(run)["systems"]["bad"]
    assert system["rows"] == {"pass": 0, "fail": 0, "unparsed": 1} and system["accuracy"] is None
    assert "-" in judge_summary_text(run).splitlines()[2]


def test_the_first_verdict_of_a_step_counts(tmp_path: Path, servers: Any) -> None:
    server = servers(bad_times=1)
    texts = {"prose": ["The sea.\nPROSE."], "invent": ["The sea.\nINVENT"]}
    run = make_run(tmp_path / "run", texts, (STAGED,))
    assert main(["judge", str(run), "--config", make_config(tmp_path, server.url)]) == 0
    assert results(run, "prose") == results(run, "invent") == {"staged": ["fail", "pass", "fail"]}
    assert server.kinds == {"musi_verdicts": 4}


def test_an_instruction_without_known_steps_is_unparsed(tmp_path: Path, servers: Any) -> None:
    row = Row("unclear", "An unclear wish.", "Yes.")
    run = make_run(tmp_path / "run", {"plus": ["Yes."]}, (row,))
    assert main(["judge", str(run), "--config", make_config(tmp_path, servers().url)]) == 0
    line = read_log(run / "judge" / "plus.jsonl")[0]
    assert (line["result"], line["stages"], len(line["replies"])) == ("unparsed", [], 3)
    assert re.search(r"plus +1 +- +- +- +1 of 1 +0 of 0", judge_summary_text(run))


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


def test_a_server_that_does_not_listen(tmp_path: Path, capsys: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    config = make_config(tmp_path, url, endpoint={"attempts": 2, "concurrency": 1})
    run = make_run(tmp_path / "run", {"a": GOOD})
    assert main(["judge", str(run), "--config", config]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and url in line and "no connection" in line
    assert not (run / "judge").exists()
    assert sum(one["event"] == "booked" for one in read_log(tmp_path / "judge" / "ledger.jsonl")) == 1


def test_a_page_after_the_first_reply_is_asked_again_also_in_the_next_stage(tmp_path: Path, servers: Any) -> None:
    class Late(JudgeServer):
        def plan_faults(self, body: dict[str, Any]) -> list[str]:
            return ["page"] if body["response_format"]["json_schema"]["name"] == "musi_verdicts" else []

    run = make_run(tmp_path / "run", {"good": GOOD})
    with Late() as server:
        assert main(["judge", str(run), "--config", make_config(tmp_path, server.start().url)]) == 0
        server.shutdown()
    assert results(run, "good")["plain"] == ["pass"] * 3
    assert server.outcomes == {"page": 3, "reply": 4}


def test_sampling_of_the_judge_can_be_left_to_the_server(tmp_path: Path, servers: Any) -> None:
    sent = []

    class Keeping(JudgeServer):
        def write_reply(self, body: dict[str, Any], rng: Any) -> tuple[str, str]:
            sent.append(body)
            return super().write_reply(body, rng)

    for number, changes in enumerate(({}, {"temperature": None, "top_p": 0.5, "max_tokens": None, "seed": 1})):
        run = make_run(tmp_path / f"run{number}", {"a": GOOD})
        with Keeping() as server:
            assert main(["judge", str(run), "--config", make_config(tmp_path, server.start().url, **changes)]) == 0
            server.shutdown()
    assert all(body["temperature"] == 0 and body["max_tokens"] == 1500 and "top_p" not in body for body in sent[:4])
    assert all(body["top_p"] == 0.5 and not {"temperature", "max_tokens"} & body.keys() for body in sent[4:])
    assert len(sent) == 8


def test_caps_hold_and_may_be_raised(tmp_path: Path, servers: Any, capsys: Any) -> None:
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
        pairs = judge_summary(run)["pairs"]
        assert (pairs["good--half"]["first"], pairs["good--half"]["tie"], pairs["good--half"]["disagreed"]) == counts
        assert pairs["copy--good"] == {
            "n": 3,
            "first": 0,
            "second": 0,
            "tie": 3,
            "unparsed": 0,
            "disagreed": 0,
            "changed": 0,
        }
        assert server.kinds["musi_comparison"] == 6  # equal answers need no judge
    assert "good against half" in capsys.readouterr().out


def test_a_comparison_that_cannot_be_parsed_is_unparsed(tmp_path: Path, servers: Any) -> None:
    server = servers(lean="both")
    run = make_run(tmp_path / "run", {"a": GOOD[:1], "b": HALF[:1]}, (STAGED,))
    assert main(["judge", str(run), "--config", make_config(tmp_path, server.url, pairs=[["a", "b"]])]) == 0
    assert read_log(run / "judge" / "pairs" / "a--b.jsonl")[0]["preferred"] == "unparsed"
    assert server.kinds["musi_comparison"] == 6


def test_labels_are_compared_with_the_judge(tmp_path: Path, servers: Any, capsys: Any) -> None:
    run = make_run(tmp_path / "run", {"half": [*HALF[:2], "INVENT red"]})
    labels = tmp_path / "labels.jsonl"
    steps = [("staged", 1, True), ("staged", 2, False), ("plain", 1, False), ("plain", 2, False), ("listed", 2, True)]
    lines = [json.dumps({"id": row, "system": "half", "stage": n, "label": label}) for row, n, label in steps]
    labels.write_text("\n".join(lines))
    command = ["judge", str(run), "--config", make_config(tmp_path, servers().url), "--labels", str(labels)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "kappa 0.500" in out and "1 both yes, 2 both no, 1 judge alone yes, 0 person alone yes" in out
    labels.write_text(json.dumps({"id": "plain", "system": "whole", "stage": 1, "label": True}))
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "labels.jsonl" in error and "'whole'" in error and "'plain'" in error
    for row in ("staged", "plain"):  # of the second the judge says the steps
        labels.write_text(json.dumps({"id": row, "system": "half", "stage": 9, "label": True}))
        assert main(command) == 2
        captured = capsys.readouterr()
        assert f"labels.jsonl: a label is of stage 9 of '{row}'" in captured.err and ("spent" in captured.out) == (
            row == "plain"
        )


def test_a_pair_is_of_systems_of_one_run(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "b").mkdir()
    runs = [str(make_run(tmp_path / "a", {"a": GOOD})), str(make_run(tmp_path / "b" / "run", {"b": HALF}))]
    config = make_config(tmp_path, "http://127.0.0.1:9/v1", pairs=[["a", "b"]])
    assert main(["judge", *runs, "--config", config]) == 2
    assert "['a', 'b'], and no run has answers of both" in capsys.readouterr().err


DAMAGED_PAIRS = {
    "preferred": {"id": "staged"},
    "id": {"preferred": "tie", "orders": []},
    "answers": {"id": "staged", "preferred": "tie", "orders": [], "answers": 5},
    "orders": {"id": "staged", "preferred": "tie", "orders": 1},
    "both": {"id": "staged", "preferred": "both", "orders": []},
}


@pytest.mark.parametrize("named", DAMAGED_PAIRS)
def test_a_damaged_line_of_results_is_named(tmp_path: Path, servers: Any, capsys: Any, named: str) -> None:
    run = make_run(tmp_path / "run", {"good": GOOD, "half": HALF})
    command = ["judge", str(run), "--config", make_config(tmp_path, servers().url)]
    file = run / "judge" / "pairs" / "good--half.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(DAMAGED_PAIRS[named]) + "\n")
    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{file}:1" in said and named in said
    with pytest.raises(ValueError, match=r"good--half\.jsonl:1"):
        judge_summary(run)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ({"id": "staged", "result": "pass", "stages": [3]}, "stages"),
        ({"id": "staged", "result": "good", "stages": []}, "result"),
        ({"id": "staged", "result": "pass", "stages": [{"stage": 1}]}, "result"),
    ],
)
def test_a_damaged_result_of_an_answer_is_named(tmp_path: Path, line: dict[str, Any], named: str) -> None:
    run = make_run(tmp_path / "run", {"good": GOOD})
    (run / "judge").mkdir()
    (run / "judge" / "good.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=rf"good\.jsonl:1: {named} "):
        judge_summary(run)


@pytest.mark.parametrize("inside", ["judge", "answers", "ratings", "judge/../judge"])
def test_replies_are_not_recorded_among_the_files_of_a_run(tmp_path: Path, capsys: Any, inside: str) -> None:
    run = make_run(tmp_path / "run", {"good": GOOD})
    (run / "judge").mkdir()
    command = ["judge", str(run), "--config", make_config(tmp_path, "http://127.0.0.1:9/v1", out=str(run / inside))]
    before = sorted(run.rglob("*"))
    assert main(command) == 2
    assert "out is" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


def test_preferences_between_answers_that_have_changed_are_not_kept(tmp_path: Path, servers: Any) -> None:
    server = servers()
    run = make_run(tmp_path / "run", {"a": GOOD, "b": HALF, "gone": GOOD})
    pairs = [["a", "b"], ["a", "gone"]]
    assert main(["judge", str(run), "--config", make_config(tmp_path, server.url, pairs=pairs)]) == 0
    config = make_config(tmp_path, server.url)
    assert main(["judge", str(run), "--config", config]) == 0
    summary = judge_summary(run)
    assert summary["pairs"]["a--b"]["n"] == 3
    answers = run / "answers" / "b.jsonl"
    answers.write_text(answers.read_text().replace("It has none.", "It has two."))
    # Nor counted, before the judge is asked again.
    summary = judge_summary(run)
    assert [summary["systems"][name]["changed"] for name in ("a", "b", "gone")] == [0, 1, 0]
    assert (summary["systems"]["b"]["n"], summary["pairs"]["a--b"]["n"], summary["pairs"]["a--b"]["changed"]) == (
        2,
        2,
        1,
    )
    assert "2 results not counted: the answers have changed since" in judge_summary_text(run)
    (run / "answers" / "gone.jsonl").unlink()
    assert main(["judge", str(run), "--config", config]) == 0
    summary = judge_summary(run)
    assert (summary["systems"].keys(), summary["pairs"].keys()) == ({"a", "b"}, {"a--b"})
    assert summary["pairs"]["a--b"]["n"] == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pairs": [["a", "c"]]}, ("pairs", " c;", "a, b")),
        ({"endpoint": {"api_key_env": "NO_SUCH_KEY"}}, ("endpoint.api_key_env", "NO_SUCH_KEY")),
    ],
)
def test_options_that_do_not_fit_the_run_or_the_machine(
    tmp_path: Path, capsys: Any, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    run = make_run(tmp_path / "run", {"a": GOOD, "b": HALF})
    assert main(["judge", str(run), "--config", make_config(tmp_path, "http://127.0.0.1:9/v1", **changes)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and all(word in lines[0] for word in words)
