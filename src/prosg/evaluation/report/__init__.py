"""What a report says of an evaluation: sections, made from its results alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prosg.evaluation.report.appendix import cases, costs, made, notes, texts
from prosg.evaluation.report.blocks import Block, Section, TableBlock
from prosg.evaluation.report.curves import capacity, forgetting
from prosg.evaluation.report.findings import controls, differences, findings
from prosg.evaluation.report.quality import has_ratings, ifeval, judge, main_table, ratings, stages
from prosg.evaluation.results import Run

__all__ = ["report_sections"]


def report_sections(run: Run) -> list[Section]:
    """The whole report; sections without anything to say are left out."""
    rated = any(map(has_ratings, run.folders))
    makers: Sequence[tuple[str, Callable[[Run], Iterator[Block]]]] = (
        ("What came out", findings),
        ("Perplexity, accuracy, people's ratings" if rated else "Perplexity and accuracy", main_table),
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
    *sections, last = [Section(title, [*filter(_says_something, make(run))]) for title, make in makers]
    return [section for section in (*sections, *notes(run), last) if section.blocks]


def _says_something(block: Block) -> bool:
    """Whether there is more in a table than its head."""
    return not isinstance(block, TableBlock) or len(block.table) > 1
