"""The rules against labels by hand."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest

from prosg.evaluation.ifeval import RULES
from prosg.evaluation.ifeval.language import _detector_factory, detect_language
from support.ifeval import CASES, LANGUAGE_RULES, instruction


def case_name(case: dict[str, Any]) -> str:
    return f"{case['id']} {case['kwargs']}"


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_rules_agree_with_labels_by_hand(case: dict[str, Any]) -> None:
    if case["id"] in LANGUAGE_RULES:
        pytest.importorskip("langdetect")
    rule = instruction(case["id"], case["kwargs"])
    assert [text for text in case["yes"] if not rule.followed_by(text)] == []
    assert [text for text in case["no"] if rule.followed_by(text)] == []


def test_every_rule_has_labels_of_both_kinds() -> None:
    yes, no = Counter[str](), Counter[str]()
    for case in CASES:
        yes[case["id"]] += len(case["yes"])
        no[case["id"]] += len(case["no"])
    assert len(RULES) == 25
    assert all(yes[name] and no[name] and yes[name] + no[name] >= 5 for name in RULES)


def test_language_detection_is_deterministic() -> None:
    pytest.importorskip("langdetect")
    text = "Ja, no problem, si."
    assert len({detect_language(text) for _ in range(20)}) == 1
    assert detect_language("1 2 3") is None


def test_without_langdetect_only_rules_on_languages_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langdetect", None)
    _detector_factory.cache_clear()
    assert instruction("punctuation:no_comma", {}).followed_by("Yes.")
    with pytest.raises(ValueError, match=r"needs the extra `eval`.*langdetect"):
        instruction("language:response_language", {"language": "de"}).followed_by("Ja.")
