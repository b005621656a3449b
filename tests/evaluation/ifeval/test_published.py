"""The rules against the published checker, which lm_eval ships; skipped where it or its packages are missing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prosg.evaluation.ifeval import RULES, IFEvalRow, read_ifeval, score_ifeval
from support.ifeval import CASES, LANGUAGE_RULES, instruction, nltk_has_punkt


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The published checker, without downloads.

    Without Punkt's model its rule on sentences cannot run, and its words are cut without cutting sentences first.
    """
    nltk = pytest.importorskip("nltk")
    for name in ("langdetect", "immutabledict", "lm_eval"):
        pytest.importorskip(name)
    import langdetect

    monkeypatch.setattr(langdetect.DetectorFactory, "seed", 0)
    monkeypatch.setattr(nltk, "download", lambda *_, **__: False)
    if not nltk_has_punkt():
        cut = nltk.word_tokenize
        monkeypatch.setattr(nltk, "word_tokenize", lambda text: cut(text, preserve_line=True))
    from lm_eval.tasks.ifeval import instructions_registry, utils

    assert set(instructions_registry.INSTRUCTION_DICT) == set(RULES)
    return utils


Compared = Callable[[str, str, dict[str, Any], str], None]


@pytest.fixture
def compared(published: Any) -> Compared:
    def compare(name: str, prompt: str, kwargs: dict[str, Any], response: str) -> None:
        row = IFEvalRow("1", prompt, (instruction(name, kwargs),))
        example = published.InputExample(1, [name], prompt, [kwargs])
        strict = published.test_instruction_following_strict(example, response).follow_instruction_list
        loose = published.test_instruction_following_loose(example, response).follow_instruction_list
        ours = score_ifeval([row], [response]).verdicts[0]
        assert (list(ours.strict), list(ours.loose)) == (strict, loose), (name, kwargs, response)

    return compare


def test_rules_agree_on_the_labelled_cases(compared: Compared) -> None:
    punkt = nltk_has_punkt()
    for case in CASES:
        if punkt or case["id"] != "length_constraints:number_sentences":
            for text in (*case["yes"], *case["no"]):
                compared(case["id"], "A prompt.", case["kwargs"], text)
                compared(case["id"], "A prompt.", case["kwargs"], f"Sure!\n**{text}**\nBye.")


def test_rules_agree_on_the_published_rows(compared: Compared, shared_data: Path) -> None:
    """All published instructions on two texts; not rules on sentences, where the two differ, and random letters."""
    rows = read_ifeval(shared_data / "ifeval" / "input_data.jsonl")
    with (shared_data / "self-instruct" / "seed_tasks.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line)["instances"][0]["output"] for line in file]
    seen = Counter[str]()
    for i, row in enumerate(rows):
        for name, kwargs in row.instructions:
            random_letter = not str(kwargs.get("letter", "a")).isalpha()
            if name == "length_constraints:number_sentences" or name in LANGUAGE_RULES or random_letter:
                continue
            for text in (texts[i % len(texts)], rows[(i + 7) % len(rows)].prompt.upper()):
                compared(name, row.prompt, dict(kwargs), text)
            seen[name] += 1
    assert len(rows) == 541
    assert len(seen) == 25 - 1 - len(LANGUAGE_RULES)
