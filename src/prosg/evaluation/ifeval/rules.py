"""The 25 instruction rules of IFEval (Zhou et al. 2023, arXiv 2311.07911), after the published checker.

`RULES` maps an instruction id to a rule: the keyword arguments that it takes, and a test of (kwargs, response). Rules
have no special case for empty responses; `IFEvalInstruction.followed_by` decides that these follow nothing.

Differences from the published checker:

- keywords, forbidden words and section names are matched as plain text, while the checker reads them as regular
  expressions, where "." matches any character (no published row has a special character);
- `letter` may be any character: two published rows ask for "#" and "!", in whose place the checker draws a random
  letter;
- sentences and capital words are counted by text.py, and language detection is seeded, so that results are
  deterministic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from prosg.evaluation.ifeval.arguments import (
    COUNT,
    LANGUAGE,
    LETTER,
    POSITION,
    RELATION,
    TEXT,
    TEXTS,
    RuleArgument,
)
from prosg.evaluation.ifeval.language import detect_language
from prosg.evaluation.ifeval.text import capital_words, split_sentences

__all__ = ["RULES", "Rule"]

Kwargs = Mapping[str, Any]

CONSTRAINED_RESPONSES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
"""The responses that detectable_format:constrained_response allows."""
POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
"""Patterns of the markers that may contain blanks."""


class Rule(NamedTuple):
    """An instruction's keyword arguments, all required, and whether a response follows it."""

    arguments: Mapping[str, RuleArgument]
    follows: Callable[[Kwargs, str], bool]


def _compare(count: int, relation: str, limit: int) -> bool:
    return count < limit if relation == "less than" else count >= limit


def _occurrences(word: str, text: str) -> int:
    """Counts a word, also inside longer words, ignoring case."""
    return len(re.findall(re.escape(word), text, re.IGNORECASE))


def _existence(kwargs: Kwargs, text: str) -> bool:
    return all(_occurrences(word, text) for word in kwargs["keywords"])


def _frequency(kwargs: Kwargs, text: str) -> bool:
    return _compare(_occurrences(kwargs["keyword"].strip(), text), kwargs["relation"], kwargs["frequency"])


def _forbidden_words(kwargs: Kwargs, text: str) -> bool:
    words = kwargs["forbidden_words"]
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in words)


def _letter_frequency(kwargs: Kwargs, text: str) -> bool:
    count = text.lower().count(kwargs["letter"].lower())
    return _compare(count, kwargs["let_relation"], kwargs["let_frequency"])


def _in_language(text: str, language: str) -> bool:
    """A text whose language cannot be detected counts as written in any."""
    return detect_language(text) in (language, None)


def _response_language(kwargs: Kwargs, text: str) -> bool:
    return _in_language(text, kwargs["language"])


def _number_sentences(kwargs: Kwargs, text: str) -> bool:
    return _compare(len(split_sentences(text)), kwargs["relation"], kwargs["num_sentences"])


def _number_words(kwargs: Kwargs, text: str) -> bool:
    return _compare(len(re.findall(r"\w+", text)), kwargs["relation"], kwargs["num_words"])


def _number_paragraphs(kwargs: Kwargs, text: str) -> bool:
    """Paragraphs between ***; dividers may open and close the text, but else no paragraph may be empty."""
    first, *inner = re.split(r"\s?\*\*\*\s?", text)
    last = [inner.pop()] if inner else []
    if not all(part.strip() for part in inner):
        return False
    filled = sum(part.strip() != "" for part in (first, *inner, *last))
    return bool(filled == kwargs["num_paragraphs"])


def _nth_paragraph_first_word(kwargs: Kwargs, text: str) -> bool:
    """Paragraphs between blank lines; empty ones do not count towards the number, but do towards the position."""
    paragraphs = text.split("\n\n")
    filled = sum(part.strip() != "" for part in paragraphs)
    position = kwargs["nth_paragraph"]
    if filled != kwargs["num_paragraphs"] or position > filled or not paragraphs[position - 1].strip():
        return False
    opening = paragraphs[position - 1].split()[0].lstrip("'").lstrip('"')
    word = re.match(r"[^.,?!'\"]*", opening)
    return bool(word is not None and word[0].lower() == kwargs["first_word"].lower())


def _number_placeholders(kwargs: Kwargs, text: str) -> bool:
    return bool(len(re.findall(r"\[.*?\]", text)) >= kwargs["num_placeholders"])


def _postscript(kwargs: Kwargs, text: str) -> bool:
    marker = kwargs["postscript_marker"].strip()
    return re.search(POSTSCRIPTS.get(marker, re.escape(marker.lower())), text.lower()) is not None


def _number_bullet_lists(kwargs: Kwargs, text: str) -> bool:
    """Lines that begin with "-", or with a single "*" and a text."""
    stars = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)  # apart: a star without a text takes in the line after it
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return bool(len(stars) + len(dashes) == kwargs["num_bullets"])


def _constrained_response(kwargs: Kwargs, text: str) -> bool:
    return any(option in text for option in CONSTRAINED_RESPONSES)


def _number_highlighted_sections(kwargs: Kwargs, text: str) -> bool:
    """Sections in *one* or **two** stars, within a line."""
    sections = re.findall(r"\*([^\n*]*)\*", text) + re.findall(r"\*\*([^\n*]*)\*\*", text)
    return bool(sum(part.strip() != "" for part in sections) >= kwargs["num_highlights"])


def _multiple_sections(kwargs: Kwargs, text: str) -> bool:
    headings = re.findall(rf"{re.escape(kwargs['section_spliter'].strip())}\s?\d+", text)
    return bool(len(headings) >= kwargs["num_sections"])


def _json_format(kwargs: Kwargs, text: str) -> bool:
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(kwargs: Kwargs, text: str) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(kwargs: Kwargs, text: str) -> bool:
    """Two different responses between ******; dividers may also open and close the text."""
    parts = [part.strip() for part in text.split("******")]
    if not all(parts[1:-1]):
        return False
    filled = [part for part in parts if part]
    return len(filled) == 2 and filled[0] != filled[1]


def _repeat_prompt(kwargs: Kwargs, text: str) -> bool:
    return bool(text.strip().lower().startswith(kwargs["prompt_to_repeat"].strip().lower()))


def _end_checker(kwargs: Kwargs, text: str) -> bool:
    return bool(text.strip().strip('"').lower().endswith(kwargs["end_phrase"].strip().lower()))


def _quotation(kwargs: Kwargs, text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _capital_word_frequency(kwargs: Kwargs, text: str) -> bool:
    return _compare(capital_words(text), kwargs["capital_relation"], kwargs["capital_frequency"])


def _english_capital(kwargs: Kwargs, text: str) -> bool:
    return text.isupper() and _in_language(text, "en")


def _english_lowercase(kwargs: Kwargs, text: str) -> bool:
    return text.islower() and _in_language(text, "en")


def _no_comma(kwargs: Kwargs, text: str) -> bool:
    return "," not in text


RULES: dict[str, Rule] = {
    "keywords:existence": Rule({"keywords": TEXTS}, _existence),
    "keywords:frequency": Rule({"keyword": TEXT, "frequency": COUNT, "relation": RELATION}, _frequency),
    "keywords:forbidden_words": Rule({"forbidden_words": TEXTS}, _forbidden_words),
    "keywords:letter_frequency": Rule(
        {"letter": LETTER, "let_frequency": COUNT, "let_relation": RELATION}, _letter_frequency
    ),
    "language:response_language": Rule({"language": LANGUAGE}, _response_language),
    "length_constraints:number_sentences": Rule({"num_sentences": COUNT, "relation": RELATION}, _number_sentences),
    "length_constraints:number_paragraphs": Rule({"num_paragraphs": COUNT}, _number_paragraphs),
    "length_constraints:number_words": Rule({"num_words": COUNT, "relation": RELATION}, _number_words),
    "length_constraints:nth_paragraph_first_word": Rule(
        {"num_paragraphs": COUNT, "nth_paragraph": POSITION, "first_word": TEXT}, _nth_paragraph_first_word
    ),
    "detectable_content:number_placeholders": Rule({"num_placeholders": COUNT}, _number_placeholders),
    "detectable_content:postscript": Rule({"postscript_marker": TEXT}, _postscript),
    "detectable_format:number_bullet_lists": Rule({"num_bullets": COUNT}, _number_bullet_lists),
    "detectable_format:constrained_response": Rule({}, _constrained_response),
    "detectable_format:number_highlighted_sections": Rule({"num_highlights": COUNT}, _number_highlighted_sections),
    "detectable_format:multiple_sections": Rule({"section_spliter": TEXT, "num_sections": COUNT}, _multiple_sections),
    "detectable_format:json_format": Rule({}, _json_format),
    "detectable_format:title": Rule({}, _title),
    "combination:two_responses": Rule({}, _two_responses),
    "combination:repeat_prompt": Rule({"prompt_to_repeat": TEXT}, _repeat_prompt),
    "startend:end_checker": Rule({"end_phrase": TEXT}, _end_checker),
    "startend:quotation": Rule({}, _quotation),
    "change_case:capital_word_frequency": Rule(
        {"capital_frequency": COUNT, "capital_relation": RELATION}, _capital_word_frequency
    ),
    "change_case:english_capital": Rule({}, _english_capital),
    "change_case:english_lowercase": Rule({}, _english_lowercase),
    "punctuation:no_comma": Rule({}, _no_comma),
}
"""By instruction id; keyword arguments are spelled as in the published data."""
