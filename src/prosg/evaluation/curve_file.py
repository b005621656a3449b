"""The forgetting curve of one loaded model with its controls, as a configuration of the evaluation; into one file."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prosg.core.encoded import Memory, with_anchor, with_update
from prosg.evaluation.answer_cache import Answer, AnswerCache
from prosg.evaluation.config import CurveConfig, DataConfig, EvalConfig, GenerationConfig, SystemConfig
from prosg.evaluation.controls import CONDITIONS, Condition, check_partners
from prosg.evaluation.curve_columns import COLUMNS, HOW_TO_READ
from prosg.evaluation.curve_options import LEAST, check_rising
from prosg.evaluation.measures import run_measures
from prosg.evaluation.report.curves import LATE, forgetting_panels
from prosg.evaluation.report.figures import draw_png
from prosg.evaluation.result_rows import result_rows
from prosg.evaluation.results import Run, SystemResult
from prosg.evaluation.rows import asked_rows
from prosg.evaluation.system_result import system_result
from prosg.evaluation.systems.local import check_model, memory_of
from prosg.model.prosg import ProSG
from prosg.utils.io import write_json, written_whole
from prosg.utils.jobs import write_progress
from prosg.utils.progress import Progress, ProgressDisplay, part_of, say
from prosg.utils.replaceable import check_replaceable
from prosg.utils.spelling import check_known
from prosg.utils.tables import counted, perplexity_text

__all__ = ["FREE_TOKENS", "measure_curve"]

FREE_TOKENS = 88
"""Room for a late stage in answers of free length, beside the story's."""


def measure_curve(
    model: ProSG,
    out: str,
    *,
    system: str,
    seed: int,
    memories: Sequence[Memory],
    tau: float | None,
    updates: Sequence[str],
    kinds: Sequence[str],
    split: str,
    free: bool,
    replay: bool,
    window: int | None,
    curve: CurveConfig,
    template: str = "",
    overwrite: bool = False,
) -> int:
    """Measures a model and writes {"rows", "answers"}, and beside it a picture; prints a line for each place.

    Rows name the filler, the window and the replay where there is one.

    Args:
        model: What is measured.
        out: The JSON file to write.
        system: What results call the model.
        seed: Of prompts, stories and the derangement.
        memories: What holds prompts, one after the other; () for the model's own.
        tau: Window of the anchor, tokens; None for the model's own.
        updates: Names of `CONDITIONS`; () for all that a memory can have.
        kinds: Kinds of instruction in turn.
        split: Of the prompts.
        free: Also write answers of free length, and score the rows' own answers, in range.
        replay: Read the prompt again before the late stage.
        window: Show the module the prompt in windows of this many tokens.
        curve: Lengths, rows and what makes prompts harder.
        template: How prompts are written.
        overwrite: Replace the file and its picture.

    Raises:
        ValueError: for unknown names, and for conditions that the model cannot have.
    """
    check_known("--updates", updates, CONDITIONS)
    if not memories and model.memory == "none" and any(name != "none" for name in updates):
        raise ValueError("this model has no module, so no update; --memory anchor needs none")
    path = Path(out)
    for name, value in (("--tau", tau), ("--window", window)):
        if value is not None and value <= 0:
            raise ValueError(f"{name} is {value:g}, must be above 0")
    _check_used(memories or [model.memory], tau, window, updates)
    for file in (path, picture_path(path)):
        check_replaceable(file, overwrite=overwrite)
    for name, least in LEAST.items():
        check_rising(f"--{name.replace('_', '-')}", getattr(curve, name), least, needed=name == "sentences")
    first = curve.sentences[0]
    room = FREE_TOKENS + first * curve.tokens_per_sentence
    plain = not (curve.turns or curve.filler)  # nobody could wait for a story that is given
    measures = [
        "curve",
        *(["perplexity"] if not replay else []),
        *(["accuracy"] if free and plain and not replay else []),
    ]
    config = EvalConfig(
        measures=measures,
        data=DataConfig(kinds=list(kinds), rows=curve.rows, sentences=[first, first], split=split, seed=seed),  # type: ignore[arg-type]
        generation=GenerationConfig(max_tokens=room, seed=seed),
        curve=curve,
    )
    systems = {
        f"{memory}-{name}": SystemConfig(
            model=system,
            memory=memory,
            tau=(tau or 0.0) if with_anchor(memory) else 0.0,
            update=CONDITIONS[name].update,
            state=CONDITIONS[name].state,
            late_replay=replay,
            template=template,
            window=(window or 0) if with_update(memory) else 0,
            label=system,
            seed=seed,
        )
        for memory in memories or [model.memory]
        for name in _conditions(model, memory, updates)
    }
    progress = path.with_name(f".{path.name}.progress")
    display = ProgressDisplay("measuring")

    def tell(share: float, note: str = "") -> None:
        write_progress(progress, share, note)
        display(share, note)

    try:
        run = _measured(config, systems, model, tell)
    finally:
        display.close()
        progress.unlink(missing_ok=True)
    named = {"filler": Path(curve.filler).name, "window": window, "replay": replay}
    if curve.tokens_per_sentence != CurveConfig.tokens_per_sentence:
        named["tokens_per_sentence"] = curve.tokens_per_sentence
    how = {name: value for name, value in named.items() if value}
    rows = [row.to_dict() | how for row in result_rows(run)]
    _print(rows)  # first: what was measured is not lost where it cannot be written
    write_json(
        path,
        {"rows": rows, "answers": [answer for result in run.systems for answer in _answers(result)]},
        overwrite=overwrite,
    )
    _draw(run, picture_path(path), overwrite)
    return 0


def picture_path(out: Path) -> Path:
    """Where the picture of a curve's file lies. ValueError for a file that has the picture's name itself."""
    if out.suffix == ".png":
        raise ValueError(f"--out is {out}; it names the .json file, the picture lies beside it")
    return out.with_suffix(".png")


def _plan_line(config: EvalConfig, systems: Mapping[str, SystemConfig]) -> str:
    """What is measured, before the first figure is there."""
    curve = config.curve
    held = ", ".join(name.replace("-", " ") for name in systems).replace("none none", "none")
    lengths = ", ".join(map(str, curve.sentences))
    prompts, sentences = counted(curve.rows, "prompt"), "sentence" + "s" * (curve.sentences != [1])
    return f"measuring {prompts}, stories of {lengths} {sentences}, memory {held}"


def _conditions(model: ProSG, memory: Memory, updates: Sequence[str]) -> Sequence[str]:
    """The conditions that a memory is measured under."""
    if model.check_memory(memory) == "none":
        return ["none"]
    return updates or [name for name in CONDITIONS if name != "none"]


def _check_used(memories: Sequence[Memory], tau: float | None, window: int | None, updates: Sequence[str]) -> None:
    """Raises ValueError for an option that none of the memories uses."""
    uses: list[tuple[str, object, Callable[[Memory], bool], str]] = [
        ("--tau", tau, with_anchor, "anchor, both or auto"),
        ("--window", window, with_update, "update, both or auto"),
        ("--updates", [name for name in updates if name != "none"], lambda memory: memory != "none", "other than none"),
    ]
    for option, value, uses_it, allowed in uses:
        if value and not any(map(uses_it, memories)):
            raise ValueError(f"{option} is for memories {allowed}, but --memory is {','.join(memories)}")


def _measured(config: EvalConfig, systems: dict[str, SystemConfig], model: ProSG, tell: Progress) -> Run:
    """Every system's measures, one after the other, in memory."""
    rows = asked_rows(config)
    if any(system.update == "other" for system in systems.values()):
        check_partners([row.kind for row in rows], f"--rows {config.curve.rows}", config.data.kinds)
    say(_plan_line(config, systems))
    by_id = {row.id: row for row in rows}
    backbone, cache, results = model.backbone.config.model_type, AnswerCache(), []
    for number, (name, system) in enumerate(systems.items()):
        check_model(system, model)
        parts: dict[str, dict[str, Any] | None] = {}
        written: Sequence[Answer] = ()
        tell_system = part_of(tell, number, len(systems), name)
        for one in run_measures(config, system, model, rows, config.measures, cache, tell_system):
            if "left_out" in one.result:
                raise ValueError(f"--kinds: {one.result['left_out']}")
            about = {"backbone": backbone, "memory": memory_of(system, model)}
            parts[one.measure] = {"result": one.result, "seconds": one.seconds, **about}
            written = written or one.answers
        results.append(system_result(Path(), name, system, by_id, parts, written, {}))
    return Run(Path(), dataclasses.asdict(config), by_id, results)


def _answers(result: SystemResult) -> list[dict[str, Any]]:
    """Every answer of a system, for reading and for paired comparisons."""
    config = result.config
    common = {"system": config.label, "seed": config.seed, "memory": result.memory}
    common |= {"update": config.update, "state": config.state}
    answers = [
        {**common, "measure": "curve", "id": answer.id, "kind": answer.kind}
        | {name: value for name, value in answer.place._asdict().items() if value is not None}
        | {"distance_tokens": answer.distance_tokens, "text": answer.text, "late": answer.right[-1]}
        for answer in result.curve
    ]
    answers += [
        {**common, "measure": "free", "id": name, "text": answer.text, "late": bool(result.late.get(name))}
        for name, answer in result.answers.items()
    ]
    return answers


def _draw(run: Run, path: Path, overwrite: bool) -> None:
    """The curves, a line for each memory and condition; none of one length, and where others were varied."""

    def label(result: SystemResult) -> str:
        condition = Condition(result.config.update, result.config.state)
        if result.memory == "none":
            return "nothing but the state"
        return f"{result.memory}, {condition.label.replace(' update', '')}"

    named = [replace(one, config=replace(one.config, label=label(one))) for one in run.systems]
    if panels := forgetting_panels(replace(run, systems=named)):
        picture = draw_png(panels[-1:], "tokens written before the late stage (log scale)", LATE, log=True)
        with written_whole(path, overwrite=overwrite) as temporary:
            temporary.write_bytes(picture)
    elif overwrite:
        path.unlink(missing_ok=True)  # the picture of another curve would be taken for this one's


def _print(rows: Sequence[dict[str, Any]]) -> None:
    """Prints a line for each place under a line of names, and on stderr what the columns are."""
    print(f"{'memory':>6} {'whose':>6} {'state':>6} {'written':>13}")
    for row in rows:
        if row["kind"] != "all":
            continue
        own = "free length" if "late_accuracy" in row else "rows' answers"  # the latter are scored, not written
        where = f"{row['distance_tokens']:>6} tokens" if "distance_tokens" in row else f"{own:>13}"
        text = f"{row['memory']:>6} {row['update']:>6} {row['state']:>6} {where}"
        if "late_accuracy" in row:
            low, high = row["late_interval"]
            text += f"  late {row['late_accuracy']:.3f} [{low:.3f}, {high:.3f}]  all stages {row['accuracy']:.3f}"
        if "perplexity" in row:
            text += f"  perplexity {perplexity_text(row['perplexity'])}"
        named = [f"{name} {row[name]}" for name in ("sentences", "prompt_tokens", "turns", "items") if name in row]
        print("  ".join([text, *named]))
    sys.stdout.flush()
    columns = [f"  {name:<12}{text}" for name, text in COLUMNS.items()]
    say("\n".join(["", "columns:", *columns, HOW_TO_READ]))
