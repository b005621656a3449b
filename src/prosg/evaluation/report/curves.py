"""The forgetting curve and the capacity curve: figures, and the same in numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prosg.evaluation.places import Place, column_heads
from prosg.evaluation.report.blocks import Block, Figure, TableBlock
from prosg.evaluation.report.cells import numbers, of_seeds, whole
from prosg.evaluation.report.figures import Curve, Panel, draw
from prosg.evaluation.report.grouping import by_model
from prosg.evaluation.results import Run, SystemResult
from prosg.evaluation.statistics import mean_of
from prosg.utils.tables import Table

__all__ = ["capacity", "distance_table", "forgetting", "forgetting_panels", "late_table"]

LATE = "late stage exactly right (share of prompts)"
LEAST_DRAWN = 1.0
"""tokens: a logarithmic axis has no 0, which is where a model ends whose logits are no numbers from the first on"""


def forgetting(run: Run) -> Iterator[Block]:
    """Late-stage accuracy against distance."""
    measured = [system for system in run.systems if system.curve]
    if not measured:
        return
    if panels := forgetting_panels(run):
        yield Figure(
            draw(
                panels, "tokens written before the late stage (log scale)", LATE, log=True, shade_to=_trained(measured)
            ),
            "Late-stage accuracy against distance, length-controlled: the story is sampled, its end held back until it "
            "is as long as wanted, then the late stage's marker is forced and the stage written greedily. Each system "
            "at its own distances. Gray: in range, the first length. Bands: 95 % intervals over prompts.",
        )
    yield TableBlock(late_table(run), "Late stage exactly right, by what was asked for.")
    yield TableBlock(distance_table(run), "Tokens that each system generated before the late stage, mean over rows.")
    if any(system.read_again_at(place) is not None for system in measured for place in system.places):
        table: Table = [["system", *column_heads(run.places)]]
        for label in run.labels:
            cells = [numbers(run.of(label), lambda s, p=place: s.read_again_at(p), whole) for place in run.places]  # type: ignore[misc]
            if set(cells) != {"-"}:
                table.append([label, *cells])
        yield TableBlock(
            table, "Tokens of prompt and answer that were read again, mean over answers; not among the distances."
        )
    broken = {system.name: system.not_finite for system in measured if system.not_finite}
    if broken:
        counts = ", ".join(f"{count} of {name}" for name, count in broken.items())
        yield f"Answers in which the model's logits were no numbers any more, counted as wrong: {counts}."


def late_table(run: Run, brief: bool = False) -> Table:
    """Late accuracy per label and place; `brief` without intervals and single seeds."""
    table: Table = [["late stage right", *column_heads(run.places)]]
    for label in run.labels:
        if systems := [system for system in run.of(label) if system.curve]:
            cells = [of_seeds(systems, lambda s, p=place: mean_of(s.late_at(p)), brief) for place in run.places]  # type: ignore[misc]
            table.append([label, *cells])
    return table


def distance_table(run: Run) -> Table:
    """Each system's own distances in tokens; of several seeds the mean."""
    table: Table = [["tokens before it", *column_heads(run.places)]]
    for label in run.labels:
        if systems := [system for system in run.of(label) if system.curve]:
            cells = [numbers(systems, lambda s, p=place: s.distance(p), whole, brief=True) for place in run.places]  # type: ignore[misc]
            table.append([label, *cells])
    return table


def forgetting_panels(run: Run) -> list[Panel]:
    """One panel for the conditions of a model, if there is one such model, and one for the systems side by side.

    None where other things than the length of the story were varied: a picture over distances would mislead.
    """
    measured = [system for system in run.systems if system.curve]
    if any(place != Place(place.sentences) for place in run.places) or len(run.places) < 2:
        return []
    groups = [group for group in by_model(run) if "own" in group and group["own"].curve]
    controls = {system.name for group in groups for name, system in group.items() if name != "own"}
    panels = []
    if groups:
        labels = {system.label for system in groups[-1].values()}
        shown = [s for s in measured if s.label in labels or s.label == run.reference]
        held = next(iter(groups[-1].values())).held_by
        panels.append(Panel(f"The {held} and its controls", [_curve(system) for system in shown]))
    others = [system for system in measured if system.name not in controls]
    if len({system.label for system in others}) > 2 or not panels:
        panels.append(Panel("Systems side by side" if panels else "", [_curve(system) for system in others]))
    return panels


def _curve(system: SystemResult) -> Curve:
    points = []
    for place in system.places:
        mean, tokens = mean_of(system.late_at(place)), system.distance(place)
        if mean is not None and tokens is not None:
            points.append((max(float(tokens), LEAST_DRAWN), mean))
    return Curve(system.label, points)


def _trained(systems: Sequence[SystemResult]) -> float:
    """Up to where the models were trained, tokens: the farthest that anyone got at the first length."""
    first = [system.distance(min(system.places)) for system in systems]
    return 1.06 * max(LEAST_DRAWN, *(tokens for tokens in first if tokens is not None))


def capacity(run: Run) -> Iterator[Block]:
    """Late-stage accuracy against the number of items."""
    measured = [system for system in run.systems if system.capacity]
    if not measured:
        return
    places = list(dict.fromkeys(answer.place for system in measured for answer in system.capacity))
    curves = [
        Curve(
            system.label,
            [(float(place.items or 0), mean) for place in places if (mean := mean_of(system.late_at(place)))],
        )
        for system in measured
    ]
    options = run.config["capacity"]
    yield Figure(
        draw([Panel("", curves)], "items that the prompt gives", LATE, log=False),
        f"Late-stage accuracy against the number of items, kind {options['kind']!r}, {options['sentences']} sentences "
        "after the prompt, length-controlled.",
    )
    table: Table = [["late stage right", *(f"{place.items} items" for place in places)]]
    for label in run.labels:
        if systems := [system for system in run.of(label) if system.capacity]:
            cells = [of_seeds(systems, lambda s, p=place: mean_of(s.late_at(p))) for place in places]  # type: ignore[misc]
            table.append([label, *cells])
    yield TableBlock(table, "The same in numbers.")
