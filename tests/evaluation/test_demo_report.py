"""The report on small curves whose numbers are known beforehand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prosg.data.synthetic import DEMO_KINDS, make_rows
from prosg.evaluation.demo_report import write_report
from prosg.evaluation.examples import first_examples
from prosg.evaluation.findings import amount, findings
from prosg.evaluation.measured import LINES, OWN, PHASE1, Difference, Line, read_measured, verdict

N = 9
SENTENCES = {5: 46, 60: 550}
"""Sentences, and tokens of distance."""
WORDS = "The dog ran. A cat sang. No hen hid. The fox slept. An owl fell. The man wept. "
ABOUT: dict[str, Any] = {
    "command": "prosg demo --seeds 1,2",
    "dtype": "float32",
    "seconds": 1234,
    "machine": "a machine, 2 cores",
    "versions": {"prosg": "0.1.0", "torch": "2.9.0"},
    "commit": "abc1234",
    "plan": {"rows": N},
    "runs": {
        str(seed): {
            "phase1": {"steps": 1400, "seconds": 91.4, "skipped": 1, "reached": True},
            "plus": {"steps": 1000, "seconds": 75.2, "skipped": 0, "reached": None},
        }
        for seed in (1, 2)
    },
}


def write_curve(folder: Path, seed: int, system: str, conditions: dict[str, Sequence[int]], ids: str = "") -> None:
    """A curve file; `conditions` gives, for "own", "own wiped", ..., how many of N are right at each distance."""
    rows = make_rows(DEMO_KINDS, N, seed, "test", sentences=(5, 5))
    results, answers = [], []
    for name, counts in conditions.items():
        update, _, state = name.partition(" ")
        common = {"backbone": "rwkv4", "system": system, "seed": seed, "split": "test"}
        common |= {"update": update, "state": state or "kept"}
        cells = [(n, "controlled", right) for n, right in zip(SENTENCES, counts, strict=True)]
        for n, length, right in [*cells, (5, "free", counts[0])]:
            here = {**common, "sentences": n, "length": length}
            cell = {**here, "in_range": n == 5, "kind": "all", "distance_tokens": SENTENCES[n], "n": N}
            cell |= {"perplexity": 3.5 if n == 5 else None, "accuracy": (right - 1) / N if right else 0.0}
            cell |= {"late_accuracy": right / N, "late_interval": [right / N, right / N]}
            results += [cell, {**cell, "kind": "code", "n": N // 3}]
            for i, row in enumerate(rows):
                late = row.answer[row.stages[-1].start :] if i < right else row.stages[-1].marker + " nothing"
                text = (WORDS * (n // 5)).strip() + late
                told = {"id": ids + row.id, "kind": row.kind, "prompt": row.prompt, "text": text}
                answers.append({**here, **told, "distance_tokens": SENTENCES[n], "late": i < right})
    path = folder / "curves" / f"{system}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": results, "answers": answers}))


PLUS = {"own": (9, 9), "other": (0, 0), "mean": (0, 0), "none": (9, 0), "own wiped": (9, 9)}
BIAS = {"own": (9, 3), "other": (9, 3), "mean": (9, 3), "none": (9, 0), "own wiped": (0, 0)}


@pytest.fixture
def seeds(tmp_path: Path) -> list[Path]:
    """Two seeds without rivals: plus carries its prompt, paper is a bias."""
    folders = [tmp_path / "seed-1", tmp_path / "seed-2"]
    for seed, folder in enumerate(folders, 1):
        write_curve(folder, seed, "phase1", {"none": (9, seed - 1)})
        write_curve(folder, seed, "plus", PLUS)
        write_curve(folder, seed, "paper", BIAS)
        (folder / "curves" / "choose-static-0.001.json").write_text("{}")
    return folders


def add_rivals(folders: list[Path]) -> None:
    for seed, folder in enumerate(folders, 1):
        write_curve(folder, seed, "phase1_more", {"none": (9, 1)})
        write_curve(folder, seed, "phase1_perturbed", {"none": (9, 9 if seed == 1 else 1)})
        write_curve(folder, seed, "static", {"own": (0, 1), "other": (0, 0)})
        rates = {"phase1_more": {"0.001": 0.5, "0.003": 0.75}}
        (folder / "rates.json").write_text(json.dumps({"late_accuracy": rates, "chosen": {"phase1_more": 0.003}}))


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_amounts_are_short_and_rounding_makes_nothing_perfect() -> None:
    shares = (0.0, 0.0004, 0.004, 0.2, 0.984, 0.9949, 0.998, 0.9999, 1.0)
    assert [amount(share) for share in shares] == ["0", ".001", ".004", ".20", ".98", ".99", ".998", ".999", "1.0"]


def test_verdict_needs_every_seed() -> None:
    better, level = Difference(1, 0.3, 0.1, 0.5), Difference(2, 0.3, 0.0, 0.5)
    worse = Difference(3, -0.3, -0.5, -0.1)
    assert verdict([better, better]) == "better"
    assert verdict([better, level]) == "no clear difference"
    assert verdict([better, worse]) == "no clear difference"
    assert verdict([worse]) == "worse"
    assert verdict([]) == "not measured"


def test_files_hold_what_was_measured(tmp_path: Path, seeds: list[Path]) -> None:
    text = write_report(tmp_path, seeds, ABOUT)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "forgetting.png",
        "report.md",
        "results.json",
        "seed-1",
        "seed-2",
    ]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["about"] == ABOUT
    assert len(results["rows"]) == 2 * 11 * 3 * 2  # seeds, lines, cells, kinds
    first = results["rows"][0]
    assert (first["system"], first["seed"], first["distance_tokens"], first["late_accuracy"]) == ("phase1", 1, 46, 1.0)
    assert (tmp_path / "forgetting.png").read_bytes().startswith(b"\x89PNG")
    assert max(map(len, text.splitlines()[:-3])) <= 101
    for name in ("report.md", "forgetting.png", "results.json"):
        assert str(tmp_path / name) in text
    write_report(tmp_path, seeds, ABOUT)  # again, over what is there


def test_tables(tmp_path: Path, seeds: list[Path]) -> None:
    write_report(tmp_path, seeds, ABOUT)
    report = (tmp_path / "report.md").read_text()
    late = report.partition("## Late stage exactly right")[2]
    assert line_of(late, "| tokens |") == "| tokens | 46 | 550 |"
    assert line_of(late, "| phase 1 |") == "| phase 1 | 1.0 (1.0/1.0) | .06 (0/.11) |"  # 0/9 and 1/9
    assert line_of(late, "| paper, own update |") == "| paper, own update | 1.0 (1.0/1.0) | .33 (.33/.33) |"
    assert line_of(late, "| plus, own, state wiped |") == "| plus, own, state wiped | 1.0 (1.0/1.0) | 1.0 (1.0/1.0) |"
    free = report.partition("## In range")[2]
    assert line_of(free, "| phase 1 |") == "| phase 1 | .89 (.89/.89) | 1.0 (1.0/1.0) | 3.50 (3.50/3.50) |"
    paired = report.partition("## Paired")[2]
    assert line_of(paired, "| phase 1 |").startswith("| phase 1 | **no clear difference**<br>0 [0, 0]<br>0 [0, 0] |")
    assert line_of(paired, "| phase 1 |").count("**better**<br>+1.0 [+1.0, +1.0]<br>+.89 [+") == 1
    assert "| phase1 | 1 | 1,400 | 91 | 1 | reached |" in report
    assert "Learning rates" not in report
    for fact in ("prosg demo --seeds 1,2", "a machine, 2 cores", "torch 2.9.0", "abc1234", "float32"):
        assert fact in report


def test_findings_follow_the_controls(seeds: list[Path]) -> None:
    plus, paper = findings(read_measured(seeds))[2:4]
    assert "its own update 1.0, another prompt's update 0, the mean update 0, no update 0" in plus
    assert "Its own is better than another prompt's update, the mean update and no update at each of these" in plus
    assert plus.endswith("there the update carries what the prompt said.")
    assert "Its own is at none of these distances better than another prompt's update and the mean update" in paper
    assert paper.endswith("these controls show no prompt content in the update.")


def test_update_that_is_no_better_than_none_carries_nothing(seeds: list[Path]) -> None:
    # Another prompt's update does harm, one's own does nothing.
    for seed, folder in enumerate(seeds, 1):
        write_curve(folder, seed, "plus", {**PLUS, "own": (9, 9), "none": (9, 9)})
    plus = findings(read_measured(seeds))[2]
    assert plus.endswith("whether the update carries its prompt stays open.")


def test_controls_are_not_judged_near_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SENTENCES, 60, 499)
    write_curve(tmp_path, 1, "plus", PLUS)
    said = findings(read_measured([tmp_path]))
    assert any("no distance of 500 tokens or more was measured" in sentence for sentence in said)
    assert not any("carries" in sentence for sentence in said)


def test_rivals(tmp_path: Path, seeds: list[Path]) -> None:
    assert "No rival was measured" in " ".join(findings(read_measured(seeds)))
    add_rivals(seeds)
    measured = read_measured(seeds)
    said = findings(measured)[-1]
    assert 'not clearly different from the best of them at 46 ("phase 1 continued") and 550' in said
    assert '550 ("phase 1 continued, perturbed")' in said  # one seed of two is not enough
    assert "worse" not in said
    assert Line("static", "other") not in measured.lines  # an adapter that is the same for every prompt
    write_report(tmp_path, seeds, ABOUT)
    report = (tmp_path / "report.md").read_text()
    paired = report.partition("## Paired")[2]
    assert line_of(paired, "| static adapter |").count("**better**") == 2
    assert "| phase1_more | seed-1 | 0.001: .50, 0.003: .75 | 0.003 |" in report
    for seed, folder in enumerate(seeds, 1):
        write_curve(folder, seed, "phase1_perturbed", {"none": (9, 1)})
    assert "better than every rival that was measured at 550 tokens" in findings(read_measured(seeds))[-1]
    for seed, folder in enumerate(seeds, 1):
        write_curve(folder, seed, "plus", {**PLUS, "own": (1, 9)})
    assert 'worse than "phase 1 continued" at 46 tokens' in findings(read_measured(seeds))[-1]


def test_rivals_alone_and_one_seed(tmp_path: Path) -> None:
    folder = tmp_path / "seed-1"
    write_curve(folder, 1, "phase1", {"none": (9, 0)})
    write_curve(folder, 1, "phase1_more", {"none": (9, 1)})
    text = write_report(tmp_path, [folder], {**ABOUT, "runs": {}})
    assert "Paired" not in (tmp_path / "report.md").read_text()
    assert "One seed" in text


def test_missed_criterion_is_said_first(tmp_path: Path, seeds: list[Path]) -> None:
    runs = json.loads(json.dumps(ABOUT["runs"]))
    runs["2"]["phase1"]["reached"] = False
    text = write_report(tmp_path, seeds, {**ABOUT, "runs": runs})
    warning = "Phase 1 did not reach its validation criterion (seed 2)."
    assert warning in text
    report = (tmp_path / "report.md").read_text()
    assert report.splitlines()[2].startswith(f"- **{warning}**")
    assert "| phase1 | 2 | 1,400 | 91 | 1 | **not reached** |" in report


def test_examples_are_the_first_of_each_kind(tmp_path: Path, seeds: list[Path]) -> None:
    write_curve(seeds[0], 1, "plus", {**PLUS, "own": (9, 2)})  # the third kind's first row fails
    measured = read_measured(seeds)
    examples = first_examples(measured)
    rows = make_rows(DEMO_KINDS, 3, 1, "test", sentences=(5, 5))
    assert [example.prompt for example in examples] == [row.prompt for row in rows]
    assert [example.expected for example in examples] == [row.answer[row.stages[-1].start :].strip() for row in rows]
    assert [[answer.right for answer in example.answers] for example in examples] == [[False, True]] * 2 + [
        [False, False]
    ]
    answer = examples[0].answers[1]
    assert (answer.system, answer.tokens, answer.late) == (LINES[OWN], 550, examples[0].expected)
    # 72 sentences, of which the first two and the last two are shown
    assert answer.story.startswith("The dog ran. A cat sang. [... about ")
    assert answer.story.endswith(" tokens ...] An owl fell. The man wept.")
    assert examples[0].answers[0].late == f"{rows[0].stages[-1].marker.strip()} nothing"
    text = write_report(tmp_path, seeds, ABOUT)
    assert "phase 1 (550 tokens): WRONG                      | plus, own update (550 tokens): right" in text
    assert "plus, own update: WRONG, 550 tokens" in (tmp_path / "report.md").read_text()


def test_other_prompts_are_not_compared(seeds: list[Path]) -> None:
    write_curve(seeds[0], 1, "phase1", {"none": (9, 0)}, ids="x-")
    measured = read_measured(seeds)
    with pytest.raises(ValueError, match="seed 1: plus, own update and phase 1 were measured on other prompts"):
        measured.differences(OWN, PHASE1, measured.bins[0])


def test_errors_for_no_curves_and_unknown_systems(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no curves in"):
        read_measured([tmp_path])
    write_curve(tmp_path, 1, "mystery", {"none": (9, 0)})
    with pytest.raises(ValueError, match="unknown 'mystery none kept'"):
        read_measured([tmp_path])
