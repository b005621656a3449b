"""What a report says of an evaluation: sections of words, tables and figures, made from its results alone."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from prosg.data.checks import find_stages
from prosg.data.record import Row
from prosg.evaluation.figures import Curve, draw
from prosg.evaluation.findings import amount, join
from prosg.evaluation.judge import UNPARSED
from prosg.evaluation.judged import summary as judge_summary
from prosg.evaluation.perplexity import summary
from prosg.evaluation.ratings.merge import merge
from prosg.evaluation.results import Mean, Run, System, compare, ifeval_of, mean_of
from prosg.evaluation.tables import Table
from prosg.evaluation.text_statistics import text_statistics
from prosg.files import read_json

__all__ = ["Answer", "Block", "Case", "Figure", "Section", "TableBlock", "sections"]

SHOWN = 600
"""characters of a stage of an answer in a case study"""
FAR_TOKENS = 500
"""controls are judged from here on: nearer, the recurrent state alone may hold the prompt"""


class TableBlock(NamedTuple):
    """A table with its caption."""

    table: Table
    caption: str


class Figure(NamedTuple):
    """A picture with its caption; what it shows stands in a table, too."""

    svg: str
    caption: str


class Answer(NamedTuple):
    """One system's answer, cut into its stages: (text, right or wrong or undecided)."""

    label: str
    stages: Sequence[tuple[str, bool | None]]


class Case(NamedTuple):
    """One prompt and what the systems wrote."""

    prompt: str
    asked: Sequence[str]
    answers: Sequence[Answer]


Block = str | TableBlock | Figure | Case


@dataclass
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def sections(run: Run) -> list[Section]:
    """The whole report; sections without anything to say are left out."""
    makers: Sequence[tuple[str, Callable[[Run], Iterator[Block]]]] = (
        ("What came out", _findings),
        ("Perplexity, accuracy, people's ratings", _main_table),
        ("Stages and late stages", _stages),
        ("IFEval", _ifeval),
        ("The forgetting curve", _forgetting),
        ("Capacity", _capacity),
        ("The update and its controls", _controls),
        ("Differences on the same prompts", _differences),
        ("People's ratings", _ratings),
        ("The judge", _judge),
        ("Length and repetition", _texts),
        ("What it costs", _overhead),
        ("Case study", _cases),
        ("How this was made", _made),
    )
    found = [Section(title, list(make(run))) for title, make in makers]
    return [section for section in found if section.blocks]


# -- cells


def _share(mean: Mean | None, interval: bool = True) -> str:
    if mean is None:
        return "-"
    return f"{amount(mean.mean)} [{amount(mean.low)}, {amount(mean.high)}]" if interval else amount(mean.mean)


def _of_seeds(systems: Sequence[System], value: Callable[[System], Mean | None]) -> str:
    """One seed's mean with its interval; of several the mean, and each apart."""
    found = [mean for system in systems if (mean := value(system)) is not None]
    if len(found) < 2:
        return _share(found[0] if found else None)
    return f"{amount(sum(mean.mean for mean in found) / len(found))} ({'/'.join(amount(mean.mean) for mean in found)})"


def _numbers(systems: Sequence[System], value: Callable[[System], float | None], digits: int = 3) -> str:
    found = [number for system in systems if (number := value(system)) is not None]
    if not found:
        return "-"
    mean = f"{sum(found) / len(found):.{digits}f}"
    return mean if len(found) == 1 else f"{mean} ({'/'.join(f'{number:.{digits}f}' for number in found)})"


def _signed(mean: Mean | None) -> str:
    if mean is None:
        return "-"
    return f"{mean.mean:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}]"


def _verdict(means: Sequence[Mean | None]) -> str:
    """Better or worse only where every seed's interval excludes zero."""
    there = [mean for mean in means if mean is not None]
    if not there:
        return "not measured"
    if all(mean.low > 0 for mean in there):
        return "better"
    return "worse" if all(mean.high < 0 for mean in there) else "no clear difference"


def _perplexity(system: System) -> float | None:
    return summary(list(system.scores.values())).perplexity if system.scores else None


def _late_perplexity(system: System) -> float | None:
    return summary(list(system.scores.values())).late_perplexity if system.scores else None


def _pairs(run: Run, label: str) -> list[tuple[System, System]]:
    """A label's seeds, each with the reference of its seed (or the only one)."""
    references = {system.config.seed: system for system in run.of(run.reference)}
    only = next(iter(references.values())) if len(references) == 1 else None
    return [(s, r) for s in run.of(label) if (r := references.get(s.config.seed, only)) is not None]


# -- sections


def _findings(run: Run) -> Iterator[Block]:
    if run.missing:
        yield f"Not whole: {join(run.missing)} are missing. The same command goes on."
    for group in _by_model(run):
        yield from _carries(group)
    yield from _beside_reference(run)
    if len({system.config.seed for system in run.systems}) == 1:
        yield "One seed: the intervals are over prompts and say nothing of the spread between trainings."


def _beside_reference(run: Run) -> Iterator[Block]:
    others = [label for label in run.labels if label != run.reference]
    measures = _compared(run)
    table: Table = [[f'beside "{run.reference}"', *(name for name, _ in measures)]]
    for label in others:
        means = [[compare(value(ours), value(theirs)) for ours, theirs in _pairs(run, label)] for _, value in measures]
        table.append(
            [label, *({"not measured": "-", "no clear difference": "="}.get(v, v) for v in map(_verdict, means))]
        )
    if others:
        yield TableBlock(
            table,
            "Better and worse where the interval of the difference on the same prompts excludes zero for every seed; "
            "=: it does not.",
        )


def _compared(run: Run) -> list[tuple[str, Callable[[System], Mapping[str, float]]]]:
    """The measures in which systems are compared."""
    reference = run.of(run.reference)
    lengths = sorted({s for system in reference for s in system.distances})
    return [
        ("accuracy", lambda s: s.right),
        ("late stage, free length", lambda s: s.late),
        *(
            (f"late stage at {_tokens(reference, n):,} tokens", functools.partial(System.late_at, sentences=n))
            for n in lengths
        ),
        ("likelihood per token", lambda s: {name: -value for name, value in s.nats.items()}),
    ]


def _by_model(run: Run) -> list[dict[str, System]]:
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
        said.setdefault(_verdict(means), []).append(names[name])
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


def _main_table(run: Run) -> Iterator[Block]:
    rated = {folder: found for folder in run.folders if (found := _rated(folder))}
    scales = list(dict.fromkeys(scale for found in rated.values() for scale in found))
    table: Table = [["system", "perplexity", "accuracy", *(f"{scale}, people" for scale in scales)]]
    for label in run.labels:
        systems = run.of(label)
        if not any(system.answers or system.scores for system in systems):
            continue
        people = []
        for scale in scales:
            of = (rated[s.folder][scale]["systems"].get(s.name) for s in systems if s.folder in rated)
            points = [one["mean"] for one in of if one]
            people.append(f"{sum(points) / len(points):.2f}" if points else "-")
        table.append([label, _numbers(systems, _perplexity), _of_seeds(systems, lambda s: mean_of(s.right)), *people])
    if len(table) > 1:
        yield TableBlock(
            table,
            "Perplexity over all answer tokens, end tokens included (lower is better); accuracy: every stage right, in "
            "answers written freely [95 % interval over prompts]; ratings 0 to 5: the columns of the paper's Table 2.",
        )
    undecided = [(s.label, sum(None in verdicts for verdicts in s.verdicts.values())) for s in run.systems]
    if any(number for _, number in undecided):
        each = join(f"{label} {number}" for label, number in undecided if number)
        yield f"Answers without a verdict (no programmatic check, none by a judge, or unparsed), not counted: {each}."
    if refused := [f"{s.label} {s.refused}" for s in run.systems if s.refused]:
        yield f"Prompts to which a server gave an error or no reply at all, not counted: {join(refused)}."


def _rated(folder: Path) -> Mapping[str, Any]:
    """What people rated, by scale; {} where none of it counts: answers may be others by now."""
    if not list((folder / "ratings").glob("*.jsonl")):
        return {}
    try:
        scales: Mapping[str, Any] = merge([folder])["scales"]
    except ValueError as error:
        print(f"ratings are left out: {error}", file=sys.stderr)
        return {}
    return scales


def _stages(run: Run) -> Iterator[Block]:
    most = max((len(s.verdicts[name]) for s in run.systems for name in s.staged), default=0)
    if most < 2:
        return
    table: Table = [["system", "late perplexity", "late stage", *(f"stage {number + 1}" for number in range(most))]]
    for label in run.labels:
        systems = run.of(label)
        if not any(system.verdicts for system in systems):
            continue
        each = [_of_seeds(systems, lambda s, n=number: mean_of(s.stage(n))) for number in range(most)]  # type: ignore[misc]
        late = _of_seeds(systems, lambda s: mean_of(s.late))
        table.append([label, _numbers(systems, _late_perplexity), late, *each])
    yield TableBlock(
        table,
        "Answers of free length, a stage's share of rows in which it is right; the late stage is a row's last. Late "
        "perplexity is over the tokens of the last stage, teacher-forced.",
    )


def _ifeval(run: Run) -> Iterator[Block]:
    table: Table = [["system", "prompts, strict", "prompts, loose", "instructions, strict", "instructions, loose"]]
    for system in run.systems:
        found = ifeval_of(run, system)
        if found is None:
            continue
        prompts, instructions, *_ = found.to_rows()
        cells = [
            _share(Mean(row[way], row[f"{way}_interval"][0], row[f"{way}_interval"][1], row["n"]))
            for row in (prompts, instructions)
            for way in ("strict", "loose")
        ]
        table.append([system.label, *cells])
    if len(table) > 1:
        yield TableBlock(
            table,
            "Share of prompts of which every instruction is followed, and of instructions; loose forgives a first or "
            "last line, and asterisks [95 % interval over prompts].",
        )


def _forgetting(run: Run) -> Iterator[Block]:
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
    table: Table = [["system", *(f"{_tokens(measured, s):,} tokens" for s in lengths)]]
    for label in run.labels:
        systems = [system for system in run.of(label) if system.curve]
        if systems:
            table.append([label, *(_of_seeds(systems, lambda s, n=n: mean_of(s.late_at(n))) for n in lengths)])  # type: ignore[misc]
    yield TableBlock(table, "The same in numbers, mean distance of the bin over systems.")


def _tokens(systems: Sequence[System], sentences: int) -> int:
    found = [system.distances[sentences] for system in systems if sentences in system.distances]
    return round(sum(found) / len(found))


def _capacity(run: Run) -> Iterator[Block]:
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
    numbers = sorted({n for system in measured for n in system.items})
    table: Table = [["system", *(f"{n} items" for n in numbers)]]
    for label in run.labels:
        systems = [system for system in run.of(label) if system.capacity]
        if systems:
            table.append([label, *(_of_seeds(systems, lambda s, n=n: mean_of(s.late_with(n))) for n in numbers)])  # type: ignore[misc]
    yield TableBlock(table, "The same in numbers.")


def _controls(run: Run) -> Iterator[Block]:
    conditions = ["own", "other", "mean", "none", "own, wiped", "none, wiped"]
    for group in _by_model(run):
        here = [name for name in conditions if name in group]
        first = group[here[0]]
        names = {"own": "own update", "other": "another prompt's", "mean": "the mean", "none": "none"}
        names |= {"own, wiped": "own, state wiped", "none, wiped": "none, state wiped"}
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
            cells = [_share(value(group[condition])) for condition in here]
            if set(cells) != {"-"}:
                table.append([name, *cells])
        perplexities = [_numbers([group[condition]], _perplexity) for condition in here]
        if set(perplexities) != {"-"}:
            table.append(["perplexity", *perplexities])
        yield TableBlock(
            table,
            f"{first.config.model}, seed {first.config.seed}. An update that carries its prompt works as its own and "
            "with the state wiped, and fails as another prompt's and as the mean; a mere bias works with any prompt's.",
        )


def _differences(run: Run) -> Iterator[Block]:
    others = [label for label in run.labels if label != run.reference]
    table: Table = [["system", "measure", "difference", "claim"]]
    for label in others:
        for name, value in _compared(run):
            means = [compare(value(ours), value(theirs)) for ours, theirs in _pairs(run, label)]
            if any(mean is not None for mean in means):
                table.append([label, name, " / ".join(map(_signed, means)), _verdict(means)])
    if len(table) > 1:
        yield TableBlock(
            table,
            f'Each system minus "{run.reference}", paired by prompt [95 % interval over prompts], seeds apart. '
            '"Better" and "worse" only where every seed\'s interval excludes zero.',
        )


def _ratings(run: Run) -> Iterator[Block]:
    for folder in run.folders:
        if scales := _rated(folder):
            yield from _ratings_of({s.name: s.label for s in run.systems if s.folder == folder}, scales)


def _ratings_of(labels: Mapping[str, str], scales: Mapping[str, Any]) -> Iterator[Block]:
    means: Table = [["system", *scales, "ratings"]]
    for name in labels:
        of = [scale["systems"].get(name) for scale in scales.values()]
        if any(of):
            means.append([labels[name], *map(_points, of), str(sum(one["n"] for one in of if one))])
    yield TableBlock(means, "Points from 0 to 5, mean over annotators and prompts [95 % interval over prompts].")
    agreement: Table = [["", *scales]]
    agreement.append(["alpha", *("-" if s["alpha"] is None else f"{s['alpha']:.3f}" for s in scales.values())])
    agreement.append(["answers rated by two or more", *(str(s["units"]) for s in scales.values())])
    yield TableBlock(agreement, "Agreement of annotators: Krippendorff's alpha for ordinal data.")
    pairs: Table = [["difference", *scales]]
    found = dict.fromkeys((one["ours"], one["theirs"]) for scale in scales.values() for one in scale["differences"])
    for ours, theirs in found:
        cells = []
        for scale in scales.values():
            one = [d for d in scale["differences"] if (d["ours"], d["theirs"]) == (ours, theirs)]
            cells.append(_points(one[0] if one else None, "+"))
        pairs.append([f"{labels.get(ours, ours)} - {labels.get(theirs, theirs)}", *cells])
    if len(pairs) > 1:
        yield TableBlock(pairs, "Paired by annotator and prompt.")


def _points(one: Mapping[str, Any] | None, sign: str = "") -> str:
    if one is None:
        return "-"
    low, high = one["interval"]
    return f"{one['mean']:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def _judge(run: Run) -> Iterator[Block]:
    for folder in run.folders:
        labels = {system.name: system.label for system in run.systems if system.folder == folder}
        yield from _judge_of(labels, judge_summary(folder))


def _judge_of(labels: Mapping[str, str], found: Mapping[str, Any]) -> Iterator[Block]:
    table: Table = [["system", "rows", "all stages", "last stage", "each stage", "unparsed stages"]]
    for name, one in found["systems"].items():
        shares = [_judged(one[key]) for key in ("accuracy", "last_accuracy", "stage_accuracy")]
        unparsed = f"{one['stages'][UNPARSED]} of {sum(one['stages'].values())}"
        table.append([labels.get(name, name), str(one["n"]), *shares, unparsed])
    if len(table) > 1:
        yield TableBlock(table, "What a model that judges said; unparsed replies are no failures and are not counted.")
    pairs: Table = [["pair", "rows", "first", "second", "tie", "orders disagree", "unparsed"]]
    for name, one in found["pairs"].items():
        both = [labels.get(part, part) for part in name.split("--")]
        numbers = [one[key] for key in ("n", "first", "second", "tie", "disagreed", UNPARSED)]
        pairs.append([" against ".join(both), *map(str, numbers)])
    if len(pairs) > 1:
        yield TableBlock(pairs, "Preferred in both orders of showing.")


def _judged(share: Mapping[str, Any] | None) -> str:
    return "-" if share is None else _share(Mean(share["share"], share["interval"][0], share["interval"][1], 0))


def _texts(run: Run) -> Iterator[Block]:
    again = any(system.read_again is not None for system in run.systems)
    head = ["system", "tokens", "words", "repeated 4-grams", "distinct bigrams", "ended by itself"]
    table: Table = [[*head, *["prompt tokens read again"] * again]]
    for label in run.labels:
        answers = [answer for system in run.of(label) for answer in system.answers.values()]
        if not answers:
            continue
        said = text_statistics([answer.text for answer in answers])
        tokens = sum(answer.tokens for answer in answers) / len(answers)
        ended = sum(answer.reason != "length" for answer in answers) / len(answers)
        shares = ["-" if value is None else amount(value) for value in (said.rep_4, said.distinct_2)]
        more = [_numbers(run.of(label), lambda s: s.read_again, 0)] * again
        table.append([label, f"{tokens:.0f}", f"{said.words:.0f}", *shares, amount(ended), *more])
    if len(table) > 1:
        yield TableBlock(table, "Answers of free length, means over answers.")


def _overhead(run: Run) -> Iterator[Block]:
    seen: set[tuple[str, ...]] = set()
    table: Table = [
        ["model", "encode, ms", "with update", "a token, ms", "with update ", "state, bytes", "update, bytes", "module"]
    ]
    for system in run.systems:
        found = system.overhead
        model = (system.config.model, system.config.base, system.config.dtype, system.config.initial)
        if found is None or model in seen:
            continue
        seen.add(model)
        module = found["module_parameters"]
        table.append(
            [
                system.label,
                *(_ms(found[key]) for key in ("encode_ms", "encode_ms_update", "token_ms", "token_ms_update")),
                f"{found['state_bytes']:,}",
                "-" if found["update_bytes"] is None else f"{found['update_bytes']:,}",
                "-" if module is None else f"{module:,} ({module / found['parameters']:.1%})",
            ]
        )
    if len(table) > 1:
        options = run.config["overhead"]
        yield TableBlock(
            table,
            f"One prompt of {options['tokens']} tokens, and one token of an answer, in batches of {options['batch']}: "
            "the same backbone without its update and with it, one process of one thread beside others. Bytes are "
            "those of one encoded prompt; the module's parameters beside the backbone's.",
        )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _cases(run: Run) -> Iterator[Block]:
    kinds: dict[str, Row] = {}
    for row in run.rows.values():
        kinds.setdefault(row.kind, row)
    for row in list(kinds.values())[:4]:
        answers = []
        for label in run.labels:
            system = run.of(label)[0]
            answer = system.answers.get(row.id)
            if answer is None:
                continue
            verdicts = system.verdicts[row.id]
            pieces: list[str | None] = list(find_stages(row, answer.text)) if row.stages else [answer.text]
            shown = [("(not there)" if piece is None else _cut(piece)) for piece in pieces]
            right = verdicts if row.stages else (None if None in verdicts else all(verdicts),)
            answers.append(Answer(label, list(zip(shown, right, strict=True))))
        if answers:
            asked = [stage.instruction for stage in row.stages]
            yield Case(row.prompt, asked, answers)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} [...] {text[-SHOWN // 2 :]}"


def _made(run: Run) -> Iterator[Block]:
    for folder in run.folders:
        about = read_json(folder / "about.json") if (folder / "about.json").exists() else {}
        if about:
            table: Table = [["", ""], *([name, str(value)] for name, value in about.items())]
            where = f"{folder}: command" if len(run.folders) > 1 else "Command"
            yield TableBlock(table, f"{where}, machine and versions.")
    models: Table = [["system", "model", "backbone", "fingerprint", "seed", "seconds"]]
    for system in run.systems:
        what = system.config.model or str(system.config.endpoint.get("model", "endpoint"))
        seed, seconds = str(system.config.seed), f"{system.seconds:.0f}"
        models.append([system.label, what, system.backbone or "-", system.fingerprint[:16] or "-", seed, seconds])
    yield TableBlock(models, "Models, by a hash of their weights; seconds of measuring.")
    if left := [f'"{s.label}" {measure}: {why}' for s in run.systems for measure, why in s.left_out.items()]:
        yield f"Left out: {'; '.join(left)}."
    yield f"Options: {json.dumps(run.config, ensure_ascii=False)}"
