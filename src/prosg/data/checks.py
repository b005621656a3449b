"""Programmatic checks of an answer's stages, serialised as plain dicts so that they travel inside a row.

A check is `{"type": NAME, ...parameters}`. It is shown the stage's whole text, the words of its marker included and
outer blanks removed ("Names: Anna, Bob, Cara and Dan."), and says yes or no. `CHECKS` is the list of all there are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from prosg.data.row import Row

__all__ = ["CHECKS", "CheckType", "find_stages", "run_check", "score", "split_items", "validate_check"]

Check = Mapping[str, Any]


class CheckType(NamedTuple):
    """One type of check: its parameters with their types, which of them may be left out, and the test itself."""

    parameters: Mapping[str, type]
    optional: frozenset[str]
    run: Callable[[Check, str], bool]


UNSPACED = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""characters of scripts that are written without spaces: each counts as a word, and a word may begin beside any"""
ENDS = ".!?\u3002\uff01\uff1f"
BOUND = rf"[^\W{UNSPACED}]"


def split_items(text: str) -> list[str]:
    """The items of "Anna, Bob, Cara and Dan.": split at commas and "and", the last full stop removed."""
    text = text.strip().removesuffix(".").removesuffix("\u3002")
    return [item for item in re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+|[\uff0c\u3001]", text) if item]


def _items_after(check: Check, text: str) -> list[str] | None:
    opening = check.get("after", "")
    return split_items(text[len(opening) :]) if text.startswith(opening) else None


def _ordered_items(check: Check, text: str) -> bool:
    return _items_after(check, text) == list(check["items"])


def _same_items(check: Check, text: str) -> bool:
    found = _items_after(check, text)
    return found is not None and Counter(found) == Counter(check["items"])


def _exact(check: Check, text: str) -> bool:
    return text == str(check["text"]).strip()


def _contains(check: Check, text: str) -> bool:
    for item in check["items"]:
        # "key" is not in "keys", but Chinese words stand between others without a gap.
        before = rf"(?<!{BOUND})" if re.match(BOUND, item) else ""
        after = rf"(?!{BOUND})" if re.search(rf"{BOUND}$", item) else ""
        if not re.search(before + re.escape(item) + after, text):
            return False
    return True


def _ends_with(check: Check, text: str) -> bool:
    return text.endswith(str(check["text"]).strip())


def _sentences(check: Check, text: str) -> bool:
    # A lone full stop is no sentence: there has to be a word before it. Cut first: one pattern for both, on a text that
    # never ends a sentence, takes time with the cube of its length.
    count = sum(re.search(r"\w", sentence) is not None for sentence in re.split(f"[{ENDS}]", text)[:-1])
    return bool(check.get("min", 1) <= count <= check.get("max", count))


def _words(check: Check, text: str) -> bool:
    count = len(re.findall(rf"[{UNSPACED}]|{BOUND}+(?:['\u2019-]{BOUND}+)*", text))
    return bool(check.get("min", 1) <= count <= check.get("max", count))


def _all_of(check: Check, text: str) -> bool:
    return all(run_check(part, text) for part in check["checks"])


CHECKS: dict[str, CheckType] = {
    "exact": CheckType({"text": str}, frozenset(), _exact),
    "ordered_items": CheckType({"items": list, "after": str}, frozenset({"after"}), _ordered_items),
    "same_items": CheckType({"items": list, "after": str}, frozenset({"after"}), _same_items),
    "contains": CheckType({"items": list}, frozenset(), _contains),
    "ends_with": CheckType({"text": str}, frozenset(), _ends_with),
    "sentences": CheckType({"min": int, "max": int}, frozenset({"min", "max"}), _sentences),
    "words": CheckType({"min": int, "max": int}, frozenset({"min", "max"}), _words),
    "all_of": CheckType({"checks": list}, frozenset(), _all_of),
}


def validate_check(check: Any) -> None:
    """Raise ValueError unless `check` is a known type with exactly the parameters that it takes."""
    if not isinstance(check, dict):
        raise ValueError(f"a check is an object with a type, not {type(check).__name__}")
    name = check.get("type")
    if not isinstance(name, str) or name not in CHECKS:
        raise ValueError(f"unknown check type {name!r}; allowed: {', '.join(CHECKS)}")
    kind = CHECKS[name]
    for key in check:
        if key != "type" and key not in kind.parameters:
            raise ValueError(f"check {name!r} has no parameter {key!r}; allowed: {', '.join(kind.parameters)}")
    for key, wanted in kind.parameters.items():
        if key not in check:
            if key in kind.optional:
                continue
            raise ValueError(f"check {name!r} needs the parameter {key!r}")
        value = check[key]
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ValueError(f"check {name!r}: {key!r} must be of type {wanted.__name__}, not {type(value).__name__}")
    if "items" in kind.parameters and not (check["items"] and all(isinstance(item, str) for item in check["items"])):
        raise ValueError(f"check {name!r}: 'items' must be a list of at least one string")
    if "checks" in kind.parameters:
        for part in check["checks"]:
            validate_check(part)


def run_check(check: Check, text: str) -> bool:
    """Whether a stage's text passes. Raises ValueError for a type that is not in `CHECKS`."""
    name = check.get("type")
    if name not in CHECKS:
        raise ValueError(f"unknown check type {name!r}; allowed: {', '.join(CHECKS)}")
    return CHECKS[name].run(check, text.strip())


def find_stages(row: Row, text: str) -> list[str | None]:
    """Cut generated text into the row's stages by their markers; None for a stage whose marker is not found.

    Markers are looked for in order, each behind the one before it. A stage runs until the next marker that was found,
    so what stands behind a missing marker counts as part of the stage before and spoils its exact checks.
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
    for found in reversed(starts):
        pieces.append(None if found is None else text[found:end].strip())
        end = end if found is None else found
    return pieces[::-1]


def _without_length(check: Check) -> Check:
    if check["type"] in ("sentences", "words"):
        return {"type": check["type"], "min": 1}
    if check["type"] == "all_of":
        return {"type": "all_of", "checks": [_without_length(part) for part in check["checks"]]}
    return check


def score(row: Row, text: str, *, length_controlled: bool = False) -> list[bool]:
    """One boolean per stage of the row (none for a row without stages); the last one is what late accuracy counts.

    length_controlled: the story's length was set from outside and not by the model, so a number of sentences that the
    prompt asked for is not held against it.
    """
    results = []
    for stage, piece in zip(row.stages, find_stages(row, text), strict=True):
        check = _without_length(stage.check) if length_controlled else stage.check
        results.append(piece is not None and run_check(check, piece))
    return results
