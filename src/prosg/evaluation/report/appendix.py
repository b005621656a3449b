"""Length and repetition of answers, costs, cases to read, notes, and how it was all made."""

from __future__ import annotations

import json
from collections.abc import Iterator

from prosg.data.checks import find_stages
from prosg.data.row import Row
from prosg.evaluation.formatting import amount
from prosg.evaluation.report.blocks import Block, Case, CaseAnswer, Section, TableBlock
from prosg.evaluation.report.cells import numbers, whole
from prosg.evaluation.results import Run
from prosg.evaluation.text_statistics import compute_text_statistics
from prosg.utils.io import read_json
from prosg.utils.tables import Table

__all__ = ["cases", "costs", "made", "notes", "texts"]


SHOWN = 600
"""characters of a stage of an answer in a case study"""


def texts(run: Run) -> Iterator[Block]:
    """How long answers are, and how much of them repeats."""
    again = any(system.read_again is not None for system in run.systems)
    head = ["system", "tokens", "words", "repeated 4-grams", "distinct bigrams", "ended by itself"]
    table: Table = [[*head, *["tokens read again"] * again]]
    for label in run.labels:
        answers = [answer for system in run.of(label) for answer in system.answers.values()]
        if not answers:
            continue
        said = compute_text_statistics([answer.text for answer in answers])
        tokens = sum(answer.tokens for answer in answers) / len(answers)
        ended = sum(answer.reason in ("end", "stop") for answer in answers) / len(answers)
        shares = ["-" if value is None else amount(value) for value in (said.rep_4, said.distinct_2)]
        more = [numbers(run.of(label), lambda s: s.read_again, whole)] * again
        table.append([label, f"{tokens:.0f}", f"{said.words:.0f}", *shares, amount(ended), *more])
    if len(table) > 1:
        yield TableBlock(table, "Answers of free length, means over answers.")


def costs(run: Run) -> Iterator[Block]:
    """What encoding and the update take."""
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


def cases(run: Run) -> Iterator[Block]:
    """One prompt of each kind with all answers: the paper's Table 3."""
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
            answers.append(CaseAnswer(label, list(zip(shown, right, strict=True))))
        if answers:
            asked = [stage.instruction for stage in row.stages]
            yield Case(row.prompt, asked, answers)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} [...] {text[-SHOWN // 2 :]}"


def made(run: Run) -> Iterator[Block]:
    """Command, machine, models, options."""
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
        models.append([system.label, what, system.backbone or "-", system.fingerprint or "-", seed, seconds])
    yield TableBlock(models, "Models, by a hash of their weights; seconds of measuring.")
    if left := [f'"{s.label}" {measure}: {why}' for s in run.systems for measure, why in s.left_out.items()]:
        yield f"Left out: {'; '.join(left)}."
    yield f"Options: {json.dumps(run.config, ensure_ascii=False)}"


def notes(run: Run) -> Iterator[Section]:
    """Sections that whoever ran the evaluation added."""
    for note in run.notes:
        blocks: list[Block] = [
            block if isinstance(block, str) else TableBlock(block["table"], block["caption"])
            for block in note["blocks"]
        ]
        yield Section(note["title"], blocks)
