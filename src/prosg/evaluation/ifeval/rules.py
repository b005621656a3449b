"""The 25 instruction rules of IFEval (Zhou et al. 2023, arXiv 2311.07911), after the published checker.

A rule says yes or no to (kwargs, response). `RULES` has them by instruction id, with the keyword arguments that each
takes. Every rule judges the text as it is; that an empty response follows nothing is said once, in `scoring`.

Where these differ from the published checker:

- keywords, forbidden words and section names are plain text there, too, but read as regular expressions; here a "." in
  one is a full stop (no published row has such a character);
- `letter` may be any character: two published rows ask for "#" and "!", where that checker draws a letter at random;
- sentences and capital words are counted by `text`, and the language detector is seeded, so that a verdict is the same
  every time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from prosg.evaluation.ifeval.language import detect_language
from prosg.evaluation.ifeval.text import capital_words, split_sentences

__all__ = ["RULES", "Parameter", "Rule", "validate_instruction"]

Kwargs = Mapping[str, Any]

LANGUAGES = "ar bg bn de en es fa fi fr gu he hi it ja kn ko ml mr ne pa pl pt ru sw ta te th uk ur vi"  # ISO 639-1
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
"""The answers that detectable_format:constrained_response allows."""
POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
"""Markers that may be written with blanks."""


class Parameter(NamedTuple):
    """What a keyword argument may be: in words, and as a test."""

    allowed: str
    fits: Callable[[Any], bool]


class Rule(NamedTuple):
    """A rule: its keyword arguments, all needed, and the test itself."""

    parameters: Mapping[str, Parameter]
    follows: Callable[[Kwargs, str], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


COUNT = Parameter("a whole number, 0 or more", lambda value: type(value) is int and value >= 0)
PLACE = Parameter("a whole number, 1 or more", lambda value: type(value) is int and value >= 1)
TEXT = Parameter("a text that is not empty", _is_text)
TEXTS = Parameter(
    "a list of texts, at least one, none empty",
    lambda value: isinstance(value, list) and value != [] and all(_is_text(part) for part in value),
)
RELATION = Parameter("'less than' or 'at least'", lambda value: value in ("less than", "at least"))
LETTER = Parameter("one character", lambda value: _is_text(value) and len(value) == 1)
LANGUAGE = Parameter(f"one of {LANGUAGES}", lambda value: value in LANGUAGES.split())


def _compare(count: int, relation: str, limit: int) -> bool:
    return count < limit if relation == "less than" else count >= limit


def _found(word: str, text: str) -> int:
    """How often, in any case, also inside longer words."""
    return len(re.findall(re.escape(word), text, re.IGNORECASE))


# -- keywords


def _existence(kwargs: Kwargs, text: str) -> bool:
    return all(_found(word, text) for word in kwargs["keywords"])


def _frequency(kwargs: Kwargs, text: str) -> bool:
    return _compare(_found(kwargs["keyword"].strip(), text), kwargs["relation"], kwargs["frequency"])


def _forbidden_words(kwargs: Kwargs, text: str) -> bool:
    words = kwargs["forbidden_words"]
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in words)


def _letter_frequency(kwargs: Kwargs, text: str) -> bool:
    count = text.lower().count(kwargs["letter"].lower())
    return _compare(count, kwargs["let_relation"], kwargs["let_frequency"])


# -- language


def _in_language(text: str, language: str) -> bool:
    """A text whose language cannot be told counts as written in it."""
    return detect_language(text) in (language, None)


def _response_language(kwargs: Kwargs, text: str) -> bool:
    return _in_language(text, kwargs["language"])


# -- length constraints


def _number_sentences(kwargs: Kwargs, text: str) -> bool:
    return _compare(len(split_sentences(text)), kwargs["relation"], kwargs["num_sentences"])


def _number_words(kwargs: Kwargs, text: str) -> bool:
    return _compare(len(re.findall(r"\w+", text)), kwargs["relation"], kwargs["num_words"])


def _number_paragraphs(kwargs: Kwargs, text: str) -> bool:
    """Divided by ***; a divider may stand at the beginning and at the end, but nothing else may be empty."""
    first, *inner = re.split(r"\s?\*\*\*\s?", text)
    last = [inner.pop()] if inner else []
    if not all(part.strip() for part in inner):
        return False
    filled = sum(part.strip() != "" for part in (first, *inner, *last))
    return bool(filled == kwargs["num_paragraphs"])


def _nth_paragraph_first_word(kwargs: Kwargs, text: str) -> bool:
    """Divided by blank lines; empty ones are not counted, but they do have a place."""
    paragraphs = text.split("\n\n")
    filled = sum(part.strip() != "" for part in paragraphs)
    place = kwargs["nth_paragraph"]
    if filled != kwargs["num_paragraphs"] or place > filled or not paragraphs[place - 1].strip():
        return False
    opening = paragraphs[place - 1].split()[0].lstrip("'").lstrip('"')
    word = re.match(r"[^.,?!'\"]*", opening)
    return bool(word is not None and word[0].lower() == kwargs["first_word"].lower())


# -- detectable content


def _number_placeholders(kwargs: Kwargs, text: str) -> bool:
    return bool(len(re.findall(r"\[.*?\]", text)) >= kwargs["num_placeholders"])


def _postscript(kwargs: Kwargs, text: str) -> bool:
    marker = kwargs["postscript_marker"].strip()
    return re.search(POSTSCRIPTS.get(marker, re.escape(marker.lower())), text.lower()) is not None


# -- detectable format


def _number_bullet_lists(kwargs: Kwargs, text: str) -> bool:
    """Lines that begin with a "-", or with one "*" alone and something behind it."""
    bullets = re.findall(r"^\s*(?:\*[^*].*|-.*)$", text, re.MULTILINE)
    return bool(len(bullets) == kwargs["num_bullets"])


def _constrained_response(kwargs: Kwargs, text: str) -> bool:
    return any(option in text for option in OPTIONS)


def _number_highlighted_sections(kwargs: Kwargs, text: str) -> bool:
    """*One* and **two** stars, within a line."""
    found = re.findall(r"\*([^\n*]*)\*", text) + re.findall(r"\*\*([^\n*]*)\*\*", text)
    return bool(sum(part.strip() != "" for part in found) >= kwargs["num_highlights"])


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


# -- combination


def _two_responses(kwargs: Kwargs, text: str) -> bool:
    """Two that differ, divided by ******; the divider may also stand at the beginning and at the end."""
    parts = [part.strip() for part in text.split("******")]
    if not all(parts[1:-1]):
        return False
    filled = [part for part in parts if part]
    return len(filled) == 2 and filled[0] != filled[1]


def _repeat_prompt(kwargs: Kwargs, text: str) -> bool:
    return bool(text.strip().lower().startswith(kwargs["prompt_to_repeat"].strip().lower()))


# -- start and end, case, punctuation


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
        {"num_paragraphs": COUNT, "nth_paragraph": PLACE, "first_word": TEXT}, _nth_paragraph_first_word
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
"""By instruction id; the keyword arguments are spelled as in the published data."""
NAMES = frozenset(name for rule in RULES.values() for name in rule.parameters)


def validate_instruction(instruction: Any, kwargs: Any) -> dict[str, Any]:
    """The keyword arguments of one instruction of a row; ValueError for what does not fit its rule.

    Null stands for none: some copies of the data give every instruction the arguments of all, most of them null.
    """
    if not isinstance(instruction, str) or instruction not in RULES:
        raise ValueError(f"unknown instruction {instruction!r}; allowed: {', '.join(RULES)}")
    if not isinstance(kwargs, Mapping):
        raise ValueError(f"{instruction}: kwargs must be an object, not {type(kwargs).__name__}")
    parameters = RULES[instruction].parameters
    for name, value in kwargs.items():
        if name not in parameters and (value is not None or name not in NAMES):
            raise ValueError(f"{instruction} has no argument {name!r}; allowed: {', '.join(parameters) or 'none'}")
    given = {name: value for name, value in kwargs.items() if value is not None}
    for name, parameter in parameters.items():
        if name not in given:
            raise ValueError(f"{instruction} needs the argument {name!r}: {parameter.allowed}")
        if not parameter.fits(given[name]):
            raise ValueError(f"{instruction}: {name!r} is {given[name]!r}, must be {parameter.allowed}")
    return given
