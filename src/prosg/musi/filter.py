"""Stage 2: which instructions stay, with the reason where one does not.

The reasons, in the order in which they are looked for: schema (no JSON, wrong fields, too few stages), language,
length, domain knowledge, near an evaluation file, near-duplicate. A decision, once recorded, stays: what is drafted
later is compared with what was kept before. Decisions are recorded under a hash of the options, so other options decide
anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prosg.musi.categories import Category, domain_words
from prosg.musi.config import BuildConfig, FilterConfig
from prosg.musi.prompts import Drafted
from prosg.musi.similar import Match, first_similar
from prosg.musi.text import language, ngrams, words
from prosg.utils.io import iter_jsonl
from prosg.utils.store import Log, record_id

__all__ = ["decide", "evaluation_texts"]

EVALUATION_FIELDS = ("prompt", "instruction", "question", "turns", "text", "input", "query", "problem")
CHUNK = 2048
"""decisions that are recorded at once"""


def evaluation_texts(file: str) -> list[str]:
    """The texts of an evaluation file: lines of .txt, else the fields that hold prompts. ValueError where none are."""
    path = Path(file)
    try:
        if path.suffix == ".txt":
            found = [line.strip() for line in path.read_text("utf-8").splitlines()]
        elif path.suffix == ".json":
            found = list(_fields(json.loads(path.read_text("utf-8"))))
        else:
            found = [text for _, data in iter_jsonl(file) for text in _fields(data)]
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    texts = list(dict.fromkeys(text for text in found if words(text)))
    if not texts:
        raise ValueError(f"{file}: holds no texts; fields that are read: {', '.join(EVALUATION_FIELDS)}")
    return texts


def _fields(data: object) -> Iterator[str]:
    """Texts under the known names, however deep; a list of texts counts as several."""
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
    """All that is asked of one instruction by itself."""

    def __init__(self, config: FilterConfig, categories: Mapping[str, Category]) -> None:
        self.config, self.categories = config, categories
        self.domain: dict[str, re.Pattern[str]] = {}
        for name in {category.language for category in categories.values()}:
            found = "|".join(re.escape(word.lower()) for word in domain_words(name, config.domain_words))
            self.domain[name] = re.compile(found if name == "zh" else rf"\b(?:{found})(?:e?s)?\b")

    def reason(self, one: Drafted) -> str:
        """Why the instruction goes; "" where it may stay."""
        draft, config = one.draft, self.config
        if draft is None:
            return one.fault
        if len(draft.sub_instructions) < config.stages:
            return f"stages: {len(draft.sub_instructions)}, fewer than {config.stages}"
        wanted = self.categories[one.category].language
        if (found := language(draft.prompt)) != wanted:
            return f"language: {found}, not {wanted}"
        size = len(words(draft.prompt))
        if not config.shortest <= size <= config.longest:
            return f"length: {size} words, not {config.shortest} to {config.longest}"
        if draft.domain_knowledge > config.knowledge:
            return f"domain knowledge: rated {draft.domain_knowledge}, above {config.knowledge}"
        expert = sorted(set(self.domain[wanted].findall(draft.prompt.lower())))
        if len(expert) > 1:
            return f"domain knowledge: {', '.join(expert)}"
        return ""


def _record(one: Drafted, decision: str, reason: str) -> dict[str, Any]:
    data: dict[str, Any] = {"id": decision, "source": one.source, "place": one.place, "category": one.category}
    data |= {"kept": not reason, "reason": reason}
    return data | (one.draft.to_dict() if one.draft else {})


def _decision_id(one: Drafted, options: Mapping[str, Any]) -> str:
    return record_id(stage="filter", options=options, source=one.source, place=one.place)


def _open_texts(new: Sequence[tuple[Drafted, str]], reasons: Sequence[str]) -> list[str]:
    """The instructions that nothing is said against so far."""
    return [one.draft.prompt for (one, _), reason in zip(new, reasons, strict=True) if one.draft and not reason]


def _compare_with_evaluation(
    new: Sequence[tuple[Drafted, str]], reasons: list[str], evaluation: Sequence[str], config: FilterConfig
) -> None:
    """Add the reasons of instructions that are near an evaluation text, or have a run of words in common with one."""
    if not evaluation:
        return
    runs = {run for text in evaluation for run in ngrams(words(text), config.ngram)}
    texts = _open_texts(new, reasons)
    places = [place for place, reason in enumerate(reasons) if not reason]
    found = first_similar(texts, config.similar_above, evaluation, among=False)
    for place, text, near in zip(places, texts, found, strict=True):
        if near is not None:
            reasons[place] = f"evaluation: ROUGE-L {near.score:.2f} to {evaluation[near.place][:80]!r}"
        elif not runs.isdisjoint(ngrams(words(text), config.ngram)):
            reasons[place] = f"evaluation: {config.ngram} words in a row in common"


def _hashes(config: FilterConfig) -> list[str]:
    """What files hold is part of what decisions follow from."""
    files = [*config.decontaminate, *([config.domain_words] if config.domain_words else [])]
    return [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]


def decide(
    config: BuildConfig,
    categories: Sequence[Category],
    found: Sequence[Drafted],
    log: Log,
    tell: Callable[[int], object] = lambda count: None,
) -> list[dict[str, Any]]:
    """Decide on every instruction that has no decision yet, and return the records of all in order.

    tell: is called with the number of instructions done, in all `len(found)`.
    """
    options = dataclasses.asdict(config.filter) | {"contents": _hashes(config.filter)}
    decided = {record["id"]: record for record in log.records}
    ids = [_decision_id(one, options) for one in found]
    new = [(one, decision) for one, decision in zip(found, ids, strict=True) if decision not in decided]
    tell(len(found) - len(new))
    evaluation = [text for file in config.filter.decontaminate for text in evaluation_texts(file)]
    rules = _Rules(config.filter, {category.name: category for category in categories})
    kept = [decided[one]["prompt"] for one in ids if one in decided and decided[one]["kept"]]
    reasons = [rules.reason(one) for one, _ in new]
    _compare_with_evaluation(new, reasons, evaluation, config.filter)
    texts = _open_texts(new, reasons)
    everything = [*kept, *texts]
    matches: Iterator[Match | None] = first_similar(texts, config.filter.similar_above, kept)
    records: list[dict[str, Any]] = []
    for place, (one, decision) in enumerate(new):
        if not reasons[place] and (match := next(matches)):
            reasons[place] = f"near-duplicate: ROUGE-L {match.score:.2f} to {everything[match.place][:80]!r}"
        records.append(_record(one, decision, reasons[place]))
        if len(records) == CHUNK or place == len(new) - 1:
            log.append(*records)
            decided |= {record["id"]: record for record in records}
            tell(len(records))
            records = []
    return [decided[one] for one in ids]
