"""IFEval: whether answers follow instructions that a program can check.

rules.py has the 25 rules, text.py what counts sentences and capital words, language.py what tells languages, scoring.py
rows, verdicts and measures.
"""

from __future__ import annotations

from prosg.evaluation.ifeval.rules import RULES
from prosg.evaluation.ifeval.scoring import IFEvalResult, IFEvalRow, read_ifeval, score_ifeval

__all__ = ["RULES", "IFEvalResult", "IFEvalRow", "read_ifeval", "score_ifeval"]
