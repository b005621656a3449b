"""HTML of the rating pages, one prompt each. Prompts and answers are escaped, and nothing names a system."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import NamedTuple

from prosg.evaluation.ratings.items import SCALES, VALUES, RatingItem, answer_letter
from prosg.evaluation.ratings.store import RatingKey

__all__ = ["PagePosition", "done_page", "rating_page"]


class PagePosition(NamedTuple):
    """A page's number from 1, the number of pages, and the number of finished prompts."""

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


def rating_page(item: RatingItem, position: PagePosition, values: Mapping[RatingKey, int], token: str) -> str:
    """The page of one prompt.

    Args:
        item: The prompt and its answers, in the order of their letters.
        position: The page's place among all.
        values: The annotator's ratings so far.
        token: Sent along with the page's ratings; the server accepts them by it.
    """
    back = f'<a id="back" href="/prompt/{position.number - 1}">Back</a>' if position.number > 1 else ""
    forward = f"/prompt/{position.number + 1}" if position.number < position.total else "/"
    scales = "".join(f"<div><dt>{name.capitalize()}</dt><dd>{question}</dd></div>" for name, question in SCALES.items())
    answers = "".join(_answer(item, index, values) for index in range(len(item.candidates)))
    body = f"""<header>
<h1>Prompt {position.number} of {position.total}</h1>
<p><label for="bar"><span id="finished">{position.finished}</span> finished</label>
<progress id="bar" max="{position.total}" value="{position.finished}"></progress></p>
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
    return _document(f"Prompt {position.number} of {position.total}", body, f' data-token="{escape(token)}"')


def _answer(item: RatingItem, index: int, values: Mapping[RatingKey, int]) -> str:
    candidate, letter = item.candidates[index], answer_letter(index)
    fieldsets = "".join(_scale(letter, scale, values.get((item.id, candidate.name, scale))) for scale in SCALES)
    text = escape(candidate.text) if candidate.text.strip() else "<em>(an empty answer)</em>"
    return f"""
<article aria-labelledby="answer-{letter}">
<h2 id="answer-{letter}">Answer {letter}</h2>
<div class="text" tabindex="0" role="region" aria-label="Text of answer {letter}" dir="auto">{text}</div>
{fieldsets}</article>"""


def _scale(letter: str, scale: str, value: int | None) -> str:
    radios = "".join(
        f'<label><input type="radio" name="{letter}-{scale}" value="{option}"{" checked" if option == value else ""}>'
        f"<span>{option}</span></label>"
        for option in VALUES
    )
    saved = "" if value is None else str(value)
    return f"""<fieldset data-letter="{letter}" data-scale="{scale}" data-saved="{saved}" aria-describedby="keys">
<legend>{scale.capitalize()}<span class="unseen"> of answer {letter}</span></legend>
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
