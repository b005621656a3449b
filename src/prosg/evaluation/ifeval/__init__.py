"""IFEval: whether answers follow instructions that a program can check (Zhou et al. 2023, arXiv 2311.07911).

rules.py      the 25 rules; the arguments that they take are in arguments.py
text.py       sentence splitting and counting of capital words
language.py   language detection
rows.py       reading and checking rows
scoring.py    scoring answers, the published measures
"""

from __future__ import annotations

from prosg.evaluation.ifeval.rows import IFEvalRow, read_ifeval
from prosg.evaluation.ifeval.rules import RULES
from prosg.evaluation.ifeval.scoring import IFEvalResult, score_ifeval

__all__ = ["RULES", "IFEvalResult", "IFEvalRow", "read_ifeval", "score_ifeval"]
