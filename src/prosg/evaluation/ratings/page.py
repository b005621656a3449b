"""The page on which one prompt's answers are rated, as HTML. Texts are escaped, and nothing names a system."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import NamedTuple

from prosg.evaluation.ratings.items import SCALES, VALUES, Item, letter
from prosg.evaluation.ratings.store import Key

__all__ = ["Place", "done_page", "rating_page"]


class Place(NamedTuple):
    """Where a page stands: its number from 1, of how many, and how many prompts are finished."""

    number: int
    total: int
    finished: int


KEYS = (
    "Keys: <kbd>0</kbd> to <kbd>5</kbd> set the focused scale and move on, arrows move, <kbd>Enter</kbd> goes to the "
    "next prompt, <kbd>B</kbd> goes back. Everything is saved at once and may be changed."
)


def _document(title: str, body: str, attributes: str = "") -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="/page.css">
<link rel="icon" href="data:,">
<script src="/page.js" defer></script>
</head>
<body{attributes}>
{body}
</body>
</html>
"""


def rating_page(item: Item, place: Place, values: Mapping[Key, int], token: str) -> str:
    """The page of one prompt. values: the ratings so far; token: what the page's ratings are accepted by."""
    back = f'<a id="back" href="/prompt/{place.number - 1}">Back</a>' if place.number > 1 else ""
    forward = f"/prompt/{place.number + 1}" if place.number < place.total else "/"
    scales = "".join(f"<div><dt>{name.capitalize()}</dt><dd>{asked}</dd></div>" for name, asked in SCALES.items())
    answers = "".join(_answer(item, number, values) for number in range(len(item.candidates)))
    body = f"""<header>
<h1>Prompt {place.number} of {place.total}</h1>
<p><label for="bar"><span id="finished">{place.finished}</span> finished</label>
<progress id="bar" max="{place.total}" value="{place.finished}"></progress></p>
<p id="keys">{KEYS}</p>
<noscript><p class="error">This page needs JavaScript to save ratings.</p></noscript>
</header>
<main>
<section aria-labelledby="prompt">
<h2 id="prompt">Prompt</h2>
<div class="text" dir="auto">{escape(item.prompt)}</div>
</section>
<dl>{scales}</dl>
<p class="range">{VALUES[0]}: not at all. {VALUES[-1]}: could not be better.</p>
<form class="answers" autocomplete="off">{answers}</form>
</main>
<footer>
<p id="status" role="status"></p>
<p id="error" class="error" role="alert"></p>
<nav aria-label="Prompts">{back}<a id="next" href="{forward}">Next</a></nav>
</footer>"""
    return _document(f"Prompt {place.number} of {place.total}", body, f' data-token="{escape(token)}"')


def _answer(item: Item, number: int, values: Mapping[Key, int]) -> str:
    candidate, name = item.candidates[number], letter(number)
    fieldsets = "".join(_scale(name, scale, values.get((item.id, candidate.name, scale))) for scale in SCALES)
    text = escape(candidate.text) if candidate.text.strip() else "<em>(an empty answer)</em>"
    return f"""
<article aria-labelledby="answer-{name}">
<h2 id="answer-{name}">Answer {name}</h2>
<div class="text" tabindex="0" role="region" aria-label="Text of answer {name}" dir="auto">{text}</div>
{fieldsets}</article>"""


def _scale(name: str, scale: str, value: int | None) -> str:
    radios = "".join(
        f'<label><input type="radio" name="{name}-{scale}" value="{one}"{" checked" if one == value else ""}>'
        f"<span>{one}</span></label>"
        for one in VALUES
    )
    saved = "" if value is None else str(value)
    return f"""<fieldset data-letter="{name}" data-scale="{scale}" data-saved="{saved}" aria-describedby="keys">
<legend>{scale.capitalize()}<span class="unseen"> of answer {name}</span></legend>
<div class="values">{radios}</div>
</fieldset>
"""


def done_page(total: int) -> str:
    """The page after the last prompt."""
    return _document(
        "All rated",
        f"""<main>
<h1>All {total} prompts are rated</h1>
<p>Thank you. Everything is saved; this page may be closed.</p>
<nav aria-label="Prompts"><a id="back" href="/prompt/{total}">Back</a></nav>
</main>""",
    )
