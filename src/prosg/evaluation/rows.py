"""The rows of an evaluation: from a file, of a public suite, or generated; and the training rows of the mean update."""

from __future__ import annotations

from collections.abc import Sequence

from prosg.data.row import Row, read_rows
from prosg.data.synthetic import KINDS, PLAIN, Difficulty, expand_kinds, make_rows
from prosg.evaluation.config import EvalConfig
from prosg.evaluation.controls import MEAN_PROMPTS
from prosg.evaluation.ifeval.rows import IFEvalRow, parse_ifeval_row, read_ifeval
from prosg.utils.progress import say

__all__ = ["as_ifeval", "asked_rows", "kinds_of", "training_rows"]


def kinds_of(config: EvalConfig) -> list[str]:
    """Kinds of generated rows and of the curve."""
    return expand_kinds(config.data.kinds)


def asked_rows(config: EvalConfig) -> list[Row]:
    """The rows of the configured file, or generated ones. Raises ValueError as `read_rows` and `make_rows`."""
    data = config.data
    if data.file:
        ifeval = data.suite == "ifeval"
        rows = [*map(_from_ifeval, read_ifeval(data.file))] if ifeval else read_rows(data.file, need_answers=False)
        asked = rows[: data.rows or None]
        if len(asked) < len(rows):
            say(f"{data.file}: the first {len(asked)} of {len(rows)} rows are asked (data.rows; 0 for all)")
        if (prompts := len({row.prompt for row in asked})) < len(asked):
            say(f"{data.file}: {len(asked)} rows have {prompts} prompts; intervals count each row")
        return asked
    low, high = data.sentences
    return make_rows(kinds_of(config), data.rows, data.seed, data.split, sentences=(low, high))


def training_rows(
    config: EvalConfig, kinds: Sequence[str], difficulty: Difficulty | None = None
) -> dict[str, list[Row]]:
    """By kind, the rows whose prompts the mean update is taken over: of the training file, or generated ones.

    Args:
        config: The evaluation.
        kinds: Kinds of instruction.
        difficulty: What makes generated prompts harder.
    """
    rows: dict[str, list[Row]] = {kind: [] for kind in kinds}
    if config.data.train:
        for row in read_rows(config.data.train):
            if row.kind in rows and len(rows[row.kind]) < MEAN_PROMPTS:
                rows[row.kind].append(row)
        return rows
    for kind in filter(KINDS.__contains__, kinds):
        rows[kind] = make_rows((kind,), MEAN_PROMPTS, config.data.seed, "train", difficulty=difficulty or PLAIN)
    return rows


def _from_ifeval(row: IFEvalRow) -> Row:
    """A row without an answer; what is to be checked stands in extra fields."""
    names = [instruction.id for instruction in row.instructions]
    kwargs = [dict(instruction.kwargs) for instruction in row.instructions]
    return Row(
        id=row.key, kind="ifeval", prompt=row.prompt, answer="", extra={"instruction_id_list": names, "kwargs": kwargs}
    )


def as_ifeval(row: Row) -> IFEvalRow | None:
    """The IFEval row that a row was made of; None for a row of another suite."""
    if "instruction_id_list" not in row.extra:
        return None
    return parse_ifeval_row({"key": row.id, "prompt": row.prompt, **row.extra})
