"""Programmatic checks of an answer's stages, stored in rows as plain dicts.

A check is `{"type": NAME, ...parameters}`, with the types and parameters of `CHECKS`. It is run on the whole text of a
stage, marker included and outer blanks removed: "Names: Anna, Bob, Cara and Dan.".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from prosg.data.mentions import SORTS, UNSPACED, WORD_CHARACTER, mentions, mentions_only
from prosg.data.readable import reads_as_text

__all__ = [
    "CHECKS",
    "SENTENCE_ENDS",
    "Check",
    "CheckType",
    "HasStages",
    "StageToCheck",
    "check_stages",
    "find_stages",
    "run_check",
    "split_items",
    "validate_check",
]

Check = Mapping[str, Any]
"""`{"type": NAME, ...parameters}`"""


class CheckType(NamedTuple):
    """A type of check: its parameters with their types, the optional ones among them, and the test itself."""

    parameters: Mapping[str, type]
    optional: frozenset[str]
    run: Callable[[Check, str], bool]


@runtime_checkable
class StageToCheck(Protocol):
    """What checking needs to know about a stage; `data.row.Stage` has it."""

    @property
    def marker(self) -> str:
        """Text that opens the stage in an answer; "" for the first stage."""
        ...

    @property
    def check(self) -> Check:
        """The check that the stage's text has to pass."""
        ...


@runtime_checkable
class HasStages(Protocol):
    """What checking needs to know about a row; `data.row.Row` has it."""

    @property
    def stages(self) -> Sequence[StageToCheck]:
        """The stages in the order of the answer."""
        ...


SENTENCE_ENDS = ".!?\u3002\uff01\uff1f"
SENTENCE_END = re.compile(rf"(?!(?<=\d)\.\d)[{SENTENCE_ENDS}]")
"""A stop in a number (3.5) ends no sentence."""

SEPARATOR = re.compile(r"(?<!\s)\s+,\s*(?:and\s+)?|,\s*(?:and\s+)?|(?<!\s)\s+and\s+|[\uff0c\u3001]")
"""Between items. A run of blanks is tried from its beginning alone: from every blank it takes quadratic time."""


def split_items(text: str) -> list[str]:
    """Splits "Anna, Bob, Cara and Dan." at commas and "and", without the final full stop.

    Where nothing stands between two of them ("Anna,, Bob") there is an empty item, which no list has.
    """
    text = text.strip().removesuffix(".").removesuffix("\u3002")
    return SEPARATOR.split(text) if text else []


def _items_after(check: Check, text: str) -> list[str] | None:
    opening = check.get("after", "")
    return split_items(text[len(opening) :]) if text.startswith(opening) else None


def _ordered_items(check: Check, text: str) -> bool:
    return _items_after(check, text) == list(check["items"])


def _same_items(check: Check, text: str) -> bool:
    items = _items_after(check, text)
    return items is not None and Counter(items) == Counter(check["items"])


def _exact(check: Check, text: str) -> bool:
    return text == str(check["text"]).strip()


def _contains(check: Check, text: str) -> bool:
    return all(mentions(text, item) for item in check["items"])


def _only(check: Check, text: str) -> bool:
    sorts = [check["sort"]] if "sort" in check else []
    return mentions_only(text, check["items"], sorts, check.get("others", ()))


def _repeats(check: Check, text: str) -> bool:
    return mentions_only(text, check["items"], [*SORTS])


def _ends_with(check: Check, text: str) -> bool:
    return text.endswith(str(check["text"]).strip())


def _sentences(check: Check, text: str) -> bool:
    # A lone full stop is no sentence: a word has to come before it. The text is split first, because a single pattern
    # for both takes cubic time on a text that never ends a sentence.
    count = sum(re.search(r"\w", sentence) is not None for sentence in SENTENCE_END.split(text)[:-1])
    return bool(check.get("min", 1) <= count <= check.get("max", count)) and (count == 0 or reads_as_text(text))


def _words(check: Check, text: str) -> bool:
    count = len(re.findall(rf"[{UNSPACED}]|{WORD_CHARACTER}+(?:['\u2019-]{WORD_CHARACTER}+)*", text))
    return bool(check.get("min", 1) <= count <= check.get("max", count))


def _all_of(check: Check, text: str) -> bool:
    return all(run_check(part, text) for part in check["checks"])


CHECKS: dict[str, CheckType] = {
    "exact": CheckType({"text": str}, frozenset(), _exact),
    "ordered_items": CheckType({"items": list, "after": str}, frozenset({"after"}), _ordered_items),
    "same_items": CheckType({"items": list, "after": str}, frozenset({"after"}), _same_items),
    "contains": CheckType({"items": list}, frozenset(), _contains),
    "only": CheckType({"items": list, "sort": str, "others": list}, frozenset({"sort", "others"}), _only),
    "ends_with": CheckType({"text": str}, frozenset(), _ends_with),
    "sentences": CheckType({"min": int, "max": int}, frozenset({"min", "max"}), _sentences),
    "words": CheckType({"min": int, "max": int}, frozenset({"min", "max"}), _words),
    "all_of": CheckType({"checks": list}, frozenset(), _all_of),
    "repeats": CheckType({"items": list, "stage": int, "after": str}, frozenset(), _repeats),
}


def _with_repeated(check: Check, pieces: Sequence[str | None]) -> Check | None:
    """A check "repeats" with what an earlier stage says, behind `after` and up to its first full stop, as an item.

    None where it says nothing there; other checks are returned as they are.
    """
    if check["type"] != "repeats":
        return check
    said = (pieces[check["stage"]] or "").removeprefix(check["after"]).partition(".")[0].strip()
    return {**check, "items": [*check["items"], said]} if said else None


def validate_check(check: object) -> None:
    """Raises ValueError unless `check` has a known type, exactly its parameters, and answers that pass."""
    if not isinstance(check, dict):
        raise ValueError(f"a check is an object with a type, not {type(check).__name__}")
    name = check.get("type")
    if not isinstance(name, str) or name not in CHECKS:
        raise ValueError(f"unknown check type {name!r}; allowed: {', '.join(CHECKS)}")
    check_type = CHECKS[name]
    for key in check:
        if key != "type" and key not in check_type.parameters:
            raise ValueError(f"check {name!r} has no parameter {key!r}; allowed: {', '.join(check_type.parameters)}")
    for key, wanted in check_type.parameters.items():
        if key not in check:
            if key in check_type.optional:
                continue
            raise ValueError(f"check {name!r} needs the parameter {key!r}")
        value = check[key]
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ValueError(f"check {name!r}: {key!r} must be of type {wanted.__name__}, not {type(value).__name__}")
    for key in check.keys() & {"items", "others"}:
        if not (check[key] and all(isinstance(item, str) for item in check[key])):
            raise ValueError(f"check {name!r}: {key!r} must be a list of at least one string")
    if "sort" in check and check["sort"] not in SORTS:
        raise ValueError(f"check {name!r}: unknown 'sort' {check['sort']!r}; allowed: {', '.join(SORTS)}")
    if check.get("stage", 0) < 0:
        raise ValueError(f"check {name!r}: 'stage' is {check['stage']}; stages are counted from 0")
    if "max" in check and check["max"] < check.get("min", 1):
        least = f"'min' {check['min']}" if "min" in check else "'min' 1, as it is by default,"
        raise ValueError(f"check {name!r}: no answer passes {least} and 'max' {check['max']}; 'max' is at least 'min'")
    if "checks" in check_type.parameters:
        if not check["checks"]:
            raise ValueError(f"check {name!r}: 'checks' must be a list of at least one check")
        for part in check["checks"]:
            validate_check(part)


def run_check(check: Check, text: str) -> bool:
    """Whether a stage's text passes the check. Raises ValueError for a type that is not in `CHECKS`."""
    name = check.get("type")
    if name not in CHECKS:
        raise ValueError(f"unknown check type {name!r}; allowed: {', '.join(CHECKS)}")
    return CHECKS[name].run(check, text.strip())


def find_stages(row: HasStages, text: str) -> list[str | None]:
    """Splits an answer into the row's stages at their markers.

    Markers are searched in order, each behind the previous one. A stage runs until the next marker that was found, so
    text behind a missing marker belongs to the stage before it and fails that stage's exact checks.

    Args:
        row: The row whose stages are searched.
        text: An answer, usually a generated one.

    Returns:
        The text of every stage, marker included and outer blanks removed; None where the marker is missing.
    """
    starts: list[int | None] = []
    position = 0
    for stage in row.stages:
        start = text.find(stage.marker, position)
        starts.append(None if start < 0 else start)
        if start >= 0:
            position = start + len(stage.marker)
    pieces: list[str | None] = []
    end = len(text)
    for marker_at in reversed(starts):
        pieces.append(None if marker_at is None else text[marker_at:end].strip())
        end = end if marker_at is None else marker_at
    return pieces[::-1]


def _without_length(check: Check) -> Check:
    if check["type"] in ("sentences", "words"):
        return {"type": check["type"], "min": 1}
    if check["type"] == "all_of":
        return {"type": "all_of", "checks": [_without_length(part) for part in check["checks"]]}
    return check


def check_stages(row: HasStages, text: str, *, length_controlled: bool = False) -> list[bool]:
    """Whether each stage of an answer passes its check.

    Args:
        row: The row whose stages are checked.
        text: An answer, usually a generated one.
        length_controlled: Ignore required numbers of sentences and words: the length of the text was imposed on the
            model.

    Returns:
        One boolean per stage, none for a row without stages. Late accuracy counts the last one.
    """
    pieces = find_stages(row, text)
    results = []
    for stage, piece in zip(row.stages, pieces, strict=True):
        wanted = _without_length(stage.check) if length_controlled else stage.check
        check = _with_repeated(wanted, pieces)
        results.append(piece is not None and check is not None and run_check(check, piece))
    return results
