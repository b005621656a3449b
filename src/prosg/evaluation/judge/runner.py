"""`prosg judge`: asks a judge about the answers of evaluations and writes its results into their folders.

    OUT/{steps,verdicts,comparison}.jsonl   every reply as it was received
    OUT/ledger.jsonl                        every request and its cost
    RUN/judge/...                           results, derived from the replies (see records.py)

An interrupted run continues where it stopped when it is started again, and no request is sent twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from prosg.evaluation.judge.agreement import StepKey, count_agreement, read_labels
from prosg.evaluation.judge.config import JudgeConfig
from prosg.evaluation.judge.protocol import row_steps
from prosg.evaluation.judge.records import JudgeRecords, iter_answers
from prosg.evaluation.judge.summary import agreement_text, judge_summary_text, read_step_results
from prosg.evaluation.run_folder import RunFolder, read_run
from prosg.llm.config import require_key
from prosg.llm.request_log import RequestLog
from prosg.utils.locks import locked

__all__ = ["judge_runs"]

RUN_FOLDERS = ("answers", "judge", "judge/pairs", "ratings")
"""Folders of a run that are read, and rewritten, as one file per name: a file of replies is none of them."""


def judge_runs(runs: Sequence[str | Path], config: JudgeConfig, labels: str | Path | None = None) -> int:
    """Judges all answers of some evaluations, writes the results and prints tables.

    Args:
        runs: Folders of evaluations.
        config: The judge's options.
        labels: A file of human labels to compare the judge with.

    Returns:
        0, or 1 where replies are missing in the end (a cap was reached, or the server failed).

    Raises:
        ValueError: Before the first request, for faults of the folders, the labels, the pairs or the API key; later
            for a server that cannot be used at all.
    """
    folders = [read_run(run) for run in runs]
    human_labels = {} if labels is None else read_labels(labels)
    _check_names(folders, config, human_labels, labels)
    require_key("endpoint", config.endpoint)
    with locked(Path(config.out)):
        status = asyncio.run(_ask_and_write(folders, config))
    for folder in folders:
        print(f"\n{folder.path}\n\n{judge_summary_text(folder.path)}")
    if human_labels:
        verdicts = {step: passed for f in folders for step, passed in read_step_results(f.path).items()}
        try:
            counts = count_agreement(verdicts, human_labels)
        except ValueError as error:  # of a row whose steps the judge has told
            raise ValueError(f"{labels}: {error}") from None
        print(f"\n{labels}: {agreement_text(counts)}")
    return status


def _check_names(
    folders: Sequence[RunFolder], config: JudgeConfig, human_labels: Mapping[StepKey, bool], labels: str | Path | None
) -> None:
    """Raises ValueError for a pair that no run has, and for a label of an answer or a stage that not one run has."""
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is named twice")
    for own in [folder.path / name for folder in folders for name in RUN_FOLDERS]:
        if Path(config.out).resolve() == own.resolve():
            raise ValueError(
                f"out is {config.out!r}, where a run keeps files of its own; the judge's replies need another folder"
            )
    known = {name for folder in folders for name in folder.systems}
    for name in [name for pair in config.pairs for name in pair]:
        if name not in known:
            raise ValueError(f"pairs names the system {name}; the runs have {', '.join(sorted(known))}")
    for pair in config.pairs:
        if not any(folder.systems.keys() >= {*pair} for folder in folders):
            raise ValueError(f"pairs has {pair}, and no run has answers of both; systems of one run are compared")
    for step in human_labels:
        having = [f for f in folders if step.system in f.systems and step.id in f.systems[step.system].answers]
        if len(having) != 1:
            which = "more than one run has" if having else "no run has"
            raise ValueError(f"{labels}: {which} an answer of {step.system!r} to {step.id!r}")
        stages = [number for number, _ in row_steps(having[0].rows[step.id])]
        if stages and step.stage not in stages:
            which = f"stage {step.stage} of {step.id!r}, which has the stages {stages}"
            raise ValueError(f"{labels}: a label is of {which}")


async def _ask_and_write(folders: Sequence[RunFolder], config: JudgeConfig) -> int:
    log = RequestLog(Path(config.out), ("steps", "verdicts", "comparison"), config.budget)
    records = JudgeRecords(config, log.replies)
    try:
        await _ask_missing(log, records, folders)
        for folder in folders:
            records.write(folder)
        return log.print_summary()
    finally:
        await log.close()


async def _ask_missing(log: RequestLog, records: JudgeRecords, folders: Sequence[RunFolder]) -> None:
    """Sends the requests without a reply, kind by kind, until all are answered or a cap is reached."""
    endpoint = records.config.endpoint
    answered = [(row, text) for folder in folders for _, row, text in iter_answers(folder)]
    prompts = [row.prompt for row, _ in answered if not row_steps(row)]
    await log.request_all("steps", "steps", endpoint, prompts, lambda prompt: records.steps(prompt).missing)
    answers = [answer for row, text in answered if (answer := records.answer_to_judge(row, text))]
    if not log.shortfall.cap:
        await log.request_all("verdicts", "verdicts", endpoint, answers, lambda one: records.verdicts(one).missing)
    orders = [order for folder in folders for pair in records.pairs(folder) for order in pair.orders]
    if not log.shortfall.cap:
        await log.request_all(
            "comparison", "comparison", endpoint, orders, lambda order: records.comparison(order).missing
        )
