"""What came out: sentences made from the tables' numbers, the controls, every system against the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prosg.evaluation.formatting import join
from prosg.evaluation.places import column_heads
from prosg.evaluation.report.blocks import Block, TableBlock
from prosg.evaluation.report.cells import TOO_FEW, numbers, pairs_of, perplexity_of, share, signed, verdict
from prosg.evaluation.report.grouping import CONDITIONS, by_model
from prosg.evaluation.results import Run, SystemResult
from prosg.evaluation.statistics import LEAST_CLAIMED, Mean, compare, mean_of
from prosg.utils.tables import Table

__all__ = ["FAR_TOKENS", "compared_values", "controls", "differences", "findings"]

FAR_TOKENS = 500
"""Controls are judged from here on: nearer, the recurrent state alone may hold the prompt."""
SIGNS = {"not measured": "-", "no clear difference": "=", TOO_FEW: "?"}
Values = Callable[[SystemResult], Mapping[str, float]]


def findings(run: Run, far_tokens: int = FAR_TOKENS) -> Iterator[Block]:
    """Sentences and a table that say what came out."""
    if run.missing:
        yield f"Not whole: {join(run.missing)} are missing. The same command goes on."
    for group in by_model(run):
        yield from _carries(group, far_tokens)
    yield from _beside_reference(run)
    if run.systems and len({system.config.seed for system in run.systems}) == 1:
        yield "One seed: the intervals are over prompts and say nothing of the spread between trainings."


def _carries(group: Mapping[str, SystemResult], far_tokens: int) -> Iterator[str]:
    """Whether a module's update carries its prompt, by its controls, where the state may have forgotten it."""
    own = group.get("own")
    if own is None or not own.curve:
        return
    far = [place for place in own.places if (own.distance(place) or 0) >= far_tokens]
    held = own.held_by
    names = {"other": f"another prompt's {held}", "mean": f"the mean {held}", "none": f"no {held}"}
    measured = {name: group[name] for name in names if name in group and group[name].curve}
    if not measured:
        return
    if not far:
        yield (
            f'"{own.label}": no distance of {far_tokens} tokens or more was measured, so its controls are not judged: '
            "nearer, the state alone may hold the prompt."
        )
        return
    verdicts: dict[str, list[str]] = {}
    for name, system in measured.items():
        means = [compare(own.late_at(place), system.late_at(place)) for place in far]
        verdicts.setdefault(verdict(means), []).append(names[name])
    if TOO_FEW in verdicts:
        yield f'"{own.label}": fewer than {LEAST_CLAIMED} prompts were measured, so its controls are not judged.'
        return
    parts = [f"{word} than {join(verdicts[word])}" for word in ("better", "worse") if word in verdicts]
    if level := verdicts.get("no clear difference"):
        parts.append(f"within noise of {join(level)}")
    at = join(f"{own.distance(place):,}" for place in far)
    text = f'"{own.label}", its own {held}, at {at} tokens: {"; ".join(parts)}.'
    swapped = [names[name] for name in ("other", "mean") if name in measured]
    if swapped and all(name in verdicts.get("better", []) for name in swapped):
        text += f" The {held} carries what the prompt said."
    elif level and any(name in level for name in swapped):
        text += " These controls show no prompt content in it."
    yield text


def _beside_reference(run: Run) -> Iterator[Block]:
    others = [label for label in run.labels if label != run.reference]
    measures = compared_values(run)
    table: Table = [[f'beside "{run.reference}"', *(name for name, _ in measures)]]
    for label in others:
        means = [
            [compare(value(ours), value(theirs)) for ours, theirs in pairs_of(run, label)] for _, value in measures
        ]
        table.append([label, *(SIGNS.get(word, word) for word in map(verdict, means))])
    measured = [column for column in range(len(table[0])) if {row[column] for row in table[1:]} != {"-"}]
    if len(measured) > 1:
        yield TableBlock(
            [[row[column] for column in measured] for row in table],
            "Better and worse where the interval of the difference on the same prompts excludes zero for every seed; "
            f"=: it does not; ?: fewer than {LEAST_CLAIMED} rows, of which nothing is claimed.",
        )


def compared_values(run: Run) -> list[tuple[str, Values]]:
    """The measures in which systems are compared, each with its values by row."""
    places = list(dict.fromkeys(place for system in run.of(run.reference) for place in system.places))

    def late(place: object) -> Values:
        return lambda system: system.late_at(place)  # type: ignore[arg-type]

    return [
        ("accuracy", lambda s: s.right),
        ("late stage, free length", lambda s: s.late),
        *((f"late stage, {head}", late(place)) for place, head in zip(places, column_heads(places), strict=True)),
        ("likelihood per token", lambda s: {name: -value for name, value in s.nats.items()}),
    ]


def controls(run: Run, most: int = 3) -> Iterator[Block]:
    """Conditions of one model side by side; for more than `most` models one line each, at the last place."""
    groups = by_model(run)
    explanation = (
        "An update or anchor that carries its prompt works as its own and with the state wiped, and fails as another "
        "prompt's and as the mean; a mere bias works with any prompt's."
    )
    if len(groups) > most:
        conditions = [name for name in CONDITIONS if any(name in group for group in groups)]
        place = run.places[-1] if run.places else None
        table: Table = [["model", *(CONDITIONS[name] for name in conditions)]]
        for group in groups:
            first = group.get("own") or next(iter(group.values()))
            cells = [
                share(mean_of(group[name].late_at(place))) if name in group and place else "-" for name in conditions
            ]
            table.append([first.label, *cells])
        yield TableBlock(table, f"Late stage exactly right, {place}. {explanation}")
        return
    for group in groups:
        yield TableBlock(_conditions_of(group), f"Model: {next(iter(group.values())).config.model}. {explanation}")


def _conditions_of(group: Mapping[str, SystemResult]) -> Table:
    here = [name for name in CONDITIONS if name in group]
    places = group[here[0]].places
    rows: list[tuple[str, Callable[[SystemResult], Mean | None]]] = [
        ("accuracy, free length", lambda s: mean_of(s.right)),
        ("late stage, free length", lambda s: mean_of(s.late)),
    ]
    for place, head in zip(places, column_heads(places), strict=True):
        rows.append((f"late stage, {head}", lambda s, p=place: mean_of(s.late_at(p))))  # type: ignore[misc]
    held = group[here[0]].held_by
    table: Table = [["", *(CONDITIONS[name].replace("update", held) for name in here)]]
    for name, value in rows:
        cells = [share(value(group[condition])) for condition in here]
        if set(cells) != {"-"}:
            table.append([name, *cells])
    perplexities = [numbers([group[condition]], perplexity_of) for condition in here]
    if set(perplexities) != {"-"}:
        table.append(["perplexity", *perplexities])
    return table


def differences(run: Run) -> Iterator[Block]:
    """Every system minus the reference, on the same prompts."""
    table: Table = [["system", "measure", "difference", "claim"]]
    for label in (label for label in run.labels if label != run.reference):
        for name, value in compared_values(run):
            means = [compare(value(ours), value(theirs)) for ours, theirs in pairs_of(run, label)]
            if any(mean is not None for mean in means):
                table.append([label, name, " / ".join(map(signed, means)), verdict(means)])
    if len(table) > 1:
        yield TableBlock(
            table,
            f'Each system minus "{run.reference}", paired by prompt [95 % interval over prompts], seeds apart. '
            f'"Better" and "worse" only where every seed\'s interval, of {LEAST_CLAIMED} rows or more, excludes zero.',
        )
