"""Which instructions are kept, and the texts of evaluation files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prosg.data.synthetic import words as contents
from prosg.musi.categories import chosen_categories
from prosg.musi.config import BuildConfig, FilterConfig, PromptsConfig
from prosg.musi.draft import Draft
from prosg.musi.filter import evaluation_texts, filter_instructions
from prosg.musi.prompts import DraftedInstruction
from prosg.utils.store import Log


def reasons_of(prompts: list[str | Draft], log: Path, **options: Any) -> list[str]:
    """The reasons of the filter for English instructions of two stages."""
    config = BuildConfig(out="x", filter=FilterConfig(**options))
    drafts = [p if isinstance(p, Draft) else Draft(p, ("one", "two"), {}) for p in prompts]
    instructions = [DraftedInstruction("s", place, "two-stage", draft, "") for place, draft in enumerate(drafts)]
    decisions = filter_instructions(config, chosen_categories(PromptsConfig()), instructions, Log(log))
    return [decision["reason"] for decision in decisions]


def test_the_filter_says_why(tmp_path: Path) -> None:
    fine = "Describe the sea in five sentences, and then list three things that one can do on a beach."
    (tmp_path / "eval.jsonl").write_text(
        json.dumps({"turns": ["Tell me about an old clock on the wall of a quiet house in the north."]}) + "\n"
    )
    reasons = reasons_of(
        [
            fine,
            Draft(fine, ("one",), {}),
            "Write it.",
            "请用五句话描述大海，然后列出三件可以在海边做的事情。",
            Draft(f"{fine} Bye.", ("one", "two"), {}, 3),
            "Explain how the compiler turns a polynomial into a matrix, and then say why that is of any use.",
            fine.replace("five", "seven"),
            "Tell me about an old clock on the wall of a quiet house in the south, please.",
            "First write down ten birds. Then say: an old clock on the wall of a quiet house is of no use to any owl.",
        ],
        tmp_path / "filter.jsonl",
        decontaminate=[str(tmp_path / "eval.jsonl")],
        ngram=9,
    )
    assert [reason.partition(":")[0] for reason in reasons] == [
        "", "stages", "length", "language", "domain knowledge", "domain knowledge", "near-duplicate", "evaluation",
        "evaluation",
    ]  # fmt: skip
    assert "compiler, matrix, polynomial" in reasons[5]


def test_decisions_stay_and_other_options_decide_anew(tmp_path: Path) -> None:
    texts = [
        f"Say something about {name} and the weather, then list what {name} is for." for name in contents.OBJECTS[:9]
    ]
    log = tmp_path / "filter.jsonl"
    first = reasons_of(texts[:5], log)
    size = log.stat().st_size
    assert reasons_of(texts[:5], log) == first
    assert log.stat().st_size == size
    assert reasons_of(texts, log)[:5] == first
    assert reasons_of(texts, log, similar_above=0.95) == [""] * 9
    assert sum(not reason for reason in reasons_of(texts, log)) == 1


def test_a_decision_about_another_text_does_not_count(tmp_path: Path) -> None:
    log = tmp_path / "filter.jsonl"
    fine = "Say something about the sea and the weather, then list what the sea is for."
    assert reasons_of(["Too short."], log)[0].startswith("length")
    for _ in range(2):
        assert reasons_of([fine], log) == [""]
    assert len(log.read_text().splitlines()) == 2


@pytest.mark.parametrize("change", [{"id": None}, {"kept": "yes"}, {"prompt": ""}, {"checks": [{"stage": 9}]}])
def test_a_damaged_decision_is_named_by_its_line(tmp_path: Path, change: dict[str, Any]) -> None:
    log = tmp_path / "filter.jsonl"
    fine = "Say something about the sea and the weather, then list what the sea is for."
    reasons_of([fine], log)
    log.write_text(json.dumps(json.loads(log.read_text()) | change) + "\n")
    with pytest.raises(ValueError, match=r"filter\.jsonl:1: .*delete the line"):
        reasons_of([fine], log)


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.txt", "one\n\ntwo\n", ["one", "two"]),
        ("a.json", json.dumps([{"instruction": "one", "answer": "no"}, {"x": {"prompt": "two"}}]), ["one", "two"]),
        ("a.jsonl", json.dumps({"turns": ["one", "two"]}) + "\n", ["one", "two"]),
    ],
)
def test_evaluation_files(tmp_path: Path, name: str, content: str, wanted: list[str]) -> None:
    (tmp_path / name).write_text(content)
    assert evaluation_texts(str(tmp_path / name)) == wanted
    (tmp_path / name).write_text('{"nothing": 1}\n' if name != "a.txt" else "\n")
    with pytest.raises(ValueError, match=name):
        evaluation_texts(str(tmp_path / name))


def test_the_shared_evaluation_sets_are_read(shared_data: Path) -> None:
    assert len(evaluation_texts(str(shared_data / "mt-bench" / "question.jsonl"))) == 160
    assert len(evaluation_texts(str(shared_data / "ifeval" / "input_data.jsonl"))) > 530
    assert len(evaluation_texts(str(shared_data / "followbench" / "content_constraints.json"))) > 100
