"""What an evaluation asks: rows of a file, of a public suite, or made; and the training prompts of the mean update."""

from __future__ import annotations

from collections.abc import Sequence

from prosg.data.row import Row, read_rows
from prosg.data.synthetic import DEMO_KINDS, KINDS, make_rows
from prosg.evaluation.config import EvalConfig
from prosg.evaluation.controls import MEAN_PROMPTS
from prosg.evaluation.ifeval.scoring import IFEvalRow, ifeval_row, read_ifeval

__all__ = ["as_ifeval", "asked_rows", "kinds_of", "training_rows"]


def kinds_of(config: EvalConfig) -> list[str]:
    """Kinds of made rows and of the curve."""
    return list(config.data.kinds or DEMO_KINDS)


def asked_rows(config: EvalConfig) -> list[Row]:
    """The rows of the file, or made ones. ValueError as `read_rows` and `make_rows`."""
    data = config.data
    if data.suite == "ifeval":
        return [_from_ifeval(row) for row in read_ifeval(data.file)][: data.rows or None]
    if data.file:
        return read_rows(data.file, need_answers=False)[: data.rows or None]
    low, high = data.sentences
    return make_rows(kinds_of(config), data.rows, data.seed, data.split, sentences=(low, high))


def training_rows(config: EvalConfig, kinds: Sequence[str]) -> dict[str, list[Row]]:
    """By kind, those whose prompts the mean update is taken over."""
    found: dict[str, list[Row]] = {kind: [] for kind in kinds}
    if config.data.train:
        for row in read_rows(config.data.train):
            if row.kind in found and len(found[row.kind]) < MEAN_PROMPTS:
                found[row.kind].append(row)
        return found
    made = [kind for kind in found if kind in KINDS]
    return found | {kind: make_rows((kind,), MEAN_PROMPTS, config.data.seed, "train") for kind in made}


def _from_ifeval(row: IFEvalRow) -> Row:
    """As a row without an answer; what is to be checked are extra fields."""
    names = [instruction.id for instruction in row.instructions]
    kwargs = [dict(instruction.kwargs) for instruction in row.instructions]
    return Row(
        id=row.key, kind="ifeval", prompt=row.prompt, answer="", extra={"instruction_id_list": names, "kwargs": kwargs}
    )


def as_ifeval(row: Row) -> IFEvalRow | None:
    """The reverse; None for a row of another suite."""
    if "instruction_id_list" not in row.extra:
        return None
    return ifeval_row({"key": row.id, "prompt": row.prompt, **row.extra})
