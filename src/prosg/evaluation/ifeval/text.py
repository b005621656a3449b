"""Sentence splitting and counting of capital words for English text, without models to download.

The published checker uses nltk: for sentences the Punkt model of English (Kiss & Strunk 2006), whose abbreviations and
names were learned from newspapers, and for words its Treebank tokenizer. Here short lists replace what Punkt has
learned; the decisions about a full stop are Punkt's:

    ? and !                    end a sentence, also before a lower-case letter: "Why?" he asked. has two
    word.                      ends one, whatever follows
    Mr.  Dr.                   end none; No. 5 neither, while "No. He left." has two
    etc.  U.S.  a.m.  J.       end one before a word that begins sentences: "The", "He", "However", ...
    Wait...                    ends one before a capital letter
    2.                         ends one unless a lower-case letter follows: "1. Buy milk." has two, as in Punkt
    3.14  prosg.py             have no end inside, since no blank follows
    a text without a stop      ends its last sentence; line breaks end none

Differences from Punkt: "e.g." and "i.e.", which Punkt takes for ends, end no sentence here, and "etc.", which it takes
for an end too, only before a word that begins sentences; after "..." Punkt asks whether the next word also occurs in
lower case, so that a name does not begin a sentence there.
"""

from __future__ import annotations

import re

__all__ = ["capital_words", "split_sentences"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TITLES = _words(
    "adm capt cmdr col dr fr gen gov hon lt maj messrs mr mrs ms mt prof rev sen sgt cf e.g eg i.e ie viz vs"
)
"""Abbreviations that never end a sentence."""
NUMBERED = _words("art ch eq fig figs no nos p pp sec vol")
"""Abbreviations before a number, ordinary words elsewhere."""
ABBREVIATIONS = _words(
    "al approx apr apt aug ave blvd bros co corp cos dec dept est etc feb fri ft inc jan jr jul jun ltd mar max mfg "
    "min misc nov oct ph.d rep reps sep sept sr st tel temp thurs tues wed yr yrs"
)
"""Abbreviations that a sentence may end with. Letters with stops between them (U.S., a.m.) need no list."""
STARTERS = _words(
    "a according after all also although among an and another any are as at because before both but by can despite do "
    "during each even every finally first for from furthermore he her here his how however i if in indeed instead is "
    "it its later let many meanwhile more moreover most my nevertheless next no nonetheless nor not now of on once "
    "one or our please several she similarly since so some such that the their then there therefore these they this "
    "those though thus to today under until we what when where whether which while who why with without yes yet you "
    "your"
)
"""Words whose capital shows that a sentence begins."""

STOPS = ".?!"
BREAKS_WORD = re.escape(")\";}]*:@'({[‘’“”«»?!")
"""Characters, escaped for a set, that may directly follow a stop that ends a sentence."""
CANDIDATE = re.compile(rf"[{STOPS}](?=[{BREAKS_WORD}]|$)")
CLOSERS = "\"')]}‘’“”«»"
CLOSING = re.compile(rf"\s*[{re.escape(CLOSERS)}]+(?=\s|--|$)")
"""Closing quotes and brackets, which belong to the sentence before them."""
INNER_BREAK = re.compile(rf"[{BREAKS_WORD},\-`&#]")
OPENING = "\"'([{*“‘«_"
NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*")
LETTERS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*")
"""An initial, or letters with stops between them."""


def split_sentences(text: str) -> list[str]:
    """Splits a text into sentences, stripped of outer blanks; text after the last stop counts as one, too.

    Only the last stop of a blank-separated word can end a sentence.
    """
    words = list(re.finditer(r"\S+", text))
    sentences, start = [], 0
    for i, word in enumerate(words):
        ends = list(CANDIDATE.finditer(word[0]))
        following = words[i + 1][0] if i + 1 < len(words) else ""
        if not ends or word.start() + ends[-1].start() < start:
            continue
        stop = ends[-1].start()
        behind = word[0][stop + 1 :].strip(CLOSERS) or following
        if _ends_sentence(word[0][:stop], word[0][stop], behind):
            end = word.start() + stop + 1
            closing = CLOSING.match(text, end)
            end = closing.end() if closing else end
            sentences.append(text[start:end].strip())
            start = end
    return [sentence for sentence in (*sentences, text[start:].strip()) if sentence]


def _ends_sentence(before: str, stop: str, following: str) -> bool:
    """Whether a stop between `before`, the part of its word in front of it, and `following` ends a sentence."""
    if stop != ".":
        return True
    following = following.lstrip(OPENING)
    if before.endswith("."):
        return following[:1].isupper()
    part = INNER_BREAK.split(before)[-1]
    if NUMBER.fullmatch(part):
        return not following[:1].islower()
    if part.lower() in TITLES:
        return False
    if part.lower() in NUMBERED and part != "P":
        return not following[:1].isdigit()
    if part.lower() in ABBREVIATIONS or LETTERS.fullmatch(part):
        next_word = re.match(r"\w+", following)
        return next_word is not None and next_word[0][0].isupper() and next_word[0].lower() in STARTERS
    return True


SEPARATORS = re.compile(r"[()\[\]{}<>;@#$%&?!*\"“”„«»‘’`‒–—―]|\.{2,}|--|[:,](?!\d)|''")
CONTRACTED = re.compile(r"(.*[^'])('(?:[sSmMdD]|ll|LL|re|RE|ve|VE)?|n't|N'T)", re.DOTALL)
TWO_WORDS = frozenset({"CANNOT", "GIMME", "GONNA", "GOTTA", "LEMME", "WANNA"})


def capital_words(text: str) -> int:
    """Counts the words with a capital and without a lower-case letter, cut as by the Treebank tokenizer.

    A hyphenated word counts as one, a contraction as two (DON'T: DO, N'T); "I" and "A" count.
    """
    count = 0
    for word in SEPARATORS.sub(" ", text).split():
        contracted = CONTRACTED.fullmatch(word)
        parts = contracted.groups() if contracted else (word,)
        count += sum(part.isupper() for part in parts) + (word in TWO_WORDS)
    return count
