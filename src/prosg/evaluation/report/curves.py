"""The forgetting curve, and the capacity curve."""

from __future__ import annotations

from collections.abc import Iterator

from prosg.evaluation.report.blocks import Block, Figure, TableBlock
from prosg.evaluation.report.cells import numbers, of_seeds, tokens_at
from prosg.evaluation.report.figures import Curve, draw
from prosg.evaluation.results import Run, mean_of
from prosg.utils.tables import Table

__all__ = ["capacity", "forgetting"]


def forgetting(run: Run) -> Iterator[Block]:
    """Late-stage accuracy against distance."""
    measured = [system for system in run.systems if system.curve]
    if not measured:
        return
    curves = [
        Curve(
            system.label,
            [(float(tokens), mean) for s, tokens in system.distances.items() if (mean := mean_of(system.late_at(s)))],
        )
        for system in measured
    ]
    trained = max(min(system.distances.values()) for system in measured)
    yield Figure(
        draw(
            curves,
            "tokens written before the late stage (log scale)",
            "late stage exactly right (share of prompts)",
            log=True,
            shade_to=trained * 1.06,
        ),
        "Late-stage accuracy against distance, length-controlled: the story is sampled, its end held back until it is "
        "as long as wanted, then the late stage's marker is forced and the stage written greedily. Gray: in range, the "
        "lengths of the first bin. Bands: 95 % intervals over prompts.",
    )
    lengths = sorted({s for system in measured for s in system.distances})
    table: Table = [["system", *(f"{tokens_at(measured, s):,} tokens" for s in lengths)]]
    for label in run.labels:
        systems = [system for system in run.of(label) if system.curve]
        if systems:
            table.append([label, *(of_seeds(systems, lambda s, n=n: mean_of(s.late_at(n))) for n in lengths)])  # type: ignore[misc]
    yield TableBlock(table, "The same in numbers, mean distance of the bin over systems.")
    again: Table = [table[0]]
    for system in measured:
        cells = [numbers([system], lambda s, n=n: s.read_again_at(n), 0) for n in lengths]  # type: ignore[misc]
        if set(cells) != {"-"}:
            again.append([system.label, *cells])
    if len(again) > 1:
        yield TableBlock(
            again, "Tokens of the prompt that were read again, mean over answers; not among the distances."
        )


def capacity(run: Run) -> Iterator[Block]:
    """Late-stage accuracy against the number of items."""
    measured = [system for system in run.systems if system.capacity]
    if not measured:
        return
    options = run.config["capacity"]
    curves = [
        Curve(system.label, [(float(n), mean) for n in system.items if (mean := mean_of(system.late_with(n)))])
        for system in measured
    ]
    tokens = round(
        sum(o["distance_tokens"] for s in measured for o in s.capacity) / sum(len(s.capacity) for s in measured)
    )
    yield Figure(
        draw(curves, "items that the prompt gives", "late stage exactly right (share of prompts)", log=False),
        f"Late-stage accuracy against the number of items, kind {options['kind']!r}, {tokens:,} tokens after the "
        "prompt, length-controlled.",
    )
    counts = sorted({n for system in measured for n in system.items})
    table: Table = [["system", *(f"{n} items" for n in counts)]]
    for label in run.labels:
        systems = [system for system in run.of(label) if system.capacity]
        if systems:
            table.append([label, *(of_seeds(systems, lambda s, n=n: mean_of(s.late_with(n))) for n in counts)])  # type: ignore[misc]
    yield TableBlock(table, "The same in numbers.")
