"""Whether a text consists of words and sentences, whatever it says: what a check of sentences asks beside their number.

A text is gibberish by its words, if more than a share of them are odd (letters and digits run together, capitals
inside, no vowel, five consonants in a row, characters that stand for nothing), or if its letters have hardly a vowel;
or by repeating a handful of words. Sentences that begin with small letters, or that hardly ever end, make odd words
count for more, and are no fault by themselves. Words of other scripts than Latin are never odd.

What passes, with at least one sentence in it (`tests/data/test_readable.py`):

    12,600 stories of every kind, 1 to 60 sentences                            all
    5,352 lines of WikiText-2, test and validation; 6,798 of Shakespeare       all
    the demo's tokens at random, 20 to 200 of them; before, .26                .00
    the same without pieces of characters; before, .31                         .04
    letters at random, 1 to 8 sentences of 3 to 12 words; before, all          .07; with capitals .10
    one word, 5 to 60 times; before, all                                       .00
    the packaged model's stories at temperature .8 and 1.5                         as many as before
    the same at 3                                                              .52; before, .63
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["reads_as_text"]

MOST_ODD = 0.15
"""Largest share of odd words."""
ODD_SHAPE = 0.07
"""What each fault of the sentences' shape adds to that share: both together do not condemn a text."""
LONG_SENTENCE = 40
"""Words to each end of a sentence from which on ends seem to be there by chance."""
LEAST_VOWELS, FEW_LETTERS = 0.25, 40
"""Least share of vowels among the letters; of fewer letters it says nothing."""
WINDOW, FEW_DISTINCT, FEW_WORDS = 20, 3, 5
"""Words in which repetition is looked for, how many different ones are too few, and how many words say nothing."""

WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
SENTENCE_END = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])")
RUN_TOGETHER = re.compile(r"(?<=[A-Za-z\u00c0-\u024f])[^\w\s.'\u2019/&\u2010-\u2015-]+(?=[A-Za-z\u00c0-\u024f])")
"""Marks between two letters without a space, but those that stand there in e.g., and/or, AT&T."""
STRAY = re.compile("[\ufffd\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f]")
"""Characters that stand for nothing: halves of others, and control characters."""
CODE = re.compile(r"```.*?(?:```|$)", re.DOTALL)
LATIN_END = "\u024f"
CONSONANTS = re.compile(r"[bcdfghjklmnpqrstvwxz]{5}", re.IGNORECASE)
ACCENT = re.compile("[\\u0300-\\u036f]")
LONGEST_WORD = 24
MEASURE = re.compile(r"\d+(?:st|nd|rd|th|[a-z]{1,3})?|[A-Z]+\d+[A-Za-z]*", re.IGNORECASE)
"""21st, 5km, B52: digits and letters that belong together."""
MIXED_CASE = re.compile(r"[A-Z]?[a-z]+|[A-Z]+s?|(?:[A-Z][a-z]+){2,3}|[a-z][A-Z][a-z]+")
"""fox, Fox, FOX, DVDs, McDonald, iPhone."""


def reads_as_text(text: str) -> bool:
    """Whether a text is made of words and sentences, code in fences left aside. One without words is not."""
    text = CODE.sub(" ", text)
    words = WORD.findall(text)
    if not words:
        return False
    odd = sum(map(_is_odd, words)) + len(STRAY.findall(text)) + len(RUN_TOGETHER.findall(text))
    shape = ODD_SHAPE * _faults_of_shape(text, len(words))
    if odd > 1 and odd / len(words) + shape > MOST_ODD:
        return False
    return _has_vowels(text) and not _repeats(words)


def _is_odd(word: str) -> bool:
    """Whether a word of Latin letters or digits cannot well be one."""
    return any(map(_is_odd_part, re.split("['\u2019-]", word)))


def _is_odd_part(part: str) -> bool:
    if max(part) > LATIN_END or part.isdigit():
        return False
    plain = _without_accents(part)
    if any(map(str.isdigit, plain)):
        return MEASURE.fullmatch(plain) is None
    voiceless = len(plain) > 3 and not plain.isupper() and re.search("[aeiouy]", plain, re.IGNORECASE) is None
    ascii_case = plain.isascii() and MIXED_CASE.fullmatch(plain) is None
    return voiceless or ascii_case or len(plain) > LONGEST_WORD or CONSONANTS.search(plain) is not None


def _without_accents(text: str) -> str:
    return text if text.isascii() else ACCENT.sub("", unicodedata.normalize("NFD", text))


def _faults_of_shape(text: str, words: int) -> int:
    """Of two: most sentences begin with a small letter; they are too long in the mean."""
    sentences = [part for part in SENTENCE_END.split(text) if WORD.search(part)]
    small = sum(WORD.search(part).group()[0].islower() for part in sentences)  # type: ignore[union-attr]
    ends = len(SENTENCE_END.findall(text))
    return (2 * small > len(sentences)) + (words > LONG_SENTENCE * ends)


def _has_vowels(text: str) -> bool:
    plain = _without_accents(text.lower())
    letters, vowels = len(re.findall("[a-z]", plain)), len(re.findall("[aeiouy]", plain))
    return letters < FEW_LETTERS or vowels >= LEAST_VOWELS * letters


def _repeats(words: list[str]) -> bool:
    """Whether the words are the same few, over and over: by the mean number of different ones in a window."""
    if len(words) < FEW_WORDS:
        return False
    small = [word.lower() for word in words]
    distinct = [len({*small[i : i + WINDOW]}) for i in range(0, max(len(small) - WINDOW + 1, 1), WINDOW // 2)]
    return sum(distinct) <= len(distinct) * max(FEW_DISTINCT * min(len(words), WINDOW) // WINDOW, 1)
