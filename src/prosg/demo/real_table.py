"""What an update is worth on a real model, in nats per token: beside another prompt's, the mean one, and none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prosg.evaluation.formatting import amount
from prosg.evaluation.report.cells import signed
from prosg.evaluation.results import Run, SystemResult
from prosg.evaluation.statistics import Mean, compare, mean_of
from prosg.model.perplexity import RowScore
from prosg.utils.tables import Table

__all__ = ["REACH", "real_tables"]

Values = Mapping[str, float]
REACH = {
    "the prompt's state kept": (
        "plus, own update",
        "plus, another prompt's",
        "plus, the mean update",
        "plus, no update",
    ),
    "the prompt out of reach (state wiped)": (
        "plus, own, state wiped",
        "plus, another prompt's, state wiped",
        "plus, the mean update, state wiped",
        "window, nothing held, state wiped",
    ),
}
"""Labels of a prompt's own update, another's, the mean one, and none."""


def real_tables(run: Run) -> list[tuple[Table, str]]:
    """Returns tables with their captions, of a run that has systems of `REACH`; "-" stands for one that it has not.

    One is of whole answers by kind of row, one of late stages. A line says what answers cost under their own update, in
    nats per token, and what each of the other three costs more, with 95 % intervals over rows.
    """
    by_label = {system.config.label: system for system in run.systems}
    tables = []
    for name, value in (("answers", _nats), ("late stages", _late_nats)):
        table: Table = [[name, "own", "another's - own", "the mean - own", "none - own", "own: late exact"]]
        for reach, labels in REACH.items():
            systems = [by_label.get(label) for label in labels]
            for kind in sorted({row.kind for row in run.rows.values()}):
                own, *others = (_of_kind(run, system, kind, value) for system in systems)
                if not own:
                    continue
                more = [signed(compare(other, own)) for other in others]
                exact = mean_of(_of_kind(run, systems[0], kind, _late_exact))
                cells = [_plain(mean_of(own)), *more, "-" if exact is None else amount(exact.mean)]
                table.append([f"{kind}, {reach}", *cells])
        if len(table) > 1:
            unit = "Nats per token of the rows' own " + name
            tables.append((table, f"{unit}, {len(run.rows)} test rows; differences with 95 % intervals over rows."))
    return tables


def _of_kind(run: Run, system: SystemResult | None, kind: str, value: Callable[[RowScore], float | None]) -> Values:
    scores = {} if system is None else system.scores
    found = {key: value(score) for key, score in scores.items() if run.rows[key].kind == kind}
    return {key: number for key, number in found.items() if number is not None}


def _nats(score: RowScore) -> float | None:
    return score.nll / score.tokens


def _late_nats(score: RowScore) -> float | None:
    return score.late_nll / score.late_tokens if score.late_nll is not None and score.late_tokens else None


def _late_exact(score: RowScore) -> float | None:
    return None if score.late_exact is None else float(score.late_exact)


def _plain(mean: Mean | None) -> str:
    return "-" if mean is None else f"{mean.mean:.3f}"
