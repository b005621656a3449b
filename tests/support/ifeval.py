"""Labelled cases of IFEval's rules, and what of nltk is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prosg.evaluation.ifeval.rows import IFEvalInstruction, validate_instruction

CASES_FILE = Path(__file__).parents[1] / "evaluation" / "ifeval" / "cases.jsonl"
CASES = [json.loads(line) for line in CASES_FILE.read_text("utf-8").splitlines()]
"""Per rule and kwargs: answers that follow and answers that do not, labelled by hand."""
LANGUAGE_RULES = ("language:response_language", "change_case:english_capital", "change_case:english_lowercase")


def instruction(name: str, kwargs: dict[str, Any]) -> IFEvalInstruction:
    return IFEvalInstruction(name, validate_instruction(name, kwargs))


def nltk_has_punkt() -> bool:
    """Whether nltk finds Punkt's model of English; skips the test where there is no nltk."""
    nltk = pytest.importorskip("nltk")
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return False
    return True
