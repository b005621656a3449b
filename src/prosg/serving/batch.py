"""Files of requests, answered: each line a prompt or messages with options of its own, each answer a line.

    {"prompt": "...", "id": "a", "max_tokens": 80, "seed": 1}      or {"messages": [{"role": "user", "content": "..."}]}
    -> {"line": 1, "key": ..., "id": "a", "answer": ..., "reason": "stop", "prompt_tokens": 9, "completion_tokens": 40}
    -> {"line": 2, "key": ..., "id": "", "error": "'prompt' is empty; ..."}

Answers are written as they come, not in the order of the lines. A file of answers that is there is gone on with: lines
that it answers, with the same options and by the same model, are left out; one that could not be answered, and was
changed since, is answered now, in a further record.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from prosg.core.encoded import Memory
from prosg.data.row import FIELDS, Row, row_from_dict
from prosg.data.templates import ChatTemplate
from prosg.model.answering import frame_rows, reply
from prosg.model.options import EncodeOptions, GenerateOptions
from prosg.serving.engine import Engine
from prosg.serving.request import Finished, Piece, Request
from prosg.utils.io import iter_lines
from prosg.utils.outside import parse_json
from prosg.utils.spelling import meant
from prosg.utils.store import Log, record_id
from prosg.utils.values import shortened, typed

__all__ = ["BatchResult", "answer_file"]

OPTIONS: dict[str, Any] = {
    "max_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "stop": list[str],
    "seed": int,
    "memory": Memory,
    "tau": float,
    "template": str,
}
"""What a line may say of its answer, and of which type it is."""
ELSEWHERE = {*EncodeOptions.__annotations__, *GenerateOptions.__annotations__, "n"} - OPTIONS.keys()
"""Options of reading prompts and writing answers that a line cannot have."""
PROMPTS = (*FIELDS, "messages", "text")
LONGEST_REASON = 300


class BatchResult(NamedTuple):
    """What became of the lines of a file."""

    answered: int
    failed: int
    skipped: int
    """answered before"""


@dataclass
class _Line:
    """A line that is being answered: its listener."""

    number: int
    key: str
    id: str
    template: ChatTemplate
    pieces: list[str] = field(default_factory=list)
    end: Finished | None = None

    def __call__(self, event: Piece | Finished) -> None:
        if isinstance(event, Finished):
            self.end = event
        else:
            self.pieces.append(event.text)

    def record(self) -> dict[str, Any]:
        assert self.end is not None
        if self.end.reason == "error":
            return _failure(self.number, self.key, self.id, self.end.error or "")
        return {
            "line": self.number,
            "key": self.key,
            "id": self.id,
            "answer": reply("".join(self.pieces), self.template),
            "reason": self.end.reason,
            "prompt_tokens": self.end.prompt_tokens,
            "completion_tokens": self.end.completion_tokens,
        }


def answer_file(
    engine: Engine,
    path: str | Path,
    out: str | Path,
    *,
    memory: Memory | None = None,
    tau: float | None = None,
    template: str = "",
    **sampling: Any,
) -> BatchResult:
    """Answers the requests of a file, as many at once as the engine has rows.

    Args:
        engine: What answers; it is stepped here, so it must not have a thread of its own.
        path: The JSON lines file of requests.
        out: The JSON lines file of answers; it is gone on with.
        memory, tau, template: As in `ProSG.encode`, where a line does not say.
        sampling: Options of `Sampling` where a line does not say; of those, what a line may say (`OPTIONS`).

    Raises:
        ValueError: for files that cannot be read, options out of range, a file of answers to other requests, and one
            that another process writes.
    """
    usual: dict[str, Any] = {"memory": memory, "tau": tau, "template": template, **sampling}
    if unknown := sampling.keys() - OPTIONS.keys():
        raise ValueError(f"option {min(unknown)} is unknown; allowed: {', '.join(OPTIONS)}")
    engine.model.sampling(**sampling)
    engine.model.check_memory(memory, tau)
    lines = iter_lines(path)
    lines = chain([*islice(lines, 1)], lines)  # whether it can be read is known before anything is written
    log = Log(Path(out), alone=True)
    try:
        return _answer(engine, Path(path), lines, log, usual)
    finally:
        log.close()


def _answer(
    engine: Engine, path: Path, lines: Iterator[tuple[int, bytes]], log: Log, usual: Mapping[str, Any]
) -> BatchResult:
    done = _answered(log)
    last = {record["line"]: record for record in log.records}
    failures = {number for number, record in last.items() if "error" in record}  # changed since, they are answered
    answered = failed = skipped = 0
    running: list[_Line] = []
    ended = False
    while running or not ended:
        while not ended and len(running) < 2 * engine.max_rows:
            number, content = next(lines, (0, b""))
            if not number:
                ended = True
                break
            line = content.removeprefix(BOM_UTF8).decode("latin-1").strip()
            key = record_id(line=line, model=engine.fingerprint, usual=dict(usual))
            if number in done:
                if done[number] != key and number not in failures:
                    raise ValueError(
                        f"{log.path}: answers line {number} of {path} as it was before, under other options, or by "
                        "another model; name another file"
                    )
                if done[number] == key:
                    if number in failures:
                        failed += 1
                    else:
                        skipped += 1
                    continue
            try:
                running.append(_submit(engine, number, key, parse_json(content, f"{path}:{number}"), usual))
            except ValueError as error:
                reason = str(error).removeprefix(f"{path}:{number}: ")
                log.append(_failure(number, key, "", reason))
                failed += 1
        engine.step()
        over = [line for line in running if line.end is not None]
        if over:
            log.append(*(line.record() for line in over))
            running = [line for line in running if line.end is None]
            wrong = sum(line.end is not None and line.end.reason == "error" for line in over)
            answered, failed = answered + len(over) - wrong, failed + wrong
    return BatchResult(answered, failed, skipped)


def _answered(log: Log) -> dict[int, str]:
    """The keys of the lines that a file of answers has, by their numbers."""
    done: dict[int, str] = {}
    for place, record in enumerate(log.records, 1):
        number, key = record.get("line"), record.get("key")
        if not isinstance(number, int) or not isinstance(key, str):
            raise ValueError(f"{log.path}:{place}: no answer of prosg batch; name another file")
        done[number] = key
    return done


def _submit(engine: Engine, number: int, key: str, data: Any, usual: Mapping[str, Any]) -> _Line:
    """Takes a line in. Raises ValueError for one that is wrong."""
    row, options = _parsed(data, usual)
    memory, tau, template = (options.pop(name) for name in ("memory", "tau", "template"))
    model = engine.model
    ((framed, chosen),) = frame_rows([row], model, template)
    assert model.tokenizer is not None
    stops = [*options.pop("stop", ()), *filter(None, [chosen.stop])]
    special = chosen.special(model.special, model.tokenizer)
    sampling = model.sampling(**options, stop=stops, end_token=special.end)
    ids = framed.prompt_ids(model.tokenizer, model.special)
    line = _Line(number, key, row.id, chosen)
    engine.submit(Request(tuple(ids), sampling, memory=memory, tau=tau), line)
    return line


def _parsed(data: Any, usual: Mapping[str, Any]) -> tuple[Row, dict[str, Any]]:
    """The row of a line, and its options on top of the usual ones."""
    row = row_from_dict(data, need_answer=False)
    given = {name: value for name, value in data.items() if name not in PROMPTS}
    for name in [*given]:
        if name in OPTIONS:
            continue
        allowed = ", ".join((*PROMPTS, *OPTIONS))
        if name in ELSEWHERE:
            raise ValueError(f"{name} is no option of a line; allowed: {allowed}")
        if close := meant(name, [*OPTIONS]):
            raise ValueError(f"field {shortened(name)!r} is unknown{close}; allowed: {allowed}")
        del given[name]  # data sets have fields of their own
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    return row, {**usual, **{name: typed(name, value, OPTIONS[name]) for name, value in given.items()}}


def _failure(number: int, key: str, row_id: str, reason: str) -> dict[str, Any]:
    return {"line": number, "key": key, "id": row_id, "error": shortened(reason, LONGEST_REASON)}
