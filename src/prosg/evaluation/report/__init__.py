"""What a report says of an evaluation: sections, made from its results alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prosg.evaluation.report.appendix import cases, costs, made, notes, texts
from prosg.evaluation.report.blocks import Block, Section
from prosg.evaluation.report.curves import capacity, forgetting
from prosg.evaluation.report.findings import controls, differences, findings
from prosg.evaluation.report.quality import ifeval, judge, main_table, ratings, stages
from prosg.evaluation.results import Run

__all__ = ["report_sections"]


def report_sections(run: Run) -> list[Section]:
    """The whole report; sections without anything to say are left out."""
    makers: Sequence[tuple[str, Callable[[Run], Iterator[Block]]]] = (
        ("What came out", findings),
        ("Perplexity, accuracy, people's ratings", main_table),
        ("Stages and late stages", stages),
        ("IFEval", ifeval),
        ("The forgetting curve", forgetting),
        ("Capacity", capacity),
        ("The update and its controls", controls),
        ("Differences on the same prompts", differences),
        ("People's ratings", ratings),
        ("The judge", judge),
        ("Length and repetition", texts),
        ("What it costs", costs),
        ("Case study", cases),
        ("How this was made", made),
    )
    *sections, last = [Section(title, list(make(run))) for title, make in makers]
    return [section for section in (*sections, *notes(run), last) if section.blocks]
