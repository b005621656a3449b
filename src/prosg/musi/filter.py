"""Stage 2: which instructions are kept, and why the others are not.

The reasons, in the order in which they are checked: schema (no JSON, wrong fields, too few stages), language, length,
domain knowledge, near an evaluation text, near-duplicate. A recorded decision is final: later instructions are compared
with those that were kept before. The id of a decision hashes the options, so other options lead to new decisions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prosg.musi.categories import Category, domain_words
from prosg.musi.config import BuildConfig, FilterConfig
from prosg.musi.draft import DRAFT_FIELDS, draft_from_dict
from prosg.musi.prompts import DraftedInstruction
from prosg.musi.similar import SimilarText, first_similar
from prosg.musi.text import language, ngrams, words
from prosg.utils.fields import check_record
from prosg.utils.io import iter_jsonl
from prosg.utils.outside import parse_json, read_text
from prosg.utils.progress import OnProgress, no_progress
from prosg.utils.store import Log, record_id

__all__ = ["decisions_by_id", "evaluation_texts", "filter_instructions", "known_decisions"]

EVALUATION_FIELDS = ("prompt", "instruction", "question", "turns", "text", "input", "query", "problem")
CHUNK = 2048
"""Decisions that are recorded at once."""


def evaluation_texts(file: str) -> list[str]:
    """Reads the lines of a .txt file, or else the fields that hold prompts. Raises ValueError if there are no texts."""
    ending = Path(file).suffix
    if ending == ".txt":
        candidates = [line.strip() for line in read_text(file).splitlines()]
    elif ending == ".json":
        candidates = list(_fields(parse_json(read_text(file), file)))
    else:
        candidates = [text for _, data in iter_jsonl(file) for text in _fields(data)]
    texts = list(dict.fromkeys(text for text in candidates if words(text)))
    if not texts:
        raise ValueError(f"{file}: holds no texts; fields that are read: {', '.join(EVALUATION_FIELDS)}")
    return texts


def _fields(data: object) -> Iterator[str]:
    """Texts under the known names at any depth; a list of texts counts as several."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key in EVALUATION_FIELDS and isinstance(value, str):
                yield value
            elif key in EVALUATION_FIELDS and isinstance(value, list):
                yield from (item for item in value if isinstance(item, str))
                yield from _fields([item for item in value if not isinstance(item, str)])
            else:
                yield from _fields(value)
    elif isinstance(data, list):
        for item in data:
            yield from _fields(item)


class _Rules:
    """Rules that look at one instruction by itself."""

    def __init__(self, config: FilterConfig, categories: Mapping[str, Category]) -> None:
        self.config, self.categories = config, categories
        self.domain: dict[str, re.Pattern[str]] = {}
        for name in {category.language for category in categories.values()}:
            any_word = "|".join(re.escape(word.lower()) for word in domain_words(name, config.domain_words))
            self.domain[name] = re.compile(any_word if name == "zh" else rf"\b(?:{any_word})(?:e?s)?\b")

    def reason(self, instruction: DraftedInstruction) -> str:
        """Why the instruction is dropped; "" if it is not."""
        draft, config = instruction.draft, self.config
        if draft is None:
            return instruction.fault
        if len(draft.sub_instructions) < config.stages:
            return f"stages: {len(draft.sub_instructions)}, fewer than {config.stages}"
        wanted = self.categories[instruction.category].language
        if (actual := language(draft.prompt)) != wanted:
            return f"language: {actual}, not {wanted}"
        size = len(words(draft.prompt))
        if not config.shortest <= size <= config.longest:
            return f"length: {size} words, not {config.shortest} to {config.longest}"
        if draft.domain_knowledge > config.knowledge:
            return f"domain knowledge: rated {draft.domain_knowledge}, above {config.knowledge}"
        expert = sorted(set(self.domain[wanted].findall(draft.prompt.lower())))
        if len(expert) > 1:
            return f"domain knowledge: {', '.join(expert)}"
        return ""


def _record(instruction: DraftedInstruction, decision_id: str, reason: str) -> dict[str, Any]:
    record = {
        "id": decision_id,
        "source": instruction.source,
        "place": instruction.place,
        "category": instruction.category,
        "kept": not reason,
        "reason": reason,
    }
    return record | (instruction.draft.to_dict() if instruction.draft else {})


def _decision_id(instruction: DraftedInstruction, options: Mapping[str, Any]) -> str:
    return record_id(stage="filter", options=options, source=instruction.source, place=instruction.place)


def _open_texts(instructions: Sequence[DraftedInstruction], reasons: Sequence[str]) -> list[str]:
    """The prompts without a reason against them so far."""
    pairs = zip(instructions, reasons, strict=True)
    return [item.draft.prompt for item, reason in pairs if item.draft and not reason]


def _compare_with_evaluation(
    instructions: Sequence[DraftedInstruction], reasons: list[str], config: FilterConfig
) -> None:
    """Adds the reasons of instructions that are near an evaluation text, or share a run of words with one."""
    evaluation = [text for file in config.decontaminate for text in evaluation_texts(file)]
    if not evaluation:
        return
    runs = {run for text in evaluation for run in ngrams(words(text), config.ngram)}
    texts = _open_texts(instructions, reasons)
    places = [place for place, reason in enumerate(reasons) if not reason]
    matches = first_similar(texts, config.similar_above, evaluation, among=False)
    for place, text, match in zip(places, texts, matches, strict=True):
        if match is not None:
            reasons[place] = f"evaluation: ROUGE-L {match.score:.2f} to {evaluation[match.place][:80]!r}"
        elif not runs.isdisjoint(ngrams(words(text), config.ngram)):
            reasons[place] = f"evaluation: {config.ngram} words in a row in common"


def _file_hashes(config: FilterConfig) -> list[str]:
    """Hashes of the files that decisions depend on."""
    files = [*config.decontaminate, *([config.domain_words] if config.domain_words else [])]
    return [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]


def decisions_by_id(path: Path, records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns recorded decisions by id.

    Args:
        path: The log that they are from.
        records: All its records.

    Raises:
        ValueError: for a record that is no decision, naming file and line.
    """
    for number, record in enumerate(records, 1):
        where = f"{path}:{number}"
        check_record(record, {"id": str, "category": str, "kept": bool, "reason": str}, where)
        if record["kept"]:
            try:
                draft_from_dict({name: record.get(name) for name in DRAFT_FIELDS})
            except ValueError as error:
                raise ValueError(f"{where}: {error}; delete the line to have it made again") from None
    return {record["id"]: dict(record) for record in records}


def known_decisions(
    config: BuildConfig, instructions: Sequence[DraftedInstruction], path: Path, records: Sequence[Mapping[str, Any]]
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Returns the id of the decision on each instruction, and by id those that are recorded.

    Args:
        config: The build's options, on which the ids depend.
        instructions: The instructions.
        path, records: The log of decisions, as for `decisions_by_id`.

    Raises:
        ValueError: as `decisions_by_id`.
    """
    options = dataclasses.asdict(config.filter) | {"contents": _file_hashes(config.filter)}
    ids = [_decision_id(item, options) for item in instructions]
    decisions = decisions_by_id(path, records)
    for name, item in zip(ids, instructions, strict=True):
        # A decision about another text, which an earlier version found in the reply's reasoning, does not count.
        if name in decisions and decisions[name].get("prompt") != (item.draft.prompt if item.draft else None):
            del decisions[name]
    return ids, decisions


def filter_instructions(
    config: BuildConfig,
    categories: Sequence[Category],
    instructions: Sequence[DraftedInstruction],
    log: Log,
    on_progress: OnProgress = no_progress,
) -> list[dict[str, Any]]:
    """Decides on every instruction without a decision in the log, and appends the new decisions to it.

    Returns the decisions on all instructions, in order: {"id", "source", "place", "category", "kept", "reason"} and the
    instruction's fields.
    """
    ids, decisions = known_decisions(config, instructions, log.path, log.records)
    new_ids = [name for name in ids if name not in decisions]
    new = [item for item, name in zip(instructions, ids, strict=True) if name not in decisions]
    on_progress(len(instructions) - len(new))
    rules = _Rules(config.filter, {category.name: category for category in categories})
    reasons = [rules.reason(item) for item in new]
    _compare_with_evaluation(new, reasons, config.filter)
    kept = [decisions[name]["prompt"] for name in ids if name in decisions and decisions[name]["kept"]]
    texts = _open_texts(new, reasons)
    compared = [*kept, *texts]
    matches: Iterator[SimilarText | None] = first_similar(texts, config.filter.similar_above, kept)
    unsaved: list[dict[str, Any]] = []
    for place, (item, name) in enumerate(zip(new, new_ids, strict=True)):
        if not reasons[place] and (match := next(matches)):
            reasons[place] = f"near-duplicate: ROUGE-L {match.score:.2f} to {compared[match.place][:80]!r}"
        unsaved.append(_record(item, name, reasons[place]))
        if len(unsaved) == CHUNK or place == len(new) - 1:
            log.append(*unsaved)
            decisions |= {record["id"]: record for record in unsaved}
            on_progress(len(unsaved))
            unsaved = []
    return [decisions[name] for name in ids]
