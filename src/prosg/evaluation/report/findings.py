"""What came out: the update against its controls, and every system against the reference."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping

from prosg.evaluation.findings import join
from prosg.evaluation.report.blocks import Block, TableBlock
from prosg.evaluation.report.cells import numbers, pairs_of, perplexity_of, share, signed, tokens_at, verdict
from prosg.evaluation.results import Mean, Run, System, compare, mean_of
from prosg.utils.tables import Table

__all__ = ["FAR_TOKENS", "by_model", "compared", "controls", "differences", "findings"]


FAR_TOKENS = 500
"""controls are judged from here on: nearer, the recurrent state alone may hold the prompt"""


SIGNS = {"not measured": "-", "no clear difference": "="}


def findings(run: Run) -> Iterator[Block]:
    """Sentences and a table that say what came out."""
    if run.missing:
        yield f"Not whole: {join(run.missing)} are missing. The same command goes on."
    for group in by_model(run):
        yield from _carries(group)
    yield from _beside_reference(run)
    if len({system.config.seed for system in run.systems}) == 1:
        yield "One seed: the intervals are over prompts and say nothing of the spread between trainings."


def _beside_reference(run: Run) -> Iterator[Block]:
    others = [label for label in run.labels if label != run.reference]
    measures = compared(run)
    table: Table = [[f'beside "{run.reference}"', *(name for name, _ in measures)]]
    for label in others:
        means = [
            [compare(value(ours), value(theirs)) for ours, theirs in pairs_of(run, label)] for _, value in measures
        ]
        table.append([label, *(SIGNS.get(said, said) for said in map(verdict, means))])
    if others:
        yield TableBlock(
            table,
            "Better and worse where the interval of the difference on the same prompts excludes zero for every seed; "
            "=: it does not.",
        )


def compared(run: Run) -> list[tuple[str, Callable[[System], Mapping[str, float]]]]:
    """The measures in which systems are compared."""
    reference = run.of(run.reference)
    lengths = sorted({s for system in reference for s in system.distances})
    return [
        ("accuracy", lambda s: s.right),
        ("late stage, free length", lambda s: s.late),
        *(
            (f"late stage at {tokens_at(reference, n):,} tokens", functools.partial(System.late_at, sentences=n))
            for n in lengths
        ),
        ("likelihood per token", lambda s: {name: -value for name, value in s.nats.items()}),
    ]


def by_model(run: Run) -> list[dict[str, System]]:
    """Systems that differ in whose update acts and which state is kept, and in nothing else: condition -> system."""
    groups: dict[str, dict[str, System]] = {}
    for system in run.systems:
        if system.config.endpoint:
            continue
        options = dataclasses.asdict(system.config)
        for passing in ("label", "update", "state"):
            options.pop(passing)
        condition = system.config.update + (", wiped" if system.config.state == "wiped" else "")
        groups.setdefault(json.dumps(options, sort_keys=True), {})[condition] = system
    return [group for group in groups.values() if len(group) > 1]


def _carries(group: Mapping[str, System]) -> Iterator[str]:
    """Whether a module's update carries its prompt, by its controls, where phase 1 may have forgotten."""
    own = group.get("own")
    if own is None or not own.curve:
        return
    far = [sentences for sentences, tokens in own.distances.items() if tokens >= FAR_TOKENS]
    names = {"other": "another prompt's update", "mean": "the mean update", "none": "no update"}
    controls = {name: group[name] for name in names if name in group and group[name].curve}
    if not controls:
        return
    if not far:
        yield (
            f'"{own.label}": no distance of {FAR_TOKENS} tokens or more was measured, so its controls are not judged: '
            "nearer, the state alone may hold the prompt."
        )
        return
    said: dict[str, list[str]] = {}
    for name, system in controls.items():
        means = [compare(own.late_at(sentences), system.late_at(sentences)) for sentences in far]
        said.setdefault(verdict(means), []).append(names[name])
    at = join(f"{own.distances[sentences]:,}" for sentences in far)
    parts = [f"{verdict} than {join(named)}" for verdict, named in said.items() if verdict in ("better", "worse")]
    if level := said.get("no clear difference"):
        parts.append(f"within noise of {join(level)}")
    text = f'"{own.label}", its own update, at {at} tokens: {"; ".join(parts)}.'
    swapped = [name for name in ("other", "mean") if name in controls]
    if swapped and all(names[name] in said.get("better", []) for name in swapped):
        text += " The update carries what the prompt said."
    elif level and any(names[name] in level for name in swapped):
        text += " These controls show no prompt content in it."
    yield text


def controls(run: Run) -> Iterator[Block]:
    """Conditions of one model side by side."""
    names = {"own": "own update", "other": "another prompt's", "mean": "the mean", "none": "none"}
    names |= {f"{name}, wiped": f"{told.removesuffix(' update')}, state wiped" for name, told in names.items()}
    for group in by_model(run):
        here = [name for name in names if name in group]
        first = group[here[0]]
        table: Table = [["", *(names[name] for name in here)]]
        rows: list[tuple[str, Callable[[System], Mean | None]]] = [
            ("accuracy, free length", lambda s: mean_of(s.right)),
            ("late stage, free length", lambda s: mean_of(s.late)),
        ]
        rows += [
            (f"late stage at {tokens:,} tokens", lambda s, n=n: mean_of(s.late_at(n)))  # type: ignore[misc]
            for n, tokens in first.distances.items()
        ]
        for name, value in rows:
            cells = [share(value(group[condition])) for condition in here]
            if set(cells) != {"-"}:
                table.append([name, *cells])
        perplexities = [numbers([group[condition]], perplexity_of) for condition in here]
        if set(perplexities) != {"-"}:
            table.append(["perplexity", *perplexities])
        yield TableBlock(
            table,
            f"{first.config.model}, seed {first.config.seed}. An update that carries its prompt works as its own and "
            "with the state wiped, and fails as another prompt's and as the mean; a mere bias works with any prompt's.",
        )


def differences(run: Run) -> Iterator[Block]:
    """Every system minus the reference, on the same prompts."""
    others = [label for label in run.labels if label != run.reference]
    table: Table = [["system", "measure", "difference", "claim"]]
    for label in others:
        for name, value in compared(run):
            means = [compare(value(ours), value(theirs)) for ours, theirs in pairs_of(run, label)]
            if any(mean is not None for mean in means):
                table.append([label, name, " / ".join(map(signed, means)), verdict(means)])
    if len(table) > 1:
        yield TableBlock(
            table,
            f'Each system minus "{run.reference}", paired by prompt [95 % interval over prompts], seeds apart. '
            '"Better" and "worse" only where every seed\'s interval excludes zero.',
        )
